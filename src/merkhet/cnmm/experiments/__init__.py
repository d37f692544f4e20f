"""Evidence: one training against many, street scenes, the mean field, latencies, statistics."""

from merkhet.cnmm.experiments.camvid import camvid
from merkhet.cnmm.experiments.fashion import fashion
from merkhet.cnmm.experiments.latency import latency
from merkhet.cnmm.experiments.mean_field import mean_field
from merkhet.cnmm.experiments.recalibration import recalibration

__all__ = ["camvid", "fashion", "latency", "mean_field", "recalibration"]

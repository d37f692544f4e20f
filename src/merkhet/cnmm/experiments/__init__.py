"""Evidence: the mean field, statistics of single networks, latency."""

from merkhet.cnmm.experiments.latency import latency
from merkhet.cnmm.experiments.mean_field import mean_field
from merkhet.cnmm.experiments.recalibration import recalibration

__all__ = ["latency", "mean_field", "recalibration"]

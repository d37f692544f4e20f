"""Convolutional neural mixture models: one training, many networks, plain ones out."""

from merkhet.cnmm.costs import CostTable, count_costs
from merkhet.cnmm.enumeration import expectation
from merkhet.cnmm.extraction.export import Exported, export_network
from merkhet.cnmm.extraction.extract import extract
from merkhet.cnmm.latency.measure import measure_latency
from merkhet.cnmm.latency.table import LatencyTable
from merkhet.cnmm.latency.validation import validate_latency
from merkhet.cnmm.network import CNMM
from merkhet.cnmm.networks import cnmm_classifier, cnmm_multiscale, cnmm_segmenter
from merkhet.cnmm.objective import Objective, Schedule
from merkhet.cnmm.points.node_sets import nested_node_sets
from merkhet.cnmm.points.operating_points import operating_points
from merkhet.cnmm.points.result import OperatingPoint, OperatingPoints
from merkhet.cnmm.points.scores import Sets
from merkhet.cnmm.points.search import best_paths, best_within
from merkhet.cnmm.recalibration import recalibrated
from merkhet.cnmm.stage import MixtureStage

__all__ = [
    "CNMM",
    "CostTable",
    "Exported",
    "LatencyTable",
    "MixtureStage",
    "Objective",
    "OperatingPoint",
    "OperatingPoints",
    "Schedule",
    "Sets",
    "best_paths",
    "best_within",
    "cnmm_classifier",
    "cnmm_multiscale",
    "cnmm_segmenter",
    "count_costs",
    "expectation",
    "export_network",
    "extract",
    "measure_latency",
    "nested_node_sets",
    "operating_points",
    "recalibrated",
    "validate_latency",
]

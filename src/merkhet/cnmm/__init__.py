"""Convolutional neural mixture models: one training, many networks, plain ones out."""

from merkhet.cnmm.costs import CostTable, count_costs
from merkhet.cnmm.enumeration import expectation
from merkhet.cnmm.export import Exported, export_network
from merkhet.cnmm.extraction import extract
from merkhet.cnmm.latency import measure_latency
from merkhet.cnmm.latency_table import LatencyTable
from merkhet.cnmm.latency_validation import validate_latency
from merkhet.cnmm.network import CNMM
from merkhet.cnmm.networks import cnmm_classifier, cnmm_segmenter
from merkhet.cnmm.node_sets import nested_node_sets
from merkhet.cnmm.objective import Objective, Schedule
from merkhet.cnmm.points import operating_points
from merkhet.cnmm.points_result import OperatingPoint, OperatingPoints
from merkhet.cnmm.recalibration import recalibrated
from merkhet.cnmm.scores import Sets
from merkhet.cnmm.search import best_paths, best_within
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

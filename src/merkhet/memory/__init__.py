"""Memory: layers with up to billions of values at the cost of the layer they replace."""

from merkhet.memory.attach import attach
from merkhet.memory.groups import parameter_groups
from merkhet.memory.layer import ProductKeyMemory
from merkhet.memory.optimiser import RowwiseAdam
from merkhet.memory.pictures import plot_usage
from merkhet.memory.sharded import shard
from merkhet.memory.table import ValueTable
from merkhet.memory.together import Together
from merkhet.memory.usage import Usage, usage

__all__ = [
    "ProductKeyMemory",
    "RowwiseAdam",
    "Together",
    "Usage",
    "ValueTable",
    "attach",
    "parameter_groups",
    "plot_usage",
    "shard",
    "usage",
]

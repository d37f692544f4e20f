"""Memory: layers with up to billions of values at the cost of the layer they replace."""

from merkhet.memory.attach import Beside, attach
from merkhet.memory.groups import parameter_groups
from merkhet.memory.layer import ProductKeyMemory
from merkhet.memory.optimiser import RowwiseAdam
from merkhet.memory.table import ValueTable
from merkhet.memory.together import Together
from merkhet.memory.usage import Usage, usage

__all__ = [
    "Beside",
    "ProductKeyMemory",
    "RowwiseAdam",
    "Together",
    "Usage",
    "ValueTable",
    "attach",
    "parameter_groups",
    "usage",
]

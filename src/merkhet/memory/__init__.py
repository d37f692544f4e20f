"""Memory: layers with up to billions of values at the cost of the layer they replace."""

from merkhet.memory.groups import parameter_groups
from merkhet.memory.layer import ProductKeyMemory
from merkhet.memory.optimiser import RowwiseAdam
from merkhet.memory.table import ValueTable

__all__ = ["ProductKeyMemory", "RowwiseAdam", "ValueTable", "parameter_groups"]

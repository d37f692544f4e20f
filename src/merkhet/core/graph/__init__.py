"""One graph, many readings: a network as a list of operations, and rules that read it.

`trace` turns any module into a `Network`; `read` walks it with one rule an operation.
"""

from merkhet.core.graph.network import Network, Node, Ref
from merkhet.core.graph.read import Reading, Rule, Unknown, read
from merkhet.core.graph.trace import trace

__all__ = ["Network", "Node", "Reading", "Ref", "Rule", "Unknown", "read", "trace"]

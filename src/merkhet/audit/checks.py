"""The checks that every network gets: how well it does on the sample, and what it costs."""

from merkhet.audit.accuracy import accuracy, has_no_labels
from merkhet.audit.cost import cost
from merkhet.report import Check

CHECKS = (
    Check("accuracy", 1.0, refuse=has_no_labels, run=accuracy),
    Check("cost", 2.0, refuse=lambda subject: None, run=cost),
)

"""The checks that every network gets: what it answers, how well, and at what cost."""

from merkhet.audit.accuracy import accuracy, has_no_labels
from merkhet.audit.cost import cost
from merkhet.audit.outputs import has_no_numbers, outputs
from merkhet.report import Check

CHECKS = (
    Check("outputs", 0.5, refuse=has_no_numbers, run=outputs),
    Check("accuracy", 1.0, refuse=has_no_labels, run=accuracy),
    Check("cost", 2.0, refuse=lambda subject: None, run=cost),
)

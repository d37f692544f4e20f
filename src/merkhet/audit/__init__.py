"""The audit: every check that packages offer, on one network, in one report."""

from merkhet.audit.case import Case
from merkhet.audit.compare import Comparison, compare
from merkhet.audit.report import Interrupted, Report
from merkhet.audit.run import audit

__all__ = ["Case", "Comparison", "Interrupted", "Report", "audit", "compare"]

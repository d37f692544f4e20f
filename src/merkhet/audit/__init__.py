"""The audit: every check that packages offer, on one network, in one report."""

from merkhet.audit.run import Report, audit

__all__ = ["Report", "audit"]

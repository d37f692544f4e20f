"""Results that a program can read and a person can look at: records, checks, figures, pages."""

from merkhet.report.check import Check, Finding, Picture, Section, Subject, Table
from merkhet.report.record import Figure, Goal, Record, read_record
from merkhet.report.trial import Experiment, Trial, experiment

__all__ = [
    "Check",
    "Experiment",
    "Figure",
    "Finding",
    "Goal",
    "Picture",
    "Record",
    "Section",
    "Subject",
    "Table",
    "Trial",
    "experiment",
    "read_record",
]

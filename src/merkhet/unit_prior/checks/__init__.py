"""The audit's checks of units: tails over weights, dead units, scales, tails over inputs."""

from merkhet.report import Check
from merkhet.unit_prior.checks.by_depth import scales
from merkhet.unit_prior.checks.dead import dead_units, has_no_switch
from merkhet.unit_prior.checks.looking import has_no_layers
from merkhet.unit_prior.checks.over_inputs import trained_tails
from merkhet.unit_prior.checks.over_weights import unit_tails

CHECKS = (
    Check("dead_units", 1.0, refuse=has_no_switch, run=dead_units),
    Check("scales", 1.0, refuse=has_no_layers, run=scales),
    Check("trained_tails", 1.0, refuse=has_no_layers, run=trained_tails),
    Check("unit_tails", 4.0, refuse=has_no_layers, run=unit_tails),
)

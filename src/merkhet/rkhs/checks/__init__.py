"""The audit's checks of variation: Lipschitz bracket, certified radii, perturbations that flip."""

from merkhet.report import Check
from merkhet.rkhs.checks.certificates import certified
from merkhet.rkhs.checks.constant import lipschitz
from merkhet.rkhs.checks.looking import has_no_classes, has_no_lengths
from merkhet.rkhs.checks.perturbations import flips

CHECKS = (
    Check("lipschitz", 4.0, refuse=has_no_lengths, run=lipschitz, steady=True),
    Check("certified", 4.0, refuse=has_no_classes, run=certified, steady=True),
    Check("flips", 4.0, refuse=has_no_classes, run=flips, steady=True),
)

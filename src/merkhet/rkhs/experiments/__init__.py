"""Evidence: few labels, robustness, and the bracket over training."""

from merkhet.rkhs.experiments.bracket import bracket
from merkhet.rkhs.experiments.cifar import cifar
from merkhet.rkhs.experiments.digits import digits
from merkhet.rkhs.experiments.robustness import robustness

__all__ = ["bracket", "cifar", "digits", "robustness"]

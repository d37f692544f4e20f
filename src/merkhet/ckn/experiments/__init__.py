"""Evidence: what convolutional kernel networks learn, keep and are stable to."""

from merkhet.ckn.experiments.norms import norm_and_generalisation
from merkhet.ckn.experiments.nystrom import nystrom
from merkhet.ckn.experiments.recovery import recovery
from merkhet.ckn.experiments.rotations import rotations
from merkhet.ckn.experiments.stability import stability
from merkhet.ckn.experiments.supervised import supervised
from merkhet.ckn.experiments.unsupervised import unsupervised

__all__ = [
    "norm_and_generalisation",
    "nystrom",
    "recovery",
    "rotations",
    "stability",
    "supervised",
    "unsupervised",
]

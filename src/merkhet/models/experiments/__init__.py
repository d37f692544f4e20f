"""The training of the networks that come with merkhet: `merkhet reproduce models NAME`.

Each leaves, beside its record, a folder as `merkhet.models.shipped` holds them.
"""

from merkhet.models.experiments.cnn import fashion_cnn
from merkhet.models.experiments.kernel import fashion_ckn
from merkhet.models.experiments.language import python_memory
from merkhet.models.experiments.mixture import fashion_cnmm

__all__ = ["fashion_ckn", "fashion_cnmm", "fashion_cnn", "python_memory"]

"""Evidence: what the kernels of infinitely wide networks learn, and how they move."""

from merkhet.kernels.experiments.deformations import deformation_stability
from merkhet.kernels.experiments.labels import small_data
from merkhet.kernels.experiments.smooth import smoothness
from merkhet.kernels.experiments.spectra import spectrum
from merkhet.kernels.experiments.widths import infinite_width

__all__ = [
    "deformation_stability",
    "infinite_width",
    "small_data",
    "smoothness",
    "spectrum",
]

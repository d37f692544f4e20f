"""How a layer reads its patches and normalises its filters: what is rarely changed."""

from __future__ import annotations

from dataclasses import dataclass

from merkhet.ckn.roots import ROOTS
from merkhet.core.building import check_positive
from merkhet.core.errors import InputError, choose

PADDINGS = ("same", "valid")
PATCHES = ("raw", "centred", "whitened")


@dataclass(frozen=True)
class Form:
    """The details of a layer.

    Attributes:
        dims: 2 for pictures, 1 for signals.
        padding: "same" puts zeros around, so that every position has a patch; "valid" reads the
            patches that lie inside.
        patches: What the kernel sees of a patch: "raw" the patch; "centred" less its mean in each
            channel; "whitened" centred, then with uncorrelated components of equal variance over
            the patches that the layer was fitted to (until then as "centred").
        root: "cholesky", or "symmetric" for the square root of the papers; the same kernel.
        ridge: Added to the diagonal of the kernel between filters, which is 1. Filters that are
            equal, or nearly, then do no harm: it is rounding over its root that is seen.
        across: In layers of group networks after the first: patches reach over all elements of the
            group rather than stay with one.
        lifts: With a group: the layer reads pictures, and answers with a map for each element.

    Raises:
        InputError: One is out of its range.
    """

    dims: int = 2
    padding: str = "same"
    patches: str = "raw"
    root: str = "cholesky"
    ridge: float = 1e-4
    across: bool = False
    lifts: bool = False

    def __post_init__(self) -> None:
        if self.dims not in (1, 2):
            raise InputError(f"dims = {self.dims!r}: give 2 for pictures or 1 for signals")
        choose("padding", self.padding, PADDINGS)
        choose("form of patches", self.patches, PATCHES)
        choose("root", self.root, ROOTS)
        check_positive(ridge=self.ridge)

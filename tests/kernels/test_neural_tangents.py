"""Agreement with neural-tangents in float64; `make_neural_tangents.py` made the values."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from merkhet.kernels import diagonal, gram

sys.path.insert(0, str(Path(__file__).parent))
from listed import built

TABLE = json.loads(Path(__file__).with_name("neural_tangents.json").read_text(encoding="utf-8"))
CASES = [(kind, name) for kind in ("dense", "conv") for name in TABLE[kind]["networks"]]
DOUBLE = {"dtype": torch.float64}
# Where the cosine is 1 or -1 up to rounding, arccos is off by its root, in theirs as in ours.
AT_THE_ENDS = 1e-7


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_kernels_are_those_of_neural_tangents(kind: str, name: str) -> None:
    found = TABLE[kind]["networks"][name]
    x, y = (torch.tensor(TABLE[kind][one], **DOUBLE) for one in "xy")
    network = built(found["layers"])
    cross = gram(network, x, y, kind="both", **DOUBLE)
    own = gram(network, x, kind="both", **DOUBLE)
    ends = torch.zeros(3, 2, dtype=torch.bool)
    ends[0, 0] = True  # y[0] = -x[0]
    for one in ("nngp", "ntk"):
        _close(getattr(cross, one), found[one], ends)
        _close(getattr(own, one), found[f"own_{one}"], torch.eye(3, dtype=torch.bool))


def test_the_diagonal_is_exact() -> None:
    """K(x, x) = (n + 1) |x|^2 / d with n hidden layers of ReLU, to the last digit or two."""
    found = TABLE["dense"]["networks"]["four hidden layers"]["layers"]
    network = built([["Linear", {"weight_std": 1.0}], *found[1:]])
    x = torch.tensor(TABLE["dense"]["x"], **DOUBLE)
    wanted = 5 * x.square().mean(1)
    torch.testing.assert_close(diagonal(network, x), wanted, rtol=4e-15, atol=0)
    torch.testing.assert_close(gram(network, x, **DOUBLE).diag(), wanted, rtol=4e-15, atol=0)


def _close(found: torch.Tensor, wanted: list[list[float]], ends: torch.Tensor) -> None:
    """Compare to 1e-10 of the largest entry, and more loosely where cosines are at their ends."""
    expected = torch.tensor(wanted, **DOUBLE)
    off = (found - expected).abs() / expected.abs().max()
    assert off[~ends].max() < 1e-10
    assert off.max() < AT_THE_ENDS

"""The table of neural-tangents' values is in the convention that the papers' formulas map to."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

TABLE = json.loads(Path(__file__).with_name("neural_tangents.json").read_text(encoding="utf-8"))


def test_one_hidden_layer_is_the_papers_closed_form() -> None:
    """K(x, y) = |x||y| (u k0(u) + k1(u)) is d times theirs (Bietti & Mairal 2019, Section 2)."""
    dense = TABLE["dense"]
    x, y = np.array(dense["x"]), np.array(dense["y"])
    lengths = np.linalg.norm(x, axis=1)[:, None] * np.linalg.norm(y, axis=1)
    close = {
        "rtol": 1e-12,
        "atol": 2e-7,
    }  # u = -1 is among them, where arccos loses half its digits
    u = np.clip(x @ y.T / lengths, -1, 1)
    k0 = (np.pi - np.arccos(u)) / np.pi
    k1 = u * k0 + np.sqrt(1 - u**2) / np.pi
    found = dense["networks"]["one hidden layer"]
    assert found["layers"][0] == ["Linear", {"weight_std": 1.0, "bias_std": 0.0}]
    np.testing.assert_allclose(
        x.shape[1] * np.array(found["ntk"]), lengths * (u * k0 + k1), **close
    )
    np.testing.assert_allclose(x.shape[1] * np.array(found["nngp"]), lengths * k1, **close)


@pytest.mark.parametrize("kind", ["dense", "conv"])
def test_kernels_of_a_set_with_itself_are_positive_and_symmetric(kind: str) -> None:
    for name, found in TABLE[kind]["networks"].items():
        for own in (np.array(found["own_nngp"]), np.array(found["own_ntk"])):
            np.testing.assert_allclose(own, own.T, rtol=1e-12, err_msg=name)
            assert np.linalg.eigvalsh(own).min() > 0, name

"""Figures: a panel a kind, a line a representation, yardsticks, and strips of pictures."""

from __future__ import annotations

import pytest
import torch

from merkhet.core.errors import InputError
from merkhet.stability import Conditions, plot_curves, plot_deformations, stability_curve
from merkhet.stability.kinds import deformed

INPUTS = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 0, 0, 1, 1, 1])


def test_curves_have_a_panel_a_kind_and_a_line_a_representation() -> None:
    def measure(kind: str, power: int) -> object:
        return stability_curve(lambda x: x**power, INPUTS, kind, [1, 2], labels=LABELS)

    named = {
        name: [measure(kind, power) for kind in ("rotation", "translation")]
        for name, power in (("pixels", 1), ("squares", 2))
    }
    figure = plot_curves(named)
    assert [axis.get_title() for axis in figure.axes] == ["rotation", "translation"]
    rotation = figure.axes[0]
    lines = {line.get_label(): line for line in rotation.get_lines()}
    assert lines["squares"].get_ydata().tolist() == [0, *named["squares"][0].mean]
    assert lines["pixels"].get_xdata().tolist() == [0, 1, 2]
    assert lines["pixels"].get_color() != lines["squares"].get_color()
    styles = [line.get_linestyle() for line in rotation.get_lines()]
    assert (styles.count("--"), styles.count(":")) == (2, 2)
    dashed = next(line for line in rotation.get_lines() if line.get_linestyle() == "--")
    assert dashed.get_ydata()[0] == named["pixels"][0].same_label.value
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["pixels", "squares", "same label", "any label"]


def test_panels_go_into_rows() -> None:
    kinds = ("rotation", "translation", "scaling")
    found = [stability_curve(lambda x: x, INPUTS, kind, [0.1, 0.2]) for kind in kinds]
    figure = plot_curves({"pixels": found}, columns=2)
    assert len(figure.axes) == 4
    places = [tuple(axis.get_subplotspec().get_geometry()) for axis in figure.axes[:3]]
    assert places == [(2, 2, 0, 0), (2, 2, 1, 1), (2, 2, 2, 2)]


def test_curves_alone_are_named_by_their_layer() -> None:
    found = stability_curve(lambda x: x, INPUTS, "rotation", [1, 2], conditions=Conditions(pairs=0))
    figure = plot_curves([found])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["output"]
    with pytest.raises(InputError, match="no curves"):
        plot_curves([])


def test_a_strip_shows_the_deformed_pictures() -> None:
    conditions = Conditions(seed=2)
    figure = plot_deformations(INPUTS[:2], "rotation", [10, 40], conditions=conditions)
    assert len(figure.axes) == 6
    assert [axis.get_title() for axis in figure.axes[:3]] == [
        "as it is",
        "10 degrees",
        "40 degrees",
    ]
    shown = torch.as_tensor(figure.axes[5].get_images()[0].get_array())
    wanted = deformed(INPUTS[:2], "rotation", 40, conditions=conditions)[1, 0]
    assert torch.allclose(shown.float(), wanted)
    colours = plot_deformations(torch.rand(1, 3, 6, 6), "deformation", [1.0])
    assert colours.axes[1].get_images()[0].get_array().shape == (6, 6, 3)


def test_only_pictures_can_be_shown() -> None:
    for images in (INPUTS[:, :, 0], torch.rand(2, 2, 4, 4), torch.rand(9, 1, 4, 4)):
        with pytest.raises(InputError, match="1 to 8 pictures"):
            plot_deformations(images, "rotation", [1.0])

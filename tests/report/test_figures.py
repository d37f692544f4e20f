from __future__ import annotations

import re

from merkhet.report.figures import figure, to_svg


def drawn() -> str:
    made, (left, right) = figure(1, 2)
    left.plot([0, 1], [0, 1])
    right.set_title("a title")
    return to_svg(made)


def test_svg_stands_in_a_page_and_is_the_same_twice() -> None:
    text = drawn()
    assert text.startswith("<svg")
    assert text == drawn()
    assert "a title" in text
    assert not re.search(r'(href|src)="(?!#)', text)


def test_no_global_figure_is_left_behind() -> None:
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    drawn()
    assert plt.get_fignums() == before

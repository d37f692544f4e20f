"""How a time budget is shared among checks."""

from __future__ import annotations

import pytest

from merkhet.audit.budget import share, too_late
from merkhet.report import Check, Section


def waiting(*seconds: float) -> list[Check]:
    return [
        Check(f"{n}", least, lambda s: None, lambda s, t: Section("", ""))
        for n, least in enumerate(seconds)
    ]


@pytest.mark.parametrize(
    ("left", "wanted"),
    [
        (0.9, None),  # not even its least
        (1.0, 1.0),
        (2.5, 2.5),  # the next has not its least: all is for this one
        (3.0, 1.0),  # both have their least, and nothing is over
        (7.0, 1.0),
        (10.0, 2.0),  # 3 over, for three
    ],
)
def test_each_check_has_its_least_and_an_equal_part_of_what_is_over(left, wanted) -> None:
    assert share(waiting(1.0, 2.0, 4.0), left) == wanted


def test_shares_fill_the_budget_and_what_is_not_used_goes_on() -> None:
    checks, left, given = waiting(0.5, 1.0, 1.0, 4.0, 8.0), 20.0, []
    while checks:
        seconds = share(checks, left)
        assert seconds is not None
        given.append(seconds)
        left -= seconds / 2  # each takes half of its share
        checks.pop(0)
    assert given == sorted(given)
    assert left > 0
    assert share(waiting(0.0), 0.0) == 0.0


def test_what_comes_too_late_is_told_with_its_time() -> None:
    assert too_late(waiting(4.0)[0], -1.0) == "needs about 4 s and 0 s of the budget are left"

from __future__ import annotations

import pytest

from merkhet.core.errors import InputError, MissingExtraError, choose, need


def test_choose_names_what_is_allowed_and_the_nearest() -> None:
    assert choose("kind", "rotation", ["rotation", "scaling"]) == "rotation"
    with pytest.raises(InputError, match="no kind 'rotate': choose one of rotation, scaling"):
        choose("kind", "rotate", ["scaling", "rotation"])
    with pytest.raises(InputError, match="Did you mean 'rotation'"):
        choose("kind", "rotatoin", ["scaling", "rotation"])
    with pytest.raises(InputError, match="no kind None"):
        choose("kind", None, ["scaling"])  # type: ignore[arg-type]


def test_user_errors_are_value_errors() -> None:
    assert issubclass(InputError, ValueError)


def test_a_missing_library_names_its_extra() -> None:
    assert need("json", "text").dumps([]) == "[]"
    with pytest.raises(MissingExtraError, match=r"pip install 'merkhet\[text\]'"):
        need("no_such_library", "text")

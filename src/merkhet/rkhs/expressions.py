"""Penalties in words, as the command line takes them: "gradient*0.01 + spectral(0.8)"."""

from __future__ import annotations

import functools
import inspect
import math
import operator
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from merkhet.core.errors import InputError, choose
from merkhet.rkhs.adversarial import AdversarialPenalty
from merkhet.rkhs.deformation import DeformationPenalty, TangentPenalty
from merkhet.rkhs.expression_tokens import Reader, Token
from merkhet.rkhs.gradient import GradientPenalty
from merkhet.rkhs.loss_based import AdversarialLoss, LossGradientPenalty
from merkhet.rkhs.penalty import Penalty
from merkhet.rkhs.spectral import SpectralPenalty

PENALTIES: dict[str, type[Penalty]] = {
    "adversarial": AdversarialPenalty,
    "adversarial_loss": AdversarialLoss,
    "deformation": DeformationPenalty,
    "gradient": GradientPenalty,
    "loss_gradient": LossGradientPenalty,
    "spectral": SpectralPenalty,
    "tangent": TangentPenalty,
}
NOTHING = "none"
EXAMPLE = "gradient*0.01 + spectral(0.8)"
DIGITS = 18  # of whole numbers; longer ones are read as floats
CONSTANTS = {"none": None, "true": True, "false": False}


@dataclass
class Term:
    """A penalty as it was written: its factor, its name, what stands between its brackets."""

    factor: float
    name: Token | None = None
    positional: list[Any] = field(default_factory=list)
    named: dict[str, Any] = field(default_factory=dict)


def parse_penalty(text: str) -> Penalty | None:
    """Return the penalty that is written as in "gradient*0.01 + spectral(0.8)".

    An expression is a sum of penalties, each with a factor before or after it and with the
    arguments of its class in their order or by name, as in `adversarial(1, select=all)*0.1`.

    Args:
        text: The expression; "none" is no penalty.

    Returns:
        The sum of the penalties, or None for "none".

    Raises:
        InputError: The text is no such expression; names the place, and what is allowed.
    """
    if text.strip().lower() == NOTHING:
        return None
    reader = Reader(text)
    made = [_build(reader, term) for term in _terms(reader)]
    return functools.reduce(operator.add, made)


def describe(penalty: Penalty | None) -> str:
    """Return the expression that `parse_penalty` makes a penalty from.

    Raises:
        InputError: A penalty in it is not one of merkhet's.
    """
    if penalty is None:
        return NOTHING
    return " + ".join(_told(factor, one) for factor, one in _summands(penalty, 1.0))


def _terms(reader: Reader) -> list[Term]:
    """Return the terms of a sum."""
    terms = [_term(reader)]
    while reader.expect("+", "end").kind == "+":
        terms.append(_term(reader))
    return terms


def _term(reader: Reader) -> Term:
    """Return a product of numbers and one penalty."""
    term, start = Term(1.0), reader.token
    while True:
        token = reader.expect("number", "word")
        if token.kind == "number":
            term.factor *= float(token.text)
        elif term.name is not None:
            raise InputError(f"{reader.here(token)}: penalties are added, not multiplied")
        else:
            _name(reader, term, token)
        if not reader.take("*"):
            break
    if term.name is None:
        raise InputError(f"{reader.here(start)}: give a penalty with the factor, one of {_names()}")
    if not math.isfinite(term.factor):
        raise InputError(f"{reader.here(start)}: the factor is not finite")
    return term


def _name(reader: Reader, term: Term, token: Token) -> None:
    """Take a penalty's name and its arguments into a term."""
    with reader.at(token):
        if token.text.lower() == NOTHING:
            raise InputError(f"{NOTHING} stands alone")
        choose("penalty", token.text, PENALTIES)
    term.name = token
    if not reader.take("("):
        return
    while not reader.take(")"):
        _argument(reader, term)
        if reader.expect(",", ")").kind == ")":
            break


def _argument(reader: Reader, term: Term) -> None:
    """Take one argument into a term: a value, or a name, "=" and a value."""
    assert term.name is not None
    first = reader.token
    value = _value(reader)
    if not reader.take("="):
        if term.named:
            raise InputError(f"{reader.here(first)}: arguments by name come last")
        term.positional.append(value)
        return
    with reader.at(first):
        choose(f"argument of {term.name.text}", first.text, _allowed(term.name.text))
        if first.text in term.named:
            raise InputError(f"{first.text} is given twice")
    term.named[first.text] = _value(reader)


def _value(reader: Reader) -> Any:
    """Return a number, a word, a constant, or values in brackets as a tuple."""
    if reader.take("("):
        values = [_number_or_word(reader)]
        while reader.take(","):
            values.append(_number_or_word(reader))
        reader.expect(")")
        return tuple(values)
    return _number_or_word(reader)


def _number_or_word(reader: Reader) -> Any:
    """Return a number, a word, or a constant."""
    sign = -1 if reader.take("-") else 1
    token = reader.expect("number") if sign < 0 else reader.expect("number", "word")
    if token.kind == "word":
        return CONSTANTS.get(token.text.lower(), token.text)
    whole = token.text.isdigit() and len(token.text) <= DIGITS
    return sign * (int(token.text) if whole else float(token.text))


def _build(reader: Reader, term: Term) -> Penalty:
    """Return the penalty that a term is."""
    assert term.name is not None
    name = term.name.text
    allowed = _allowed(name)
    with reader.at(term.name):
        if len(term.positional) > len(allowed):
            raise InputError(f"{name} takes {_form(name)}")
        given = dict(zip(allowed, term.positional, strict=False))
        twice = sorted(given.keys() & term.named)
        if twice:
            raise InputError(f"{twice[0]} is given twice")
        given |= term.named
        for key, parameter in allowed.items():
            if parameter.default is parameter.empty and key not in given:
                raise InputError(f"{name} needs {key}: write {name}({key}=1)")
        made = PENALTIES[name](**given)
        return made if term.factor == 1 else term.factor * made


def _allowed(name: str) -> dict[str, inspect.Parameter]:
    """Return the arguments of a penalty that can be written, in their order."""
    return {
        key: parameter
        for key, parameter in inspect.signature(PENALTIES[name]).parameters.items()
        if re.search(r"\b(int|float|bool|str)\b", str(parameter.annotation))
    }


def _form(name: str) -> str:
    """Return how a penalty is written with all its arguments."""
    return f"{name}({', '.join(_allowed(name))})"


def _names() -> str:
    """Return the names of all penalties."""
    return ", ".join(sorted(PENALTIES))


def _summands(penalty: Penalty, factor: float) -> Iterator[tuple[float, Penalty]]:
    """Yield the terms of a penalty, which may be a sum or have a factor, with their factors."""
    if hasattr(penalty, "terms"):
        for term in penalty.terms:
            yield from _summands(term, factor)
    elif hasattr(penalty, "factor"):
        yield from _summands(penalty.penalty, factor * penalty.factor)  # type: ignore[attr-defined]
    else:
        yield factor, penalty


def _told(factor: float, penalty: Penalty) -> str:
    """Return one term: the factor where it is not 1, the arguments that are not the defaults."""
    names = [name for name, kind in PENALTIES.items() if type(penalty) is kind]
    if not names:
        raise InputError(
            f"{type(penalty).__name__} has no name in expressions: they have {_names()}"
        )
    given = [
        f"{key}={_written(getattr(penalty, key))}"
        for key, parameter in _allowed(names[0]).items()
        if getattr(penalty, key) != parameter.default
    ]
    arguments = f"({', '.join(given)})" if given else ""
    return f"{'' if factor == 1 else f'{factor!r}*'}{names[0]}{arguments}"


def _written(value: Any) -> str:
    """Return a value as `_value` reads it."""
    if isinstance(value, tuple):
        return f"({', '.join(map(_written, value))})"
    for word, constant in CONSTANTS.items():
        if value is constant:
            return word
    return str(value)

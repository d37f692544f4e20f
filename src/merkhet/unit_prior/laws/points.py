"""Points that users give, as float64 arrays, and answers to them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from merkhet.core.errors import InputError
from merkhet.unit_prior.answer import Answer
from merkhet.unit_prior.laws.law import Floats

LARGEST = 1e308


def as_floats(given: Any, what: str) -> Floats:
    """Return numbers as a float64 array of their own shape.

    Args:
        given: A number, a list, an array or a tensor on any device.
        what: Their name, for messages.

    Raises:
        InputError: They are no real numbers, or NaN is among them.
    """
    if isinstance(given, Tensor):
        real = not (given.is_complex() or given.dtype == torch.bool)
        given = given.detach().cpu().numpy() if not real else given.detach().cpu().double().numpy()
    try:
        found = np.asarray(given)
        if found.dtype.kind not in "fiu" and not isinstance(given, float | int):
            raise TypeError
        found = found.astype(np.float64)
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{what} = {given!r}: give real numbers, a tensor or an array") from None
    if np.isnan(found).any():
        raise InputError(f"{what} holds NaN: give numbers")
    return found


def as_sizes(given: Any, what: str) -> Floats:
    """Return numbers from 0 on, inf among them, as a float64 array.

    Raises:
        InputError: One is negative or NaN.
    """
    found = as_floats(given, what)
    if (found < 0).any():
        raise InputError(
            f"{what} holds {found.min():g}: give sizes of |g| from 0 on, the survival is two-sided"
        )
    return found


def as_log_probabilities(p: Any, log_p: Any) -> Floats:
    """Return logs of probabilities given either way.

    Raises:
        InputError: Both or neither are given, or they are not between 0 and 1.
    """
    if (p is None) == (log_p is None):
        raise InputError("give p, or log_p = log(p) with p = None where p is below 1e-308")
    if log_p is not None:
        found = as_floats(log_p, "log_p")
        if (found > 0).any():
            raise InputError(f"log_p holds {found.max():g}: give logs of probabilities, at most 0")
        return found
    plain = as_floats(p, "p")
    if ((plain < 0) | (plain > 1)).any():
        raise InputError(f"p holds a number outside [0, 1]: {plain.min():g} to {plain.max():g}")
    with np.errstate(divide="ignore"):
        logs: Floats = np.log(plain)
    return logs


def lengths(points: Floats) -> Floats:
    """Return the Euclidean lengths of points (..., m), without overflow."""
    size = np.abs(points).max(-1, keepdims=True)
    unit = np.where((size > 0) & (size < np.inf), size, 1.0)
    found: Floats = unit[..., 0] * np.sqrt(np.square(points / unit).sum(-1))
    return found


def as_answer(value: Any, error: Any, method: str) -> Answer:
    """Return an answer whose error is at least one rounding."""
    value, error = np.asarray(value, np.float64), np.asarray(error, np.float64)
    least = np.spacing(np.minimum(np.abs(value), LARGEST)) / 2
    error = np.where(np.isfinite(value), np.maximum(error, least), error)
    return Answer(torch.from_numpy(value.copy()), torch.from_numpy(error), method)


def as_plain(log_value: Any, error: Any, method: str) -> Answer:
    """Return the answer whose log is given, with the error of the log."""
    with np.errstate(over="ignore", invalid="ignore"):
        value = np.exp(log_value)
        spread = np.where((value == 0) | np.isinf(value), 0.0, value * np.expm1(error))
    return as_answer(value, spread, method)

"""Networks in words, as the command line takes them: "conv3 relu gauss2 flatten linear"."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from merkhet import kernels
from merkhet.core.errors import InputError, choose
from merkhet.kernels.layers import Layer, Residual, Sequential

PICTURES = "conv3 relu gauss2 conv3 relu gauss5 flatten linear"
DENSE = "linear relu linear"
# Word: class, the argument that its number is, the settings that may follow.
LAYERS = {
    "avg": ("AvgPool2d", "kernel_size", ("stride",)),
    "conv": ("Conv2d", "kernel_size", ("bias", "padding", "std", "stride")),
    "erf": ("Erf", "", ()),
    "exp": ("Exponential", "sigma", ()),
    "flatten": ("Flatten", "", ()),
    "gauss": ("GaussianPool2d", "factor", ()),
    "gelu": ("GELU", "", ()),
    "leaky": ("LeakyReLU", "negative_slope", ()),
    "linear": ("Linear", "", ("bias", "std")),
    "mean": ("GlobalAvgPool2d", "", ()),
    "relu": ("ReLU", "", ()),
    "sine": ("Sine", "", ()),
}
WHOLE = ("kernel_size", "factor")  # numbers that are whole and must be given
ARGUMENTS = {"bias": "bias_std", "std": "weight_std"}
TOKEN = re.compile(r"residual\(|[()]|[^\s()]+")
WORD = re.compile(r"([a-z]+)(\d+(?:\.\d+)?)?(?::(.*))?")


def parse_network(text: str) -> Layer:
    """Return the network that is written in words, as in "conv3 relu avg2 flatten linear".

    Args:
        text: Words of `LAYERS` with spaces between them; `residual(...)` adds its input.

    Raises:
        InputError: Names the word, and what words there are.
    """
    inside: list[list[Layer]] = [[]]
    for token in TOKEN.findall(text):
        with told_of(f"--network {text if token == ')' else token!r}"):
            if token == "residual(":
                inside.append([])
            elif token == ")" and len(inside) > 1:
                body = Sequential(*inside.pop())
                inside[-1].append(Residual(body))
            else:
                inside[-1].append(_layer(token))
    if len(inside) > 1:
        raise InputError(f"--network {text!r}: residual( lacks its )")
    if not inside[0]:
        raise InputError(f"--network is empty: give layers, as in {PICTURES!r}")
    return Sequential(*inside[0])


def _layer(word: str) -> Layer:
    """Return the layer that a word stands for."""
    match = WORD.fullmatch(word)
    name, number, settings = match.groups() if match else (word, None, None)
    choose("word", name, (*LAYERS, "residual("))
    class_name, argument, allowed = LAYERS[name]
    given: dict[str, Any] = {}
    if argument in WHOLE and not (number or "").isdigit():
        raise InputError(f"give it a whole number, as in {name}3")
    if number and not argument:
        raise InputError(f"it takes no number: write {name}")
    if number:
        given[argument] = int(number) if argument in WHOLE else float(number)
    for setting in settings.split(",") if settings is not None else ():
        given.update(_setting(name, allowed, setting))
    made: Layer = getattr(kernels, class_name)(**given)
    return made


def _setting(name: str, allowed: tuple[str, ...], setting: str) -> dict[str, Any]:
    """Return the argument that a setting such as bias=0.1 is."""
    if not allowed:
        raise InputError(f"it takes no settings: write {name}")
    key, _, value = setting.partition("=")
    choose("setting", key, allowed)
    if key == "padding" and not value.isdigit():
        return {key: value}
    try:
        number = float(value) if key in ARGUMENTS else int(value)
    except ValueError as error:
        raise InputError(f"give a number, as in {key}=1") from error
    return {ARGUMENTS.get(key, key): number}


@contextmanager
def told_of(what: str) -> Iterator[None]:
    """Put what the user wrote before the errors that it makes."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{what}: {error}") from error

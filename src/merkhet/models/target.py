"""MODEL on the command line: a name, code that builds a network, or a folder that holds one."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from merkhet.core import discovery
from merkhet.core.errors import InputError, choose
from merkhet.core.options import numbers
from merkhet.models import shipped
from merkhet.models.pretrained import from_pretrained
from merkhet.models.registry import Spec
from merkhet.models.weights import load_weights

HOW = (
    "give package.module:callable, file.py:callable, a Hugging Face folder (with config.json), "
    f"a run of merkhet (with run.json), or a name: {', '.join(shipped.names())}"
)


@dataclass(frozen=True)
class Target:
    """A network that the command line named.

    Attributes:
        module: The network, in evaluation mode.
        name: What to call it.
        normalise: Mean and standard deviation by channel that its inputs are to be
            normalised with, where its folder says so.
        data: The data it was trained on, where its folder says so.
        tokenizer: A language model's tokenizer.json, where its folder may have one.
    """

    module: nn.Module
    name: str
    normalise: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    data: str | None = None
    tokenizer: Path | None = None

    def preparation(
        self, mean: str | None, std: str | None, channels: int
    ) -> Callable[[Tensor], Tensor]:
        """Return what inputs go through: the options' normalisation, or else the folder's.

        Args:
            mean: The option --mean: numbers with commas, one or one a channel.
            std: The option --std.
            channels: Channels of the inputs.

        Returns:
            A function of pictures (batch, channels, height, width).

        Raises:
            InputError: The options do not fit the channels.
        """
        if mean is None and std is None:
            return normaliser(*self.normalise, channels) if self.normalise else _unchanged
        return normaliser(
            numbers(mean or "0", "--mean", ",", float),
            numbers(std or "1", "--std", ",", float),
            channels,
        )


def find_target(
    text: str, *, weights: Path | None = None, arguments: dict[str, Any] | None = None
) -> Target:
    """Return the network that `text` names.

    Args:
        text: MODEL on the command line.
        weights: A safetensors file to load into a network that code builds.
        arguments: Keyword arguments for the callable.

    Raises:
        InputError: There is no such network, or it cannot be built; says what to give.
    """
    folder = Path(text)
    if folder.is_dir():
        if weights or arguments:
            raise InputError("--weights and --arguments go with package.module:callable alone")
        return _from_folder(folder)
    if text in shipped.names() and not folder.exists():
        if weights or arguments:
            raise InputError("--weights and --arguments go with package.module:callable alone")
        return _shipped(text)
    place, colon, name = text.rpartition(":")
    if not colon or not place or not name:
        raise InputError(f"no network at {text!r}: {HOW}")
    module = _build(_import(place), place, name, arguments or {})
    if weights:
        load_weights(module, weights)
    return Target(module.eval(), f"{Path(place).name if place.endswith('.py') else place}:{name}")


def normaliser(
    mean: tuple[float, ...], std: tuple[float, ...], channels: int
) -> Callable[[Tensor], Tensor]:
    """Return a function that normalises pictures (batch, channels, height, width) by channel.

    Raises:
        InputError: The numbers are not one, or one for each channel, or a deviation is zero.
    """
    for values, what in ((mean, "--mean"), (std, "--std")):
        if len(values) not in (1, channels):
            raise InputError(f"{what} has {len(values)} numbers for {channels} channels")
    if any(value <= 0 for value in std):
        raise InputError(f"--std must be positive, not {', '.join(map(str, std))}")
    shift = torch.tensor(mean).reshape(-1, 1, 1)
    scale = torch.tensor(std).reshape(-1, 1, 1)
    return lambda inputs: (inputs - shift.to(inputs)) / scale.to(inputs)


def _unchanged(inputs: Tensor) -> Tensor:
    """Return inputs as they are."""
    return inputs


def _from_folder(folder: Path) -> Target:
    """Return the network that a run or a Hugging Face folder holds."""
    if (folder / "run.json").exists():
        return _from_run(folder)
    if (folder / "config.json").exists():
        module = _reader(folder)(folder)
        return Target(
            module.eval(),
            folder.resolve().name,
            _hf_normalisation(folder),
            tokenizer=folder / "tokenizer.json",
        )
    raise InputError(f"{folder} holds neither run.json nor config.json: {HOW}")


def _shipped(name: str) -> Target:
    """Return a network that comes with merkhet, its files compared with their checksums."""
    shipped.card(name)
    return replace(_from_run(shipped.folder(name)), name=name)


def _reader(folder: Path) -> Callable[[Path], nn.Module]:
    """Return what reads a folder of transformers, which packages may have added to."""
    for networks in discovery.parts("networks").values():
        for marker, read in getattr(networks, "FOLDERS", {}).items():
            if (folder / marker).exists():
                found: Callable[[Path], nn.Module] = read
                return found
    return from_pretrained


def _from_run(folder: Path) -> Target:
    """Return the network that a run of merkhet left."""
    try:
        run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        spec = run["about"]["spec"]
        data = spec.get("data")
        if not isinstance(data, str | None):
            raise TypeError(f"data is {data!r}, not a name")
        built = Spec(spec["model"]["name"], spec["model"]["arguments"]).build()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{folder / 'run.json'} does not say how to build its network ({error}): give fit "
            """spec={"model": {"name": ..., "arguments": ...}, "data": ...}"""
        ) from error
    weights = folder / "model.safetensors"
    if not weights.exists():
        raise InputError(f"{folder} has no model.safetensors: let the run finish first")
    load_weights(built, weights)
    name, tokenizer = spec["model"]["name"], folder / "tokenizer.json"
    return Target(built.eval(), name, data=data, tokenizer=tokenizer)


def _hf_normalisation(folder: Path) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Return the normalisation that a Hugging Face folder asks for, if any."""
    path = folder / "preprocessor_config.json"
    if not path.exists():
        return None
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        if not config.get("do_normalize") or "image_mean" not in config:
            return None
        mean, std = (tuple(map(float, config[key])) for key in ("image_mean", "image_std"))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} does not say how pictures are normalised ({error}): mend or remove it, and "
            "give --mean and --std"
        ) from error
    return mean, std


def _import(place: str) -> Any:
    """Import a module by its name, from the working folder too, or a file by its path."""
    if place.endswith(".py"):
        path = Path(place)
        if not path.is_file():
            raise InputError(f"no file {place}: {HOW}")
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules.setdefault(path.stem, module)
        sys.path.insert(0, str(path.resolve().parent))
        with _their_errors(place):
            spec.loader.exec_module(module)
        return module
    sys.path.insert(0, str(Path.cwd()))
    with _their_errors(place):
        return importlib.import_module(place)


@contextmanager
def _their_errors(place: str) -> Iterator[None]:
    """Raise what the user's code raises as one line that says whose it is."""
    try:
        yield
    except InputError:
        raise
    except ModuleNotFoundError as error:
        if error.name and (place == error.name or place.startswith(f"{error.name}.")):
            raise InputError(f"no module {place!r} here or installed: {HOW}") from error
        raise InputError(f"{place} needs {error.name}, which is not installed") from error
    except Exception as error:
        kind = type(error).__name__
        raise InputError(
            f"{place} raised {kind}: {error} (MERKHET_TRACEBACK=1 shows where)"
        ) from error


def _build(found: Any, place: str, name: str, arguments: dict[str, Any]) -> nn.Module:
    """Return the network that a name in a module is, or that calling it returns."""
    names = [key for key, value in vars(found).items() if callable(value) and key[0] != "_"]
    if not hasattr(found, name):
        choose(f"callable in {place}:", name, names)
    built = getattr(found, name)
    if not isinstance(built, nn.Module):
        _check_arguments(built, arguments, f"{place}:{name}")
        with _their_errors(f"{place}:{name}"):
            built = built(**arguments)
    if not isinstance(built, nn.Module):
        raise InputError(f"{place}:{name} gives a {type(built).__name__}, not a torch.nn.Module")
    return built


def _check_arguments(found: Any, arguments: dict[str, Any], name: str) -> None:
    """Refuse arguments that a callable does not take, or lacks."""
    try:
        inspect.signature(found).bind(**arguments)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{name} cannot be called so: {error}; "
            """give its arguments as JSON, as in --arguments '{"classes": 10}'"""
        ) from error

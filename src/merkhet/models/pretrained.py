"""Pretrained networks: those that come with merkhet, and Hugging Face folders on this machine.

`load_weights` and `save_weights`, for the networks of this package, are here by name too.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from merkhet.core.errors import InputError, need
from merkhet.models import shipped
from merkhet.models.weights import load_weights, save_weights

__all__ = ["from_pretrained", "load_weights", "save_weights"]

SAFETENSORS = ("model.safetensors", "model.safetensors.index.json")
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")


def from_pretrained(name: Path | str) -> nn.Module:
    """Return a pretrained network in eval mode: one that comes with merkhet, or a folder's.

    A name such as "fashion-cnn" is that of a network that comes with merkhet, trained by
    `merkhet reproduce models`; `merkhet.models.shipped.names()` lists them. Its files are
    compared with their checksums.

    A path is that of a Hugging Face folder, whose network keeps its dtype. The class is the
    one that config.json names under "architectures", among those of `transformers` itself:
    code that lies in the folder is never run, nothing is downloaded.
    Weights come from safetensors; if there are only pickled ones, they are read with
    torch's `weights_only`, which refuses everything but tensors. Every weight of the
    network must be there. Needs the extra `hf`.

    Args:
        name: A name, or a folder with config.json and model.safetensors, as `save_pretrained`
            writes; a folder of that name goes first.

    Returns:
        A module; what shapes it takes and gives is told where it is built.

    Raises:
        InputError: There is no such network, or the folder lacks config.json or weights, or
            they do not fit; the message says which.
        MissingExtraError: `transformers` is not installed.
    """
    if is_name(name):
        return shipped.load(str(name))
    return _from_folder(Path(name))


def is_name(text: Path | str) -> bool:
    """Tell whether a text can only be the name of a network that comes with merkhet."""
    return isinstance(text, str) and Path(text).name == text and not Path(text).exists()


def _from_folder(folder: Path) -> nn.Module:
    """Return the network of a Hugging Face folder."""
    architecture = _architecture(folder)
    use_safetensors = _has_safetensors(folder)
    network = _class(architecture, folder)
    try:
        with _quiet():
            model, report = network.from_pretrained(
                str(folder),
                dtype="auto",
                local_files_only=True,
                use_safetensors=use_safetensors,
                weights_only=True,
                ignore_mismatched_sizes=True,  # `_check` names them; transformers does not
                output_loading_info=True,
            )
    except pickle.UnpicklingError as error:
        raise InputError(
            f"the pickled weights in {folder} are damaged or hold more than tensors, and are not"
            f" run: convert them to {SAFETENSORS[0]} where you trust them"
        ) from error
    except Exception as error:  # whatever transformers' readers of config and weights raise
        raise InputError(f"{folder} does not load as {architecture}: {_line(error)}") from error
    _check(report, folder, architecture)
    loaded: nn.Module = model.eval()
    return loaded


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers' bars and tables away: what matters in them is raised as an error."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _architecture(folder: Path) -> str:
    """Return the name of the class in the folder's config.json."""
    file = folder / "config.json"
    if not file.is_file():
        raise InputError(
            f"no config.json in {folder}: give a folder as transformers' save_pretrained writes it"
        )
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{file} is not JSON: {error}") from error
    match config:
        case {"architectures": [str(architecture), *_]}:
            return architecture
    raise InputError(f'{file} names no class under "architectures", such as ["GPT2LMHeadModel"]')


def _has_safetensors(folder: Path) -> bool:
    """Tell whether the weights are safetensors (True) or pickled (False)."""
    if any((folder / name).is_file() for name in SAFETENSORS):
        return True
    if any((folder / name).is_file() for name in PICKLES):
        return False
    raise InputError(f"no weights in {folder}: it needs {SAFETENSORS[0]} beside config.json")


def _class(architecture: str, folder: Path) -> Any:
    """Return the class of transformers that is called `architecture`."""
    transformers = need("transformers", "hf")
    found = getattr(transformers, architecture, None)
    if not (isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)):
        raise InputError(
            f"{folder / 'config.json'} asks for {architecture!r}, which transformers"
            f" {transformers.__version__} does not have; code beside the weights is never run"
        )
    return found


def _check(report: dict[str, Any], folder: Path, architecture: str) -> None:
    """Check that transformers filled every weight from the folder and none at random."""
    misshapen = sorted(str(entry[0]) for entry in report["mismatched_keys"])
    absent = sorted(set(report["missing_keys"]) - set(misshapen))
    for what, names in (("missing", absent), ("of another shape", misshapen)):
        if names:
            raise InputError(
                f"the weights in {folder} do not fill {architecture}: {len(names)} {what},"
                f" the first is {names[0]}"
            )


def _line(error: BaseException) -> str:
    """Return the first line that an error says, or its name."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]

"""What a network that comes with merkhet says of itself, and what its files must be."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import merkhet
from merkhet.core.errors import InputError
from merkhet.core.files import write_text
from merkhet.models.registry import Spec
from merkhet.report.record import Figure

RUN, WEIGHTS, TOKENIZER = "run.json", "model.safetensors", "tokenizer.json"
FINISHED = "finished"
AGAIN = "install merkhet again"


@dataclass(frozen=True)
class Card:
    """A trained network, in words and numbers.

    Attributes:
        summary: What it is, in a line.
        spec: How it is built.
        data: The data that it was trained on, by name.
        examples: How many examples that were.
        score_of: What `score` is: "accuracy" or "perplexity", and on what.
        score: On test data that nothing was chosen by, with its interval.
        training: How it was trained, in words.
        seconds: Processor seconds of its training.
        licence: Of the data and of the weights.
        about: What else its run says: what the commands of its package want to know.
        command: What trains it again.
        commit: The code that trained it.
        started: When, ISO 8601 in UTC.
        versions: Of Python and the libraries that decided the result.
        files: Size in bytes and SHA-256 of each file, by its name.
    """

    summary: str
    spec: Spec
    data: str
    examples: int
    score_of: str
    score: Figure
    training: str
    seconds: float
    licence: str
    about: dict[str, Any] = field(default_factory=dict)
    command: str = ""
    commit: str = ""
    started: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    files: dict[str, dict[str, Any]] = field(default_factory=dict)


def write_card(card: Card, folder: Path) -> None:
    """Write `run.json` beside the files that it names, which must be there already.

    Args:
        card: Its `files` are filled in here.
        folder: With the weights and, of a language model, the tokenizer.
    """
    names = [name for name in (WEIGHTS, TOKENIZER) if (folder / name).is_file()]
    fields = asdict(card) | {"files": {name: _measured(folder / name) for name in names}}
    spec, about, examples = fields.pop("spec"), fields.pop("about"), fields.pop("examples")
    run = {"model": spec, "data": fields.pop("data"), **about}
    made = {"status": FINISHED, "about": {"spec": run, "examples": examples}, **fields}
    text = json.dumps(made | {"merkhet": merkhet.__version__}, indent=1, ensure_ascii=False)
    write_text(folder / RUN, text + "\n")


def read_card(folder: Path) -> Card:
    """Return the card of a folder whose files are what it says they are.

    Raises:
        InputError: A file is missing or damaged; says which.
    """
    try:
        fields = json.loads((folder / RUN).read_text(encoding="utf-8"))
        about = fields.pop("about")
        run = about.pop("spec")
        spec, score = Spec(**run.pop("model")), fields.pop("score")
        for name in ("status", "merkhet"):
            fields.pop(name)
        interval = score["interval"] and (score["interval"][0], score["interval"][1])
        score = Figure(score["value"], score["unit"], interval)
        card = Card(spec=spec, data=run.pop("data"), about=run, score=score, **about, **fields)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{folder / RUN} is missing or damaged ({error}): {AGAIN}") from error
    _check(folder, card.files, (WEIGHTS,))
    return card


def _check(folder: Path, files: dict[str, dict[str, Any]], needed: Sequence[str]) -> None:
    """Check that the files are there and are what the card says."""
    for name in {*needed, *files}:
        path = folder / name
        if not path.is_file():
            raise InputError(f"{path} is missing: {AGAIN}")
        if _measured(path) != files.get(name):
            raise InputError(f"{path} is not the file that {RUN} beside it names: {AGAIN}")


def _measured(path: Path) -> dict[str, Any]:
    """Return a file's size in bytes and its SHA-256."""
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}

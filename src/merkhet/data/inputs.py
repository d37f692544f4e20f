"""DATA on the command line: pictures by name or path, tokens, or text for a language model."""

from __future__ import annotations

import zipfile
from pathlib import Path

import torch
from torch import Tensor

from merkhet.core.errors import InputError, need
from merkhet.data.corpus import documents
from merkhet.data.loading import load
from merkhet.data.npz import load_tokens
from merkhet.data.pictures import Pictures
from merkhet.data.selection import parse_size

CONTEXT = 64
TEXT = (".txt", ".md", ".rst", ".py", ".c", ".h", ".json", ".html", ".tex")


def load_inputs(
    data: str | Path | None,
    *,
    samples: int,
    size: str | None = None,
    seed: int = 0,
    tokenizer: Path | None = None,
) -> Pictures | Tensor:
    """Return a sample of the data that `data` names, the test split where there is one.

    Args:
        data: The name or path of pictures or signals (see `merkhet.data.load`); an .npz
            with `tokens`; or, for a language model, "python", a folder of text or a text file.
        samples: Examples to draw.
        size: HEIGHTxWIDTH to resize pictures to.
        seed: Seed of the draw.
        tokenizer: The language model's tokenizer.json, needed for text.

    Returns:
        Pictures, or int64 tokens (samples, length).

    Raises:
        InputError: The data is not there, is damaged, or is text without a tokenizer.
    """
    if data is None:
        raise InputError("no data: give --data NAME or PATH; `merkhet data` lists what is here")
    path = Path(data)
    if _holds_tokens(path):
        tokens = load_tokens(path)
        order = torch.randperm(len(tokens), generator=torch.Generator().manual_seed(seed))
        return tokens[order[:samples]]
    of_a_language_model = tokenizer is not None and tokenizer.is_file() and path.exists()
    text = path.is_file() and path.suffix.lower() in TEXT
    if str(data) == "python" or text or of_a_language_model:
        return _encode(str(data), samples, seed, tokenizer)
    shape = None if size is None else parse_size(size)
    return load(data, split="test", limit=samples, size=shape, seed=seed)


def _holds_tokens(path: Path) -> bool:
    """Tell whether a file is an .npz with an array called tokens."""
    if path.suffix.lower() != ".npz" or not path.is_file():
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return "tokens.npy" in archive.namelist()
    except zipfile.BadZipFile:
        return False


def _encode(data: str, samples: int, seed: int, tokenizer: Path | None) -> Tensor:
    """Return windows of text as tokens (samples, CONTEXT), from documents in seeded order."""
    if tokenizer is None or not tokenizer.is_file():
        raise InputError(
            "text needs the network's tokenizer.json in its Hugging Face folder; "
            "or give tokens as an .npz with an int64 array `tokens` (count, length)"
        )
    encoder = need("tokenizers", "text").Tokenizer.from_file(str(tokenizer))
    found = documents(data)
    windows: list[list[int]] = []
    for place in torch.randperm(len(found), generator=torch.Generator().manual_seed(seed)).tolist():
        ids = encoder.encode(found[place].read().decode("utf-8", errors="replace")).ids
        windows += [ids[at : at + CONTEXT] for at in range(0, len(ids) - CONTEXT + 1, CONTEXT)][:8]
        if len(windows) >= samples:
            break
    if len(windows) < 2:
        raise InputError(f"{data} is too short: an audit needs at least {2 * CONTEXT} tokens")
    return torch.tensor(windows[:samples])

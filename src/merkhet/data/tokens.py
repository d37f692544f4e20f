"""Tokens on disk, mapped into memory, and windows of them as a torch data set.

Two files: `NAME.bin`, the tokens one after the other (little-endian uint16, or uint32 for
more than 65,536 tokens), and `NAME.json`, a header that tells their number and checksums.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from merkhet.core.errors import InputError
from merkhet.core.files import atomic_file, write_text
from merkhet.data.tokenizer import Tokenizer

FORMAT = "merkhet tokens 1"
DTYPES = {"uint16": "<u2", "uint32": "<u4"}
TOKENIZER = "tokenizer.json"


@dataclass(frozen=True)
class Header:
    """What is known of a file of tokens.

    Attributes:
        tokens: How many there are, ends of documents included.
        documents: How many documents they came from.
        dtype: "uint16" or "uint32".
        vocabulary: The number of different tokens there may be.
        tokenizer: SHA-256 of the tokenizer's file.
        checksum: SHA-256 of the tokens' file.
        format: Which version of this layout.
    """

    tokens: int
    documents: int
    dtype: str
    vocabulary: int
    tokenizer: str
    checksum: str
    format: str = FORMAT


class TokenFile:
    """The tokens of one split of a corpus, mapped into memory.

    Args:
        path: The `.bin` file; its header lies beside it.
        verify: Compare the whole file with its checksum, not its length alone.

    Attributes:
        path: The `.bin` file.
        header: What is known of it.

    Raises:
        InputError: A file is missing, damaged or of another format; says which.
    """

    def __init__(self, path: Path | str, *, verify: bool = True) -> None:
        self.path = Path(path)
        self.header = _read_header(self.path.with_suffix(".json"))
        self._check(verify)
        self._values = self._map()

    def __len__(self) -> int:
        """Return the number of tokens."""
        return self.header.tokens

    def tokens(self, start: int, stop: int) -> Tensor:
        """Return tokens `start` to `stop`, int64 `(stop - start,)`."""
        return torch.from_numpy(self._values[start:stop].astype(np.int64))

    def tokenizer(self) -> Tokenizer:
        """Return the tokenizer that wrote the tokens, from the file beside them.

        Raises:
            InputError: It is another tokenizer.
        """
        path = self.path.with_name(TOKENIZER)
        tokenizer = Tokenizer.load(path)
        if tokenizer.checksum != self.header.tokenizer:
            raise InputError(f"{path} is not the tokenizer that wrote {self.path}: encode again")
        return tokenizer

    def __getstate__(self) -> dict[str, Any]:
        """Leave the map out: a process that gets a copy maps the file itself."""
        return {key: value for key, value in self.__dict__.items() if key != "_values"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Map the file again."""
        self.__dict__.update(state)
        self._values = self._map()

    def _map(self) -> NDArray[Any]:
        """Map the file into memory; an empty one cannot be mapped."""
        dtype = np.dtype(DTYPES[self.header.dtype])
        if not self.header.tokens:
            return np.empty(0, dtype)
        return np.memmap(self.path, dtype=dtype, mode="r")

    def _check(self, verify: bool) -> None:
        """Compare the file with its header."""
        size = self.header.tokens * np.dtype(DTYPES[self.header.dtype]).itemsize
        if not self.path.is_file() or self.path.stat().st_size != size:
            found = f"{self.path.stat().st_size}" if self.path.is_file() else "no"
            raise InputError(
                f"{self.path} is damaged: it has {found} bytes and its header says {size}: "
                "encode again"
            )
        if verify and _sha256(self.path) != self.header.checksum:
            raise InputError(f"{self.path} is damaged: its checksum is not its header's")


class TokenWindows(Dataset[tuple[Tensor, Tensor]]):
    """Windows of tokens for a language model: inputs, and the same one token further.

    Windows do not overlap, except that the last target of one is the first input of the
    next; tokens at the end that fill no window are left out.

    Args:
        file: The tokens.
        context: The length of a window, in tokens.

    Attributes:
        file: The tokens.
        context: The length of a window.
        vocabulary: The number of different tokens there may be.

    Raises:
        InputError: There is not one whole window.
    """

    def __init__(self, file: TokenFile, context: int) -> None:
        if context < 1 or len(file) <= context:
            raise InputError(
                f"context is {context}: {file.path} has {len(file)} tokens: give 1 to "
                f"{max(1, len(file) - 1)}, or more text"
            )
        self.file = file
        self.context = context
        self.vocabulary = file.header.vocabulary

    def __len__(self) -> int:
        return (len(self.file) - 1) // self.context

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return inputs and targets, both int64 `(context,)`."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"window {index} of {len(self)}")
        start = (index % len(self)) * self.context
        window = self.file.tokens(start, start + self.context + 1)
        return window[:-1], window[1:]

    def __repr__(self) -> str:
        return f"TokenWindows({self.file.path.stem}: {len(self)} of {self.context} tokens)"

    def batch(self, indices: Sequence[int] | Tensor) -> tuple[Tensor, Tensor]:
        """Return inputs and targets of several windows, both int64 `(batch, context)`."""
        pairs = [self[int(index)] for index in indices]
        return torch.stack([x for x, _ in pairs]), torch.stack([y for _, y in pairs])


class TokenWriter:
    """Appends documents to an open file of tokens, and counts them; see `writing`."""

    def __init__(self, stream: IO[bytes], tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.dtype = "uint16" if tokenizer.vocabulary <= 2**16 else "uint32"
        self.tokens = 0
        self.documents = 0
        self._stream = stream
        self._digest = hashlib.sha256()

    def write(self, tokens: Iterable[int]) -> None:
        """Append a document's tokens and the end of a document."""
        values = np.array([*tokens, self.tokenizer.end], dtype=DTYPES[self.dtype])
        self._stream.write(values.tobytes())
        self._digest.update(values.tobytes())
        self.tokens += len(values)
        self.documents += 1

    def header(self) -> Header:
        """Return the header of what was written so far."""
        return Header(
            self.tokens,
            self.documents,
            self.dtype,
            self.tokenizer.vocabulary,
            self.tokenizer.checksum,
            self._digest.hexdigest(),
        )


@contextmanager
def writing(path: Path, tokenizer: Tokenizer) -> Iterator[TokenWriter]:
    """Yield a writer of `path`, which has its name and its header once the block succeeds."""
    with atomic_file(path) as aside, aside.open("wb") as stream:
        writer = TokenWriter(stream, tokenizer)
        yield writer
    header = json.dumps(asdict(writer.header()), indent=1)
    write_text(path.with_suffix(".json"), header + "\n")


def _read_header(path: Path) -> Header:
    """Return a header, checked."""
    if not path.is_file():
        raise InputError(f"{path} is missing: a file of tokens has its header beside it")
    try:
        header = Header(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise InputError(f"{path} is damaged or no header of tokens: {error}") from error
    whole = isinstance(header.tokens, int) and header.tokens >= 0
    if header.format != FORMAT or header.dtype not in DTYPES or not whole:
        raise InputError(f"{path} is damaged, or of another version than {FORMAT!r}: encode again")
    return header


def _sha256(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()

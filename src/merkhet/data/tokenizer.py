"""Byte-level byte-pair encoding: text to tokens and back, without loss.

Sennrich, Haddow and Birch (ACL 2016), section 3.2, over bytes as in GPT-2, by the library
`tokenizers` (merkhet's extra `text`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from merkhet.core.errors import InputError, need
from merkhet.core.files import write_text
from merkhet.data.corpus import Document, text_of

END = "<|end|>"
"""The token that ends a document; text that spells it out is ordinary text."""

SMALLEST = 257
"""256 bytes and the end of a document."""

LARGEST = 2**20
TRAINING_BYTES = 2**26


class Tokenizer:
    """A byte-level BPE tokenizer: every text has tokens, and they give the text back.

    Args:
        json: The tokenizer as the library `tokenizers` writes it.

    Raises:
        InputError: `json` is not a tokenizer, or has no token `<|end|>`.
        MissingExtraError: `tokenizers` is not installed.
    """

    def __init__(self, json: str) -> None:
        library = need("tokenizers", "text")
        try:
            self._inner: Any = library.Tokenizer.from_str(json)
        except Exception as error:  # the library raises bare Exception for what it cannot parse
            raise InputError(f"not a tokenizer: {error}") from error
        # The library's flag is not in its file: without it a text could spell END and end itself.
        self._inner.encode_special_tokens = True
        end = self._inner.token_to_id(END)
        if end is None:
            raise InputError(f"the tokenizer has no token {END}: train it with merkhet")
        self._json = json
        self.end = int(end)

    @property
    def vocabulary(self) -> int:
        """The number of tokens."""
        return int(self._inner.get_vocab_size())

    @property
    def checksum(self) -> str:
        """The SHA-256 of the tokenizer's file."""
        return hashlib.sha256(self._json.encode()).hexdigest()

    def encode(self, text: str) -> list[int]:
        """Return a text's tokens, without an end."""
        return list(self._inner.encode(text).ids)

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the tokens of each text, all of them at once (several threads)."""
        return [encoded.ids for encoded in self._inner.encode_batch(list(texts))]

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens; the end of a document is written `<|end|>`."""
        return str(self._inner.decode(list(tokens), skip_special_tokens=False))

    def save(self, path: Path | str) -> None:
        """Write the tokenizer as JSON, whole or not at all."""
        write_text(path, self._json)

    @classmethod
    def load(cls, path: Path | str) -> Tokenizer:
        """Return the tokenizer that `save` wrote.

        Raises:
            InputError: The file is not a tokenizer.
        """
        try:
            return cls(Path(path).read_text(encoding="utf-8"))
        except (InputError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: {error}") from error


def train_tokenizer(
    docs: Iterable[Document | str], vocab_size: int, *, most_bytes: int = TRAINING_BYTES
) -> Tokenizer:
    """Train a byte-level BPE; the same documents in the same order give the same tokenizer.

    Args:
        docs: Documents or texts.
        vocab_size: The number of tokens, 257 or more; fewer come out when the documents
            repeat too little to fill it.
        most_bytes: Stop reading documents once this many bytes were read (64 MiB).

    Raises:
        InputError: `vocab_size` is out of range or there are no documents.
        MissingExtraError: `tokenizers` is not installed.
    """
    if not SMALLEST <= vocab_size <= LARGEST:
        raise InputError(f"vocab_size is {vocab_size}: give {SMALLEST} to {LARGEST}")
    texts = list(_texts(docs, most_bytes))
    if not texts:
        raise InputError("there are no documents to train a tokenizer on: give at least one")
    library = need("tokenizers", "text")
    level = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner = library.Tokenizer(library.models.BPE())
    inner.pre_tokenizer = level
    inner.decoder = library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END],
        initial_alphabet=sorted(level.alphabet()),
        show_progress=False,
    )
    inner.train_from_iterator(texts, trainer)
    return Tokenizer(inner.to_str())


def _texts(docs: Iterable[Document | str], most_bytes: int) -> Iterator[str]:
    """Yield the documents' texts until enough bytes were read."""
    total = 0
    for doc in docs:
        text = doc if isinstance(doc, str) else text_of(doc.read())
        yield text
        total += len(text.encode())
        if total >= most_bytes:
            return

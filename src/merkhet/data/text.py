"""Text for language models: from files to windows of tokens, kept for the next time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console
from rich.progress import track

from merkhet.core.errors import InputError, choose
from merkhet.core.files import atomic_folder
from merkhet.data.corpus import PYTHON, SPLITS, Document, documents, split_of, text_of
from merkhet.data.find import cache as data_cache
from merkhet.data.tokenizer import Tokenizer, train_tokenizer
from merkhet.data.tokens import FORMAT, TOKENIZER, TokenFile, TokenWindows, writing

BATCH = 64
SPELLINGS = {"val": "validation", "valid": "validation"}


def encode_corpus(
    path_or_name: str | Path,
    tokenizer: Tokenizer,
    folder: Path | str,
    *,
    suffixes: Sequence[str] | None = None,
) -> Path:
    """Write a corpus as tokens: `train.bin`, `validation.bin`, `test.bin` and the tokenizer.

    Documents keep their order, each ends with `<|end|>`, and each is in one split, told by
    its bytes alone. The same text gives the same files. The folder appears whole or not at
    all.

    Args:
        path_or_name: "python", a folder or a file.
        tokenizer: From `train_tokenizer`, or loaded.
        folder: The folder to make.
        suffixes: The files to take; see `documents`.

    Returns:
        The folder.

    Raises:
        InputError: There is no text.
        FileExistsError: The folder exists.
    """
    return _encode(documents(path_or_name, suffixes=suffixes), tokenizer, Path(folder))


def load_text(
    name_or_path: str | Path = PYTHON,
    vocab_size: int = 8192,
    context: int = 256,
    split: str = "train",
    *,
    suffixes: Sequence[str] | None = None,
    cache: Path | str | None = None,
) -> TokenWindows:
    """Return windows of a corpus's tokens; tokenizer and tokens are made once and kept.

    The tokenizer is trained on the documents of "train" alone. What is kept is used again
    as long as the files' paths, sizes and times of change stay the same.

    Args:
        name_or_path: "python" (the standard library's own source), a folder or a file.
        vocab_size: The number of tokens, 257 or more; see `train_tokenizer`.
        context: The length of a window, in tokens.
        split: "train", "validation" or "test": about 90, 5 and 5 % of the documents.
        suffixes: The files to take; see `documents`.
        cache: The folder to keep tokens in; by default merkhet's, in the user's cache.

    Raises:
        InputError: There is no text, or too little of it for a window in this split.
        MissingExtraError: `tokenizers` is not installed.
    """
    split = choose("split", SPELLINGS.get(split, split), SPLITS)
    docs = documents(name_or_path, suffixes=suffixes)
    kept = Path(cache) if cache is not None else data_cache().with_name("text")
    folder = kept / f"{Path(name_or_path).resolve().name}-{vocab_size}-{_key(docs, vocab_size)}"
    if not folder.is_dir():
        _make(docs, vocab_size, folder)
    file = TokenFile(folder / f"{split}.bin")
    if len(file) <= context:
        raise InputError(
            f"{name_or_path} ({len(docs)} documents) gives {len(file)} tokens in {split}: too few "
            f"for one window of {context}: give more documents or a smaller context"
        )
    return TokenWindows(file, context)


def _make(docs: Sequence[Document], vocab_size: int, folder: Path) -> None:
    """Train the tokenizer and encode, leaving to another process what it finished first."""
    # A tokenizer reads only so much text: in the order of hashes it sees all of the corpus.
    mixed = sorted(docs, key=lambda doc: hashlib.sha256(doc.key.encode()).digest())
    training = (doc for doc in mixed if split_of(doc.read()) == "train")
    tokenizer = train_tokenizer(training, vocab_size)
    try:
        _encode(docs, tokenizer, folder)
    except OSError:
        if not (folder / TOKENIZER).is_file():
            raise


def _encode(docs: Sequence[Document], tokenizer: Tokenizer, folder: Path) -> Path:
    """Write the documents' tokens by split, and the tokenizer, into a new folder."""
    with atomic_folder(folder) as aside:
        tokenizer.save(aside / TOKENIZER)
        with ExitStack() as stack:
            writers = {
                split: stack.enter_context(writing(aside / f"{split}.bin", tokenizer))
                for split in SPLITS
            }
            for batch in _batches(docs):
                raw = [doc.read() for doc in batch]
                tokens = tokenizer.encode_many([text_of(data) for data in raw])
                for data, numbers in zip(raw, tokens, strict=True):
                    writers[split_of(data)].write(numbers)
    return folder


def _batches(docs: Sequence[Document]) -> Iterator[Sequence[Document]]:
    """Yield documents some at a time, showing how far it is."""
    starts = track(
        range(0, len(docs), BATCH),
        description="encoding",
        console=Console(stderr=True),
        transient=True,
    )
    for start in starts:
        yield docs[start : start + BATCH]


def _key(docs: Sequence[Document], vocab_size: int) -> str:
    """Return a digest of the files as they are now, of `vocab_size` and of this version."""
    digest = hashlib.sha256(f"{FORMAT} {vocab_size}".encode())
    for doc in docs:
        changed = doc.path.stat().st_mtime_ns
        digest.update(f"{doc.key}\0{doc.path.resolve()}\0{doc.stop}\0{changed}\n".encode())
    return digest.hexdigest()[:16]

"""Data sets: what there is, where it lies, and whether it is whole."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from merkhet.data.pictures import Pictures, Segmentation
    from merkhet.data.sources import Source


def data(
    name: Annotated[
        str | None,
        typer.Argument(help="A data set's name, or the path of a folder or file of pictures."),
    ] = None,
    download: Annotated[
        bool, typer.Option("--download", help="Get the set from its official source if absent.")
    ] = False,
    size: Annotated[
        str | None, typer.Option(help="Bring pictures to this size, HxW in pixels: 32x32.")
    ] = None,
) -> None:
    """List the data sets, or read one in full and say what it holds.

    Example: merkhet data digits
    """
    from merkhet.core.errors import InputError

    if name is not None:
        for line in _lines(name, download, size):
            Console(soft_wrap=True).print(line, markup=False, highlight=False)
        return
    if download or size:
        raise InputError("--download and --size need a name: merkhet data mnist --download")
    Console().print(_table())


def _table() -> Table:
    """Return the known data sets: what each is, where it was found or how to get it."""
    from merkhet.data.sources import SOURCES

    table = Table("name", "what", title="Data sets")
    table.add_column("where, or how to get it", overflow="fold")
    table.add_column("on disk", justify="right")
    for source in SOURCES.values():
        where, size = _place(source)
        table.add_row(source.name, source.what, where, size)
    root, count, total = _python()
    what = f"text: source of Python's standard library, {count} files"
    table.add_row("python", what, str(root), _bytes(total))
    return table


def _place(source: Source) -> tuple[str, str]:
    """Return where a data set lies and how large it is there, or how to get it."""
    from merkhet.data.find import how_to_get, layout_in, places

    if not source.layouts:
        return "always at hand", "-"
    for place in places(source):
        if layout_in(source, place) is not None:
            files = (path for path in place.rglob("*") if path.is_file())
            return str(place), _bytes(sum(path.stat().st_size for path in files))
    return f"absent: {how_to_get(source)}", "-"


def _lines(name: str, download: bool, size: str | None) -> Iterator[str]:
    """Read a set in full and yield what it holds, a line for each split."""
    from merkhet.data.loading import load, load_segmentation, splits
    from merkhet.data.selection import parse_size

    if name == "python":
        root, count, total = _python()
        yield f"python: {count} documents, {_bytes(total)}, from {root}"
        return
    wanted = parse_size(size) if size else None
    for split in splits(name):
        if name == "camvid":
            yield _pixels_told(load_segmentation(name, split, size=wanted, download=download))
        else:
            yield _told(load(name, split, size=wanted, download=download))


def _told(pictures: Pictures) -> str:
    """Return in a line what a set of pictures holds."""
    line = _shape_told(pictures)
    if pictures.labels is None:
        return f"{line}; no labels"
    counts = pictures.labels.bincount(minlength=len(pictures.classes)).tolist()
    each = ", ".join(f"{c} {n}" for c, n in zip(pictures.classes, counts, strict=True))
    return f"{line}; {len(pictures.classes)} classes: {each}"


def _pixels_told(pictures: Segmentation) -> str:
    """Return in a line what a set of pictures and label pictures holds."""
    counts = pictures.masks.flatten().bincount(minlength=pictures.ignore + 1)
    shares = (counts[: len(pictures.classes)] / counts.sum() * 100).tolist()
    each = ", ".join(
        f"{c} {share:.1f} %" for c, share in zip(pictures.classes, shares, strict=True)
    )
    return f"{_shape_told(pictures)}; {len(pictures.classes)} classes by pixels: {each}"


def _shape_told(pictures: Pictures | Segmentation) -> str:
    """Return how many pictures there are, of which shape and type, and where from."""
    shape = "x".join(map(str, pictures.images.shape[1:]))
    kind = str(pictures.images.dtype).removeprefix("torch.")
    where = f" from {pictures.source}" if pictures.source else ""
    return f"{pictures.name} {pictures.split}: {len(pictures)} of {shape} {kind}{where}"


def _python() -> tuple[Path, int, int]:
    """Return where the corpus `python` lies, its number of documents and of bytes."""
    from merkhet.data.corpus import PYTHON, corpus_root, documents

    docs = documents(PYTHON)
    return corpus_root(PYTHON), len(docs), sum(doc.stop - doc.start for doc in docs)


def _bytes(size: int) -> str:
    """Return a number of bytes in MB."""
    return f"{size / 1e6:.1f} MB"


TOP = (data,)

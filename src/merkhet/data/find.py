"""Where a data set lies on this machine."""

from __future__ import annotations

import os
from pathlib import Path

from merkhet.core.errors import InputError, choose
from merkhet.data.download import download as fetch
from merkhet.data.layouts import LAYOUTS, Layout
from merkhet.data.sources import SOURCES, Source


def find(name: str, *, download: bool = False) -> Path:
    """Return the folder of a data set.

    Looked for in `$MERKHET_DATA/NAME`, then in the user's cache
    (`$XDG_CACHE_HOME/merkhet/data/NAME`, by default below `~/.cache`), then where the
    system's package puts it; the first that is complete is taken.

    Args:
        name: A data set's name.
        download: Get it into the user's cache from its official source if it is nowhere.

    Raises:
        InputError: No such name; or it is nowhere, says how to get it; or it cannot be
            downloaded.
        ConnectionError: The download failed.
    """
    source = SOURCES[choose("data set", name, SOURCES)]
    if not source.layouts:
        raise InputError(f"{name} comes with a library and has no folder: load it by its name")
    for place in places(source):
        if layout_in(source, place) is not None:
            return place
    if not download:
        raise InputError(_absent(source))
    fetch(source, cache() / name)
    return cache() / name


def places(source: Source) -> list[Path]:
    """Return the folders in which a data set is looked for, in order."""
    own = os.environ.get("MERKHET_DATA")
    return [
        *([Path(own).expanduser() / source.name] if own else []),
        cache() / source.name,
        *([source.system] if source.system else []),
    ]


def cache() -> Path:
    """Return the folder of data that merkhet may fill, in the user's cache."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "merkhet" / "data"


def layout_in(source: Source, place: Path) -> Layout | None:
    """Return the layout in which `place` holds every split of the data set, if any."""
    for name in source.layouts:
        if set(source.splits) <= set(LAYOUTS[name].splits(place)):
            return LAYOUTS[name]
    return None


def how_to_get(source: Source) -> str:
    """Return in words every way to get a data set."""
    files = ", or ".join(LAYOUTS[name].files for name in source.layouts)
    ways = [f"put {files} into $MERKHET_DATA/{source.name}"]
    if source.files:
        ways.append(f"run: merkhet data {source.name} --download")
    if source.package:
        ways.append(f"run: apt install {source.package}")
    return "; or ".join(ways)


def _absent(source: Source) -> str:
    """Return the message for a data set that is nowhere."""
    looked = places(source)
    half = [place for place in looked if place.is_dir()]
    found = f"incomplete in {half[0]}" if half else f"not in {', '.join(map(str, looked))}"
    return f"the data set {source.name} is {found}: {how_to_get(source)}"

"""A bar for long work: on a terminal, on standard error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar(
    what: str, total: int, *, unit: str, shown: bool
) -> Iterator[Callable[[int], None]]:
    """Yield a function that is told how much more is done, and moves the bar.

    Args:
        what: What is done, in a word or two.
        total: How much there is to do.
        unit: What is counted.
        shown: Whether to show a bar at all; it is never shown where there is no terminal.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    console = Console(stderr=True)
    if not (shown and console.is_terminal):
        yield lambda _more: None
        return
    count = TextColumn(f"{{task.completed:,.0f}} of {{task.total:,.0f}} {unit}")
    title = TextColumn("{task.description}")
    with Progress(title, BarColumn(), count, Remaining(), console=console) as bar:
        task = bar.add_task(what, total=total)
        yield lambda more: bar.update(task, advance=more)

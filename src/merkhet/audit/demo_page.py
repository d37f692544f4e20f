"""The demo's page: what a remedy changed, and the two reports side by side."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from merkhet.audit.compare import Comparison
from merkhet.audit.demo_effects import Effect
from merkhet.audit.page import render
from merkhet.core.files import write_text


@dataclass(frozen=True)
class Story:
    """What the demo shows.

    Attributes:
        motion: What the network was trained against, in words.
        seconds: Of that training.
        pictures: Test pictures that the effects are of.
        effects: What it changed, with intervals.
        comparison: The report before and the one after.
    """

    motion: str
    seconds: float
    pictures: int
    effects: tuple[Effect, ...]
    comparison: Comparison

    def to_dict(self) -> dict[str, Any]:
        """Return the story as JSON has it, with both reports in it."""
        found = [asdict(effect) | {"verdict": effect.verdict} for effect in self.effects]
        told = {
            "motion": self.motion,
            "seconds": round(self.seconds, 1),
            "pictures": self.pictures,
            "effects": found,
        }
        return told | self.comparison.to_dict()


def write_story(
    story: Story, page: Path, reports: tuple[Path, Path], writing: AbstractContextManager[None]
) -> None:
    """Write the page and its JSON beside it, each whole or not at all.

    Args:
        story: What it shows.
        page: Its path.
        reports: The pages of the reports before and after, which lie beside it.
        writing: Entered while the two files are written.
    """
    names = tuple(path.name for path in reports)
    text = render("demo.html.j2", story=story, comparison=story.comparison, reports=names)
    data = json.dumps(story.to_dict(), indent=1, ensure_ascii=False, allow_nan=False)
    with writing:
        write_text(page, text)
        write_text(page.with_suffix(".json"), data + "\n")

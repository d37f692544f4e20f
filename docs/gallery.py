"""How pictures of the tutorials get onto their pages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

SHARPNESS = 110  # dots an inch


def scrape(block: Any, block_vars: dict[str, Any], gallery_conf: dict[str, Any]) -> str:
    """Return the reStructuredText of a cell's pictures, as sphinx-gallery asks for it.

    merkhet's figures are made without pyplot, which is all that sphinx-gallery looks at: one that
    ends a cell is shown, as a notebook shows it; then pyplot's.
    """
    from matplotlib.figure import Figure
    from sphinx_gallery.scrapers import figure_rst, matplotlib_scraper

    values = block_vars["example_globals"]
    shown = values.get("___")  # of the last cell that ended with an expression
    parts = []
    if isinstance(shown, Figure) and not hasattr(shown, "number"):  # pyplot numbers its own
        values["___"] = None  # shown once
        path = next(block_vars["image_path_iterator"])
        shown.savefig(path, dpi=SHARPNESS)
        parts.append(figure_rst([path], gallery_conf["src_dir"]))
    parts.append(str(matplotlib_scraper(block, block_vars, gallery_conf, dpi=SHARPNESS)))
    return "\n".join(parts)


def _get_sg_image_scraper() -> Callable[[Any, dict[str, Any], dict[str, Any]], str]:
    """Return the scraper; sphinx-gallery looks for this name in modules that it is given."""
    return scrape

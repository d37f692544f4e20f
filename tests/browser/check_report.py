"""Look at a report in headless Chromium: no console message, every figure, nothing too wide.

    python tests/browser/check_report.py report.html [FOLDER]

Exits with 1 where something is wrong. With a folder it leaves screenshots there: desktop and
phone, light and dark. Chromium is Debian's: apt-get install chromium.
"""

from __future__ import annotations

import html.parser
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

WIDTHS = {"desktop": 1280, "phone": 390}
SECONDS = 60
QUIET = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--allow-file-access-from-files",
)
# A frame of the wanted width: a window of the browser itself is never as narrow as a phone.
FRAME = """<!doctype html><title>frame</title><body style="margin:0">
<iframe id="page" src="{page}" style="border:0;width:{width}px;height:{height}px"></iframe>
<script>
document.getElementById("page").onload = (event) => {{
  const page = event.target.contentDocument;
  const shown = [...page.querySelectorAll("svg, img")].filter((one) => {{
    const box = one.getBoundingClientRect();
    return box.width > 20 && box.height > 20 && (one.tagName !== "IMG" || one.naturalWidth > 0);
  }});
  document.body.dataset.width = page.documentElement.scrollWidth;
  document.body.dataset.height = page.documentElement.scrollHeight;
  document.body.dataset.figures = shown.length;
}};
</script>"""


class Figures(html.parser.HTMLParser):
    """Counts the pictures that a page is written with."""

    count = depth = 0

    def handle_starttag(self, tag: str, attrs: object) -> None:
        """Count outermost svg, and img."""
        self.count += tag == "img" or (tag == "svg" and not self.depth)
        self.depth += tag == "svg"

    def handle_endtag(self, tag: str) -> None:
        """Leave an svg."""
        self.depth -= tag == "svg"


def chromium(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the browser with a profile of its own; return what it wrote."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        sys.exit("no chromium: apt-get install chromium")
    with tempfile.TemporaryDirectory() as profile:
        call = [program, *QUIET, f"--user-data-dir={profile}", *arguments]
        return subprocess.run(call, capture_output=True, text=True, timeout=SECONDS, check=True)


def faults(page: Path, name: str, width: int, pictures: Path | None) -> list[str]:
    """Return what is wrong with a page at one width."""
    counter = Figures()
    counter.feed(page.read_text("utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        frame = Path(folder) / "frame.html"
        frame.write_text(FRAME.format(page=page.as_uri(), width=width, height=1000))
        logged = ("--enable-logging=stderr", "--virtual-time-budget=5000")
        run = chromium(*logged, "--dump-dom", frame.as_uri())
        found = {key: int(value) for key, value in re.findall(r'data-(\w+)="(\d+)"', run.stdout)}
        wrong = [f"{name}: {line}" for line in run.stderr.splitlines() if "CONSOLE" in line]
        if not found:
            return [*wrong, f"{name}: the page did not load"]
        if pictures is not None:
            shoot(page, frame, name, width, found["height"], pictures)
    if found["width"] > width:
        wrong.append(f"{name}: the page is {found['width']} pixels wide, {width} are there")
    if found["figures"] != counter.count:
        wrong.append(f"{name}: {found['figures']} of {counter.count} figures are shown")
    return wrong


def shoot(page: Path, frame: Path, name: str, width: int, height: int, folder: Path) -> None:
    """Take a picture of the whole page, light and dark."""
    folder.mkdir(parents=True, exist_ok=True)
    frame.write_text(FRAME.format(page=page.as_uri(), width=width, height=height))
    for scheme in ("light", "dark"):
        chromium(
            f"--window-size={max(width, 500)},{height}",
            f"--blink-settings=preferredColorScheme={int(scheme == 'light')}",
            f"--screenshot={folder / f'{page.stem}-{name}-{scheme}.png'}",
            frame.as_uri(),
        )


def main() -> None:
    """Check the page that is named."""
    page = Path(sys.argv[1]).resolve()
    pictures = Path(sys.argv[2]).resolve() if len(sys.argv) > 2 else None
    if not page.is_file():
        sys.exit(f"no {page}")
    wrong = [
        fault for name, width in WIDTHS.items() for fault in faults(page, name, width, pictures)
    ]
    sys.stdout.write("\n".join(wrong or [f"{page.name}: nothing wrong"]) + "\n")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()

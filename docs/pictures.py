"""Makes the pictures of the documentation from the pages of real runs, with a browser that has no window.

    python docs/pictures.py multiitem-results/latest multiitem-results/power/RUN   # needs playwright and a chromium

Of the first page there is its first screen, in light and in dark (``report-light.png``). Of every page there is the
first picture of each section that has one, by the name that the page gives the section (``who-sees-whom.png``). The
browser is the one that CHROMIUM names, else one on PATH. Nothing but the page itself is loaded.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

IMAGES = Path(__file__).parent / "images"
#: Pixels; the width is that of a column in the site.
_WIDTH, _HEIGHT = 960, 640
#: The first screen, and what shows something of a section: a plot, or a table whose cells are coloured.
_FIRST = "report"
_SHOWN = ".figures, table.grid"
#: A table stands whole in its picture, however wide.
_WHOLE = "body, main, header { max-width: none; }"


def browser() -> str | None:
    """The path of a chromium on this machine."""
    named = [os.environ.get("CHROMIUM", ""), "chromium", "chromium-browser", "google-chrome"]
    return next((path for name in named if name and (path := shutil.which(name))), None)


def take(pages: Sequence[Path], into: Path, executable: str) -> list[Path]:
    """Write the pictures of runs' ``report.html``; gives their paths. Raises FileNotFoundError."""
    from playwright.sync_api import sync_playwright

    for page in pages:
        if not page.is_file():
            raise FileNotFoundError(page)
    into.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=executable)
        try:
            for scheme in ("light", "dark"):
                tab = chromium.new_page(viewport={"width": _WIDTH, "height": _HEIGHT}, color_scheme=scheme)
                tab.goto(pages[0].resolve().as_uri())
                written.append(into / f"{_FIRST}-{scheme}.png")
                tab.screenshot(path=written[-1])
                tab.close()
            for page in pages:
                tab = chromium.new_page(viewport={"width": _WIDTH, "height": _HEIGHT}, color_scheme="light")
                tab.goto(page.resolve().as_uri())
                tab.add_style_tag(content=_WHOLE)
                for section in tab.locator("main section").filter(has=tab.locator(_SHOWN)).all():
                    shown = section.locator(_SHOWN).first
                    wide = 2 if shown.evaluate("each => each.matches('table')") else 1
                    tab.set_viewport_size({"width": wide * _WIDTH, "height": _HEIGHT})
                    path = into / f"{section.locator('h2').get_attribute('id')}.png"
                    shown.screenshot(path=path)
                    written.append(path)
                tab.close()
        finally:
            chromium.close()
    return written


def main() -> None:
    """Take the pictures of the run that is named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="a run's directory, or its report.html")
    parser.add_argument("--into", type=Path, default=IMAGES, metavar="DIR")
    given = parser.parse_args()
    executable = browser()
    if executable is None:
        sys.exit("no chromium is on PATH; name one with CHROMIUM=PATH")
    pages = [run / "report.html" if run.is_dir() else run for run in given.runs]
    try:
        written = take(pages, given.into, executable)
    except FileNotFoundError as error:
        sys.exit(f"{error} is not there; a run writes it beside report.md")
    print(f"wrote {len(written)} pictures into {given.into}")


if __name__ == "__main__":
    main()

"""Makes the pictures of the documentation from the page of a real run, with a browser that has no window.

    python docs/pictures.py multiitem-results/latest      # needs playwright and a chromium

A picture is of a part of the page: what the page calls it is its file's name. Each is made in light and in dark. The
browser is the one that CHROMIUM names, else one on PATH. Nothing but the page itself is loaded.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path

IMAGES = Path(__file__).parent / "images"
#: Pixels; the width is that of a column in the site.
_WIDTH, _HEIGHT = 960, 720
#: The whole first screen, and the parts of the page that have a picture, by what is between the marks of their ids.
_FIRST = "report"
_PARTS = "main section[id]"


def browser() -> str | None:
    """The path of a chromium on this machine."""
    named = [os.environ.get("CHROMIUM", ""), "chromium", "chromium-browser", "google-chrome"]
    return next((path for name in named if name and (path := shutil.which(name))), None)


def take(page: Path, into: Path, executable: str) -> list[Path]:
    """Write the pictures of a run's ``report.html``; gives their paths. Raises FileNotFoundError."""
    from playwright.sync_api import sync_playwright

    if not page.is_file():
        raise FileNotFoundError(page)
    into.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=executable)
        try:
            for scheme in ("light", "dark"):
                tab = chromium.new_page(
                    viewport={"width": _WIDTH, "height": _HEIGHT}, color_scheme=scheme, device_scale_factor=1.5
                )
                tab.goto(page.resolve().as_uri())
                path = into / f"{_FIRST}-{scheme}.png"
                tab.screenshot(path=path)
                written.append(path)
                for part in tab.locator(_PARTS).filter(has=tab.locator("svg")).all():
                    path = into / f"{part.get_attribute('id')}-{scheme}.png"
                    part.screenshot(path=path)
                    written.append(path)
                tab.close()
        finally:
            chromium.close()
    return written


def main() -> None:
    """Take the pictures of the run that is named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run's directory, or its report.html")
    parser.add_argument("--into", type=Path, default=IMAGES, metavar="DIR")
    given = parser.parse_args()
    executable = browser()
    if executable is None:
        sys.exit("no chromium is on PATH; name one with CHROMIUM=PATH")
    page = given.run / "report.html" if given.run.is_dir() else given.run
    try:
        written = take(page, given.into, executable)
    except FileNotFoundError as error:
        sys.exit(f"{error} is not there; a run writes it beside report.md")
    print(f"wrote {len(written)} pictures into {given.into}")


if __name__ == "__main__":
    main()

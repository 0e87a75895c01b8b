"""The pictures of docs/gallery.md: `python benchmarks/gallery.py [NAME …]`, some minutes on two cores.

Each page is made by the command that stands beside its picture, on the built-in pocket model, and opened in a
headless Chromium. Needs the extra `dev`, and Chromium as `chromium` or `google-chrome`.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

GALLERY = Path(__file__).parents[1] / "docs" / "gallery.md"
PICTURES = GALLERY.parent / "gallery"
WIDTH, HEIGHT = 1180, 1400


def commands() -> dict[str, list[str]]:
    """By the name of each picture what is typed, as the page says it: the last one makes the page."""
    made: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in GALLERY.read_text(encoding="utf-8").splitlines():
        if line.startswith("eckart "):
            lines.append(line)
        if "](gallery/" in line:
            made[line.split("](gallery/")[1].split(".png")[0]] = lines
            lines = []
    return made


def main() -> None:
    """Make the pages and look at their tops."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        sys.exit("install Chromium")
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=browser, args=["--no-sandbox", "--disable-gpu"])
        page = chromium.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        for name, lines in commands().items():
            if sys.argv[1:] and name not in sys.argv[1:]:
                continue
            for line in lines:
                arguments = [*shlex.split(line)[1:], "--overwrite"]
                subprocess.run([sys.executable, "-m", "eckart", *arguments], cwd=scratch, check=True)
            out = arguments[arguments.index("-o") + 1]
            page.goto(f"file://{scratch}/{out}/report.html")
            page.screenshot(path=PICTURES / f"{name}.png")
        chromium.close()


if __name__ == "__main__":
    main()

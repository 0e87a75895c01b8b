"""The README's commands run as they stand there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import documented
import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


@pytest.mark.skipif(
    not (ROOT / "src/eckart/pocket/model/model.safetensors").is_file(), reason="the pocket model is not there"
)
def test_every_command_and_snippet_runs_in_the_order_of_the_page(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, documented.__file__, str(ROOT / "README.md")],
        cwd=tmp_path,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout
    assert (tmp_path / "small" / "eckart.json").is_file()
    assert (tmp_path / "smaller" / "eckart.json").is_file()


def test_every_file_the_page_points_to_is_there() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert links
    assert all((ROOT / link).exists() for link in links)


def test_the_picture_needs_no_network() -> None:
    picture = (ROOT / "docs" / "picture.svg").read_text()
    assert not re.search(r"(href|src|url)\s*[=(]", picture)

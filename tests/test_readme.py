"""The README's commands run as they stand there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


@pytest.mark.skipif(
    not (ROOT / "src/eckart/pocket/model/model.safetensors").is_file(), reason="the pocket model is not there"
)
def test_every_command_and_snippet_runs_in_the_order_of_the_page(tmp_path: Path) -> None:
    binaries = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}", "HF_HUB_OFFLINE": "1"}
    commands = "\n".join(blocks("bash"))
    run = subprocess.run(
        ["bash", "-euc", commands], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "small" / "eckart.json").is_file()
    for snippet in blocks("python"):
        run = subprocess.run(
            [sys.executable, "-c", snippet],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == 0, f"{snippet}\n{run.stderr}"


def test_every_file_the_page_points_to_is_there() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert links
    assert all((ROOT / link).exists() for link in links)


def test_the_picture_needs_no_network() -> None:
    picture = (ROOT / "docs" / "picture.svg").read_text()
    assert not re.search(r"(href|src|url)\s*[=(]", picture)

"""One rule for every command that writes a folder: what Eckart wrote gives way if asked to, nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer.main
from architectures import LLAMA
from outside import Eckart, listing

from eckart.cli import app

ANALYZE = ("--layers", "0", "--fast")
SWEEP = ("--ratios", "0.5", "--layers", "top:1", "--continuation", "1")
LETS = "; --overwrite lets it give way"


@pytest.fixture
def small(eckart: Eckart, stored: Any) -> Path:
    assert eckart("compress", stored(LLAMA), "-o", "small", "--keep", "0.8", "--method", "svd").code == 0
    return Path("small")


def test_every_command_that_writes_a_folder_has_the_option() -> None:
    commands = typer.main.get_command(app).commands
    for name, command in commands.items():
        flags = {flag for each in command.params for flag in each.opts}
        assert ("--overwrite" in flags) == ("--out" in flags), name


@pytest.mark.parametrize(
    "line",
    [
        ("analyze", "{model}", *ANALYZE),
        ("bases", "{model}", "--layers", "0", "--bases", "1"),
        ("export", "{small}", "--format", "dense", "--no-check"),
        ("report", "{small}"),
        ("sweep", "{model}", *SWEEP, "--prompt", "one"),
    ],
    ids=lambda line: line[0],
)
def test_what_eckart_wrote_gives_way_to_any_command(
    line: tuple[str, ...], eckart: Eckart, stored: Any, tmp_path: Path, small: Path
) -> None:
    asked = [word.format(model=stored(LLAMA), small=small) for word in line]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "report.html").write_text("of another tool")
    assert eckart("analyze", stored(LLAMA), *ANALYZE, "-o", "out").code == 0
    before = listing(tmp_path / "out")
    eckart(*asked, "-o", "out").fails(2, "out exists already", LETS)
    assert listing(tmp_path / "out") == before
    refused = eckart(*asked, "-o", "mine")
    refused.fails(2, "mine exists already")
    assert LETS not in refused.err
    eckart(*asked, "-o", "mine", "--overwrite").fails(2, "mine is not a folder that Eckart wrote")
    assert (tmp_path / "mine" / "report.html").read_text() == "of another tool"
    answer = eckart(*asked, "-o", "out", "--overwrite")
    assert answer.code == 0, answer.err
    assert (line[0] == "analyze") == (tmp_path / "out" / "analysis.json").is_file()
    assert sorted(path.name for path in tmp_path.iterdir() if "out" in path.name) == ["out"]


@pytest.mark.parametrize(
    "line",
    [
        ("analyze", *ANALYZE),
        ("bases", "--layers", "0"),
        ("report",),
        ("export", "--format", "dense"),
        ("sweep", *SWEEP, "--prompt", "one"),
        ("recover", "--data", "pocket-math", "--tokens", "1k"),
    ],
    ids=lambda line: line[0],
)
def test_what_is_read_never_gives_way(
    line: tuple[str, ...], eckart: Eckart, tmp_path: Path, small: Path
) -> None:
    before = listing(tmp_path / "small")
    command, *options = line
    answer = eckart(command, "small", *options, "-o", "small", "--overwrite")
    answer.fails(2, "small is not overwritten, since small is read")
    assert listing(tmp_path / "small") == before


def test_a_sweep_gives_way_to_another_and_is_gone_on_with_by_the_same(
    eckart: Eckart, stored: Any, tmp_path: Path
) -> None:
    asked = ("sweep", stored(LLAMA), *SWEEP, "-o", "swept")
    assert eckart(*asked, "--prompt", "one").code == 0
    first = listing(tmp_path / "swept")["request.json"]
    eckart(*asked, "--prompt", "two").fails(2, "another request: prompts", LETS)
    assert eckart(*asked, "--prompt", "one", "--overwrite").code == 0
    assert listing(tmp_path / "swept")["request.json"] == first
    answer = eckart(*asked, "--prompt", "two", "--overwrite", "--json")
    assert answer.json["cells"]
    assert listing(tmp_path / "swept")["request.json"] != first
    # A request that is refused leaves what is there.
    before = listing(tmp_path / "swept")
    eckart(*asked, "--prompt", " ", "--overwrite").fails(2, "is empty")
    assert listing(tmp_path / "swept") == before


def test_what_a_sweep_saves_gives_way_too(eckart: Eckart, stored: Any, tmp_path: Path, small: Path) -> None:
    asked = ("sweep", stored(LLAMA), *SWEEP, "--prompt", "one", "-o", "swept", "--cell", "0.5:top:1")
    eckart(*asked, "--save", "small").fails(2, "small exists already", LETS)
    before = (tmp_path / "small" / "eckart.json").read_bytes()
    assert eckart(*asked, "--save", "small", "--overwrite").code == 0
    assert (tmp_path / "small" / "eckart.json").read_bytes() != before

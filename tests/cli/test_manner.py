"""How commands talk: which words go where, how much of them, and what they say of a wrong line."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any

import pytest
from architectures import LLAMA
from outside import Eckart

ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
CUT = "…"
COMPRESS = ["--keep", "80%", "--method", "svd"]


def on_a_terminal(columns: int, *arguments: str, **environment: str) -> tuple[str, str]:
    """What a command writes to a terminal of so many columns, and to standard error in a pipe."""
    main, far = pty.openpty()
    fcntl.ioctl(far, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    kept = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR")}
    process = subprocess.Popen(
        [sys.executable, "-m", "eckart", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=far,
        stderr=subprocess.PIPE,
        text=True,
        env={**kept, "HF_HUB_OFFLINE": "1", "TERM": "xterm-256color", **environment},
    )
    os.close(far)
    said = b""
    while True:
        try:
            piece = os.read(main, 4096)
        except OSError:  # the other end is closed
            break
        if not piece:
            break
        said += piece
    error = process.communicate()[1]
    os.close(main)
    assert process.returncode == 0, error
    return said.decode().replace("\r\n", "\n"), error


@pytest.mark.parametrize("columns", [30, 60, 200])
def test_a_table_is_whole_on_any_terminal(columns: int) -> None:
    said, error = on_a_terminal(columns, "plan", "pocket", "--keep", "0.8")
    assert error.startswith("note: ")
    words = ESCAPE.sub("", said)
    assert CUT not in words
    table = words.partition("embeddings:")[0]
    assert all(len(line.rstrip()) <= columns for line in table.splitlines())
    for cell in ("q_proj", "down_proj", "192x512", "135-136", "78.2%"):
        assert cell in table


def test_colour_is_for_terminals_that_have_it() -> None:
    assert ESCAPE.search(on_a_terminal(80, "plan", "pocket", "--keep", "0.8")[0])
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", on_a_terminal(80, "methods", NO_COLOR="1")[0])
    assert not ESCAPE.search(on_a_terminal(80, "plan", "pocket", "--keep", "0.8", TERM="dumb")[0])


def test_in_a_pipe_a_table_is_as_wide_as_it_is(process: Eckart) -> None:
    answer = process("methods")
    assert "\x1b" not in answer.out
    assert max(map(len, answer.out.splitlines())) > 80
    assert re.search(r"^caldera +svd-llm", answer.out, flags=re.MULTILINE) or "caldera" in answer.out
    assert answer.err == ""


def test_results_and_what_is_said_beside_them_are_apart(eckart: Eckart, stored: Any) -> None:
    answer = eckart("compress", stored(LLAMA), "-o", "small", *COMPRESS, "--resume")
    assert answer.out.startswith("small: svd, lowrank, uniform; ")
    assert answer.out.count("\n") == 1
    assert answer.err.startswith("note: nothing of small was begun: it begins now\n")
    answer = eckart("verify", "small")
    assert (answer.code, answer.err) == (0, "")
    assert all(line.startswith("ok ") for line in answer.out.splitlines())


def test_quiet_and_verbose(eckart: Eckart, stored: Any) -> None:
    asked = ("plan", stored(LLAMA), "--keep", "0.8")
    assert "note: " in eckart(*asked).err
    assert eckart(*asked, "-q").err == ""
    assert eckart(*asked, "-q").out == eckart(*asked).out
    made = eckart("compress", stored(LLAMA), "-o", "small", *COMPRESS, "-v")
    assert re.search(r"^factorizing: \d+ in \d+\.\d s$", made.err, flags=re.MULTILINE)


def test_a_log_has_all_that_was_said(eckart: Eckart, stored: Any, tmp_path: Path) -> None:
    answer = eckart("plan", stored(LLAMA), "--keep", "0.8", "--log", "kept.txt")
    kept = (tmp_path / "kept.txt").read_text()
    for line in (*answer.err.splitlines(), *answer.out.splitlines()):
        assert line.strip() in kept
    eckart("plan", "nowhere", "--keep", "0.8", "--log", "kept.txt")
    assert "eckart: no such model: nowhere" in (tmp_path / "kept.txt").read_text()
    assert kept in (tmp_path / "kept.txt").read_text()
    eckart("plan", stored(LLAMA), "--keep", "0.8", "--log", "no/such.txt").fails(2, "--log no/such.txt")


def test_a_dry_run_is_the_plan_of_the_same_options(eckart: Eckart, stored: Any, tmp_path: Path) -> None:
    asked = ("compress", stored(LLAMA), "-o", "small", *COMPRESS, "--structure", "pivoted")
    planned = eckart(*asked, "--dry-run", "--json").json
    assert list(tmp_path.glob("small*")) == []
    made = eckart(*asked, "--json").json
    for name in ("method", "parameters", "bytes"):
        assert planned[name] == made[name]
    # Of ranks by hand the method depends on whether there are data, and a plan alone has none.
    by_hand = ("compress", stored(LLAMA), "-o", "by-hand", "--rank", "4", "--data", "pocket-math")
    assert eckart(*by_hand, "--dry-run", "--json").json["method"] == "svd-llm"
    # What the run would refuse is refused.
    eckart(*asked, "--dry-run").fails(2, "small exists already", "--overwrite")
    other = ("compress", stored(LLAMA), "-o", "other")
    eckart(*other, "--method", "svd-llm", "--keep", "0.8", "--dry-run").fails(2, "needs data")
    eckart(*other, "--max-loss", "2%", "--data", "pocket-math", "--dry-run").fails(2, "--max-loss")


def test_only_what_eckart_wrote_gives_way(eckart: Eckart, stored: Any, tmp_path: Path) -> None:
    asked = ("compress", stored(LLAMA), "-o", "small", "--method", "svd", "--overwrite")
    first = eckart(*asked, "--keep", "0.8", "--json").json
    second = eckart(*asked, "--keep", "0.7", "--json").json
    assert second["parameters"]["after"] < first["parameters"]["after"]
    assert [path.name for path in tmp_path.iterdir() if "small" in path.name] == ["small"]
    before = (tmp_path / "small" / "eckart.json").read_bytes()
    # One that fails leaves what is there.
    eckart("compress", stored(LLAMA), "-o", "small", "--overwrite", "--keep", "0.01").fails(2, "keep")
    assert (tmp_path / "small" / "eckart.json").read_bytes() == before
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "text.txt").write_text("mine")
    asked = ("compress", stored(LLAMA), "-o", "thesis", *COMPRESS, "--overwrite")
    eckart(*asked).fails(2, "thesis is not a folder that Eckart wrote")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["plan", "pocket", "--kep", "3"], ["no option --kep; did you mean --keep?", "eckart plan -h"]),
        (["comprss", "pocket"], ["no command comprss; did you mean compress?"]),
        (["plan"], ["MODEL is missing"]),
        (["compress", "pocket", "--keep", "0.8"], ["--out is missing"]),
        (["plan", "pocket", "--keep"], ["--keep needs a value"]),
        (["plan", "pocket", "--keep", "x"], ["--keep x: not a share, as 0.8 or 80%"]),
        (["plan", "pocket", "--rank", "1.5"], ["--rank 1.5: not a whole number"]),
        (["bench", "pocket", "--batch", "a,b"], ["--batch a: not a number"]),
        (["plan", "pocket", "other"], ["other"]),
    ],
)
def test_a_wrong_line_is_one_short_message(line: list[str], words: list[str], eckart: Eckart) -> None:
    eckart(*line).fails(2, *words)


def test_version_help_and_nothing(eckart: Eckart) -> None:
    assert re.fullmatch(r"eckart \d+\.\d+\.\d+\n", eckart("--version").out)
    assert eckart("-h").out == eckart("--help").out
    alone = eckart()
    assert (alone.code, alone.err) == (0, "")
    assert "eckart compress MODEL" in alone.out


VERBS = re.findall(
    r"^  (\w+)  ",
    subprocess.run([sys.executable, "-m", "eckart", "-h"], capture_output=True, text=True, check=True).stdout,
    flags=re.MULTILINE,
)


@pytest.mark.parametrize("verb", VERBS)
def test_help_shows_first_what_most_need(verb: str, eckart: Eckart, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    lines = eckart(verb, "-h").out.splitlines()
    titles = [at for at, line in enumerate(lines) if re.fullmatch(r"[A-Z][\w ]*:", line)]
    after = next(at for at in titles if lines[at] not in ("Example:", "Examples:", "Arguments:", "Options:"))
    assert after <= 40
    assert any(line.startswith(f"  eckart {verb} ") for line in lines)
    assert all(len(line) <= 100 for line in lines)


LIGHT = """
import sys
sys.argv = ["eckart", *{line!r}]
from eckart.cli import main
try:
    main()
except SystemExit:
    pass
heavy = sorted({{"torch", "transformers", "numpy"}} & set(sys.modules))
assert not heavy, heavy
"""


@pytest.mark.parametrize(
    "line",
    [
        ["--help"],
        ["compress", "-h"],
        ["--version"],
        [],
        ["plan", "pocket", "--kep"],
        ["compress", "pocket", "-o", "out"],
        ["compress", "pocket", "-o", "out", "--keep", "8"],
        ["compress", "pocket", "-o", "out", "--keep", "0.8", "--method", "svdd"],
        ["compress", "pocket", "-o", "out", "--keep", "0.8", "--structure", "low"],
        ["compress", "pocket", "-o", "out", "--keep", "0.8", "--allocate", "energies"],
        ["compress", "./nowhere", "-o", "out", "--keep", "0.8"],
        ["compress", "pocket", "-o", "out", "--keep", "0.8", "--data", "nothing.jsonl"],
        ["compress", "pocket", "-o", ".", "--keep", "0.8", "--data", "pocket"],
        ["evaluate", "pocket", "--task", "perplexty", "--data", "pocket"],
        ["evaluate", "pocket", "--task", "perplexity", "--data", "nothing.txt"],
        ["export", "pocket", "-o", ".", "--to", "onnx"],
        ["verify", "nowhere"],
        ["report", "nowhere", "-o", "page"],
        ["recover", "pocket", "-o", "out", "--teacher", "./nowhere", "--data", "pocket"],
        ["compare", "pocket", "-o", "out", "--keep", "0.8", "--methods", "svd,svd:fast:best"],
    ],
)
def test_what_needs_no_model_imports_nothing_heavy(line: list[str]) -> None:
    run = subprocess.run(
        [sys.executable, "-c", LIGHT.format(line=line)], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_names_commands_options_and_choices(shell: str) -> None:
    """As the shells' own functions ask for it."""

    def completed(words: str) -> str:
        asked = {"_ECKART_COMPLETE": f"complete_{shell}", "COMP_WORDS": words}
        asked["COMP_CWORD"] = str(len(words.split(" ")) - 1)
        asked["_TYPER_COMPLETE_ARGS"] = words
        run = subprocess.run(
            [sys.executable, "-c", "from eckart.cli import main; import sys; sys.argv[0] = 'eckart'; main()"],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, **asked},
        )
        return run.stdout

    assert "compress" in completed("eckart com")
    assert "--keep" in completed("eckart compress pocket --ke")
    assert "svd-llm" in completed("eckart compress pocket --method svd")
    assert "svd,kfac" in completed("eckart compare pocket --methods svd,kf")
    assert "pocket-math" in completed("eckart evaluate pocket --task pock")


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_standard_input_is_data_of_a_command(more: list[str], tmp_path: Path) -> None:
    line = ["compress", "pocket", "-o", "small", "--keep", "0.8", "--method", "svd-llm", "--samples", "4"]
    run = subprocess.run(
        [sys.executable, "-m", "eckart", *line, "--data", "-", *more],
        input="the cat sat on the mat and the dog lay by the door\n" * 200,
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "small").exists() != bool(more)

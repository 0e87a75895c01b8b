"""Ctrl-C and SIGTERM at any moment: exit code 1, one short line, and nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from architectures import LLAMA
from outside import Eckart

MOMENTS = [
    "eckart.model.loading:load_model",
    "eckart.calibrate:watch",
    "eckart.linalg:Problem.decomposition",
    "eckart.model.saving:save_model",
    "eckart.model.probe:answered",
    "eckart.folders:copy_companions",
    "os:fsync",
    "pathlib:Path.rename",
]


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_an_interrupted_run_leaves_nothing(
    process: Eckart, tmp_path: Path, stored: Any, data: str, moment: str, number: int
) -> None:
    arguments = ["compress", stored(LLAMA), "-o", "new/out", "--keep", "0.8", "--data", data, "--no-cache"]
    answer = process(*arguments, interrupt_at=[moment], signal=number)
    answer.fails(1, "interrupted")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda n: n.name)
def test_a_second_interruption_does_not_disturb_the_cleaning_up(
    process: Eckart, tmp_path: Path, stored: Any, number: int
) -> None:
    arguments = ["compress", stored(LLAMA), "-o", "new/out", "--keep", "0.8"]
    moments = ["pathlib:Path.rename", "shutil:rmtree", "os:rmdir"]
    process(*arguments, interrupt_at=moments, signal=number).fails(1, "interrupted")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("command", "moment"),
    [
        ("plan", "eckart.model.building:build_empty"),
        ("evaluate", "eckart.model.loading:load_model"),
        ("verify", "subprocess:run"),
    ],
)
def test_every_command_is_interrupted_in_one_line(
    process: Eckart, tmp_path: Path, stored: Any, data: str, command: str, moment: str
) -> None:
    arguments = {
        "plan": ["plan", stored(LLAMA), "--keep", "0.8"],
        "evaluate": ["evaluate", stored(LLAMA), "--task", "perplexity", "--data", data],
        "verify": ["verify", "out"],
    }
    if command == "verify":
        assert process("compress", stored(LLAMA), "-o", "out", "--keep", "0.8").code == 0
    process(*arguments[command], "--json", interrupt_at=[moment], signal=signal.SIGINT).fails(
        1, "interrupted"
    )


# Runs `eckart methods` after something that may happen while it works.
METHODS = """
import os, signal, sys
from eckart import cli, recipes

class Methods(dict):
    def values(self):
        {happens}
        return dict.values(self)

recipes.METHODS = Methods(recipes.METHODS)
sys.argv = ["eckart", "methods", "--json"]
cli.main()
"""


def run_methods(folder: Path, before: str, happens: str) -> subprocess.CompletedProcess[str]:
    (folder / "methods.py").write_text(before + METHODS.format(happens=happens))
    command = [sys.executable, "-m", "methods"]  # as `python -m eckart` is run
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_an_ignored_signal_stays_ignored(tmp_path: Path) -> None:
    """As `nohup` asks for."""
    ignored = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)"
    run = run_methods(tmp_path, ignored, "os.kill(os.getpid(), signal.SIGHUP)")
    assert run.returncode == 0
    assert '"methods"' in run.stdout


def test_the_exit_code_is_1_also_where_python_would_end_by_a_signal(tmp_path: Path) -> None:
    """A KeyboardInterrupt that passes through code compiled from a string makes it do so."""
    default = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    kill = "os.kill(os.getpid(), signal.SIGINT)"
    run = run_methods(tmp_path, default, f"exec({kill!r} + '; [0 for _ in range(99)]')")
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr == "eckart: interrupted; nothing unfinished was left behind\n"


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc to see what is loaded")
def test_ctrl_c_while_torch_is_imported(stored: Any, tmp_path: Path) -> None:
    # A shell's background job ignores Ctrl-C, and so would what it starts.
    start = (
        "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL)\n"
        "os.execv(sys.executable, [sys.executable, '-m', 'eckart', *sys.argv[1:]])"
    )
    arguments = ["compress", str(stored(LLAMA)), "-o", "out", "--keep", "0.8"]
    run = subprocess.Popen(
        [sys.executable, "-c", start, *arguments],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    maps = Path(f"/proc/{run.pid}/maps")
    deadline = time.monotonic() + 500
    while "libtorch" not in maps.read_text():
        assert time.monotonic() < deadline
        assert run.poll() is None
        time.sleep(0.01)
    os.kill(run.pid, signal.SIGINT)
    out, err = run.communicate(timeout=500)
    assert (run.returncode, out) == (1, "")
    assert err == "eckart: interrupted; nothing unfinished was left behind\n"
    assert list(tmp_path.iterdir()) == []

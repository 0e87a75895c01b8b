"""Compressing block by block from outside: killed, out of room, in two processes."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from architectures import LLAMA
from outside import Eckart

from eckart.types import Manifest

OPTIONS = ["--keep", "0.7", "--method", "auto", "--blocks"]


def command(model: Path, out: Path, data: str, *more: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "eckart",
        "compress",
        str(model),
        "-o",
        str(out),
        "--data",
        data,
        *OPTIONS,
        *more,
    ]


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def unbroken(stored: Any, data: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    out = tmp_path_factory.mktemp("unbroken") / "out"
    subprocess.run(command(stored(LLAMA), out, data), check=True, capture_output=True)
    return digests(out)


def begun(out: Path) -> bool:
    return any(out.with_name(f"{out.name}.work").glob("*.safetensors"))


def test_a_run_that_is_killed_again_and_again_ends_in_the_same_bytes(
    stored: Any, data: str, tmp_path: Path, unbroken: dict[str, str]
) -> None:
    out = tmp_path / "out"
    moments = random.Random(0)
    kills = 0
    while kills < 5:
        more = ["--resume"] if begun(out) else []
        process = subprocess.Popen(
            command(stored(LLAMA), out, data, *more), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        # Once there is a first piece, at any moment from there on.
        while process.poll() is None and not begun(out):
            pass
        try:
            process.wait(moments.uniform(0, 0.8))
            break
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1
            assert not out.exists() or digests(out) == unbroken
    if not out.exists():
        subprocess.run(command(stored(LLAMA), out, data, "--resume"), check=True, capture_output=True)
    assert kills
    assert digests(out) == unbroken


def test_nobody_goes_on_with_a_run_that_lives(
    process: Eckart, stored: Any, data: str, tmp_path: Path, unbroken: dict[str, str]
) -> None:
    """Two that write into one place give a model that neither meant, and say nothing of it."""
    out = tmp_path / "out"
    run = subprocess.Popen(command(stored(LLAMA), out, data), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while run.poll() is None and not begun(out):
        pass
    run.send_signal(signal.SIGSTOP)
    for more in ((), ("--resume",)):
        answer = process(*command(stored(LLAMA), out, data, *more)[3:])
        answer.fails(2, f"{out}.work", "another process is at work there")
    run.send_signal(signal.SIGCONT)
    assert run.wait() == 0
    assert digests(out) == unbroken


def test_a_disk_that_fills_up_and_is_given_room(
    stored: Any, data: str, tmp_path: Path, unbroken: dict[str, str]
) -> None:
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(place)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no disk of a given size here")
    try:
        out = place / "out"
        full = subprocess.run(command(stored(LLAMA), out, data), capture_output=True, text=True, check=False)
        assert full.returncode == 1
        assert full.stderr.count("\n") == 1, full.stderr
        assert "No space left on device" in full.stderr
        assert f"--resume goes on from {out}.work" in full.stderr
        assert not out.exists()
        subprocess.run(["mount", "-o", "remount,size=20m", str(place)], check=True)
        subprocess.run(command(stored(LLAMA), out, data, "--resume"), check=True, capture_output=True)
        assert digests(out) == unbroken
        assert [path.name for path in place.iterdir()] == ["out"]
    finally:
        subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("method", ["svd-llm", "auto"])
def test_two_processes_make_what_one_makes(stored: Any, data: str, tmp_path: Path, method: str) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    manifests = []
    for name, start in (
        ("one", [sys.executable]),
        ("two", [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]),
    ):
        out = tmp_path / name
        arguments = command(stored(LLAMA), out, data, "--method", method, "--json")[1:]
        done = subprocess.run(
            [*start, *arguments], capture_output=True, text=True, check=False, env=environment
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("\n") == 1
        manifests.append(Manifest.model_validate_json((out / "eckart.json").read_text()))
    one, two = manifests
    assert [record.rank for record in two.targets] == [record.rank for record in one.targets]
    assert two.calibration_tokens == one.calibration_tokens
    for ours, theirs in zip(two.targets, one.targets, strict=True):
        assert ours.predicted_error == pytest.approx(theirs.predicted_error, abs=1e-5)
        assert ours.measured_error == pytest.approx(theirs.measured_error, abs=1e-5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]

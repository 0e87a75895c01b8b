"""A disk that is too small, or becomes so: exit code 1, one short line, and nothing left behind."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from architectures import LLAMA
from outside import Eckart

from eckart.types import Manifest

Disk = Callable[[int], Path]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """Makes a disk of so many bytes, where this user may mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = []

    def make(size: int) -> Path:
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError as error:
            pytest.skip(f"no disk of a given size here: {error}")
        if done.returncode:
            pytest.skip(f"no disk of a given size here: {done.stderr.strip()}")
        mounted.append(place)
        return place

    yield make
    for path in mounted:
        subprocess.run(["umount", str(path)], check=True)


def small(stored: Any) -> tuple[Path, list[str]]:
    return stored(LLAMA), ["--keep", "0.8", "--json"]


def test_a_disk_that_is_too_small_is_known_beforehand(process: Eckart, disk: Disk, stored: Any) -> None:
    model, options = small(stored)
    place = disk(64 * 1024)
    answer = process(
        "compress",
        model,
        "-o",
        place / "new" / "out",
        *options,
        interrupt_at=["eckart.model.loading:load_model"],
        signal=9,
    )
    answer.fails(1, "no room", str(place / "new" / "out"), "0.1 MB")
    assert list(place.iterdir()) == []


@pytest.mark.parametrize("room", [152 * 1024, 160 * 1024])
def test_a_disk_that_fills_up_while_saving(process: Eckart, disk: Disk, stored: Any, room: int) -> None:
    """There is room for the weights, but not for all that goes with them."""
    model, options = small(stored)
    place = disk(room)
    answer = process("compress", model, "-o", place / "new" / "out", *options)
    answer.fails(1, str(place / "new" / "out"), "No space left on device", "nothing was left behind")
    assert list(place.iterdir()) == []


@pytest.mark.parametrize("largest", [1000, 20_000, 100_000], ids=lambda size: f"{size} bytes")
def test_a_file_that_cannot_be_written_to_its_end(
    process: Eckart, tmp_path: Path, stored: Any, data: str, largest: int
) -> None:
    model, options = small(stored)
    answer = process("compress", model, "-o", "new/out", *options, "--data", data, largest_file=largest)
    answer.fails(1, "new/out", "could not be written", "nothing was left behind")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_with_just_enough_room_is_enough(process: Eckart, disk: Disk, stored: Any) -> None:
    model, options = small(stored)
    place = disk(400 * 1024)
    assert process("compress", model, "-o", place / "out", *options).json["out"] == str(place / "out")
    manifest = Manifest.model_validate_json((place / "out" / "eckart.json").read_text())
    assert manifest.parameters.after < manifest.parameters.before

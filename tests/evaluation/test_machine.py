"""How much memory may be taken."""

from __future__ import annotations

from pathlib import Path

import pytest

from eckart.evaluation import machine

MB = 1 << 20


@pytest.mark.parametrize(
    ("line", "folder", "names"),
    [("0::/job\n", "job", machine.V2), ("4:memory:/job\n", "memory/job", machine.V1)],
)
@pytest.mark.parametrize("at", ["its own", "above", "seen as the root"])
def test_no_more_is_free_than_the_container_may_take(line, folder, names, at, tmp_path, monkeypatch):
    free = machine.available()
    inside = tmp_path / folder
    place = inside if at == "its own" else inside.parent
    for group in (inside, inside.parent):
        group.mkdir(parents=True, exist_ok=True)
    limit, used, cached = names
    (place / limit).write_text(f"{100 * MB}\n")
    (place / used).write_text(f"{70 * MB}\n")
    (place / "memory.stat").write_text(f"anon 1\n{cached} {20 * MB}\n")
    if at == "above":
        (inside / limit).write_text("max\n")
    (tmp_path / "mine").write_text(
        line if at != "seen as the root" else line.replace("/job", "/elsewhere/job")
    )
    monkeypatch.setattr(machine, "GROUPS", tmp_path)
    monkeypatch.setattr(machine, "PROCESS_GROUPS", tmp_path / "mine")
    assert machine.available() == 50 * MB
    (place / limit).write_text("max\n")
    assert machine.available() > 0.5 * free
    (place / limit).write_text("1\n")
    assert machine.available() == 0


def test_without_control_groups_it_is_what_the_machine_has(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "PROCESS_GROUPS", Path(tmp_path / "none"))
    assert machine.available() > 0


def test_what_is_freed_is_given_back_behind_each_piece_of_work(monkeypatch):
    asked = []

    class Libc:
        @staticmethod
        def malloc_trim(left):
            asked.append(left)

    def told(items, description, total):
        asked.append((description, total))
        yield from items

    monkeypatch.setattr(machine.ctypes, "CDLL", lambda name: Libc)
    monkeypatch.setattr(machine, "PAUSE", -1.0)
    items = machine.returning(told)([1, 2], "working", 2)
    assert list(items) == [1, 2]
    assert asked == [("working", 2), 0, 0, 0]
    monkeypatch.setattr(machine.ctypes, "CDLL", lambda name: object())
    assert machine.returning(told) is told

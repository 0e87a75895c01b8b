"""A finished folder to the hub, as a stand-in for it on this machine sees that."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from architectures import LLAMA
from hub import TOKEN, Hub, serving
from outside import Answer, Eckart

import eckart
from eckart.cli import pushing
from eckart.types import UsageError


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving() as found:
        yield found


@pytest.fixture(scope="module")
def small(stored: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three files of weights."""
    out = tmp_path_factory.mktemp("push") / "small"
    eckart.compress(stored(LLAMA), out, keep=0.8, method="svd", blocks=True)
    assert len(list(out.glob("*.safetensors"))) == 3
    return out


def environment(hub: Hub, **more: str) -> dict[str, str]:
    # Xet is a protocol of its own, which the stand-in does not speak.
    known = {"HF_ENDPOINT": hub.address, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}
    return {**os.environ, **known, **more}


def start(hub: Hub, *arguments: object, **more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "eckart", *map(str, arguments)],
        env=environment(hub, **more),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(hub: Hub, *arguments: object, **more: str) -> Answer:
    process = start(hub, *arguments, **more)
    out, err = process.communicate(timeout=300)
    return Answer(process.returncode, out, err)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def test_a_push_that_is_killed_goes_on_and_arrives_whole(hub: Hub, small: Path) -> None:
    hub.stalls = 1
    killed = start(hub, "push", small, "me/small")
    assert hub.stalled.wait(120)
    killed.kill()
    killed.communicate()
    assert hub.repositories["me/small"] == {}
    sent, hub.stalls = list(hub.uploads), None
    answer = run(hub, "push", small, "me/small", "--json").json
    assert hub.repositories["me/small"] == contents(small)
    assert sent
    assert len(hub.uploads) == len(set(hub.uploads)) == 3
    assert answer["files"] == sorted(contents(small))
    assert answer["url"].startswith(f"{hub.address}/me/small/commit/")
    assert not hub.private["me/small"]


def test_what_compress_made_is_pushed_behind_it(hub: Hub, stored: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ["--keep", "0.8", "--method", "svd", "--push-to-hub", "us/small"]
    answer = run(hub, "compress", stored(LLAMA), "-o", out, *options)
    assert answer.code == 0, answer.err
    assert f"at {hub.address}/us/small/commit/" in answer.out.splitlines()[-1]
    assert hub.repositories["us/small"] == contents(out)


@pytest.mark.parametrize(
    ("name", "more", "words"),
    [
        ("small", {}, "OWNER/NAME"),
        ("a/b/c", {}, "OWNER/NAME"),
        ("you/small", {}, "neither you (me) nor an organization of yours"),
        ("me/small", {"HF_TOKEN": ""}, "nobody is logged in"),
        ("me/small", {"HF_TOKEN": "hf_wrong"}, "does not know who pushes"),
        ("me/small", {"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set"),
    ],
)
def test_what_cannot_be_pushed_is_said_before_the_work(
    name: str, more: dict[str, str], words: str, hub: Hub, stored: Any, tmp_path: Path
) -> None:
    more = {"HF_HOME": str(tmp_path / "home"), **more}
    options = ["--keep", "0.8", "--method", "svd", "--push-to-hub", name]
    answer = run(hub, "compress", stored(LLAMA), "-o", tmp_path / "out", *options, **more)
    answer.fails(2, words)
    assert not (tmp_path / "out").exists()
    assert not hub.repositories


@pytest.mark.parametrize(("rank", "code"), [("0", 2), ("1", 0)])
def test_of_several_processes_the_first_pushes(rank: str, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", "2")
    if code:
        with pytest.raises(UsageError, match="OWNER/NAME"):
            pushing.require_pushable("small")
    else:
        pushing.require_pushable("small")
        assert pushing.pushed("nowhere", "small") == {}


def test_a_dry_run_refuses_what_cannot_be_pushed(process: Eckart, stored: Any) -> None:
    options = ["--keep", "0.8", "--method", "svd", "--push-to-hub", "small", "--dry-run"]
    process("compress", stored(LLAMA), "-o", "out", *options).fails(2, "OWNER/NAME")


def test_what_does_not_arrive_is_whole_here(hub: Hub, small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.post = lambda path, body: 403  # type: ignore[method-assign]
    answer = run(hub, "push", small, "me/small")
    answer.fails(1, f"{small} is whole and did not arrive at me/small", f"eckart push {small} me/small")


def test_a_folder_of_no_model_is_refused(process: Eckart, tmp_path: Path) -> None:
    process("push", tmp_path, "me/small").fails(2, "holds no model")


def test_the_card_is_what_the_hub_takes(small: Path) -> None:
    card = huggingface_hub.ModelCard.load(small / "README.md")
    assert card.data.to_dict()

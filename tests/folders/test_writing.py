"""A folder that appears whole or not at all, and what is copied beside the weights."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from safetensors import SafetensorError

from eckart.folders import appearing, copy_companions, owned, refuse_existing, refuse_full, replace_file
from eckart.types import EckartError, UsageError


def tree(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def test_clean_exit_leaves_the_whole_folder_and_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "made" / "here" / "out"
    with appearing(out) as folder:
        assert folder.parent == out.parent
        assert not out.exists()
        (folder / "sub").mkdir()
        (folder / "a").write_text("a")
        (folder / "sub" / "b").write_text("b")
    assert tree(tmp_path) == [
        "made",
        "made/here",
        "made/here/out",
        "made/here/out/a",
        "made/here/out/sub",
        "made/here/out/sub/b",
    ]
    assert (out / "sub" / "b").read_text() == "b"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, EckartError])
@pytest.mark.parametrize("out", ["out", "made/here/out"])
def test_any_error_inside_leaves_nothing_and_goes_on(
    tmp_path: Path, out: str, error: type[BaseException]
) -> None:
    (tmp_path / "mine").touch()
    with pytest.raises(error, match="why"), appearing(tmp_path / out) as folder:  # noqa: PT012
        (folder / "half").write_text("half")
        raise error("why")
    assert tree(tmp_path) == ["mine"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), SafetensorError("No space left")])
def test_failed_write_says_which_folder_and_why(tmp_path: Path, error: Exception) -> None:
    out = tmp_path / "new" / "out"
    with pytest.raises(EckartError, match="No space left") as caught, appearing(out) as folder:  # noqa: PT012
        (folder / "half").write_text("half")
        raise error
    assert str(out) in str(caught.value)
    assert tree(tmp_path) == []


def test_parents_that_were_there_or_are_used_by_others_stay(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    with pytest.raises(ValueError, match="why"), appearing(tmp_path / "old" / "new" / "x" / "out"):  # noqa: PT012
        (tmp_path / "old" / "new" / "theirs").touch()
        raise ValueError("why")
    assert tree(tmp_path) == ["old", "old/new", "old/new/theirs"]


@pytest.mark.parametrize("kind", ["folder", "full folder", "file", "broken link"])
def test_existing_out_is_refused_before_anything_is_made(tmp_path: Path, kind: str) -> None:
    out = tmp_path / "out"
    if kind == "file":
        out.write_text("mine")
    elif kind == "broken link":
        out.symlink_to("nowhere")
    else:
        out.mkdir()
        if kind == "full folder":
            (out / "mine").touch()
    before = tree(tmp_path)
    with pytest.raises(UsageError, match="exists already") as caught, appearing(out):
        pytest.fail("it began")
    assert str(out) in str(caught.value)
    assert tree(tmp_path) == before


def test_out_that_appeared_meanwhile_is_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(UsageError, match="exists already"), appearing(out) as folder:  # noqa: PT012
        (folder / "ours").touch()
        out.mkdir()
        (out / "theirs").touch()
    assert tree(tmp_path) == ["out", "out/theirs"]


def test_parent_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for out in (tmp_path / "file" / "out", tmp_path / "file" / "sub" / "out"):
        with pytest.raises(UsageError, match="file is not a folder"):
            refuse_existing(out)


def test_parent_that_may_not_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(UsageError, match="no permission to write"):
        refuse_existing(tmp_path / "out")


def test_name_that_no_folder_can_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="File name too long"):
        refuse_existing(tmp_path / ("x" * 300))
    with appearing(tmp_path / ("x" * 255)):
        pass
    assert tree(tmp_path) == ["x" * 255]


def test_parent_that_cannot_be_made_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **kwargs: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.mkdtemp", full)
    with pytest.raises(EckartError, match="No space left"), appearing(tmp_path / "a" / "b" / "out"):
        pytest.fail("it began")
    assert tree(tmp_path) == []


def test_relative_out_appears_where_one_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with appearing(Path("out")) as folder:
        (folder / "a").touch()
    with pytest.raises(ValueError, match="why"), appearing(Path("new/other")):
        raise ValueError("why")
    assert tree(tmp_path) == ["out", "out/a"]


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
@pytest.mark.usefixtures("umask")
def test_modes_follow_the_umask(tmp_path: Path, mask: int) -> None:
    os.umask(mask)
    with appearing(tmp_path / "out") as folder:
        (folder / "sub").mkdir(mode=0o700)
        for path in (folder / "weights", folder / "sub" / "b"):
            path.touch()
            path.chmod(0o600)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "out").rglob("*")}
    assert modes == {"weights": 0o666 & ~mask, "sub": 0o777 & ~mask, "b": 0o666 & ~mask}
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o777 & ~mask
    now = os.umask(mask)
    assert now == mask


def test_disk_that_is_too_small_is_refused_with_both_sizes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def usage(folder: Path) -> object:
        asked.append(folder)
        return shutil._ntuple_diskusage(10**9, 9 * 10**8, 10**8)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    refuse_full(tmp_path / "new" / "out", 10**8)
    with pytest.raises(EckartError, match=r"about 100\.0 MB.*100\.0 MB free"):
        refuse_full(tmp_path / "new" / "out", 10**8 + 1)
    assert asked == [tmp_path, tmp_path]


COMPANIONS = [
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "chat_template.jinja",
    "vocab.tiktoken",
    "generation_config.json",
    "modules.json",
    "1_Pooling/config.json",
    "LICENSE",
    "LICENSE.txt",
    "license.md",
    "Notice",
]
NO_COMPANIONS = [
    "model.safetensors",
    "model-00001-of-00002.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "tf_model.h5",
    "model.gguf",
    "training_args.pt",
    "onnx/model.onnx",
    "2_Dense/model.safetensors",
    "modeling_mine.py",
    "configuration_mine.py",
    "run.sh",
    "LICENSE.py",
    "notice.bin",
    "license.safetensors",
    "notice_board.so",
    "adapter_config.json",
    ".git/config.json",
    ".gitattributes",
    ".hidden.json",
    "README.md",
]


def test_companions_are_copied_and_never_code_or_weights(tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    for name in COMPANIONS + NO_COMPANIONS:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(name)
    out.mkdir()
    copy_companions(source, out)
    copied = [name for name in tree(out) if (out / name).is_file()]
    assert copied == sorted(COMPANIONS)
    assert all((out / name).read_text() == name for name in copied)


def test_companions_follow_links_within_the_folder_and_the_hubs_cache_alone(tmp_path: Path) -> None:
    # The hub's cache is a folder of links to blobs beside the snapshots.
    source, out, blobs = tmp_path / "snapshots" / "a1b2", tmp_path / "out", tmp_path / "blobs"
    for folder in (source, out, blobs):
        folder.mkdir(parents=True)
    (blobs / "c3d4").write_text("{}")
    (source / "tokenizer.json").symlink_to("../../blobs/c3d4")
    (source / "config.json").write_text("{}")
    (source / "same.json").symlink_to("config.json")
    (tmp_path / "secret").write_text("the only copy")
    (source / "LICENSE").symlink_to(tmp_path / "secret")
    (source / "gone.json").symlink_to(tmp_path / "nowhere")
    copy_companions(source, out)
    assert tree(out) == ["config.json", "same.json", "tokenizer.json"]
    assert not (out / "tokenizer.json").is_symlink()


def test_what_is_there_already_stays(tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    for folder in (source, out):
        folder.mkdir()
        (folder / "config.json").write_text(folder.name)
    copy_companions(source, out)
    assert (out / "config.json").read_text() == "out"


def test_large_files_are_no_companions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eckart.folders.writing.LARGEST_COMPANION", 10)
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    out.mkdir()
    (source / "small.json").write_text("x" * 10)
    (source / "large.json").write_text("x" * 11)
    copy_companions(source, out)
    assert tree(out) == ["small.json"]


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    file = tmp_path / "file"
    for content in (b"first", b"second"):
        replace_file(file, content)
        assert file.read_bytes() == content
        assert tree(tmp_path) == ["file"]


@pytest.mark.parametrize("step", ["write_bytes", "replace"])
def test_a_file_that_cannot_be_replaced_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def fail(path: Path, *_: object) -> None:
        path.touch()
        raise OSError(28, "No space left on device")

    file = tmp_path / "file"
    file.write_bytes(b"first")
    monkeypatch.setattr(Path, step, fail)
    with pytest.raises(EckartError, match=r"file could not be written \(No space left on device\)"):
        replace_file(file, b"second")
    assert tree(tmp_path) == ["file"]
    assert file.read_bytes() == b"first"


HOLD = """
import sys, time
from pathlib import Path
from eckart.folders import owned
with owned(Path(sys.argv[1])):
    print("mine", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holding() -> Iterator[Callable[[Path], subprocess.Popen[str]]]:
    """A process that works in a folder until it is killed."""
    running = []

    def hold(folder: Path) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True
        )
        running.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "mine\n"
        return process

    yield hold
    for process in running:
        process.kill()
        process.wait()


def test_a_folder_is_one_process_own_until_that_ends_however(
    tmp_path: Path, holding: Callable[[Path], subprocess.Popen[str]]
) -> None:
    process = holding(tmp_path)
    with pytest.raises(UsageError, match="another process is at work there"), owned(tmp_path):
        pass
    process.kill()
    process.wait()
    with owned(tmp_path):
        pass


def test_what_a_killed_process_left_goes_with_the_next_and_nothing_else(
    tmp_path: Path, holding: Callable[[Path], subprocess.Popen[str]]
) -> None:
    left, living = tmp_path / ".out-abcdefgh.eckart-partial", tmp_path / ".out-ijklmnop.eckart-partial"
    others = [tmp_path / name for name in (".out-abcdefgh", ".other-abcdefgh.eckart-partial", "out-partial")]
    for folder in (left, living, *others):
        folder.mkdir()
        (folder / "work").write_text("a day")
    holding(living)
    with appearing(tmp_path / "out"):
        assert not left.exists()
    assert all((folder / "work").is_file() for folder in (living, *others))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        path.name for path in (tmp_path / "out", living, *others)
    )

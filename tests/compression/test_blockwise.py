"""A model that is cut block by block is the one that is cut as a whole, also after a crash."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import BERT, GPT2, LLAMA, MIXTRAL, T5, Architecture, outputs, some_inputs

import eckart
from eckart import checkpoint
from eckart.calibrate import observing
from eckart.compression.blocks.observing import Pass
from eckart.compression.blocks.store import NOT_IMITATED, BlockStore
from eckart.compression.blocks.units import Units
from eckart.estimate.memory import BATCH_TOKENS
from eckart.model import loading
from eckart.model.streaming import Streamed
from eckart.types import EckartError, UsageError

RECIPES: dict[str, dict[str, Any]] = {
    "no data": {"method": "svd", "keep": 0.7},
    "one side": {"method": "svd-llm", "keep": 0.7},
    "two sides": {"method": "kfac", "keep": 0.7, "structure": "pivoted"},
    "by spectra": {"method": "kfac", "keep": 0.7, "allocation": "waterfill"},
    "by energy": {"method": "svd-llm", "energy": 0.9},
    "by hand": {"method": "svd-llm", "rank": 6},
    "refitted": {"method": "aa-svd", "keep": 0.7},
    "auto": {"method": "auto", "recovery": "refit", "keep": 0.7},
    "by measuring": {"method": "lems", "keep": 0.8},
    "within a loss": {"method": "svd-llm", "max_loss": 0.5},
}


def compressed(model: Path, out: Path, data: str, blocks: bool, **recipe: Any) -> Any:
    return eckart.compress(model, out, data=data, cache=False, blocks=blocks, **recipe)


def whole_and_by_block(folder: Path, tmp_path: Path, data: str, **recipe: Any) -> tuple[Any, Any]:
    made = {}
    for blocks in (False, True):
        out = tmp_path / f"blocks-{blocks}"
        made[blocks] = compressed(folder, out, data, blocks, **recipe).manifest, out
    return made[False], made[True]


def logits(folder: Path, architecture: Architecture = LLAMA) -> torch.Tensor:
    return outputs(loading.load_model(folder), some_inputs(architecture))


def test_what_takes_the_whole_model_is_left_out_and_said(stored, data, tmp_path):
    asked = {"method": "auto", "keep": 0.7}
    made = compressed(stored(LLAMA), tmp_path / "one", data, True, **asked).manifest
    assert NOT_IMITATED in made.notes
    refitted = compressed(stored(LLAMA), tmp_path / "two", data, True, **asked, recovery="refit").manifest
    assert made.targets == refitted.targets


@pytest.mark.parametrize("name", RECIPES)
def test_every_kind_of_recipe_gives_the_same(name, stored, data, tmp_path):
    (whole, one), (by_block, other) = whole_and_by_block(stored(LLAMA), tmp_path, data, **RECIPES[name])
    assert [record.rank for record in by_block.targets] == [record.rank for record in whole.targets]
    for ours, theirs in zip(by_block.targets, whole.targets, strict=True):
        assert ours.predicted_error == pytest.approx(theirs.predicted_error, abs=1e-6)
        assert ours.measured_error == pytest.approx(theirs.measured_error, abs=1e-6)
    assert by_block.parameters == whole.parameters
    assert by_block.bytes == whole.bytes
    assert by_block.notes == whole.notes
    assert by_block.calibration_tokens == whole.calibration_tokens
    if whole.held_out:
        assert by_block.held_out.after == pytest.approx(whole.held_out.after, rel=1e-5)
        assert by_block.held_out.tokens == whole.held_out.tokens
    torch.testing.assert_close(logits(other), logits(one), rtol=1e-3, atol=1e-5)


def test_batches_of_a_model_too_large_for_the_usual_ones_are_the_same(stored, data, tmp_path, monkeypatch):
    monkeypatch.setattr(observing, "BACKWARD_BYTES", 2**18)
    assert observing.backward_tokens(loading.load_model(Path(stored(LLAMA)))) < 64
    (whole, one), (by_block, other) = whole_and_by_block(stored(LLAMA), tmp_path, data, **RECIPES["auto"])
    assert [record.rank for record in by_block.targets] == [record.rank for record in whole.targets]
    torch.testing.assert_close(logits(other), logits(one), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("architecture", [GPT2, T5, BERT], ids=str)
@pytest.mark.parametrize("method", ["kfac", "auto"])
def test_every_kind_of_model_gives_the_same(architecture, method, stored, data, tmp_path):
    folder = stored(architecture)
    asked = {**RECIPES.get(method, {}), "method": method, "keep": 0.8}
    (whole, one), (by_block, other) = whole_and_by_block(folder, tmp_path, data, **asked)
    assert [record.rank for record in by_block.targets] == [record.rank for record in whole.targets]
    torch.testing.assert_close(logits(other, architecture), logits(one, architecture), rtol=1e-3, atol=1e-5)
    assert eckart.verify(other).ok


def test_result_is_the_same_to_the_byte_in_another_process(process, stored, data, tmp_path):
    compressed(stored(LLAMA), tmp_path / "one", data, True, method="auto", keep=0.7)
    options = ["--data", data, "--no-cache", "--blocks", "--method", "auto", "--keep", "0.7"]
    assert process("compress", stored(LLAMA), "-o", "other", *options).code == 0
    assert digests(tmp_path / "one") == digests(tmp_path / "other")


def test_head_is_cut_too_where_it_is_named(stored, data, tmp_path):
    names = ["lm_head", "q_proj"]
    for recipe in ({"method": "kfac"}, {"method": "svd-llm"}, {"method": "aa-svd"}):
        out = tmp_path / recipe["method"]
        (whole, one), (by_block, other) = whole_and_by_block(
            stored(LLAMA), out, data, targets=names, keep=0.9, **recipe
        )
        assert by_block.targets[-1].name == "lm_head"
        assert by_block.targets[-1].rank == whole.targets[-1].rank is not None
        torch.testing.assert_close(logits(other), logits(one), rtol=1e-3, atol=1e-5)


def test_model_whose_weights_are_stored_otherwise_is_read_whole_and_that_is_said(
    stored, data, tmp_path, monkeypatch
):
    folder = stored(MIXTRAL)
    with pytest.raises(EckartError, match="does not store"):
        compressed(folder, tmp_path / "forced", data, True, method="svd", keep=0.95)
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr("eckart.compression.blocks.portion.available", lambda device: 1)
    made = eckart.compress(folder, tmp_path / "out", data=data, method="svd", keep=0.95)
    assert any(note.startswith("the model was read whole") for note in made.manifest.notes)
    assert made.model is not None


def test_one_block_at_a_time_has_values(stored, data, tmp_path, monkeypatch):
    seen: list[int] = []
    bring = Streamed._bring

    def counted(self: Any, prefix: str, block: Any) -> None:
        bring(self, prefix, block)
        blocks = [self.model.get_submodule(name) for name in self.blocks]
        seen.append(sum(any(not w.is_meta for w in each.parameters()) for each in blocks))

    monkeypatch.setattr(Streamed, "_bring", counted)
    compressed(stored(T5), tmp_path / "out", data, True, method="auto", keep=0.8)
    assert set(seen) == {1}


class Killed(BaseException):
    pass


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


@pytest.fixture
def crash(monkeypatch) -> Any:
    """Let the process die before the `n`-th piece of work is on disk; 0 never."""
    left = {"n": 0}
    for name in ("write_tensors", "write_shard"):
        write = getattr(checkpoint, name)

        def dying(*arguments: Any, write: Any = write) -> None:
            left["n"] -= 1
            if left["n"] == 0:
                raise Killed
            write(*arguments)

        monkeypatch.setattr(checkpoint, name, dying)
    # What a process that is killed leaves, nobody tidies up.
    monkeypatch.setattr("eckart.recovery.runs.shutil.rmtree", lambda *_, **__: None)

    def set_to(n: int) -> None:
        left["n"] = n

    return set_to


@pytest.mark.parametrize("name", ["no data", "one side", "two sides", "by spectra", "refitted", "auto"])
def test_run_that_died_anywhere_is_gone_on_with_to_the_same_bytes(name, stored, data, tmp_path, crash):
    recipe = RECIPES[name]
    compressed(stored(LLAMA), tmp_path / "unbroken", data, True, **recipe)
    expected = digests(tmp_path / "unbroken")
    out = tmp_path / "out"
    deaths = 0
    for piece in (1, 2, 3, 5, 8, 1, 13, 2, 0):
        crash(piece)
        resume = out.with_name("out.work").exists()
        try:
            eckart.compress(stored(LLAMA), out, data=data, cache=False, blocks=True, resume=resume, **recipe)
            break
        except Killed:
            deaths += 1
            assert not out.exists()
    assert deaths > 2
    assert digests(out) == expected


@pytest.mark.parametrize("at", ["come_from", "remember", "drop"])
def test_run_that_died_while_it_took_back_a_refit_is_gone_on_with_to_the_same_bytes(
    at, stored, data, tmp_path, crash, monkeypatch
):
    made = compressed(stored(LLAMA), tmp_path / "unbroken", data, True, method="auto", keep=0.7)
    assert any("not refitted" in note for note in made.manifest.notes)
    undo, died = BlockStore.undo, []

    def dying(store: Any, bench: Any) -> None:
        where = {"come_from": Streamed, "remember": BlockStore, "drop": Units}[at]
        name = {"come_from": "__init__"}.get(at, at)
        monkeypatch.setattr(where, name, die)
        undo(store, bench)

    def die(*_: Any) -> None:
        died.append(at)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(BlockStore, "undo", dying)
        with pytest.raises(Killed):
            compressed(stored(LLAMA), tmp_path / "out", data, True, method="auto", keep=0.7)
    assert died
    monkeypatch.undo()
    again = {"cache": False, "blocks": True, "resume": True, "method": "auto", "keep": 0.7}
    eckart.compress(stored(LLAMA), tmp_path / "out", data=data, **again)
    assert digests(tmp_path / "out") == digests(tmp_path / "unbroken")


def test_memory_that_is_free_later_changes_nothing(stored, data, tmp_path, crash, monkeypatch):
    recipe = {"method": "svd-llm", "keep": 0.7}
    compressed(stored(LLAMA), tmp_path / "unbroken", data, True, **recipe)
    crash(2)
    with pytest.raises(Killed):
        compressed(stored(LLAMA), tmp_path / "out", data, True, **recipe)
    crash(0)
    monkeypatch.setattr("eckart.compression.blocks.portion.available", lambda device: 800_000_000)
    seen: list[int] = []
    cut = Pass._cut
    monkeypatch.setattr(Pass, "_cut", lambda self, w, tokens: seen.append(tokens) or cut(self, w, tokens))
    again = {"cache": False, "blocks": True, "resume": True, **recipe}
    eckart.compress(stored(LLAMA), tmp_path / "out", data=data, **again)
    assert max(seen) == BATCH_TOKENS
    assert digests(tmp_path / "out") == digests(tmp_path / "unbroken")


def test_what_was_begun_is_not_gone_on_with_by_another_request(stored, data, tmp_path, crash):
    out = tmp_path / "out"
    crash(6)
    with pytest.raises(Killed):
        compressed(stored(LLAMA), out, data, True, method="svd-llm", keep=0.7)
    crash(0)
    before = sorted(path.name for path in out.with_name("out.work").iterdir())
    with pytest.raises(UsageError, match="--resume"):
        compressed(stored(LLAMA), out, data, True, method="svd-llm", keep=0.7)
    with pytest.raises(UsageError, match="keep changed"):
        eckart.compress(
            stored(LLAMA), out, data=data, cache=False, blocks=True, resume=True, method="svd-llm", keep=0.6
        )
    other = tmp_path / "model"
    shutil.copytree(stored(LLAMA), other)
    model = loading.load_model(other)
    model.model.layers[0].mlp.up_proj.weight.data[0, 0] += 1
    model.save_pretrained(other)
    with pytest.raises(UsageError, match="model changed"):
        eckart.compress(other, out, data=data, blocks=True, resume=True, method="svd-llm", keep=0.7)
    assert sorted(path.name for path in out.with_name("out.work").iterdir()) == before


def test_what_a_killed_run_had_not_finished_is_tidied_up(stored, data, tmp_path, crash, monkeypatch):
    out = tmp_path / "out"
    crash(5)
    with pytest.raises(Killed):
        compressed(stored(LLAMA), out, data, True, method="svd-llm", keep=0.7)
    crash(0)
    monkeypatch.undo()
    work = out.with_name("out.work")
    (work / ".spill-1").mkdir()
    (work / ".spill-1" / "2").write_bytes(b"activations")
    (work / ".records-half.safetensors").write_bytes(b"half")
    eckart.compress(
        stored(LLAMA), out, data=data, cache=False, blocks=True, resume=True, method="svd-llm", keep=0.7
    )
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


def test_error_before_anything_is_finished_leaves_nothing(stored, data, tmp_path, monkeypatch):
    monkeypatch.setattr("eckart.compression.course.Course.cut", lambda course, recipe: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        compressed(stored(LLAMA), tmp_path / "out", data, True, method="svd", keep=0.7)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"blocks": True, "training": {"tokens": 100}}, "training needs the whole model"),
        ({"blocks": True, "merge": True}, "--merge needs the whole model"),
        ({"memory": 10**6}, "one block of this model at a time takes about"),
    ],
)
def test_what_cannot_be_done_is_said_at_once(options, why, stored, data, tmp_path):
    with pytest.raises(UsageError, match=why):
        eckart.compress(stored(LLAMA), tmp_path / "out", data=data, method="svd", keep=0.7, **options)
    assert not list(tmp_path.iterdir())


def test_model_in_memory_is_not_cut_block_by_block(tokenizer, data, tmp_path):
    with pytest.raises(UsageError, match="in memory is there as a whole"):
        eckart.compress(
            LLAMA.build(), tmp_path / "out", tokenizer=tokenizer, data=data, keep=0.7, blocks=True
        )

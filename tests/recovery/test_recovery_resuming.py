"""A run that was stopped, at a step or while it wrote a checkpoint, goes on as if it had not been."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import LLAMA, T5, Architecture
from learners import cut, learn, some_examples
from transformers import TrainerCallback

from eckart import checkpoint, folders
from eckart.recovery import keeping
from eckart.recovery.objective import cross_entropy
from eckart.recovery.training import LOG


class StoppedError(Exception):
    """As if the process had ended there."""


class Stop(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step:
            raise StoppedError


def seeing(batches: list[Any]) -> Any:
    """The usual objective, telling what it was given."""

    def objective(model: Any, teacher: Any, batch: Any) -> Any:
        batches.append(batch["input_ids"].tolist())
        return cross_entropy(model, teacher, batch)

    return objective


@pytest.mark.parametrize(("architecture", "stop"), [(LLAMA, 1), (LLAMA, 9), (T5, 5)], ids=str)
def test_a_resumed_run_is_the_unbroken_one(architecture: Architecture, stop: int, tmp_path: Path) -> None:
    """With dropout, several passes a step and an epoch's end on the way."""
    model = cut(architecture)
    examples = some_examples(model, tmp_path)
    how = {"steps": 12, "accumulate": 2, "save_every": 3}

    def noisy() -> Any:
        model = cut(architecture)
        if architecture is T5:
            for module in model.modules():
                if isinstance(module, torch.nn.Dropout):
                    module.p = 0.1
        return model

    whole, whole_batches = noisy(), []
    unbroken = learn(whole, examples, tmp_path / "whole", objective=seeing(whole_batches), **how)
    with pytest.raises(StoppedError):
        learn(noisy(), examples, tmp_path / "work", callbacks=[Stop(stop)], **how)
    second, second_batches = noisy(), []
    resumed = learn(second, examples, tmp_path / "work", objective=seeing(second_batches), resume=True, **how)
    at = 3 * ((stop - 1) // 3)  # the step at which it stopped was not saved any more
    assert second_batches == whole_batches[2 * at :]
    assert resumed.losses == unbroken.losses
    assert resumed.tokens == unbroken.tokens
    other = second.state_dict()
    assert all(torch.equal(tensor, other[name]) for name, tensor in whole.state_dict().items())
    steps = [json.loads(line)["step"] for line in (tmp_path / "work" / LOG).read_text().splitlines()]
    assert steps == list(range(1, 13))


@pytest.mark.parametrize(
    "moment", [keeping.MODEL, keeping.OPTIMIZER, keeping.CHANCE, keeping.STATE, "rename"]
)
def test_a_kill_while_a_checkpoint_is_written_leaves_the_one_before(
    moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is cleaned up, as after `kill -9`: what is half written stays under its other name."""
    model = cut(LLAMA)
    examples = some_examples(model, tmp_path)
    how = {"steps": 6, "save_every": 2}
    unbroken = learn(model, examples, tmp_path / "whole", **how)
    work = tmp_path / "work"

    def kill(wanted: Path) -> None:
        if wanted.name == moment and keeping.Checkpoints(work).steps() == [2]:
            raise StoppedError

    for room, name in ((checkpoint, "write_tensors"), (folders, "replace_file")):
        plain = getattr(room, name)

        def writing(path: Path, *rest: Any, write: Any = plain) -> None:
            kill(path)
            write(path, *rest)

        monkeypatch.setattr(room, name, writing)
    rename = Path.rename

    def renaming(self: Path, target: Path) -> Path:
        if moment == "rename" and target.name == "checkpoint-4":
            raise StoppedError
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", renaming)
    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", lambda *arguments, **_: None)
        with pytest.raises(StoppedError):
            learn(cut(LLAMA), examples, work, **how)
    assert keeping.Checkpoints(work).steps() == [2]
    assert list(work.glob(".checkpoint-*"))
    monkeypatch.undo()
    second = cut(LLAMA)
    resumed = learn(second, examples, work, resume=True, **how)
    assert resumed.losses == unbroken.losses
    assert keeping.Checkpoints(work).steps() == [4, 6]
    assert not list(work.glob(".checkpoint-*"))


def test_a_run_stopped_before_its_first_checkpoint_starts_again(tmp_path: Path) -> None:
    model = cut(LLAMA)
    examples = some_examples(model, tmp_path)
    with pytest.raises(StoppedError):
        learn(cut(LLAMA), examples, tmp_path / "work", callbacks=[Stop(2)], save_every=4)
    resumed = learn(model, examples, tmp_path / "work", resume=True, save_every=4)
    assert resumed.losses == learn(cut(LLAMA), examples, tmp_path / "whole").losses


def test_checkpoints_hold_buffers_and_tied_weights_once(tmp_path: Path) -> None:
    """A mask in a buffer, as basis selection keeps one, comes back."""
    model = cut(LLAMA)
    model.lm_head.weight = model.model.embed_tokens.weight
    model.register_buffer("mask", torch.ones(3))
    state = keeping.model_state(model)
    assert sum(name.endswith(("lm_head.weight", "embed_tokens.weight")) for name in state) == 1
    kept = {name: tensor.clone() for name, tensor in state.items()}
    with torch.no_grad():
        model.mask.zero_()
        model.lm_head.weight.zero_()
    keeping.load_model_state(model, kept)
    assert model.mask.tolist() == [1, 1, 1]
    assert model.model.embed_tokens.weight.abs().sum() > 0

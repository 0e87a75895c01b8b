"""Checkpoints of a training run: whole or not at all, and of tensors and JSON alone, never a pickle."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eckart import checkpoint, folders

PREFIX = "checkpoint-"
KEPT = 2
MODEL, OPTIMIZER, CHANCE = "model.safetensors", "optimizer.safetensors", "chance.safetensors"
STATE = "trainer_state.json"


class Checkpoints:
    """The checkpoints in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def steps(self) -> list[int]:
        """The steps that there is a checkpoint of, ascending."""
        found = [path.name.removeprefix(PREFIX) for path in self.folder.glob(f"{PREFIX}*")]
        return sorted(int(name) for name in found if name.isdigit())

    def path(self, step: int) -> Path:
        """Where the checkpoint of a step is."""
        return self.folder / f"{PREFIX}{step}"

    def latest(self) -> Path | None:
        """The last checkpoint, or `None` where there is none yet."""
        steps = self.steps()
        return self.path(steps[-1]) if steps else None

    def write(
        self,
        step: int,
        model: Mapping[str, Tensor],
        optimizer: tuple[dict[str, Tensor], dict[str, Any]],
        chances: Sequence[Mapping[str, Tensor]],
        state: str,
    ) -> None:
        """Keep one, and only the one before it.

        Until all of it is on the disk it has another name, so a kill leaves those before as they are.

        Raises:
            EckartError: it cannot be written, on a full disk say; those before are as they were.
        """
        out = self.path(step)
        shutil.rmtree(out, ignore_errors=True)
        with folders.appearing(out) as temporary:
            checkpoint.write_tensors(temporary / MODEL, model, {"step": step})
            checkpoint.write_tensors(temporary / OPTIMIZER, *optimizer)
            named = {f"{at}.{name}": tensor for at, one in enumerate(chances) for name, tensor in one.items()}
            checkpoint.write_tensors(temporary / CHANCE, named, {"processes": len(chances)})
            folders.replace_file(temporary / STATE, state.encode())
        for old in self.steps()[:-KEPT]:
            shutil.rmtree(self.path(old), ignore_errors=True)

    def sweep(self) -> None:
        """Remove what a kill left half written."""
        for path in self.folder.glob(f".{PREFIX}*"):
            shutil.rmtree(path, ignore_errors=True)


def model_state(model: Any) -> dict[str, Tensor]:
    """What training changes: parameters that learn and persistent buffers, shared ones once, by name."""
    names = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    learning = {name: tensor for name, tensor in model.named_parameters() if tensor.requires_grad}
    buffers: dict[Any, tuple[str, Tensor]] = {}
    for name, tensor in model.state_dict().items():
        if name not in names:
            buffers.setdefault((tensor.data_ptr(), tensor.shape, tensor.dtype), (name, tensor))
    return learning | dict(buffers.values())


def load_model_state(model: Any, state: Mapping[str, Tensor]) -> None:
    """Put such a state back, in place."""
    own = model_state(model)
    assert set(own) == set(state), "the checkpoint is of another model"
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(state[name])


def pack_optimizer(optimizer: Any, scheduler: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state of an optimizer and a scheduler as named tensors and JSON."""
    state = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    others: dict[str, dict[str, Any]] = {}
    for index, entries in state["state"].items():
        for name, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{name}"] = value
            else:
                others.setdefault(str(index), {})[name] = value
    words = {"groups": state["param_groups"], "others": others, "scheduler": scheduler.state_dict()}
    return tensors, words


def unpack_optimizer(
    optimizer: Any, scheduler: Any, tensors: Mapping[str, Tensor], words: dict[str, Any]
) -> None:
    """Put such a state back."""
    state: dict[int, dict[str, Any]] = {int(index): dict(values) for index, values in words["others"].items()}
    for key, tensor in tensors.items():
        index, _, name = key.partition(".")
        state.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": words["groups"]})
    scheduler.load_state_dict(words["scheduler"])


def chance() -> dict[str, Tensor]:
    """The states of torch's random generators in this process: what dropout draws from."""
    found = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        found["cuda"] = torch.cuda.get_rng_state()
    return found


def restore_chance(state: Mapping[str, Tensor]) -> None:
    """Put such states back."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def read_optimizer(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state that `pack_optimizer` gave, from a checkpoint."""
    return checkpoint.read_tensors(path / OPTIMIZER)


def read_model(path: Path) -> dict[str, Tensor]:
    """What `model_state` gave, from a checkpoint."""
    return checkpoint.read_tensors(path / MODEL)[0]


def read_chance(path: Path, rank: int) -> dict[str, Tensor]:
    """The states of one process; the first one's where there were fewer processes then."""
    tensors, words = checkpoint.read_tensors(path / CHANCE)
    prefix = f"{rank if rank < words['processes'] else 0}."
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}

"""In which order a model runs its blocks, and which targets read one input: known before any data."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from eckart import calibrate
from eckart.model import building, mixtures, targets, vocabulary
from eckart.model.streaming import NotStoredByBlockError, Streamed
from eckart.types import EckartError, Recipe


@dataclass(frozen=True)
class Outline:
    """What a few tokens through a model show.

    Attributes:
        found: the targets, and what stays dense.
        order: blocks in the order in which they run.
        spaces: target to its input space.
        columns: width of what the model gives: its vocabulary, labels, or hidden state.
    """

    found: targets.Found
    order: list[str]
    spaces: dict[str, str]
    columns: int


def outline(streamed: Streamed, recipe: Recipe) -> Outline:
    """Run a few tokens through the model: without weights where it runs so, else with each block in its turn.

    Raises:
        NotWalkableError: it runs a block more than once, or not by itself.
        NotStoredByBlockError: a target is an expert in a tensor of all.
    """
    empty = building.build_empty(streamed.model.config)
    found = targets.find_targets(empty, recipe.targets, recipe.layers)
    names = [target.name for target in found.targets]
    if expert := next((name for name in names if mixtures.is_expert(empty, name)), None):
        raise NotStoredByBlockError(f"{expert} is stored in one tensor with the other experts of its block")
    if vocabulary.leader_of(empty) in names and (tied := _words(empty)) is not None:
        raise calibrate.NotWalkableError(f"{tied} is in no block, and its factors are those of the embedding")
    try:
        order, spaces, columns = _run(empty, streamed.blocks, names)
    except Exception:  # many models ask about values, and without weights there are none
        with streamed.on_demand():
            found = targets.find_targets(streamed.model, recipe.targets, recipe.layers)
            names = [target.name for target in found.targets]
            try:
                order, spaces, columns = _run(streamed.model, streamed.blocks, names)
            except EckartError:
                raise
            except Exception as error:
                raise calibrate.NotWalkableError(f"this model does not run by itself ({error})") from error
    if len(set(order)) < len(order):
        raise calibrate.NotWalkableError("this model runs a block more than once")
    return Outline(found, order, spaces, columns)


def _words(empty: Any) -> str | None:
    """The target that is the embedding, or tied to it; a head of its own is none."""
    leader = vocabulary.leader_of(empty)
    if leader is None:
        return None
    own = vocabulary.is_embedding(empty, leader)
    return leader if own or vocabulary.siblings_of(empty, leader) else None


def _run(model: Any, blocks: list[str], names: list[str]) -> tuple[list[str], dict[str, str], int]:
    order: list[str] = []

    def call(name: str) -> Any:
        def hook(module: nn.Module, arguments: Any) -> None:
            order.append(name)

        return hook

    batch = {key: value.to(model.device) for key, value in model.dummy_inputs.items()}
    outputs: list[Any] = []
    with ExitStack() as hooks, torch.no_grad():
        for name in blocks:
            hooks.callback(model.get_submodule(name).register_forward_pre_hook(call(name)).remove)
        hooks.callback(
            model.register_forward_hook(lambda module, arguments, output: outputs.append(output)).remove
        )
        spaces = calibrate.spaces_of(model, names, batch)
    shown = getattr(outputs[0], "logits", None)
    shown = outputs[0].last_hidden_state if shown is None else shown
    return order, spaces, int(shown.shape[-1])

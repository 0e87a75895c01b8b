"""The parameters of a model, loaded or not: in all, in its embeddings, and what tying saves."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import torch

from eckart import checkpoint
from eckart.model import configs, replacing, sharing
from eckart.types import Tied


@dataclass(frozen=True)
class Counted:
    """What a config, and a checkpoint where there is one, say about sizes.

    Attributes:
        parameters: tied weights once; with heads that the config ties and the checkpoint stores apart.
        embedding_parameters: of the input embedding, and of the output's where it is another weight.
        tied: which weights are one weight.
        notes: what a reader should know.
    """

    parameters: int
    embedding_parameters: int
    tied: list[Tied]
    notes: list[str] = field(default_factory=list)


def count(folder: Path, empty: Any) -> Counted:
    """Count the parameters of a model on the meta device, as its folder stores them."""
    notes: list[str] = []
    apart = _stored_apart(folder, empty, notes)
    tied = [_without(group, set(apart)) for group in sharing.tied(empty)]
    tied = [group for group in tied if len(group.names) > 1]
    embeddings, untied = _embeddings(empty, tied)
    notes += untied
    return Counted(
        parameters=replacing.count_parameters(empty) + sum(apart.values()),
        embedding_parameters=embeddings,
        tied=tied,
        notes=notes,
    )


def count_loaded(model: Any) -> Counted:
    """Count the parameters of a model in memory."""
    tied = sharing.tied(model)
    embeddings, notes = _embeddings(model, tied)
    return Counted(replacing.count_parameters(model), embeddings, tied, notes)


def _stored_apart(folder: Path, empty: Any, notes: list[str]) -> dict[str, int]:
    """Weights that the config ties and the checkpoint stores apart, with their parameters.

    transformers ties every T5's head by its config, and unties it when a checkpoint brings a head of
    its own.
    """
    tied = dict(empty.all_tied_weights_keys)
    # A hub model is planned from its config and index: no shard is fetched.
    if not any(folder.glob("model*.safetensors")):
        raw = configs.raw_config(folder)
        head = empty.get_output_embeddings()
        if raw.get("tie_word_embeddings") is False and any(name.startswith("lm_head") for name in tied):
            notes.append(
                f"counted from the config alone, with the head tied to the embedding, as transformers builds "
                f"it; the config says tie_word_embeddings=false, and a checkpoint with a head of its own has "
                f"{head.weight.numel():,} parameters more"
            )
        return {}
    stored = checkpoint.open_checkpoint(folder)
    apart = {}
    for target, source in tied.items():
        if target in stored.tensors and source in stored.tensors and not stored.same(target, source):
            apart[target] = prod(stored.tensors[target].shape)
            notes.append(f"{target} is stored apart from {source}, so it is counted")
    return apart


def _without(group: Tied, apart: set[str]) -> Tied:
    names = [name for name in group.names if name not in apart]
    return Tied(names=names, parameters=group.parameters, saved=group.parameters * (len(names) - 1))


def _embeddings(empty: Any, tied: list[Tied]) -> tuple[int, list[str]]:
    """The parameters of both embeddings, and a note on what tying them would save."""
    entry, head = (_weight(empty, ask) for ask in ("get_input_embeddings", "get_output_embeddings"))
    if entry is None:
        return 0, []
    if head is None or entry == head or any({entry[0], head[0]} <= set(group.names) for group in tied):
        return prod(entry[1]), []
    notes = []
    if entry[1] == head[1]:
        notes.append(
            f"{head[0]} and {entry[0]} have one shape and are two weights: tied, they would save "
            f"{prod(head[1]):,} parameters, and the model would have to be trained so"
        )
    return prod(entry[1]) + prod(head[1]), notes


def _weight(empty: Any, ask: str) -> tuple[str, torch.Size] | None:
    """Name and shape of an embedding's weight; `None` where the model has none of words."""
    try:
        module = getattr(empty, ask)()
    except (AttributeError, NotImplementedError):
        return None
    weight = getattr(module, "weight", None)
    name = next((name for name, other in empty.named_modules() if other is module), None)
    if name is None or weight is None or weight.ndim != 2:
        return None
    return f"{name}.weight", weight.shape

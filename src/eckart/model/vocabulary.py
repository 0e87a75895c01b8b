"""The embedding of tokens, and the head that may be tied to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from eckart.model import sharing
from eckart.structures import StructuredEmbedding
from eckart.types import Moment, Target

ASKED = 8
"""Tokens that an embedding is asked about."""


def entry_of(model: Any) -> str | None:
    """The name of the input embedding, where it is a dense one of tokens."""
    try:
        entry = model.get_input_embeddings()
    except (AttributeError, NotImplementedError):  # what transformers raises where a model has none
        return None
    if not isinstance(entry, nn.Embedding) or not entry.weight.is_floating_point():
        return None
    return next((name for name, module in model.named_modules() if module is entry), None)


def tied_to(model: Any, name: str) -> list[str]:
    """The names of all modules that have the weight of this one, itself among them, in the model's order."""
    weight = f"{name}.weight"
    groups = (set(group.names) for group in sharing.tied(model))
    group = next((group for group in groups if weight in group), {weight})
    names = [each for each, _ in model.named_modules(remove_duplicate=False) if f"{each}.weight" in group]
    return names if names else [name]


def siblings_of(model: Any, name: str) -> list[str]:
    """The names of the embeddings that are tied to a head, or to another embedding."""
    module = model.get_submodule(name)
    if not isinstance(module, nn.Embedding) and name != leader_of(model):
        return []
    return [other for other in tied_to(model, name) if other != name]


def scale_among(model: Any, names: Sequence[str]) -> float:
    """What the embeddings among these modules multiply by."""
    embeddings = [module for name in names if isinstance(module := model.get_submodule(name), nn.Embedding)]
    return (scale_of(embeddings[0]) or 1.0) if embeddings else 1.0


def leader_of(model: Any) -> str | None:
    """The name that the input embedding is a target by: of the head that is tied to it, or its own.

    A head reads what moments are made of; an embedding reads numbers of tokens.
    """
    entry = entry_of(model)
    if entry is None:
        return None
    heads = [name for name in tied_to(model, entry) if isinstance(model.get_submodule(name), nn.Linear)]
    return heads[0] if heads else entry


def why_not(model: Any, names: Sequence[str]) -> str | None:
    """Why one weight under these names cannot become factors; `None` where it can."""
    modules = [model.get_submodule(name) for name in names]
    embeddings = [module for module in modules if isinstance(module, nn.Embedding)]
    others = [module for module in modules if not isinstance(module, nn.Embedding)]
    if len(others) > 1 or not all(type(module) is nn.Linear for module in others):
        return "its weight is tied to another module's"
    scales = {scale_of(module) for module in embeddings}
    if None in scales or len(scales) > 1:
        return "it computes something else than an embedding does"
    return None


@torch.no_grad()
def scale_of(embedding: nn.Embedding) -> float | None:
    """What a class multiplies its embedding by (Gemma); `None` where it does something else.

    It is asked about a few tokens. On the meta device it is taken at its word.
    """
    if type(embedding).forward is nn.Embedding.forward:
        return 1.0 if embedding.max_norm is None else None
    scale = getattr(embedding, "scalar_embed_scale", getattr(embedding, "embed_scale", 1.0))
    if embedding.weight.is_meta:
        return 1.0 if isinstance(scale, Tensor) else float(scale)
    ids = torch.arange(min(ASKED, embedding.num_embeddings), device=embedding.weight.device)
    expected = embedding.weight[ids] * float(scale)
    try:
        answer = embedding(ids)
    except Exception:  # code of any kind
        return None
    if not isinstance(answer, Tensor) or answer.shape != expected.shape:
        return None
    return float(scale) if (answer - expected).norm() <= 0.01 * expected.norm() else None


def is_embedding(model: Any, name: str) -> bool:
    """Whether a target is an embedding that no head is tied to: what it reads is no activation."""
    return isinstance(model.get_submodule(name), (nn.Embedding, StructuredEmbedding))


def counts(windows: Sequence[Any], target: Target) -> Moment:
    """How often each token was read, as the rows of an embedding weigh, blended with an equal weight for all.

    Half of the whole weight is the share of a token in the data, and half is the same for every token: so
    those that calibration data lack are kept as well as a plain truncation keeps them.

    Args:
        windows: with the tokens' numbers as `ids`.
        target: the embedding.
    """
    ids = torch.tensor([number for window in windows for number in window.ids], dtype=torch.long)
    found = torch.bincount(ids, minlength=target.out_features)[: target.out_features].double()
    return Moment(tokens=len(ids), fisher=found + found.mean(), windows=max(1, len(ids)))


def blended(moment: Moment) -> Moment:
    """What a head reads, blended with the identity at the same weight (the same trace).

    An embedding that is tied to the head hands on its rows as they are: there every direction counts alike.
    """
    second, absolute = moment.second, moment.absolute
    if second is not None:
        second = (
            second
            + torch.eye(len(second), dtype=second.dtype, device=second.device) * second.diagonal().mean()
        )
    if absolute is not None:
        absolute = absolute + absolute.mean()
    return Moment(moment.tokens, second, absolute, moment.fisher, moment.windows)

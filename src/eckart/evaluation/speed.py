"""How fast a model, or a part of one, is beside another: always both in the same rounds, in turns.

This is a machine's own figure, and other work on the machine moves it: so two models are timed in pairs, and
what is reported is the median of the pairs' ratios.
"""

from __future__ import annotations

import inspect
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache, StaticCache

from eckart.structures import QuantizedLinear

Work = Callable[[], object]

WARM = 2
"""Runs before the clock: buffers are made, kernels chosen, and weights turned round in memory."""


@dataclass(frozen=True)
class Paired:
    """Seconds of one work and of another, and how many times as fast the first is; medians of the rounds."""

    seconds: float
    other_seconds: float
    ratio: float


def timed(work: Work, device: torch.device) -> float:
    """Seconds that it takes, all that it started on a GPU included."""
    _wait(device)
    started = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - started


def paired(work: Work, other: Work, device: torch.device, rounds: int) -> Paired:
    """Time two works in turns; medians."""
    pairs = _in_turns(work, other, device, rounds)
    return Paired(
        statistics.median(first for first, _ in pairs),
        statistics.median(second for _, second in pairs),
        statistics.median(second / first for first, second in pairs),
    )


def least(work: Work, other: Work, device: torch.device, rounds: int) -> tuple[float, float]:
    """Time two works in turns; the least seconds of each: of short works those that nothing came between."""
    pairs = _in_turns(work, other, device, rounds)
    return min(first for first, _ in pairs), min(second for _, second in pairs)


def _in_turns(work: Work, other: Work, device: torch.device, rounds: int) -> list[tuple[float, float]]:
    """Seconds of both in each round, the other one first in every second."""
    for _ in range(WARM):
        work()
        other()
    pairs = []
    for round_ in range(rounds):
        if round_ % 2:
            later = timed(other, device)
            pairs.append((timed(work, device), later))
        else:
            pairs.append((timed(work, device), timed(other, device)))
    return pairs


def alone(work: Work, device: torch.device, rounds: int) -> float:
    """Seconds of one work by itself; the median of the rounds."""
    for _ in range(WARM):
        work()
    return statistics.median(timed(work, device) for _ in range(rounds))


def through(
    modules: Sequence[nn.Module], batch: int, tokens: int, device: torch.device, dtype: torch.dtype
) -> Work:
    """Each of these linear layers once, on random `(batch, tokens, in)`: one tensor for all of one width."""
    inputs: dict[int, Tensor] = {}
    for module in modules:
        width = int(module.in_features)  # type: ignore[arg-type]
        if width not in inputs:
            made = torch.Generator().manual_seed(width)
            inputs[width] = torch.randn(batch, tokens, width, generator=made).to(device, dtype)

    def work() -> None:
        for module in modules:
            module(inputs[module.in_features])  # type: ignore[index]

    return work


def entries(module: nn.Module) -> int:
    """Entries of its matrices, and of those within it: tied ones once, rounded ones too. No bias is one."""
    floats = sum(parameter.numel() for parameter in module.parameters() if parameter.ndim > 1)
    rounded = [each for each in module.modules() if isinstance(each, QuantizedLinear)]
    return floats + sum(each.in_features * each.out_features for each in rounded)


def passed_through(model: Any) -> int:
    """Entries of the matrices that a token is multiplied with. An embedding is one where it is the head."""
    entry = model.get_input_embeddings()
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    own = {id(parameter) for parameter in entry.parameters()}
    shared = head is not None and any(id(parameter) in own for parameter in head.parameters())
    return entries(model) - (0 if shared else entries(entry))


def prefill(model: Any, batch: int, tokens: int) -> Work:
    """Read `tokens` in each of `batch` sequences: of an encoder-decoder, its encoder does."""
    ids = _ids(model, batch, tokens)
    if model.config.is_encoder_decoder:
        encoder = model.get_encoder()
        return lambda: encoder(input_ids=ids)
    options = {"use_cache": False, **_last_only(model)} if model.can_generate() else {}
    return lambda: model(input_ids=ids, **options)


CACHES = ("cache", "past_key_values")
"""What transformers calls the keys and values that a model is handed: by the first name since 5.24."""
ASKED = 2
"""Tokens that a model is asked to remember."""


def decodes(model: Any) -> bool:
    """Whether a model writes token by token with a cache that it is handed, and that grows: it is asked."""
    name = _cache_name(model)
    if name is None or not model.can_generate():
        return False
    ids = _ids(model, 1, ASKED)
    more = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        kept = getattr(model(input_ids=ids, use_cache=True, **more), name, None)
    try:
        return isinstance(kept, Cache) and int(kept.get_seq_length()) == ASKED
    except ValueError:  # of a state that does not grow, as Mamba's
        return False


def _cache_name(model: Any) -> str | None:
    """The parameter by which a model is handed its cache."""
    known = inspect.signature(model.forward).parameters
    return next((name for name in CACHES if name in known), None)


def decode(model: Any, batch: int, tokens: int, new: int, rounds: int, static: bool = False) -> Work:
    """Write `new` tokens in each of `batch` sequences, after `tokens` that are in the cache.

    The tokens are random, so that nothing but the model is timed. The cache goes on growing from run to run,
    in `rounds` of two models by as much in each.

    Args:
        static: a cache of one size, as a compiled model needs.
    """
    ids, before = _ids(model, batch, 1), _ids(model, batch, tokens)
    options: dict[str, Any] = {"use_cache": True, **_last_only(model)}
    cache = _cache_name(model) or CACHES[0]
    if static:
        length = longest(tokens, new, rounds)
        options[cache] = StaticCache(config=model.config, max_cache_len=length)
    if model.config.is_encoder_decoder:
        name = "decoder_input_ids"
        options["encoder_outputs"] = model.get_encoder()(input_ids=before)
        begun = model(decoder_input_ids=ids, **options)
    else:
        name = "input_ids"
        begun = model(input_ids=before, **options)
    options[cache] = getattr(begun, cache)

    def work() -> None:
        for _ in range(new):
            model(**{name: ids}, **options)

    return work


def longest(tokens: int, new: int, rounds: int) -> int:
    """Tokens in the cache once `decode` has had all its rounds."""
    return tokens + new * (WARM + rounds)


def _ids(model: Any, batch: int, tokens: int) -> Tensor:
    made = torch.Generator().manual_seed(0)
    vocabulary = model.config.get_text_config().vocab_size
    return torch.randint(vocabulary, (batch, tokens), generator=made).to(model.device)


def _last_only(model: Any) -> dict[str, int]:
    """Only the last token's logits are wanted, as when text is generated."""
    return {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)

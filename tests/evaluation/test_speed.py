"""Timing in pairs: what is run, how often, and what is made of it. Nothing here knows how long it takes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from architectures import BERT, GPT2, LLAMA, MAMBA, T5
from torch import nn

from eckart.evaluation import speed

CPU = torch.device("cpu")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """A clock that a work moves by itself."""
    now = {"now": 0.0}
    monkeypatch.setattr(speed.time, "perf_counter", lambda: now["now"])
    return now


def taking(clock: dict[str, float], *seconds: float) -> Any:
    left = [0.0] * speed.WARM + list(seconds)

    def work() -> None:
        clock["now"] += left.pop(0)

    return work


def test_a_pair_is_the_median_of_its_rounds_ratios(clock: dict[str, float]) -> None:
    pair = speed.paired(taking(clock, 1, 1, 10), taking(clock, 2, 3, 10), CPU, 3)
    assert pair == speed.Paired(1, 3, 2)


def test_alone_is_the_median(clock: dict[str, float]) -> None:
    assert speed.alone(taking(clock, 5, 1, 2), CPU, 3) == 2


def test_works_take_turns_at_being_first() -> None:
    order: list[str] = []
    speed.paired(lambda: order.append("a"), lambda: order.append("b"), CPU, 3)
    assert order[2 * speed.WARM :] == ["a", "b", "b", "a", "a", "b"]


@pytest.mark.parametrize("architecture", [LLAMA, GPT2, T5], ids=str)
def test_writing_goes_on_from_a_full_cache_one_token_a_pass(architecture: Any) -> None:
    model = architecture.build()
    assert speed.decodes(model)
    seen: list[tuple[int, int]] = []

    def look(module: Any, args: Any, kwargs: Any) -> None:
        ids = kwargs.get("decoder_input_ids", kwargs.get("input_ids"))
        cache = kwargs.get("cache", kwargs.get("past_key_values"))
        seen.append((tuple(ids.shape), 0 if cache is None else cache.get_seq_length()))

    model.register_forward_pre_hook(look, with_kwargs=True)
    with torch.inference_mode():
        work = speed.decode(model, 2, 7, 3, 1)
        seen.clear()
        work()
    begun = 1 if model.config.is_encoder_decoder else 7
    assert seen == [((2, 1), begun), ((2, 1), begun + 1), ((2, 1), begun + 2)]


@pytest.mark.parametrize("architecture", [LLAMA, BERT, T5, MAMBA], ids=str)
def test_reading_takes_all_tokens_at_once(architecture: Any) -> None:
    model = architecture.build()
    shapes = []
    reader = model.get_encoder() if model.config.is_encoder_decoder else model
    reader.get_input_embeddings().register_forward_pre_hook(lambda module, args: shapes.append(args[0].shape))
    with torch.inference_mode():
        speed.prefill(model, 3, 5)()
    assert shapes == [(3, 5)]


def test_what_writes_without_a_cache_that_is_handed_on_does_not_decode() -> None:
    assert not speed.decodes(BERT.build())
    assert not speed.decodes(MAMBA.build())


def test_a_token_does_not_pass_through_an_embedding_unless_it_is_the_head() -> None:
    untied, tied = LLAMA.build(), GPT2.build()
    entry = untied.get_input_embeddings().weight.numel()
    matrices = sum(p.numel() for p in untied.parameters() if p.ndim > 1)
    assert speed.passed_through(untied) == matrices - entry
    assert speed.passed_through(tied) == sum(p.numel() for p in tied.parameters() if p.ndim > 1)


def test_modules_of_one_width_read_one_tensor() -> None:
    modules = [nn.Linear(4, 5), nn.Linear(4, 6), nn.Linear(5, 2)]
    seen = []
    for module in modules:
        module.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    speed.through(modules, 2, 3, CPU, torch.float32)()
    assert seen[0] is seen[1]
    assert [tuple(x.shape) for x in seen] == [(2, 3, 4), (2, 3, 4), (2, 3, 5)]

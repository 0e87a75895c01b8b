"""What a cut takes is estimated on the safe side of what it depends on."""

from __future__ import annotations

import pytest
import torch

from eckart import linalg
from eckart.estimate import time as pace
from eckart.estimate.memory import BATCH_TOKENS, need
from eckart.recipes import making
from eckart.types import Recipe, Target


def recipe(method: str = "svd-llm", **more: object) -> Recipe:
    return making.make_recipe(method=method, keep=0.7, data="pocket", **more)  # type: ignore[arg-type]


def targets(width: int, block: int) -> list[Target]:
    return [
        Target(f"layers.{block}.{name}", *shape, False)
        for name, shape in {
            "attn.q": (width, width),
            "mlp.up": (3 * width, width),
            "mlp.down": (width, 3 * width),
        }.items()
    ]


def needed(blocks: int, width: int = 512, **asked: str):
    at = {f"layers.{block}": targets(width, block) for block in range(blocks)}
    weights = 2 * sum(t.out_features * t.in_features for each in at.values() for t in each)
    return need(weights, 2, at, 10**6, recipe(**asked))


def test_one_block_takes_the_same_however_many_there_are() -> None:
    assert needed(2).block == needed(80).block
    assert needed(80).whole > needed(2).whole


@pytest.mark.parametrize(("less", "more"), [("svd", "svd-llm"), ("svd-llm", "kfac"), ("kfac", "auto")])
def test_what_looks_at_more_takes_more(less: str, more: str) -> None:
    assert needed(4, method=less).whole < needed(4, method=more).whole
    assert needed(4, method=less).block <= needed(4, method=more).block


def test_less_memory_makes_smaller_batches_and_less_that_waits() -> None:
    wanted = needed(4)
    limits = [wanted.least, 2 * wanted.least, 100 * wanted.least]
    tokens = [wanted.batch_tokens(limit) for limit in limits]
    assert tokens == sorted(tokens)
    assert tokens[-1] == BATCH_TOKENS
    waiting = [wanted.waiting(limit) for limit in limits]
    assert waiting == sorted(waiting)
    for limit in limits:
        assert wanted.block + wanted.batch_tokens(limit) * wanted.token + wanted.waiting(limit) <= limit


def takes(of: list[Target], asked: Recipe, dtype: torch.dtype = torch.float32, **read: int) -> float:
    entries = sum(target.in_features * target.out_features for target in of)
    return pace.seconds(of, 100 * entries, asked, dtype, pace.Reading(**read))


def test_more_to_do_takes_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = {torch.bfloat16: 1e10}
    monkeypatch.setattr("eckart.linalg.rate", lambda dtype, width=0: slow.get(dtype, 1e11))
    few, many = targets(256, 0), targets(512, 0)
    assert takes(few, recipe()) < takes(many, recipe())
    assert takes(few, recipe("svd")) < takes(few, recipe()) < takes(few, recipe("kfac"))
    assert takes(few, recipe()) < takes(few, recipe("auto"))
    assert takes(few, recipe()) < takes(few, recipe(), calibrating=10**6)
    # Of passes, not of decompositions, which are in float64 whatever the model is in.
    assert takes(few, recipe()) < takes(few, recipe(), torch.bfloat16)
    assert takes(few, recipe("svd")) == takes(few, recipe("svd"), torch.bfloat16)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_what_this_machine_does_is_measured(dtype: torch.dtype) -> None:
    assert 1e6 < linalg.rate(dtype, 128) < 1e16

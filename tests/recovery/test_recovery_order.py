"""The order of examples: from the seed alone, each once in an epoch, as long as was asked for."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eckart.recovery import order
from eckart.recovery.settings import make_training
from eckart.types import UsageError


@given(
    lengths=st.lists(st.integers(1, 100), min_size=1, max_size=60),
    batch=st.integers(1, 9),
    epochs=st.integers(1, 3),
    seed=st.integers(0, 5),
)
def test_an_epoch_has_each_example_and_whole_batches(
    lengths: list[int], batch: int, epochs: int, seed: int
) -> None:
    steps = order.plan(lengths, make_training(epochs=epochs, batch=batch, seed=seed))
    a_epoch = -(-len(lengths) // batch)
    assert len(steps) == epochs * a_epoch
    assert all(len(step) == batch for step in steps)
    for epoch in range(epochs):
        seen = Counter(index for step in steps[epoch * a_epoch :][:a_epoch] for index in step)
        assert set(seen) == set(range(len(lengths)))
        assert sum(seen.values()) - len(lengths) < batch
    assert steps == order.plan(lengths, make_training(epochs=epochs, batch=batch, seed=seed))


def test_another_seed_is_another_order() -> None:
    lengths = list(range(1, 41))
    assert order.plan(lengths, make_training(batch=4)) != order.plan(lengths, make_training(batch=4, seed=1))


def test_tokens_are_reached_by_the_last_step_and_not_before() -> None:
    lengths = [7] * 20
    steps = order.plan(lengths, make_training(tokens=100, batch=4))
    assert len(steps) == 4  # 28 tokens each
    assert order.plan(lengths, make_training(steps=4, batch=4)) == steps


def test_lengths_meet() -> None:
    """Sorted within groups: the padding is a fraction of what chance would give."""
    lengths = [1 + (at * 37) % 100 for at in range(320)]
    padding = sum(
        max(lengths[index] for index in step) - lengths[index]
        for step in order.plan(lengths, make_training(batch=10))
        for index in step
    )
    assert padding < 0.1 * sum(lengths)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"steps": 0}, "--steps 0"),
        ({"steps": 3, "tokens": 9}, "--steps and --tokens were given"),
        ({"learning_rate": 0.0}, "--learning-rate 0: it is above 0"),
        ({"learning_rate": float("inf")}, "--learning-rate inf"),
        ({"warmup": 1.0}, "--warmup 1: it is a share"),
        ({"batch": 0}, "--batch 0"),
        ({"batch": 10, "accumulate": 4}, "--accumulate 4"),
        ({"schedule": "sine"}, "--schedule sine: it is one of cosine"),
        ({"precision": "fp16"}, "--precision fp16"),
        ({"seed": -1}, "--seed -1"),
        ({"epochs": float("nan")}, "--epochs nan"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_settings_that_cannot_be(given: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        make_training(**given)

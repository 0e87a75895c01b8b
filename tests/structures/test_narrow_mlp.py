"""Which channels of an MLP stay, and what reads them: least squares, and a choice that is hard to beat."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from torch import Tensor

from eckart.linalg import Problem, Side
from eckart.structures import Site, find, values_of
from eckart.structures.narrow_mlp import channels_of
from eckart.types import Target

NARROW = find("narrow-mlp")


def gram(width: int, seed: int, samples: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples or 4 * width, width, generator=generator, dtype=torch.float64)
    return x.T @ (x * torch.logspace(0, -2, len(x), dtype=torch.float64)[:, None])


def reader(out: int = 12, width: int = 10, seed: int = 0) -> Problem:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(out, width, generator=generator, dtype=torch.float64)
    return Problem(weight, Side(gram(out, seed + 1)).shrunk(0.01), Side(gram(width, seed + 2)))


def least(problem: Problem, kept: list[int]) -> float:
    """The squared error of the best weights of some channels, by brute force."""
    right = torch.linalg.cholesky(problem.right.gram * problem.right.scale)
    mine = right[kept].T
    best = torch.linalg.lstsq(mine, (problem.weight @ right).T).solution.T
    whole = torch.zeros_like(problem.weight)
    whole[:, kept] = best
    return problem.norm(problem.weight - whole) ** 2


@pytest.mark.parametrize("size", [1, 4, 9])
def test_what_reads_is_the_best_that_the_channels_allow(size: int) -> None:
    problem = reader()
    (fitted,) = NARROW.fit([problem], size)
    kept = channels_of(values_of(fitted)["columns"], size).tolist()
    assert kept == sorted(kept)
    found = problem.norm(problem.weight - NARROW.dense(values_of(fitted), size)[0]) ** 2
    assert found == pytest.approx(least(problem, kept), rel=1e-6)
    assert fitted.error == pytest.approx((found / problem.norm(problem.weight) ** 2) ** 0.5, rel=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_the_choice_is_nearly_the_best_of_all(seed: int) -> None:
    problem = reader(seed=10 * seed)
    for size in (3, 5, 8):
        (fitted,) = NARROW.fit([problem], size)
        found = problem.norm(problem.weight - NARROW.dense(values_of(fitted), size)[0]) ** 2
        every = [least(problem, list(kept)) for kept in combinations(range(10), size)]
        assert found <= 1.25 * min(every)
        # Nearer to the best than one in fifty of all choices.
        assert sum(each < found for each in every) <= max(3, len(every) // 50)


@pytest.mark.parametrize("width", [40, 300])
def test_the_curve_is_what_fits_lose_also_where_a_round_drops_several(width: int) -> None:
    problem = reader(24, width, seed=3)
    errors = NARROW.errors(Site((Target("down", 24, width, False),)), [problem])
    assert len(errors) == width + 1
    assert float(errors[-1]) == 0
    for size in (width // 4, width // 2, width - 1):
        (fitted,) = NARROW.fit([problem], size)
        found = problem.norm(problem.weight - NARROW.dense(values_of(fitted), size)[0]) ** 2
        assert float(errors[size]) == pytest.approx(found, rel=1e-3)


def test_a_channel_that_repeats_another_costs_nothing() -> None:
    problem = reader(12, 10)
    copies = torch.cat([torch.eye(10, dtype=torch.float64)] * 2)
    twice = Problem(problem.weight @ copies.T, problem.left, Side(copies @ gram(10, 2) @ copies.T))
    (fitted,) = NARROW.fit([twice], 10)
    assert fitted.error == pytest.approx(0, abs=1e-4)
    assert {each % 10 for each in channels_of(values_of(fitted)["columns"], 10).tolist()} == set(range(10))


def test_channels_that_nothing_was_seen_of_go_first() -> None:
    problem = reader(12, 10)
    seen = gram(10, 2)
    seen[[2, 7]] = 0
    seen[:, [2, 7]] = 0
    (fitted,) = NARROW.fit([Problem(problem.weight, problem.left, Side(seen))], 8)
    assert channels_of(values_of(fitted)["columns"], 8).tolist() == [0, 1, 3, 4, 5, 6, 8, 9]
    assert fitted.error == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("sets", [1, 2])
def test_what_writes_keeps_the_rows_that_are_read(sets: int) -> None:
    writer, problem = torch.randn(sets * 10, 6), reader()
    written, read = NARROW.fit([Problem(writer, Side(), Side()), problem], 4)
    kept = channels_of(values_of(read)["columns"], 4)
    rows = torch.cat([writer[start : start + 10][kept] for start in range(0, sets * 10, 10)])
    assert torch.equal(values_of(written)["linear.weight"], rows.double())
    bias = torch.arange(sets * 10.0)
    found = NARROW.biases(values_of(written), bias)["linear.bias"]
    assert torch.equal(found, torch.cat([kept + 10.0 * each for each in range(sets)]))
    whole, _ = NARROW.dense(values_of(written), 4)
    found_rows = whole.abs().sum(1).nonzero().squeeze(1)
    assert torch.equal(found_rows, torch.cat([kept + 10 * each for each in range(sets)]))

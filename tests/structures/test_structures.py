"""Laws of every structure: what it costs, what it loses, and what it refuses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from architectures import LLAMA
from fitting import SMALLER, SPECTRAL
from hypothesis import given, settings
from hypothesis import strategies as st
from linalg_cases import METRICS, SHAPES, Solved, replaced, sizes, weight

from eckart import structures
from eckart.compression.loaded import Loaded, prepare
from eckart.linalg import Problem, decompose
from eckart.recipes import making
from eckart.structures import Fitted, Shape, Site
from eckart.types import EckartError, Option, Target


def site(out_features: int, in_features: int) -> Site:
    return Site((Target("layer", out_features, in_features, False),))


def entries(fitted: Fitted) -> int:
    return sum(each.numel() for each in structures.values_of(fitted).values() if each.is_floating_point())


@pytest.mark.parametrize("structure", SMALLER)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("metric", METRICS)
def test_a_fit_costs_what_it_says_and_has_the_error_it_says(metric: str, shape: str, structure: str) -> None:
    W = weight(shape)
    left, right = METRICS[metric](*W.shape)
    form, problem = structures.find(structure), Problem(W, left, right)
    errors = form.errors(site(*W.shape), [problem])
    assert errors.dtype == torch.float64
    assert len(errors) > len(form.sizes(site(*W.shape)))
    assert float(errors[0]) == pytest.approx(problem.norm(W) ** 2, rel=1e-6)
    for size in sizes(shape, structure):
        (fitted,) = form.fit([problem], size)
        assert entries(fitted) == form.parameters(site(*W.shape), size)
        parts = form.parts(Shape(*W.shape), size)
        assert {name: tuple(each.shape) for name, each in structures.values_of(fitted).items()} == {
            name: part.shape for name, part in parts.items()
        }


@pytest.mark.parametrize("structure", SPECTRAL)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("metric", METRICS)
def test_what_is_spectral_loses_nothing_of_the_best_approximation(
    metric: str, shape: str, structure: str
) -> None:
    W = weight(shape)
    problem = Problem(W, *METRICS[metric](*W.shape))
    for rank in sizes(shape, structure):
        U, V = problem.approximation(rank)
        best, made = U @ V, replaced(problem, structure, rank)
        if structure == "lowrank":
            assert torch.equal(made, best)
        assert (made - best).norm() <= 1e-9 * best.norm()


@pytest.mark.parametrize("structure", SMALLER)
def test_the_sizes_that_pay_are_those_by_trial(structure: str) -> None:
    form = structures.find(structure)
    for out_features in range(1, 25):
        for in_features in range(1, 25):
            where = site(out_features, in_features)
            dense = structures.find("dense").parameters(where, 0)
            assert dense == out_features * in_features
            largest = form.largest(where.targets[0])
            assert list(form.sizes(where)) == [
                size for size in range(1, largest + 1) if form.parameters(where, size) < dense
            ]


def test_factors_cost_what_their_formulas_say() -> None:
    where = site(7, 5)
    assert structures.find("lowrank").parameters(where, 3) == 3 * 12
    assert structures.find("pivoted").parameters(where, 3) == 3 * (12 - 3)


def test_factors_beside_a_weight_come_on_top_of_its_own_and_never_pay() -> None:
    form = structures.find("quantized+lowrank")
    assert form.parameters(site(7, 5), 3) == 35 + 3 * 12
    assert not form.fewer
    # They save bytes, so all their ranks may stand.
    assert form.sizes(site(7, 5)) == range(1, 6)


def test_dense_costs_the_whole_weight_and_never_pays() -> None:
    form = structures.find("dense")
    assert form.parameters(site(7, 5), 3) == 35
    assert not form.fewer
    assert not len(form.sizes(site(7, 5)))
    assert "dense" in structures.STRUCTURES
    assert "dense" not in structures.replacements()


@pytest.mark.parametrize("structure", SMALLER)
def test_a_fit_that_is_not_finite_is_refused(structure: str, tokenizer: Any, monkeypatch: Any) -> None:
    recipe = making.make_recipe(method="svd", rank=4, structure=structure)
    bench = prepare(Loaded(LLAMA.build(), tokenizer, cache=False), recipe, []).bench
    form, where = structures.find(structure), bench.sites[0]
    fit = form.fit

    def broken(problems: Sequence[Any], size: int) -> list[Fitted]:
        (fitted,) = fit(problems, size)
        next(each for each in fitted.tensors.values() if each.is_floating_point())[0, 0] = torch.nan
        return [fitted]

    monkeypatch.setattr(form, "fit", broken)
    before = bench.model.get_submodule(where.name)
    with pytest.raises(EckartError, match=f"{where.name} .* not finite"):
        bench.place(where, Option(structure=structure, size=1), keep_dense=False)
    assert bench.model.get_submodule(where.name) is before


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**9), size=st.integers(1, 25), own=st.integers(0, 25), rank=st.integers(1, 24))
def test_rank_beyond_the_weights_own_gives_the_weight(seed: int, size: int, own: int, rank: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    W = torch.randn(size + 1, own, generator=draw) @ torch.randn(own, size, generator=draw)
    rank = min(rank, size)
    left, right = METRICS["full"](*W.shape)
    found = decompose(W, left, right)
    for structure in SPECTRAL:
        W_hat = replaced(Solved(W, left, right, found), structure, rank)
        assert torch.isfinite(W_hat).all()
        if rank >= own:
            # The weight's own rank is exact in float32 only up to its rounding.
            assert (W_hat - W).norm() <= 1e-5 * W.norm()

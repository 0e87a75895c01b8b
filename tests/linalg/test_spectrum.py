"""Laws of spectra: what ranks keep by definition, as numpy has it, and what is left beyond a part of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eckart.linalg import (
    Side,
    covers,
    decompose,
    effective_rank,
    energy_rank,
    leading_spectrum,
    output_cosines,
    random_cosines,
    spectrum_of,
    stable_rank,
)

SHARES = (0.5, 0.9, 0.95, 0.99, 0.999, 1.0)


def weight(out: int, into: int, seed: int = 0, power: float = 0.0) -> torch.Tensor:
    """A random matrix; with a power its values fall."""
    generator = torch.Generator().manual_seed(seed)
    flat = torch.randn(out, into, generator=generator, dtype=torch.float64)
    U, s, V = torch.linalg.svd(flat, full_matrices=False)
    return (U * (s / torch.arange(1, len(s) + 1) ** power)) @ V


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(30, 30), (70, 20), (20, 70), (1, 9), (9, 1), (600, 700)])
def test_values_and_errors_are_those_of_numpy(shape: tuple[int, int], dtype: torch.dtype) -> None:
    W = weight(*shape, power=1.0).to(dtype)
    expected = np.linalg.svd(W.double().numpy(), compute_uv=False)
    found = spectrum_of(W)
    assert np.allclose(found.values, expected, rtol=0, atol=1e-7 * expected[0])
    errors = np.sqrt(np.append(np.cumsum(expected[::-1] ** 2)[::-1], 0) / (expected**2).sum())
    assert np.allclose(np.sqrt(found.tail / found.tail[0]), errors, atol=1e-6)
    for share in SHARES[:-1]:
        kept = np.cumsum(expected**2) / (expected**2).sum()
        assert energy_rank(found, share) == int(np.argmax(kept >= share)) + 1


def test_a_weight_longer_than_a_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    W = weight(40, 100)
    whole = spectrum_of(W)
    few = leading_spectrum(W, 8)
    monkeypatch.setattr("eckart.linalg.spectrum.PIECE", 7)
    assert np.allclose(spectrum_of(W).values, whole.values, rtol=1e-12)
    assert np.allclose(spectrum_of(W.T).values, whole.values, rtol=1e-12)
    again = leading_spectrum(W, 8)
    assert np.allclose(again.values, few.values, rtol=1e-4)
    assert again.tail[0] == pytest.approx(whole.tail[0], rel=1e-12)


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 5))
def test_laws(out: int, into: int, seed: int) -> None:
    W = weight(out, into, seed)
    found = spectrum_of(W)
    assert len(found.values) == min(out, into)
    assert (np.diff(found.values) <= 0).all()
    assert found.tail[-1] == 0
    assert found.tail[0] == pytest.approx(float(W.square().sum()), rel=1e-12)
    for share in SHARES:
        rank = energy_rank(found, share)
        assert rank is not None
        assert found.tail[rank] <= (1 - share) * found.tail[0] + 1e-9
        assert rank == 0 or found.tail[rank - 1] > (1 - share) * found.tail[0]
    assert 1 - 1e-9 <= stable_rank(found) <= min(out, into) + 1e-9
    assert 1 - 1e-9 <= effective_rank(found) <= min(out, into) + 1e-9
    cosines = random_cosines(found, range(1, min(out, into) + 1))
    assert (np.diff(cosines) >= 0).all()
    assert cosines[-1] == pytest.approx(1.0)


def test_what_an_identity_has() -> None:
    found = spectrum_of(3 * torch.eye(10))
    assert [energy_rank(found, share) for share in (0.9, 0.95, 1.0)] == [9, 10, 10]
    assert stable_rank(found) == pytest.approx(10)
    assert effective_rank(found) == pytest.approx(10)


def test_a_zero_weight() -> None:
    found = spectrum_of(torch.zeros(4, 6))
    assert energy_rank(found, 0.9) == 0
    assert (stable_rank(found), effective_rank(found), random_cosines(found, [2])) == (0, 0, [1.0])
    assert leading_spectrum(torch.zeros(80, 90), 3).tail.tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("find", [spectrum_of, lambda W: leading_spectrum(W, 2)])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused(find: object, bad: float) -> None:
    W = torch.ones(30, 40)
    W[3, 4] = bad
    with pytest.raises(ValueError, match="not finite"):
        find(W)  # type: ignore[operator]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(300, 300), (700, 300), (300, 700)])
def test_leading_values_of_a_weight_whose_values_fall(shape: tuple[int, int], dtype: torch.dtype) -> None:
    W = weight(*shape, power=0.5).to(dtype)
    exact, found = spectrum_of(W), leading_spectrum(W, 32)
    assert len(found.values) == 32
    assert not covers(32, 300)
    assert np.allclose(found.values, exact.values[:32], rtol=0.01)
    assert (found.values <= exact.values[:32] * (1 + 1e-9)).all()
    assert found.tail[0] == pytest.approx(exact.tail[0], rel=1e-12)
    assert (found.tail >= exact.tail[:33] * (1 - 1e-9)).all()
    assert (np.sqrt(found.tail) <= np.sqrt(exact.tail[:33]) * 1.01).all()
    assert energy_rank(found, 0.999) is None
    assert energy_rank(found, 0.2) == energy_rank(exact, 0.2)


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_leading_values_of_tiny_and_huge_entries(size: float) -> None:
    W = weight(100, 120, power=1.0).float()
    assert np.allclose(leading_spectrum(W * size, 4).values, spectrum_of(W).values[:4] * size, rtol=0.01)


def test_a_subspace_that_would_be_everything_is_exact() -> None:
    W = weight(20, 30)
    assert covers(12, 20)
    assert leading_spectrum(W, 12).values.tolist() == spectrum_of(W).values.tolist()
    assert len(leading_spectrum(W, 99).values) == 20


@pytest.mark.parametrize("shape", [(24, 24), (60, 24), (24, 60)])
def test_cosines_are_those_of_random_inputs_that_are_really_projected(shape: tuple[int, int]) -> None:
    W = weight(*shape, power=0.5)
    U, s, V = torch.linalg.svd(W, full_matrices=False)
    x = torch.randn(20000, shape[1], generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ranks = [1, 6, 12, 24]
    drawn = random_cosines(spectrum_of(W), ranks, draws=20000)
    for rank, cosine in zip(ranks, drawn, strict=True):
        cut = (U[:, :rank] * s[:rank]) @ V[:rank]
        real = torch.nn.functional.cosine_similarity(x @ W.T, x @ cut.T)
        assert cosine == pytest.approx(
            float(real.mean()), abs=4 * float(real.std()) * (2 / 20000) ** 0.5 + 1e-9
        )
    few = random_cosines(spectrum_of(W), ranks)
    assert np.allclose(few, drawn, atol=0.05)
    assert few == random_cosines(spectrum_of(W), ranks)


def test_cosines_of_a_part_of_the_values_count_the_rest() -> None:
    W = weight(200, 200, power=0.5)
    exact, part = spectrum_of(W), leading_spectrum(W, 20)
    few, all_ = (random_cosines(found, [5, 20], draws=4000) for found in (part, exact))
    assert np.allclose(few, all_, atol=0.01)


@pytest.mark.parametrize("shape", [(24, 24), (60, 24), (24, 60)])
def test_cosines_of_inputs_are_those_of_the_truncated_weight(shape: tuple[int, int]) -> None:
    W = weight(*shape, power=0.5)
    x = torch.randn(50, shape[1], generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    side = Side(x.T @ x)
    for right in (Side(), side):
        solved = decompose(W, Side(), right, rank=12, solver="exact")
        found = output_cosines(W, solved.basis, x, [3, 12])
        for rank, cosine in zip([3, 12], found, strict=True):
            U, V = solved.factors(W, rank)
            real = torch.nn.functional.cosine_similarity(x @ W.T, x @ (U @ V).T)
            assert cosine == pytest.approx(float(real.mean()), rel=1e-9)


def test_inputs_without_an_output_do_not_count() -> None:
    W = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    basis = torch.eye(2, dtype=torch.float64)
    assert output_cosines(W, basis, torch.tensor([[1.0, 0.0], [0.0, 1.0]]), [1]) == [1.0]
    assert output_cosines(W, basis, torch.tensor([[0.0, 1.0]]), [1]) == [1.0]

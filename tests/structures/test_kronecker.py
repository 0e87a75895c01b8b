"""The mathematics of Kronecker sums."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from eckart.linalg import Problem, Side
from eckart.structures import Shape, find, values_of
from eckart.structures.kronecker import kronecker_shapes, rearranged

KRONECKER = find("kronecker")


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def sum_of(terms: int, out: int, inner: int) -> torch.Tensor:
    m1, n1, m2, n2 = kronecker_shapes(out, inner)
    pairs = [(normal(m1, n1, seed=k), normal(m2, n2, seed=100 + k)) for k in range(terms)]
    return sum(torch.kron(A, B) for A, B in pairs)


@pytest.mark.parametrize(
    ("out", "inner"), [(48, 36), (36, 48), (64, 64), (30, 7), (13, 11), (1, 20), (20, 1)]
)
def test_shapes_multiply_to_the_weights_and_have_the_fewest_parameters(out, inner):
    m1, n1, m2, n2 = kronecker_shapes(out, inner)
    assert (m1 * m2, n1 * n2) == (out, inner)
    divisors = [[each for each in range(1, size + 1) if size % each == 0] for size in (out, inner)]
    assert m1 * n1 + m2 * n2 == min(
        a * b + (out // a) * (inner // b) for a in divisors[0] for b in divisors[1]
    )


def test_a_product_has_rank_one_where_blocks_are_rows():
    assert torch.linalg.matrix_rank(rearranged(sum_of(1, 48, 36))) == 1
    assert torch.linalg.matrix_rank(rearranged(sum_of(3, 48, 36))) == 3


@pytest.mark.parametrize("metric", ["identity", "two-sided"])
def test_a_sum_of_as_many_products_is_found_again(metric):
    W, X, G = sum_of(3, 48, 36), normal(36, 90, seed=7), normal(48, 90, seed=8)
    sides = (Side(), Side()) if metric == "identity" else (Side(G @ G.T).shrunk(0.01), Side(X @ X.T))
    (found,) = KRONECKER.fit([Problem(W, *sides)], 3)
    assert (KRONECKER.dense(values_of(found), 3)[0] - W).norm() <= 1e-6 * W.norm()


def test_in_the_identitys_metric_it_is_the_truncated_svd_of_the_blocks():
    W = normal(48, 36)
    values = np.linalg.svd(rearranged(W).numpy(), compute_uv=False)
    for terms in (1, 4, 9):
        (found,) = KRONECKER.fit([Problem(W, Side(), Side())], terms)
        left = (KRONECKER.dense(values_of(found), terms)[0] - W).norm() ** 2
        assert float(left) == pytest.approx(float((values[terms:] ** 2).sum()), rel=1e-9)


def test_solving_in_turns_gains_much_in_a_metric_that_is_far_from_the_identity():
    W = normal(48, 36)
    X = normal(36, 36, seed=1) * torch.logspace(0, -1.5, 36, dtype=torch.float64)
    problem = Problem(W, Side(), Side(X @ X.T))
    (fit,), (draft,) = KRONECKER.fit([problem], 8), KRONECKER.draft([problem], 8)
    one, other = (problem.relative_error(KRONECKER.dense(values_of(each), 8)[0]) for each in (fit, draft))
    assert one < 0.8 * other


def test_the_dense_weight_is_the_sum_of_the_products():
    layer = KRONECKER.layer(Shape(48, 36), 2, dtype=torch.float64)
    _, n1, m2, _ = kronecker_shapes(48, 36)
    A, B = layer.A.weight.detach(), layer.B.weight.detach()
    expected = sum(torch.kron(A[:, k * n1 : (k + 1) * n1], B[k * m2 : (k + 1) * m2]) for k in range(2))
    assert torch.allclose(KRONECKER.dense(layer.state_dict(), 2)[0], expected)
    x = normal(5, 36)
    with torch.no_grad():
        assert torch.allclose(layer(x), x @ expected.T)

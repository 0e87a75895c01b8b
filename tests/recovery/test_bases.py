"""A weight as a sum of bases: what it computes, what dropping one costs, and when they are dropped."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from eckart.recovery.bases import BasisLinear, Selecting, importance, ranks
from eckart.types import Curve, Selection


def layer(out_features: int = 6, in_features: int = 5, additional: int = 3, trained: bool = False) -> tuple:
    torch.manual_seed(0)
    weight = torch.randn(out_features, in_features)
    U, values, V = torch.linalg.svd(weight, full_matrices=False)
    chance = torch.Generator().manual_seed(0)
    module = BasisLinear(
        U * values.sqrt(), values.sqrt()[:, None] * V, torch.randn(out_features), additional, chance, trained
    )
    return weight, module


def worth(module: BasisLinear) -> None:
    """Additional bases that do something."""
    with torch.no_grad():
        module.added_U.copy_(torch.randn_like(module.added_U))


def curves(*modules: BasisLinear) -> list[Curve]:
    found = []
    for module in modules:
        each, dense = module.in_features + module.out_features, module.in_features * module.out_features
        found.append(Curve(np.arange((dense - 1) // each + 1) * each, dense))
    return found


@pytest.mark.parametrize("trained", [False, True])
def test_it_begins_as_the_weight_it_came_from(trained):
    weight, module = layer(trained=trained)
    x = torch.randn(2, 3, 5)
    assert torch.allclose(module(x), nn.functional.linear(x, weight, module.bias), atol=1e-5)
    assert module.rank == 5 + 3
    learning = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    assert learning == {"weights", "added_U", "added_V"} | ({"U", "V"} if trained else set())


@pytest.mark.parametrize("left", [1, 2, 7])
def test_what_was_dropped_is_no_part_of_it_on_either_way_of_computing(left):
    _, module = layer()
    worth(module)
    stay = torch.zeros(8, dtype=torch.bool)
    stay[torch.randperm(8)[:left]] = True
    module.keep(stay)
    U = torch.cat([module.U * module.weights, module.added_U], 1)[:, stay]
    V = torch.cat([module.V, module.added_V])[stay]
    x = torch.randn(4, 5)
    assert torch.allclose(module.weight(), U @ V, atol=1e-5)
    assert torch.allclose(module(x), x @ (U @ V).T + module.bias, atol=1e-5)
    module.keep(torch.ones(8, dtype=torch.bool))
    assert module.rank == left


def test_only_its_state_of_training_is_in_a_checkpoint():
    _, module = layer()
    assert set(module.state_dict()) == {"weights", "added_U", "added_V", "kept", "slope", "curvature"}


def by_hand(module: BasisLinear, loss) -> torch.Tensor:
    """The derivative by a factor on each basis, by differences, in float64."""
    found, step = [], 1e-6
    for basis in range(8):
        values = []
        for sign in (step, -step):
            factor = torch.ones(8, dtype=torch.float64)
            factor[basis] += sign
            U = torch.cat([module.U * module.weights, module.added_U], 1) * factor
            values.append(loss(U @ torch.cat([module.V, module.added_V])))
        found.append((values[0] - values[1]).item() / (2 * step))
    return torch.tensor(found, dtype=torch.float64)


def test_the_slope_is_the_derivative_by_a_factor_on_what_a_basis_adds():
    _, module = layer()
    module = module.double()
    worth(module)
    x = torch.randn(20, 5, dtype=torch.float64)
    (module(x) ** 2).sum().backward()
    with torch.no_grad():
        expected = by_hand(module, lambda weight: ((x @ weight.T + module.bias) ** 2).sum())
    assert torch.allclose(module.per_basis(module.weights.grad, module.added_U.grad), expected, rtol=1e-5)
    importance.gather_squares([module])
    assert torch.allclose(module.curvature, expected.square() * (1 - importance.MEMORY), rtol=1e-5)


def test_probes_find_slope_and_curvature_and_leave_the_weights_as_they_are():
    _, module = layer()
    module = module.double()
    worth(module)
    before = [parameter.clone() for parameter in module.parameters()]
    x = torch.randn(20, 5, dtype=torch.float64)

    def loss() -> torch.Tensor:
        return ((module(x) - 1) ** 2).mean()

    chance = torch.Generator().manual_seed(0)
    for _ in range(400):
        importance.probe([module], loss, chance)
    assert all(torch.equal(one, other) for one, other in zip(before, module.parameters(), strict=True))
    factor = torch.ones(8, dtype=torch.float64, requires_grad=True)
    with torch.no_grad():
        U = torch.cat([module.U * module.weights, module.added_U], 1)
        V = torch.cat([module.V, module.added_V])

    def of(factor: torch.Tensor) -> torch.Tensor:
        return ((x @ ((U * factor) @ V).T + module.bias - 1) ** 2).mean()

    slope = torch.autograd.functional.jacobian(of, factor)
    curvature = torch.autograd.functional.hessian(of, factor).diagonal()
    assert torch.allclose(module.slope, slope, rtol=0.3, atol=0.1 * float(slope.abs().max()))
    assert torch.allclose(module.curvature, curvature, rtol=0.5, atol=0.3 * float(curvature.max()))
    assert torch.allclose(importance.expected_loss(module), module.curvature / 2 - module.slope)


def test_magnitude_is_the_length_of_what_a_basis_adds():
    weight, module = layer()
    assert torch.allclose(importance.magnitude(module)[:5], torch.linalg.svdvals(weight), atol=1e-5)
    assert not importance.magnitude(module)[5:].any()


@pytest.mark.parametrize("schedule", ["cubic", "linear"])
@pytest.mark.parametrize("prunes", [1, 2, 7, 1000])
def test_the_allowance_falls_in_so_many_steps_from_dense_to_the_budget(schedule, prunes):
    _, module = layer(60, 50)
    selecting = Selecting(
        {"a": module}, curves(module), 700, Selection(prunes=prunes, prune_schedule=schedule)
    )
    steps = 200
    allowed = [selecting.allowance(step / steps) for step in range(steps + 1)]
    assert allowed[0] == 3000
    assert allowed[-1] == 700
    assert allowed == sorted(allowed, reverse=True)
    if prunes < 10:
        assert len(set(allowed)) == prunes + 1
    else:
        halfway = selecting.allowance(0.5)
        assert halfway == pytest.approx(700 + 2300 * (0.125 if schedule == "cubic" else 0.5), rel=0.01)


def test_additional_bases_stay_while_they_are_young_and_are_ranked_with_the_others_then():
    _, module = layer(60, 50)
    module.curvature[: module.pretrained] = torch.arange(50.0) + 1
    selecting = Selecting({"a": module}, curves(module), 330, Selection(additional=3))
    selecting.drop(1100, young=True)
    assert module.rank == 10 + 3
    assert module.kept[-3:].all()
    assert module.kept[40:50].all()
    module.curvature[-1] = 100
    selecting.drop(330)
    assert module.rank == 3
    assert module.kept[-3:].tolist() == [False, False, True]
    assert ranks({"a": module}, curves(module)) == [3]

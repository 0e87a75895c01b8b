"""What every structure promises, over metrics and shapes: one is held to it as soon as it is registered."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from eckart import structures
from eckart.linalg import Problem, Side
from eckart.model import replacing
from eckart.structures import Shape, Site, float_tensors, values_of
from eckart.types import Option, Target

SHAPES = {
    # name: out, in, the weight's own rank, dtype
    "tall": (40, 24, 24, torch.float32),
    "wide": (24, 40, 24, torch.float32),
    "square": (32, 32, 32, torch.float64),
    "rank-deficient": (36, 28, 5, torch.float64),
    "prime": (31, 29, 29, torch.float32),
    "bf16": (30, 24, 24, torch.bfloat16),
}
METRICS: dict[str, Callable[[int, int], tuple[Side, Side]]] = {
    "identity": lambda m, n: (Side(), Side()),
    "diagonal": lambda m, n: (Side(), Side(drawn("diagonal", n).abs() + 0.1)),
    "full": lambda m, n: (Side(), Side(gram(n, 3 * n))),
    "singular": lambda m, n: (Side(), Side(gram(n, n // 2))),
    "two-sided": lambda m, n: (Side(gram(m, m // 2, "out")).shrunk(0.01), Side(gram(n, 3 * n))),
}
every_structure = pytest.mark.parametrize("name", structures.replacements())
every_shape = pytest.mark.parametrize("shape", SHAPES)
every_metric = pytest.mark.parametrize("metric", METRICS)


def drawn(*key: object) -> Tensor:
    """Standard normal numbers; the last of the key is how many, or a shape."""
    size = key[-1]
    return torch.from_numpy(np.random.default_rng(zlib.crc32(repr(key).encode())).normal(size=size))


def gram(size: int, samples: int, *key: object) -> Tensor:
    X = drawn("gram", *key, (samples, size)) * torch.logspace(0, -1, size, dtype=torch.float64)
    return X.T @ X


def problem_of(shape: str, metric: str, bits: int | None = None) -> Problem:
    out, inner, rank, dtype = SHAPES[shape]
    decay = torch.logspace(0, -1.5, rank, dtype=torch.float64)
    W = (drawn("left", shape, (out, rank)) * decay) @ drawn("right", shape, (rank, inner))
    return Problem(W.to(dtype), *METRICS[metric](out, inner), bits=bits)


def site_of(shape: str, bias: bool = False) -> Site:
    out, inner, _, _ = SHAPES[shape]
    return Site((Target("layer", out, inner, bias),))


def some_sizes(structure: structures.Structure, shape: str) -> list[int]:
    """The smallest, some between and the largest that a site may have."""
    sizes = structure.sizes(site_of(shape))
    count = min(len(sizes), 12)
    return sorted({1, max(1, count // 2), max(1, count), len(sizes) if structure.spectral else 1})


def bits_of(structure: structures.Structure) -> int | None:
    return 8 if structure.needs_bits else None


def fitted(structure: structures.Structure, problem: Problem, size: int) -> structures.Fitted:
    (found,) = structure.fit([problem], size)
    return found


def test_a_name_is_a_structures_own() -> None:
    for name, structure in structures.STRUCTURES.items():
        assert structure.name == name
        assert structures.find(name) is structure
    assert "dense" not in structures.replacements()
    assert len({type(each) for each in structures.STRUCTURES.values()}) == len(structures.STRUCTURES)


@every_structure
@pytest.mark.parametrize("bias", [True, False])
@every_shape
def test_a_layers_state_dict_is_its_parts(name: str, shape: str, bias: bool) -> None:
    structure = structures.find(name)
    (target,) = site_of(shape, bias).targets
    for size in some_sizes(structure, shape):
        layer = structure.layer(target, size, "cpu", torch.float32)
        held = {key: tuple(tensor.shape) for key, tensor in layer.state_dict().items()}
        parts = structure.parts(target, size)
        assert held == {key: part.shape for key, part in parts.items()}
        assert structures.structure_of(layer) is structure
        assert layer.size == size
        assert layer.weight.shape == (target.out_features, target.in_features)
        assert (getattr(layer, "bias", None) is not None) == bias
        for key, part in parts.items():
            is_float = layer.state_dict()[key].is_floating_point()
            assert is_float == (part.role != "index"), key
        assert (
            sum(part.entries for part in parts.values() if part.role == "bias") == bias * target.out_features
        )


@every_structure
@every_shape
def test_sizes_are_those_with_fewer_parameters(name: str, shape: str) -> None:
    structure, site = structures.find(name), site_of(shape)
    (target,) = site.targets
    dense = target.out_features * target.in_features
    sizes = structure.sizes(site)
    counts = [structure.parameters(site, size) for size in sizes]
    assert all(before < after for before, after in pairwise(counts))
    if not structure.fewer:
        assert all(count > dense for count in counts)
        return
    assert all(count < dense for count in counts)
    beyond = len(sizes) + 1
    assert beyond > structure.largest(target) or structure.parameters(site, beyond) >= dense
    layer = structure.layer(target, 1, "cpu", torch.float32)
    assert sum(each.numel() for each in layer.parameters()) == counts[0]


@every_structure
@every_metric
@every_shape
def test_the_error_that_is_said_is_the_error_that_is_measured(name: str, shape: str, metric: str) -> None:
    structure = structures.find(name)
    problem = problem_of(shape, metric, bits_of(structure))
    for size in some_sizes(structure, shape):
        found = fitted(structure, problem, size)
        names = {key for key, part in structure.parts(Shape(*problem.weight.shape), size).items()}
        assert set(found.tensors) == names
        measured = problem.relative_error(structure.dense(values_of(found), size)[0])
        if found.error is not None:
            assert measured == pytest.approx(found.error, rel=1e-6, abs=1e-5)
        if structure.spectral:
            assert measured == pytest.approx(problem.approximation_error(size), rel=1e-6, abs=1e-5)


@every_structure
@every_metric
def test_more_is_never_worse_and_the_curve_says_so(name: str, metric: str) -> None:
    structure = structures.find(name)
    problem, site = problem_of("tall", metric, bits_of(structure)), site_of("tall")
    errors = structure.errors(site, [problem])
    assert len(errors) >= 1 + len(structure.sizes(site))
    assert float(errors[0]) == pytest.approx(problem.norm(problem.weight) ** 2, rel=1e-6)
    assert all(after <= before * (1 + 1e-9) for before, after in pairwise(errors.tolist()))
    last = np.inf
    for size in some_sizes(structure, "tall"):
        error = problem.relative_error(structure.dense(values_of(fitted(structure, problem, size)), size)[0])
        assert error <= last * (1 + 1e-6) + 1e-6
        # The smallest and the largest are known by drafts, which a fit does not fall behind.
        if structure.spectral or size in (1, len(structure.sizes(site))):
            assert error**2 * float(errors[0]) <= 1.0001 * float(errors[size]) + 1e-9
        last = error


@every_structure
@every_metric
def test_the_full_size_gives_the_weight(name: str, metric: str) -> None:
    structure = structures.find(name)
    problem = problem_of("square", metric, bits_of(structure))
    size = structure.largest(Shape(*problem.weight.shape))
    if size not in structure.sizes(site_of("square")):
        size = min(size, problem.weight.shape[0] - 1) if structure.spectral else size
    found = structure.dense(values_of(fitted(structure, problem, size)), size)[0]
    whole = problem.weight.norm()
    assert (found - problem.weight).norm() <= (0.1 if structure.spectral else 1e-6) * whole


@every_structure
def test_the_metrics_unit_changes_nothing(name: str) -> None:
    structure = structures.find(name)
    problem = problem_of("wide", "two-sided", bits_of(structure))
    left, right = gram(24, 12, "out"), gram(40, 120)
    other = Problem(problem.weight, Side(100 * left).shrunk(0.01), Side(right / 7), bits=problem.bits)
    size = some_sizes(structure, "wide")[1]
    one, two = (
        structure.dense(values_of(fitted(structure, each, size)), size)[0] for each in (problem, other)
    )
    assert torch.allclose(one, two, rtol=1e-6, atol=1e-6 * float(one.abs().max()))


@every_structure
def test_it_is_the_same_twice_and_weights_that_are_not_finite_are_refused(name: str) -> None:
    structure = structures.find(name)
    problem = problem_of("tall", "full", bits_of(structure))
    one, two = (values_of(fitted(structure, problem.of(problem.weight), 3)) for _ in range(2))
    assert all(torch.equal(one[key], two[key]) for key in one)
    damaged = problem.weight.clone()
    damaged[1, 1] = torch.nan
    try:
        found = values_of(fitted(structure, problem.of(damaged), 3))
    except (ValueError, RuntimeError):
        return
    # What is not finite the engine refuses.
    assert not all(torch.isfinite(each).all() for each in found.values())


@every_structure
@pytest.mark.parametrize("bias", [True, False])
@every_shape
def test_a_module_answers_as_the_weight_that_its_tensors_stand_for(name: str, shape: str, bias: bool) -> None:
    structure = structures.find(name)
    problem = problem_of(shape, "identity", bits_of(structure))
    out, inner = problem.weight.shape
    holder = nn.Module()
    holder.layer = nn.Linear(inner, out, bias=bias, dtype=problem.weight.dtype)
    dense = holder.layer
    for size in some_sizes(structure, shape):
        holder.layer = dense
        found = fitted(structure, problem, size)
        held = replacing.replace(holder, "layer", Option(structure=name, size=size), found.tensors)
        weight, own = replacing.dense_of(holder.layer)
        assert torch.equal(weight, structure.dense(held, size)[0])
        assert torch.equal(held[next(iter(held))], float_tensors(holder.layer)[next(iter(held))])
        x = drawn("x", (5, 3, inner)).to(dense.weight.dtype)
        rough = 0.06 if dense.weight.dtype == torch.bfloat16 else 1e-4
        for rows in (x, x[:1, :1]):
            expected = rows.double() @ weight.T + (0 if dense.bias is None else dense.bias.double())
            with torch.no_grad():
                answer = holder.layer(rows).double()
            assert (answer - expected).norm() <= rough * (1 + expected.norm())
        if bias:
            assert own is not None
            assert torch.allclose(own, dense.bias.double(), atol=rough)


@every_structure
def test_what_a_config_says_of_a_module_is_read_again(name: str) -> None:
    from eckart.model.portable import swap_modules
    from eckart.model.portable.entries import read_entry

    structure = structures.find(name)
    assert read_entry("layer", structure.entry(3)) == (name, 3)
    holder = nn.Module()
    holder.layer = nn.Linear(24, 40)
    swap_modules(holder, {"layer": structure.entry(3)})
    assert structures.structure_of(holder.layer) is structure
    holder.layer = nn.Linear(24, 40)
    with pytest.raises(ValueError, match=r"layer: the config gives it rank \d+"):
        swap_modules(holder, {"layer": structure.entry(10**6)})


@every_structure
def test_matrices_are_rounded_to_plain_numbers_and_the_error_of_it_is_said(name: str) -> None:
    structure = structures.find(name)
    if structure.needs_bits:
        return
    problem = problem_of("wide", "full", 8)
    size = some_sizes(structure, "wide")[1]
    tensors = values_of(fitted(structure, problem, size))
    rounded, error = structure.round(problem, size, tensors)
    parts = structure.parts(Shape(*problem.weight.shape), size)
    assert set(rounded) == {key for key, part in parts.items() if part.role == "matrix" and part.rounded}
    after = structure.dense({**tensors, **{key: each.values() for key, each in rounded.items()}}, size)[0]
    before = structure.dense(tensors, size)[0]
    assert error == pytest.approx(problem.norm(before - after) / problem.norm(before), rel=1e-5)
    assert 0 < error < 0.05
    plain = {key: problem.round(tensors[key]).values() for key in rounded}
    worse = structure.dense({**tensors, **plain}, size)[0]
    assert error <= problem.norm(before - worse) / problem.norm(before) * (1 + 1e-6)


@every_structure
def test_it_is_an_embedding_with_the_same_tensors_or_says_no(name: str) -> None:
    structure, old = structures.find(name), nn.Embedding(40, 24)
    if "embedding" not in structure.supports:
        with pytest.raises(NotImplementedError, match=f"an embedding cannot be {name}".replace("+", r"\+")):
            structure.embedding(old, 3, 1.0, "cpu")
        return
    problem = problem_of("tall", "identity")
    found = values_of(fitted(structure, problem, 5))
    module: Any = structure.embedding(old, 5, 2.0, "cpu")
    parts = structure.parts(Shape(40, 24), 5)
    assert {key: tuple(each.shape) for key, each in module.state_dict().items()} == {
        key: part.shape for key, part in parts.items()
    }
    module.load_state_dict({key: each.to(module.state_dict()[key].dtype) for key, each in found.items()})
    ids = torch.tensor([[0, 39, 7], [3, 3, 12]])
    expected = 2.0 * structure.dense(found, 5)[0][ids]
    assert torch.allclose(module(ids).double(), expected, atol=1e-5)


@every_structure
@pytest.mark.parametrize("bias", [True, False])
def test_shards_together_are_the_module_or_it_says_no(name: str, bias: bool) -> None:
    structure = structures.find(name)
    problem = problem_of("tall", "identity", bits_of(structure))
    tensors = values_of(fitted(structure, problem, 5))
    if bias:
        tensors |= structure.biases(tensors, drawn("bias", 40))
    if "sharding" not in structure.supports:
        with pytest.raises(NotImplementedError, match="cannot be shared out"):
            structure.shard(tensors, torch.arange(40), slice(0, 24))
        assert not structure.columns
        assert not structure.rows
        return
    weight, offset = structure.dense(tensors, 5)
    x = drawn("x", (24,))
    for rows in (torch.arange(0, 17), torch.arange(17, 40), torch.tensor([39, 2, 11])):
        halves = [structure.shard(tensors, rows, each) for each in (slice(0, 10), slice(10, 24))]
        first = halves[0].first.double() @ x[:10] + halves[1].first.double() @ x[10:]
        (shard, _) = halves
        both = first if shard.second is None else torch.cat([first, shard.second.double() @ first])
        outputs = both[len(first) :] if shard.order is None else both[shard.order.long()]
        if shard.bias is not None:
            outputs = outputs + shard.bias.double()
        expected = weight[rows] @ x + (0 if offset is None else offset[rows])
        assert torch.allclose(outputs, expected, atol=1e-8)

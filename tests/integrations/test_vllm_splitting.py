"""What the processes of a tensor-parallel vLLM hold, put together, is the whole module."""

from __future__ import annotations

import pytest
import torch
from fitting import SHARDING, put_fitted
from torch import Tensor, nn

from eckart import structures
from eckart.integrations.vllm.parts import Part
from eckart.integrations.vllm.splitting import Joined
from eckart.structures import Shape
from eckart.types import EckartError

INPUTS, OUTPUTS, RANK = 24, 48, 10
ALL = slice(0, INPUTS)


class Holder(nn.Module):
    def __init__(self, structure: str, bias: bool, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.layer = nn.Linear(INPUTS, OUTPUTS, bias=bias, dtype=torch.float64)
        with torch.no_grad():
            for parameter in self.layer.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
        if structure != "dense":
            put_fitted(self, "layer", structure, RANK)


def part_of(structure: str, holder: Holder, rows: Tensor, columns: slice = ALL, biased: bool = False) -> Part:
    rank = 0 if structure == "dense" else RANK
    part = Part("block.q", structure, rank, INPUTS, OUTPUTS, rows, columns)
    tensors = holder.layer.state_dict()
    # The order of a safetensors file: `order` is the last.
    shape = Shape(OUTPUTS, INPUTS, biased and structure != "dense")
    for key in sorted(structures.find(structure).parts(shape, rank)):
        part.offer(key, tensors[key], biased, torch.device("cpu"), torch.float64)
    assert part.missing(biased) == []
    return part


def outputs(parts: list[Part], x: Tensor) -> Tensor:
    joined = Joined([part.shard for part in parts])
    biases = [part.shard.bias for part in parts]
    return joined.write(joined.read(x), None if biases[0] is None else torch.cat(biases))


@pytest.mark.parametrize("ways", [1, 2, 3, 4, 8, 48])
@pytest.mark.parametrize("structure", SHARDING)
@pytest.mark.parametrize("biased", [False, True])
def test_rows_of_all_processes_are_the_module(structure: str, biased: bool, ways: int) -> None:
    holder, x = Holder(structure, biased), torch.randn(5, INPUTS, dtype=torch.float64)
    rows = torch.arange(OUTPUTS).chunk(ways)
    whole = torch.cat([outputs([part_of(structure, holder, own, ALL, biased)], x) for own in rows], dim=-1)
    torch.testing.assert_close(whole, holder.layer(x))


@pytest.mark.parametrize("ways", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("structure", SHARDING)
def test_columns_of_all_processes_add_up_before_the_second_factor(structure: str, ways: int) -> None:
    holder, x = Holder(structure, bias=True), torch.randn(5, INPUTS, dtype=torch.float64)
    width = INPUTS // ways
    slices = [slice(index * width, (index + 1) * width) for index in range(ways)]
    parts = [part_of(structure, holder, torch.arange(OUTPUTS), columns, biased=True) for columns in slices]
    joined = [Joined([part.shard]) for part in parts]
    hidden = sum(own.read(x[:, columns]) for own, columns in zip(joined, slices, strict=True))
    assert hidden.shape[-1] == RANK
    torch.testing.assert_close(joined[0].write(hidden, parts[0].shard.bias), holder.layer(x))


@pytest.mark.parametrize("ways", [1, 2, 4])
@pytest.mark.parametrize("kinds", [("lowrank", "lowrank", "dense"), ("pivoted", "dense", "lowrank")])
def test_modules_of_one_layer_read_once_and_keep_their_places(kinds: tuple[str, ...], ways: int) -> None:
    holders = [Holder(structure, False, seed) for seed, structure in enumerate(kinds)]
    x = torch.randn(2, 5, INPUTS, dtype=torch.float64)
    for rows in torch.arange(OUTPUTS).chunk(ways):
        parts = [part_of(kind, holder, rows) for kind, holder in zip(kinds, holders, strict=True)]
        wanted = torch.cat([holder.layer(x)[..., rows] for holder in holders], dim=-1)
        torch.testing.assert_close(outputs(parts, x), wanted)


def test_rows_that_are_not_neighbours() -> None:
    # Query, key and value fused on disk: a process holds a piece of each.
    holder, x = Holder("pivoted", bias=True), torch.randn(5, INPUTS, dtype=torch.float64)
    rows = torch.cat([torch.arange(8, 16), torch.arange(40, 44), torch.arange(44, 48)])
    torch.testing.assert_close(
        outputs([part_of("pivoted", holder, rows, biased=True)], x), holder.layer(x)[:, rows]
    )


def test_compiles_in_one_piece() -> None:
    holders = [Holder("pivoted", False, 1), Holder("lowrank", False, 2)]
    rows = torch.arange(OUTPUTS)
    joined = Joined(
        [part_of(kind, h, rows).shard for kind, h in zip(("pivoted", "lowrank"), holders, strict=True)]
    )
    compiled = torch.compile(lambda x: joined.write(joined.read(x)), fullgraph=True, backend="eager")
    x = torch.randn(5, INPUTS, dtype=torch.float64)
    torch.testing.assert_close(compiled(x), torch.cat([holder.layer(x) for holder in holders], dim=-1))


def new_part(structure: str = "pivoted") -> Part:
    return Part("block.q", structure, RANK, INPUTS, OUTPUTS, torch.arange(OUTPUTS), ALL)


def offer(part: Part, key: str, tensor: Tensor, biased: bool = False) -> None:
    part.offer(key, tensor, biased, torch.device("cpu"), torch.float32)


def test_what_did_not_arrive_is_named() -> None:
    part = new_part()
    offer(part, "V.weight", torch.zeros(RANK, INPUTS))
    assert part.missing(biased=False) == ["block.q.U.weight", "block.q.order"]
    assert part.missing(biased=True)[-2:] == ["block.q.V.bias", "block.q.U.bias"]


def test_a_rank_that_disagrees_is_refused() -> None:
    with pytest.raises(EckartError, match=r"block\.q\.V\.weight has shape \(9, 24\).*\(10, 24\)"):
        offer(new_part(), "V.weight", torch.zeros(RANK - 1, INPUTS))


def test_a_bias_that_the_layer_has_no_place_for_is_refused() -> None:
    with pytest.raises(EckartError, match=r"block\.q\.U\.bias"):
        offer(new_part("lowrank"), "U.bias", torch.zeros(OUTPUTS))


def test_an_order_with_a_repeated_place_is_refused() -> None:
    part = new_part()
    offer(part, "V.weight", torch.zeros(RANK, INPUTS))
    offer(part, "U.weight", torch.zeros(OUTPUTS - RANK, RANK))
    with pytest.raises(EckartError, match=r"block\.q\.order is not a permutation"):
        offer(part, "order", torch.zeros(OUTPUTS, dtype=torch.int32))

"""Watching one block at a time sums what watching the whole model sums."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from architectures import ARCHITECTURES, LLAMA, T5
from torch import Tensor, nn
from watching import ALL, cut_for, relative, targets_of

from eckart.calibrate import BlockOptions, NotWalkableError, Observed, softened, watch, watch_blocks
from eckart.model.targets import stacks_of
from eckart.model.text import batches
from eckart.types import EckartError

INPUTS = frozenset({"second", "absolute"})


class Elsewhere:
    """A shelf that leaves nothing where it was."""

    def __init__(self) -> None:
        self.kept: dict[int, tuple[Tensor, Tensor]] = {}
        self.moved = 0

    def away(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        own = storage.nbytes() == tensor.numel() * tensor.element_size() > 0
        if tensor.is_floating_point() and own and id(tensor) not in self.kept:
            self.kept[id(tensor)] = tensor, tensor.detach().clone()
            storage.resize_(0)
            self.moved += 1

    def back(self, tensor: Tensor) -> None:
        if id(tensor) in self.kept:
            _, values = self.kept.pop(id(tensor))
            tensor.untyped_storage().resize_(values.numel() * values.element_size())
            tensor.detach().copy_(values)


def swept(
    model: Any, given: list[dict[str, Tensor]], names: list[str] | None = None, **more: Any
) -> Observed:
    names = names or targets_of(model)
    return watch_blocks(
        model, stacks_of(model, names), names, given, ALL, loss=softened(2.0), options=BlockOptions(**more)
    )


def assert_same(one: Observed, other: Observed, tolerance: float = 1e-5) -> None:
    assert one.spaces == other.spaces
    assert one.tokens == other.tokens
    for part in ("moments", "gradients"):
        ours, theirs = getattr(one, part), getattr(other, part)
        assert ours.keys() == theirs.keys()
        for name, moment in ours.items():
            assert (moment.tokens, moment.windows) == (theirs[name].tokens, theirs[name].windows)
            for kind in ("second", "absolute", "fisher"):
                total, expected = getattr(moment, kind), getattr(theirs[name], kind)
                assert (total is None) == (expected is None)
                if total is not None:
                    assert relative(total, expected) <= tolerance, (part, name, kind)


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
def test_sums_are_those_of_the_whole_model(architecture, tokenizer, data):
    model = architecture.build()
    given = batches(model, tokenizer, cut_for(model, tokenizer, data), 60)
    names = targets_of(model)
    expected = watch(model, names, given, ALL, loss=softened(2.0))
    shelf = Elsewhere()
    assert_same(swept(model, given), expected)
    assert_same(swept(model, given, shelf=shelf), expected)
    assert shelf.moved > len(given)


def test_head_beside_the_blocks_is_summed_too(tokenizer, data):
    model = LLAMA.build()
    given = batches(model, tokenizer, cut_for(model, tokenizer, data), 60)
    names = [*targets_of(model), "lm_head"]
    assert_same(swept(model, given, names), watch(model, names, given, ALL, loss=softened(2.0)))


def test_part_of_the_batches_is_differentiated(tokenizer, data):
    model = T5.build()
    given = batches(model, tokenizer, cut_for(model, tokenizer, data), 60)
    names = targets_of(model)
    asked = watch(model, names, given[:1], ALL, loss=softened(2.0))
    rest = watch(model, names, given[1:], INPUTS, onto=asked)
    tokens = asked.tokens + rest.tokens
    expected = Observed(asked.spaces, rest.moments, tokens, asked.gradients, ALL)
    assert_same(swept(model, given, differentiated=1), expected)


def test_no_block_is_needed_but_the_one_that_is_brought(tokenizer, data):
    model = LLAMA.build()
    given = batches(model, tokenizer, cut_for(model, tokenizer, data), 60)
    expected = swept(model, given)
    kept = {name: weight.clone() for name, weight in model.named_parameters()}
    names = {id(block): f"model.layers.{index}." for index, block in enumerate(model.model.layers)}
    brought: list[str] = []

    def ruin(block: nn.Module) -> None:
        for weight in block.parameters():
            weight.data.fill_(torch.nan)

    @contextmanager
    def bring(block: nn.Module) -> Any:
        brought.append(names[id(block)])
        for name, weight in block.named_parameters():
            weight.data.copy_(kept[names[id(block)] + name])
        yield
        ruin(block)

    for block in model.model.layers:
        ruin(block)
    assert_same(swept(model, given, resident=bring), expected, 0.0)
    assert brought == ["model.layers.0.", "model.layers.1.", "model.layers.1.", "model.layers.0."]


def test_sums_are_handed_on_block_by_block_and_need_not_stay(tokenizer, data):
    model = LLAMA.build()
    given = batches(model, tokenizer, cut_for(model, tokenizer, data), 60)
    expected = swept(model, given)
    handed: list[tuple[Any, bool]] = []
    taken: dict[str, Any] = {}

    def take(complete: Any) -> None:
        handed.append((complete.block, complete.back))
        if not complete.back:
            taken.update(complete.moments)
            complete.moments.clear()

    observed = swept(model, given, finished=take)
    assert not observed.moments
    assert set(taken) == set(expected.moments)
    assert set(observed.gradients) == set(expected.gradients)
    first, second = model.model.layers
    forward, back = (
        [(first, False), (second, False), (None, False)],
        [(second, True), (first, True), (None, True)],
    )
    assert handed == forward + back


def test_blocks_behind_the_last_that_is_asked_for_are_not_run(tokenizer, data):
    model = LLAMA.build()
    given = batches(model, tokenizer, cut_for(model, tokenizer, data), 60)
    names = [name for name in targets_of(model) if ".layers.0." in name]
    expected = watch(model, names, given, INPUTS)
    model.model.layers[1].register_forward_pre_hook(lambda *_: pytest.fail("ran"))
    first = list(model.model.layers)[:1]
    assert_same(
        watch_blocks(model, first, names, given, INPUTS, options=BlockOptions(to_the_end=False)), expected
    )


class Again(nn.Module):
    """Runs its only block twice."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        super().__init__()
        self.config = LLAMA.build().config
        self.blocks = nn.ModuleList([nn.Linear(4, 4)])

    def forward(self, input_ids: Tensor) -> Tensor:
        hidden = input_ids[..., None].expand(*input_ids.shape, 4).float()
        return self.blocks[0](self.blocks[0](hidden))


class Choosy(nn.Module):
    """Which block it runs depends on the first token."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        super().__init__()
        self.config = LLAMA.build().config
        self.blocks = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])

    def forward(self, input_ids: Tensor) -> Tensor:
        hidden = input_ids[..., None].expand(*input_ids.shape, 4).float()
        return self.blocks[int(input_ids[0, 0])](hidden)


@pytest.mark.parametrize(
    ("model", "why"), [(Again(), "more than once"), (Choosy(), "depends on what it reads")]
)
def test_what_cannot_be_walked_is_said_and_left_as_it_was(model, why):
    given = [{"input_ids": torch.tensor([[0, 1]])}, {"input_ids": torch.tensor([[1, 1]])}]
    threads = threading.active_count()
    with pytest.raises(NotWalkableError, match=why):
        watch_blocks(model, list(model.blocks), ["blocks.0"], given, INPUTS)
    assert threading.active_count() == threads
    assert all("forward" not in block.__dict__ for block in model.blocks)
    assert model(given[0]["input_ids"]).shape == (1, 2, 4)


def test_error_in_a_block_comes_out_and_leaves_the_model_whole(tokenizer, data):
    model = LLAMA.build().train()
    given = batches(model, tokenizer, cut_for(model, tokenizer, data), 60)
    hook = model.model.layers[1].mlp.register_forward_pre_hook(lambda *_: 1 / 0)
    threads = threading.active_count()
    with pytest.raises(ZeroDivisionError):
        swept(model, given)
    hook.remove()
    assert threading.active_count() == threads
    assert model.training
    assert all(weight.requires_grad for weight in model.parameters())
    model(**given[0])


def test_what_is_not_finite_names_the_first_that_read_it(tokenizer, data):
    model = LLAMA.build()
    given = batches(model, tokenizer, cut_for(model, tokenizer, data), 60)
    with torch.no_grad():
        model.model.layers[0].self_attn.o_proj.weight[0, 0] = torch.inf
    with pytest.raises(EckartError, match=r"layers\.0\.mlp\.gate_proj read values that are not finite"):
        swept(model, given)

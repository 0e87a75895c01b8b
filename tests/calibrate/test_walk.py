"""A walk hands each block what the whole model hands it, and says so where it cannot."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from architectures import ARCHITECTURES, BERT, LLAMA, MIXTRAL, T5
from torch import nn
from watching import cut_for, targets_of

from eckart.calibrate import NotWalkableError, Pair, Walk
from eckart.model.targets import block_of
from eckart.model.text import batches


def some_batches(model: Any, tokenizer: Any, data: str) -> list[dict[str, torch.Tensor]]:
    return batches(model, tokenizer, cut_for(model, tokenizer, data), 60)


def by_block(model: Any) -> dict[str, dict[int, list[str]]]:
    blocks: dict[str, dict[int, list[str]]] = {}
    for name in targets_of(model):
        stack, index = block_of(model, name)
        blocks.setdefault(stack, {}).setdefault(index, []).append(name)
    return blocks


def whole_model_inputs(model: Any, names: list[str], given: list[dict[str, torch.Tensor]]) -> Any:
    """What the modules read, padding and all, and in which order they are called."""
    read: dict[tuple[int, str], torch.Tensor] = {}
    for index, batch in enumerate(given):
        hooks = [
            model.get_submodule(name).register_forward_pre_hook(
                lambda module, args, kwargs, name=name, index=index: read.__setitem__(
                    (index, name), args[0] if args else next(iter(kwargs.values()))
                ),
                with_kwargs=True,
            )
            for name in names
        ]
        with torch.no_grad():
            model(**{key: value for key, value in batch.items() if key != "labels"})
        for hook in hooks:
            hook.remove()
    return read


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
def test_blocks_read_what_they_read_in_the_whole_model(architecture, tokenizer, data):
    model = architecture.build().train()
    given = some_batches(model, tokenizer, data)
    model.eval()
    expected = whole_model_inputs(model, targets_of(model), given)
    model.train()
    for stack, blocks in by_block(model).items():
        walk = Walk(model, stack, given)
        for index in range(len(walk.blocks)):
            read: dict[tuple[int, str], Any] = {}
            called = walk.inputs(blocks[index], lambda i, name, x, read=read: read.update({(i, name): x}))
            walk.step()
            assert sorted(called) == sorted(blocks[index])
            for key, x in read.items():
                whole = expected[key]
                real = given[key[0]]
                masks = [
                    real[name].bool() for name in ("attention_mask", "decoder_attention_mask") if name in real
                ]
                flat = whole.reshape(-1, whole.shape[-1])
                fits = (mask for mask in masks if whole.shape[:-1] in (mask.shape, (mask.numel(),)))
                rows = flat[next(fits).flatten()]
                torch.testing.assert_close(x, rows, msg=f"{key}")
    assert model.training
    assert getattr(model.config, "use_cache", True)


def test_changed_weights_change_what_comes_after(tokenizer, data):
    model = LLAMA.build()
    given = some_batches(model, tokenizer, data)
    stack = "model.layers"
    before, after = Walk(model, stack, given), Walk(model, stack, given)
    before.step()
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight.mul_(2)
    after.step()
    assert not torch.allclose(before.hidden[0], after.hidden[0])
    with torch.no_grad():
        whole = model.model(**given[0], output_hidden_states=True).hidden_states[1]
    torch.testing.assert_close(after.hidden[0], whole)


def test_no_module_after_the_last_that_was_asked_for_is_run(tokenizer, data):
    model = LLAMA.build()
    walk = Walk(model, "model.layers", some_batches(model, tokenizer, data))
    model.model.layers[0].mlp.register_forward_pre_hook(lambda *_: pytest.fail("ran on"))
    seen: list[str] = []
    names = ["model.layers.0.self_attn.o_proj", "model.layers.0.self_attn.q_proj"]
    assert walk.inputs(names, lambda index, name, x: seen.append(name)) == names[::-1]
    assert len(seen) == 2 * len(walk.batches)


def test_decoder_walk_reads_the_encoder_as_it_is_when_the_walk_is_made(tokenizer, data):
    model = T5.build()
    given = some_batches(model, tokenizer, data)
    name = "decoder.block.1.layer.1.EncDecAttention.k"
    old = Walk(model, "decoder.block", given)
    with torch.no_grad():
        model.encoder.final_layer_norm.weight.mul_(3)
    new = Walk(model, "decoder.block", given)
    read: dict[str, list[torch.Tensor]] = {"old": [], "new": []}
    for label, walk in (("old", old), ("new", new)):
        walk.step()
        walk.inputs([name], lambda index, name, x, label=label: read[label].append(x))
    torch.testing.assert_close(read["new"][0], 3 * read["old"][0])


class Twice(nn.Module):
    """A model that runs its stack twice, as models with shared layers do."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.inner, self.config = model, model.config
        self.device = model.device

    def forward(self, **inputs: Any) -> Any:
        self.inner(**inputs)
        return self.inner(**inputs)


class Between(nn.Module):
    """Adds to the hidden states between its blocks."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        super().__init__()
        self.config = LLAMA.build().config
        self.blocks = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        hidden = input_ids[..., None].expand(*input_ids.shape, 4).float()
        return self.blocks[1](self.blocks[0](hidden) + hidden)


def test_stack_that_is_run_twice_is_refused(tokenizer, data):
    model = LLAMA.build()
    with pytest.raises(NotWalkableError, match=r"inner\.model\.layers"):
        Walk(Twice(model), "inner.model.layers", some_batches(model, tokenizer, data))


def test_something_between_the_blocks_is_noticed():
    with pytest.raises(NotWalkableError, match="more than their hidden states"):
        Walk(Between(), "blocks", [{"input_ids": torch.arange(6).reshape(2, 3)}])


def test_module_that_reads_some_of_the_tokens_reads_none_for_sure(tokenizer, data):
    model = MIXTRAL.build()
    given = some_batches(model, tokenizer, data)
    walk = Walk(model, "model.layers", given)
    half = model.model.layers[0].self_attn.o_proj
    half.register_forward_pre_hook(lambda module, args: (args[0][:, : args[0].shape[1] // 2],))
    read: list[Any] = []
    walk.inputs(["model.layers.0.self_attn.o_proj"], lambda index, name, x: read.append(x))
    assert read == [None] * len(given)


def test_bare_encoder_walks_too(tokenizer, data):
    model = BERT.build()
    walk = Walk(model, "encoder.layer", given := some_batches(model, tokenizer, data))
    for _ in walk.blocks:
        walk.step()
    with torch.no_grad():
        torch.testing.assert_close(walk.hidden[0], model(**given[0]).last_hidden_state)


def test_pair_sums_both_and_counts_tokens():
    torch.manual_seed(0)
    x, xh = torch.randn(7, 3), torch.randn(7, 3)
    pair = Pair()
    pair.add(x[:4], xh[:4])
    pair.add(x[4:], xh[4:])
    assert pair.tokens == 7
    assert pair.cross is not None
    assert pair.second is not None
    torch.testing.assert_close(pair.cross, (x.T @ xh).double())
    torch.testing.assert_close(pair.second, (xh.T @ xh).double())

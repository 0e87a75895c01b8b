"""A walk hands each block what the whole model hands it, and says so where it cannot."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from architectures import ARCHITECTURES, BERT, LLAMA, MIXTRAL, T5
from torch import nn
from watching import cut_for, targets_of

from eckart.calibrate import NotWalkableError, Pair, Walk, require_walkable
from eckart.model.targets import block_of, stacks_of
from eckart.model.text import batches


def some_batches(model: Any, tokenizer: Any, data: str) -> list[dict[str, torch.Tensor]]:
    return batches(model, tokenizer, cut_for(model, tokenizer, data), 60)


def by_block(model: Any) -> dict[int, list[str]]:
    blocks: dict[int, list[str]] = {}
    for name in targets_of(model):
        stack, index = block_of(model, name)
        blocks.setdefault(id(model.get_submodule(f"{stack}.{index}")), []).append(name)
    return blocks


def blocks_of(model: Any) -> list[nn.Module]:
    return stacks_of(model, targets_of(model))


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
    blocks = by_block(model)
    seen: list[str] = []
    with Walk(model, blocks_of(model), given) as walk:
        for block in walk.path():
            read: dict[tuple[int, str], Any] = {}
            called = walk.inputs(blocks[id(block)], lambda i, name, x, read=read: read.update({(i, name): x}))
            walk.step()
            seen += called
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
    assert sorted(seen) == sorted(targets_of(model))
    assert model.training
    assert getattr(model.config, "use_cache", True)


def logits(index: int, output: Any) -> torch.Tensor:
    return output.logits


def test_changed_weights_change_what_comes_after(tokenizer, data):
    model = LLAMA.build()
    given = some_batches(model, tokenizer, data)
    blocks = blocks_of(model)
    with (
        Walk(model, blocks, given, give=logits) as before,
        Walk(model, blocks, given, give=logits) as after,
    ):
        before.step()
        with torch.no_grad():
            model.model.layers[0].mlp.down_proj.weight.mul_(2)
        after.step()
        for walk in (before, after):
            walk.step()
            assert walk.block is None
        with torch.no_grad():
            whole = model(**given[0]).logits
        torch.testing.assert_close(after.given[0], whole)
        assert not torch.allclose(before.given[0], whole)


def test_no_module_after_the_last_that_was_asked_for_is_run(tokenizer, data):
    model = LLAMA.build()
    blocks = blocks_of(model)
    model.model.layers[0].mlp.register_forward_pre_hook(lambda *_: pytest.fail("ran on"))
    seen: list[str] = []
    names = ["model.layers.0.self_attn.o_proj", "model.layers.0.self_attn.q_proj"]
    with Walk(model, blocks, some_batches(model, tokenizer, data)) as walk:
        assert walk.inputs(names, lambda index, name, x: seen.append(name)) == names[::-1]
        assert len(seen) == 2 * len(walk.batches)


def test_decoder_reads_what_its_own_walks_encoder_gave(tokenizer, data):
    model = T5.build()
    given = some_batches(model, tokenizer, data)
    name = "decoder.block.1.layer.1.EncDecAttention.k"
    first = model.decoder.block[0]
    read: dict[str, list[torch.Tensor]] = {"old": [], "new": []}
    with Walk(model, blocks_of(model), given) as old, Walk(model, blocks_of(model), given) as new:
        while old.block is not first:
            old.step()
        with torch.no_grad():
            model.encoder.final_layer_norm.weight.mul_(3)
        while new.block is not first:
            new.step()
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
    given = some_batches(model, tokenizer, data)
    with pytest.raises(NotWalkableError, match="more than once"):
        require_walkable(Twice(model), list(model.model.layers), given[0])
    model(**given[0])


def test_code_between_the_blocks_is_the_models_own():
    model = Between()
    given = [{"input_ids": torch.arange(6).reshape(2, 3)}]
    with torch.no_grad(), Walk(model, list(model.blocks), given, give=lambda i, y: y) as walk:
        for _ in walk.path():
            walk.step()
        torch.testing.assert_close(walk.given[0], model(**given[0]))


def test_module_that_reads_some_of_the_tokens_reads_none_for_sure(tokenizer, data):
    model = MIXTRAL.build()
    given = some_batches(model, tokenizer, data)
    half = model.model.layers[0].self_attn.o_proj
    half.register_forward_pre_hook(lambda module, args: (args[0][:, : args[0].shape[1] // 2],))
    read: list[Any] = []
    with Walk(model, blocks_of(model), given) as walk:
        walk.inputs(["model.layers.0.self_attn.o_proj"], lambda index, name, x: read.append(x))
    assert read == [None] * len(given)


def test_head_is_not_run_where_nobody_wants_what_it_gives(tokenizer, data):
    model = LLAMA.build()
    model.lm_head.register_forward_pre_hook(lambda *_: pytest.fail("ran"))
    with Walk(model, list(model.model.layers), some_batches(model, tokenizer, data)) as walk:
        assert sum(1 for _ in walk.path() if walk.step() is None) == 2


def test_bare_encoder_walks_too(tokenizer, data):
    model = BERT.build()
    given = some_batches(model, tokenizer, data)
    with Walk(model, blocks_of(model), given, give=lambda i, output: output.last_hidden_state) as walk:
        for _ in walk.path():
            walk.step()
    with torch.no_grad():
        expected = model(**given[0]).last_hidden_state
    torch.testing.assert_close(walk.given[0], expected)


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

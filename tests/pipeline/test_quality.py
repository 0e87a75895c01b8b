"""At equal parameters the metric that knows the inputs leaves no more error on them: measured on outputs."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from architectures import BERT, GPT2, LLAMA, T5
from fitting import SPECTRAL

import eckart
from eckart.data import read_texts
from eckart.data.splitting import hold_out
from eckart.model.targets import weight_of
from eckart.model.text import batches, windows


def inputs_of(model, names, made):
    """What each module reads of the real tokens, by hooks of its own: `(tokens, in)` in float64."""
    read = {name: [] for name in names}
    masks = {}

    def keep(name):
        def hook(module, arguments):
            x = arguments[0].double()
            mask = next(mask for mask in masks["now"] if mask.shape == x.shape[:-1])
            read[name].append(x[mask.bool()])

        return hook

    hooks = [model.get_submodule(name).register_forward_pre_hook(keep(name)) for name in names]
    with torch.no_grad():
        for batch in made:
            masks["now"] = [tensor for key, tensor in batch.items() if key.endswith("attention_mask")]
            model(**{key: tensor for key, tensor in batch.items() if key != "labels"})
    for hook in hooks:
        hook.remove()
    return {name: torch.cat(rows) for name, rows in read.items()}


def product_of(module, width):
    """`Ŵ (out, in)` as the module computes it: what it makes of each unit vector, without its bias."""
    with torch.no_grad():
        module = module.double()
        return (module(torch.eye(width).double()) - module(torch.zeros(width).double())).T


@pytest.mark.parametrize("structure", SPECTRAL)
@pytest.mark.parametrize("architecture", [LLAMA, GPT2, BERT, T5], ids=str)
def test_svd_llm_never_leaves_more_output_error_than_svd(stored, data, tokenizer, architecture, structure):
    dense = architecture.load(stored(architecture))
    made = batches(dense, tokenizer, hold_out(windows(dense, tokenizer, read_texts(data), 512))[0])
    results = {
        method: eckart.compress(
            str(stored(architecture)), keep=architecture.keep, method=method, structure=structure, data=data
        )
        for method in ("svd", "svd-llm")
    }
    records = {method: result.manifest.targets for method, result in results.items()}
    assert [r.rank for r in records["svd"]] == [r.rank for r in records["svd-llm"]]
    assert results["svd"].manifest.parameters == results["svd-llm"].manifest.parameters
    read = inputs_of(dense, [record.name for record in records["svd"]], made)
    better = 0
    for plain, knowing in zip(records["svd"], records["svd-llm"], strict=True):
        if plain.rank is None:
            continue
        x, weight = read[plain.name], weight_of(dense.get_submodule(plain.name)).double()
        left = {
            method: (
                (weight - product_of(result.model.get_submodule(plain.name), len(weight.T))) @ x.T
            ).norm()
            for method, result in results.items()
        }
        assert left["svd-llm"] <= left["svd"] * (1 + 1e-6), plain.name
        better += left["svd-llm"] < 0.999 * left["svd"]
        # What the manifest calls the measured error is the error of the outputs, relative to them.
        assert knowing.measured_error == pytest.approx(
            float(left["svd-llm"] / (weight @ x.T).norm()), rel=1e-4
        )
    assert better > len(read) / 2


@pytest.mark.parametrize("structure", SPECTRAL)
def test_more_parameters_never_leave_more_error(stored, data, structure):
    errors = []
    for keep in (0.5, 0.6, 0.7, 0.8, 0.9, 0.95):
        result = eckart.compress(
            str(stored(LLAMA)), keep=keep, method="svd-llm", structure=structure, data=data
        )
        errors.append([record.measured_error for record in result.manifest.targets])
    for smaller, larger in pairwise(errors):
        assert all(more <= less + 1e-9 for less, more in zip(smaller, larger, strict=True))
        assert sum(larger) < sum(smaller)


def test_directions_that_the_data_never_showed_cost_nothing(stored, tmp_path):
    # Six words: the first block's inputs, which know no positions, lie in six directions.
    path = tmp_path / "few.jsonl"
    path.write_text('{"text": "w1 w2 w3 w4 w5 w6"}\n')
    errors = {}
    for rank in (5, 6):
        result = eckart.compress(
            str(stored(LLAMA)), rank=rank, targets=["layers.0.self_attn.q_proj"], data=str(path)
        )
        errors[rank] = result.manifest.targets[0].measured_error
    # Moments of one batch are float32 products: an error below the root of their rounding is none.
    assert errors[6] < 5e-4
    assert errors[5] > 5e-2

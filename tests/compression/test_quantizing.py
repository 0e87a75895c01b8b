"""A cut whose weights are rounded: what is saved, that it loads as it was, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from architectures import BERT, GPT2, LLAMA, T5, outputs, some_inputs
from safetensors.torch import load_file

import eckart
from eckart import UsageError, checkpoint
from eckart.model import replacing
from eckart.structures import QuantizedLinear


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {
        name: tensor
        for file in sorted(folder.glob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }


@pytest.mark.parametrize(
    ("architecture", "quantize"),
    [(LLAMA, "int8"), (GPT2, "int4"), (T5, "int4"), (BERT, "int8"), (T5, "int3"), (LLAMA, "int2")],
    ids=str,
)
def test_a_folder_loads_as_it_was_saved_and_saves_the_same_again(architecture, quantize, stored, tmp_path):
    structure = "pivoted" if architecture in (LLAMA, T5) else "lowrank"
    out = tmp_path / "out"
    made = eckart.compress(
        stored(architecture), out, keep=0.8, method="svd", structure=structure, quantize=quantize
    )
    if architecture is LLAMA:  # it starts a process, and knows of no architecture
        assert [check.detail for check in eckart.verify(out).checks if not check.ok] == []
    # What was counted is what is there, and rank is counted as without rounding.
    stored_bytes = sum(t.numel() * t.element_size() for t in weights(out).values())
    assert made.manifest.bytes.after == stored_bytes
    assert made.manifest.parameters.keep == pytest.approx(0.8, abs=0.02)
    for record in made.manifest.targets:
        assert record.quantize == quantize
        assert record.rounding_error is not None
        assert record.rounding_error < {"int8": 0.03, "int4": 0.35, "int3": 0.5, "int2": 1.0}[quantize]
        part = "" if record.rank is None else ".U"
        kind = torch.int8 if quantize == "int8" else torch.uint8
        assert weights(out)[f"{record.name}{part}.codes"].dtype == kind
    loaded = architecture.load(out)
    inputs = some_inputs(architecture)
    assert torch.equal(outputs(loaded, inputs), outputs(made.model, inputs))
    loaded.save_pretrained(tmp_path / "again", max_shard_size="20KB")
    again = weights(tmp_path / "again")
    assert again.keys() == weights(out).keys()
    assert all(torch.equal(tensor, again[name]) for name, tensor in weights(out).items())
    first, second = (
        json.loads((folder / "config.json").read_text())["quantization_config"]
        for folder in (out, tmp_path / "again")
    )
    assert first == second
    assert first["inner"]["quant_method"] == "torchao"
    assert torch.equal(outputs(architecture.load(tmp_path / "again"), inputs), outputs(loaded, inputs))


def test_a_merged_model_has_the_rounded_values_as_floats():
    model = eckart.compress(LLAMA.build(), keep=0.8, method="svd", quantize="int8").model
    inputs = some_inputs(LLAMA)
    before = outputs(model, inputs)
    replacing.merge(model)
    assert not any(isinstance(module, QuantizedLinear) for module in model.modules())
    assert not hasattr(model.config, "quantization_config")
    assert (outputs(model, inputs) - before).abs().max() <= 1e-4 * before.abs().max()


def test_what_was_measured_on_held_out_data_is_of_the_rounded_model(tokenizer, data):
    plain, rounded = (
        eckart.compress(
            LLAMA.build(), keep=0.8, data=data, tokenizer=tokenizer, quantize=how
        ).manifest.held_out
        for how in (None, "int4")
    )
    assert plain is not None
    assert rounded is not None
    assert rounded.divergence != plain.divergence
    assert [c.divergence for c in rounded.candidates] == [c.divergence for c in plain.candidates]


def test_a_limit_of_the_loss_is_said_to_be_of_the_model_before_rounding(tokenizer, data):
    made = eckart.compress(
        LLAMA.build(),
        max_loss=0.05,
        method="svd",
        data=data,
        tokenizer=tokenizer,
        quantize="int4",
    ).manifest
    assert made.held_out is not None
    where = "within" if made.held_out.after <= 1.05 * made.held_out.before else "above"
    note = next(note for note in made.notes if "before the rounding to int4" in note)
    assert f"{made.held_out.after:.4f}, {where} the limit of {1.05 * made.held_out.before:.4f}" in note


def test_block_by_block_gives_the_same_weights(stored, data, tmp_path):
    for blocks in (False, True):
        eckart.compress(
            stored(LLAMA),
            tmp_path / str(blocks),
            keep=0.8,
            method="svd-llm",
            data=data,
            blocks=blocks,
            quantize="int4",
        )
    whole, walked = weights(tmp_path / "False"), weights(tmp_path / "True")
    assert whole.keys() == walked.keys()
    # A number that lies on the edge of two may fall to either side.
    off = [(whole[n].short() - walked[n].short()).abs() for n in whole if n.endswith("codes")]
    assert sum(int((each > 0).sum()) for each in off) <= 0.01 * sum(each.numel() for each in off)


def test_what_cannot_be_is_refused_before_any_work(stored, data, tmp_path):
    folder, out = stored(LLAMA), tmp_path / "out"
    with pytest.raises(UsageError, match="unknown quantize 'int7'"):
        eckart.compress(folder, out, keep=0.8, quantize="int7")
    with pytest.raises(UsageError, match="--merge"):
        eckart.compress(folder, out, keep=0.8, quantize="int8", merge=True)
    eckart.compress(folder, tmp_path / "rounded", keep=0.8, method="svd", quantize="int8")
    with pytest.raises(UsageError, match=r"quantized.*cannot be trained"):
        eckart.recover(tmp_path / "rounded", out, data=data)
    with pytest.raises(UsageError, match="compressed already"):
        eckart.compress(tmp_path / "rounded", out, keep=0.5)
    assert not out.exists()


def test_a_folder_whose_config_says_otherwise_is_refused(stored, tmp_path):
    out = tmp_path / "out"
    eckart.compress(stored(LLAMA), out, keep=1, method="svd", quantize="int8")
    config = json.loads((out / "config.json").read_text())
    inner = config["quantization_config"]["inner"]["modules"]
    name = next(iter(inner))
    for change, match in (
        ({name: "int4"}, rf"{name} is int4, but its codes are stored as"),
        ({"model.layers.0.input_layernorm": "int8"}, "input_layernorm"),
    ):
        config["quantization_config"]["inner"]["modules"] = inner | change
        (out / "config.json").write_text(json.dumps(config))
        with pytest.raises(ValueError, match=match):
            LLAMA.load(out)


def test_device_map_and_another_dtype(stored, tmp_path):
    out = tmp_path / "out"
    made = eckart.compress(stored(LLAMA), out, keep=0.8, method="svd", quantize="int4")
    inputs = some_inputs(LLAMA)
    mapped = LLAMA.load(out, device_map="cpu")
    assert torch.equal(outputs(mapped, inputs), outputs(made.model, inputs))
    half = LLAMA.load(out, dtype=torch.bfloat16)
    names = [name for name, module in half.named_modules() if isinstance(module, QuantizedLinear)]
    assert names
    assert all(half.get_submodule(name).scales.dtype == torch.bfloat16 for name in names)
    assert all(
        torch.equal(half.get_submodule(name).codes, made.model.get_submodule(name).codes) for name in names
    )


def test_the_codes_are_a_byte_or_half_a_byte_each(stored, tmp_path):
    sizes = {}
    for quantize in (None, "int8", "int4"):
        out = tmp_path / str(quantize)
        eckart.compress(stored(LLAMA), out, rank=16, method="svd", dtype="bfloat16", quantize=quantize)
        tensors = checkpoint.open_checkpoint(out).tensors
        parts = (".V.weight", ".V.codes")
        sizes[quantize] = sum(t.nbytes for name, t in tensors.items() if name.endswith(parts))
    assert sizes["int8"] * 2 == sizes[None]
    assert sizes["int4"] * 4 == sizes[None]

"""Experts, embeddings, tied heads and fused projections: compressed, saved, loaded again and asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import (
    BERT,
    GEMMA3,
    HEADS,
    LLAMA,
    PHI3,
    QWEN3,
    T5,
    Architecture,
    _common,
    _make,
    outputs,
    some_inputs,
)
from fitting import EMBEDDING
from safetensors.torch import load_file
from torch import nn

import eckart
from eckart.structures.lowrank import LowRankEmbedding
from eckart.types import UsageError

EXPERTS = 4


def _mixture(name: str, per_expert: str, **options: Any) -> Any:
    shape = _common(num_key_value_heads=2, num_experts_per_tok=2)
    make = _make(f"{name}Config", f"{name}ForCausalLM", **{**shape, **options})
    architecture = Architecture(name, "AutoModelForCausalLM", "decoder", make, {}, ())
    return pytest.param(architecture, per_expert, id=name)


MIXTURES = [
    _mixture("Mixtral", "block_sparse_moe.experts.3.w2.weight", num_local_experts=EXPERTS),
    _mixture(
        "Qwen3Moe",
        "mlp.experts.3.down_proj.weight",
        num_experts=EXPERTS,
        moe_intermediate_size=32,
        head_dim=12,
    ),
    _mixture(
        "DeepseekV3",
        "mlp.experts.3.down_proj.weight",
        num_key_value_heads=HEADS,
        n_routed_experts=EXPERTS,
        moe_intermediate_size=32,
        first_k_dense_replace=1,
        n_group=1,
        topk_group=1,
        q_lora_rank=16,
        kv_lora_rank=16,
        qk_rope_head_dim=8,
        qk_nope_head_dim=8,
        v_head_dim=12,
    ),
]
GPT_OSS = _mixture("GptOss", "mlp.experts.down_proj", num_local_experts=EXPERTS, head_dim=12)


def _tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


def _parameters(tensors: dict[str, torch.Tensor]) -> int:
    """What DeepSeek-V3's router adds to its scores is a buffer."""
    return sum(each.numel() for name, each in tensors.items() if "e_score" not in name)


def _entry(folder: Path) -> Any:
    return json.loads((folder / "config.json").read_text())["quantization_config"]


def _same(one: torch.Tensor, other: torch.Tensor) -> None:
    # An expert that is handed one token multiplies by another kernel than one that is handed two.
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("architecture", "per_expert"), [*MIXTURES, GPT_OSS])
def test_a_mixture_from_the_layout_that_it_is_published_in(architecture, per_expert, stored, data, tmp_path):
    folder, out, inputs = stored(architecture), tmp_path / "out", some_inputs(architecture)
    assert f"model.layers.1.{per_expert}" in _tensors(folder)
    made = eckart.compress(folder, out, keep=0.8, method="svd-llm", data=data)
    experts = [record for record in made.manifest.targets if ".experts." in record.name]
    assert any(record.rank is not None for record in experts)
    assert not any("gate_proj" in record.name and "shared" not in record.name for record in experts)
    saved = _tensors(out)
    assert _parameters(saved) == made.manifest.parameters.after
    assert _parameters(_tensors(folder)) == made.manifest.parameters.before
    for record in experts:
        parts = ["U.weight", "V.weight"] if record.rank else ["weight"]
        assert all(f"{record.name}.{part}" in saved for part in parts)
    router = next(name for name in saved if name.endswith(("mlp.gate.weight", "mlp.router.weight")))
    assert saved[router].shape[0] == EXPERTS
    assert _entry(out)["format_version"] == 2
    again = architecture.load(out)
    answer = outputs(again, inputs)
    _same(answer, outputs(made.model, inputs))
    written = again.generate(inputs["input_ids"][:1], max_new_tokens=4, min_new_tokens=4, do_sample=False)
    assert written.shape[1] == inputs["input_ids"].shape[1] + 4
    again.save_pretrained(tmp_path / "again")
    assert set(_tensors(tmp_path / "again")) == set(saved)
    _same(outputs(architecture.load(tmp_path / "again"), inputs), answer)


@pytest.mark.parametrize(("architecture", "per_expert"), MIXTURES)
def test_merged_a_mixture_has_the_names_that_it_was_published_with(
    architecture, per_expert, stored, tmp_path
):
    folder, inputs = stored(architecture), some_inputs(architecture)
    made = eckart.compress(folder, tmp_path / "out", keep=0.8, method="svd", merge=True)
    assert "quantization_config" not in json.loads((tmp_path / "out" / "config.json").read_text())
    before, after = _tensors(folder), _tensors(tmp_path / "out")
    assert {name: each.shape for name, each in after.items()} == {n: each.shape for n, each in before.items()}
    again = architecture.load(tmp_path / "out")
    torch.testing.assert_close(outputs(again, inputs), outputs(made.model, inputs), rtol=1e-4, atol=1e-4)
    factored = eckart.compress(folder, tmp_path / "factored", keep=0.8, method="svd")
    torch.testing.assert_close(outputs(again, inputs), outputs(factored.model, inputs), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("architecture", "per_expert"), MIXTURES)
def test_planned_without_weights_a_mixture_has_the_same_targets(architecture, per_expert, stored):
    planned = eckart.plan(stored(architecture), keep=0.8, method="svd")
    made = eckart.compress(stored(architecture), keep=0.8, method="svd").manifest
    assert [(row.site.name, row.option) for row in planned.sites] == [
        (record.name, record.option) for record in made.targets
    ]
    assert planned.parameters.after == made.parameters.after


def test_experts_and_a_tied_embedding_at_once_in_bfloat16_with_and_without_eckart(data, tmp_path):
    (mixture, _), inputs = MIXTURES[0].values, None
    options = {"num_key_value_heads": 2, "num_experts_per_tok": 2, "num_local_experts": EXPERTS}
    make = _make("MixtralConfig", "MixtralForCausalLM", **_common(**options, tie_word_embeddings=True))
    tied = Architecture("tied", "AutoModelForCausalLM", "decoder", make, {}, (), tied=True)
    from architectures import tiny_tokenizer

    tied.build(torch.bfloat16).save_pretrained(tmp_path / "in")
    tiny_tokenizer().save_pretrained(tmp_path / "in")
    inputs = some_inputs(mixture)
    made = eckart.compress(
        tmp_path / "in",
        tmp_path / "out",
        keep=0.8,
        method="svd-llm",
        structure="pivoted",
        data=data,
        targets=["*.experts.*", "*_proj", "embed_tokens"],
    )
    assert {"lm_head", "model.layers.0.mlp.experts.down_proj.0"} <= {
        record.name for record in made.manifest.targets if record.rank
    }
    saved = _tensors(tmp_path / "out")
    assert not [name for name in saved if name.startswith("lm_head")]
    assert sum(each.numel() for each in saved.values() if each.is_floating_point()) == (
        made.manifest.parameters.after
    )
    assert made.manifest.bytes.after == sum(each.nbytes for each in saved.values())
    again = tied.load(tmp_path / "out", dtype="auto")
    assert again.dtype == torch.bfloat16
    assert again.lm_head.U.weight is again.model.embed_tokens.U.weight
    assert torch.equal(again.lm_head.order, made.model.lm_head.order)
    torch.testing.assert_close(outputs(again, inputs), outputs(made.model, inputs), rtol=0.05, atol=0.05)
    verdict = eckart.verify(tmp_path / "out")
    assert verdict.ok, verdict.checks


@pytest.mark.parametrize("structure", EMBEDDING)
@pytest.mark.parametrize("architecture", [QWEN3, GEMMA3, T5, BERT, LLAMA], ids=str)
def test_an_embedding_comes_back_with_its_head(architecture, structure, stored, data, tmp_path):
    folder, out, inputs = stored(architecture), tmp_path / "out", some_inputs(architecture)
    words = ["word_embeddings"] if architecture is BERT else ["lm_head", "embed_tokens"]
    others = {"t5": "q", "bert": "query"}.get(architecture.name, "q_proj")
    made = eckart.compress(
        folder,
        out,
        keep=0.95,
        method="svd-llm",
        data=data,
        structure=structure,
        targets=[*words, others],
    )
    records = [record for record in made.manifest.targets if record.out_features == 96]
    assert all(record.rank for record in records)
    assert len(records) == (2 if architecture is LLAMA else 1)
    again = architecture.load(out)
    assert torch.equal(outputs(again, inputs), outputs(made.model, inputs))
    count = made.manifest.parameters
    assert 0.945 < count.keep <= 0.95
    saved = _tensors(out)
    assert count.after == sum(each.numel() for each in saved.values() if each.is_floating_point())
    assert made.manifest.bytes.after == sum(each.nbytes for each in saved.values())
    if architecture.tied:
        assert again.config.tie_word_embeddings
        assert again.get_input_embeddings().U.weight is again.get_output_embeddings().U.weight
        assert not [name for name in saved if name.startswith("lm_head")]
    again.save_pretrained(tmp_path / "again")
    assert torch.equal(outputs(architecture.load(tmp_path / "again"), inputs), outputs(again, inputs))


def test_the_bare_backbone_of_a_model_with_a_tied_head(stored, tmp_path):
    from transformers import AutoModel

    made = eckart.compress(stored(QWEN3), tmp_path / "out", rank=12, method="svd", targets=["lm_head"])
    inputs = some_inputs(QWEN3)
    bare = AutoModel.from_pretrained(tmp_path / "out")
    assert type(bare.embed_tokens) is LowRankEmbedding
    with torch.no_grad():
        expected = made.model.model(**inputs).last_hidden_state
    assert torch.equal(outputs(bare, inputs), expected)


@pytest.mark.parametrize("method", ["svd", "asvd", "svd-llm", "aa-svd", "auto"])
@pytest.mark.parametrize("architecture", [QWEN3, LLAMA, BERT], ids=str)
def test_an_embedding_by_every_kind_of_metric(architecture, method, stored, data):
    words = ["word_embeddings", "query"] if architecture is BERT else ["embed_tokens", "q_proj"]
    asked = {"keep": 0.96, "method": method, "targets": words}
    made = eckart.compress(stored(architecture), data=None if method == "svd" else data, **asked)
    (record,) = [record for record in made.manifest.targets if record.out_features == 96]
    # What is measured on held-out data may leave it dense.
    assert record.rank or method == "auto"
    if record.measured_error is None:
        assert any("trained to imitate" in note for note in made.manifest.notes)
        return
    assert record.rank is None or 0.01 < record.measured_error < 1
    if record.predicted_error is not None:
        assert record.measured_error == pytest.approx(record.predicted_error, abs=1e-5)
    assert made.manifest.parameters.keep <= 0.96


def test_data_weigh_an_embedding(stored, tmp_path):
    words = [f"w{index}" for index in range(6)]
    few = tmp_path / "few.txt"
    few.write_text("\n".join(" ".join(words) for _ in range(40)))
    dense = LLAMA.load(stored(LLAMA)).model.embed_tokens.weight
    errors = {}
    for method in ("svd", "svd-llm"):
        made = eckart.compress(
            stored(LLAMA),
            rank=8,
            method=method,
            data=None if method == "svd" else str(few),
            targets=["embed_tokens"],
        )
        with torch.no_grad():
            now = made.model.model.embed_tokens(torch.arange(96))
        errors[method] = (now - dense).norm(dim=1)
    read = slice(4, 10)
    assert errors["svd-llm"][read].mean() < 0.5 * errors["svd"][read].mean()
    # Those that the data lack are not given up.
    assert errors["svd-llm"].mean() < 1.2 * errors["svd"].mean()


def test_what_cannot_be_walked_block_by_block_is_cut_whole(stored, data, tmp_path, monkeypatch):
    monkeypatch.setattr("eckart.compression.blocks.portion.available", lambda device: 1)
    (gpt_oss, _) = GPT_OSS.values
    for architecture, chosen in ((gpt_oss, ["*.experts.*"]), (QWEN3, ["embed_tokens", "q_proj"])):
        made = eckart.compress(
            stored(architecture), tmp_path / architecture.name, keep=0.95, method="svd", targets=chosen
        )
        assert any(note.startswith("the model was read whole") for note in made.manifest.notes)
        assert made.model is not None


def test_what_works_on_linear_layers_refuses_an_embedding(stored, tmp_path):
    for architecture in (QWEN3, LLAMA):
        with pytest.raises(UsageError, match="has the embedding's weight: leave it out of --targets"):
            eckart.compress(
                stored(architecture), keep=0.97, method="svd", targets=["embed_tokens"], quantize="int8"
            )
        with pytest.raises(UsageError, match="has the embedding's weight: leave it out of --targets"):
            eckart.plan(stored(architecture), keep=0.97, targets=["embed_tokens"], quantize="int8")


def test_projections_that_are_fused_on_disk_are_one_target(stored, data, tmp_path):
    folder, inputs = stored(PHI3), some_inputs(PHI3)
    assert "model.layers.0.self_attn.qkv_proj.weight" in _tensors(folder)
    made = eckart.compress(
        folder, tmp_path / "out", keep=0.8, method="svd-llm", data=data, targets=["qkv_proj", "gate_up_proj"]
    )
    ranks = {record.name: record.rank for record in made.manifest.targets}
    assert set(ranks) == {
        f"model.layers.{layer}.{name}"
        for layer in range(2)
        for name in ("self_attn.qkv_proj", "mlp.gate_up_proj")
    }
    assert all(ranks.values())
    again = PHI3.load(tmp_path / "out")
    assert torch.equal(outputs(again, inputs), outputs(made.model, inputs))
    assert again.generate(inputs["input_ids"], max_new_tokens=3, do_sample=False).shape[0] == 2


def test_an_expert_that_no_token_reaches_stays_dense(stored, data):
    (mixture, _) = MIXTURES[0].values
    model = mixture.load(stored(mixture))
    from architectures import tiny_tokenizer

    with torch.no_grad():
        for layer in model.model.layers:
            # Whatever is read, the first two experts are chosen.
            layer.mlp.gate.register_forward_hook(
                lambda module, given, out: (out[0], out[1], torch.zeros_like(out[2]) + torch.tensor([0, 1]))
            )
    made = eckart.compress(model, keep=0.8, method="svd-llm", data=data, tokenizer=tiny_tokenizer())
    names = [record.name for record in made.manifest.targets]
    assert "model.layers.0.mlp.experts.down_proj.1" in names
    assert "model.layers.0.mlp.experts.down_proj.2" not in names
    assert type(model.get_submodule("model.layers.0.mlp.experts.down_proj.2")) is nn.Linear
    stack = "model.layers.0.mlp.experts.down_proj"
    assert (
        f"2 of the 4 experts of {stack} stay dense: no token of the data reached them" in made.manifest.notes
    )

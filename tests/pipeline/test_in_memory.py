"""Compressing a model that is in memory: no folder, no data, the same object back."""

from __future__ import annotations

import copy

import pytest
import torch
import transformers
from architectures import (
    BERT,
    GPT2,
    LLAMA,
    MAMBA,
    POSITIONS,
    T5,
    WORDS,
    outputs,
    some_inputs,
    tiny_tokenizer,
)
from fitting import SMALLER
from torch import nn

import eckart
from eckart import EckartError, LowRankLinear, PivotedLinear, UsageError, calibrate
from eckart.data import read_texts
from eckart.data.splitting import hold_out


def test_ranks_by_hand_need_no_data_and_give_the_model_itself_back():
    model = LLAMA.build()
    untouched = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    result = eckart.compress(model, rank=6, targets=["q_proj", "o_proj"])
    assert result.model is model
    assert result.out is None
    replaced = {name for name, module in model.named_modules() if isinstance(module, LowRankLinear)}
    assert replaced == {f"model.layers.{i}.self_attn.{n}_proj" for i in (0, 1) for n in "qo"}
    for name, tensor in model.state_dict().items():
        assert name not in untouched or torch.equal(tensor, untouched[name])
    for name in replaced:
        module, weight = model.get_submodule(name), untouched[f"{name}.weight"].double()
        error = (weight - module.U.weight.double() @ module.V.weight.double()).norm()
        tail = torch.linalg.svdvals(weight)[6:].square().sum().sqrt()
        torch.testing.assert_close(error, tail, rtol=1e-5, atol=0)


def test_the_readmes_short_names_are_targets(tokenizer):
    model = T5.build()
    result = eckart.compress(model, rank=6, targets=["q", "k", "v", "o"])
    assert len(result.manifest.targets) == 4 * 2 + 8 * 2
    assert outputs(model, some_inputs(T5)).isfinite().all()


@pytest.mark.parametrize("architecture", [LLAMA, GPT2, BERT, T5], ids=str)
def test_in_memory_gives_what_a_folder_gives(stored, data, tokenizer, architecture):
    folder = stored(architecture)
    one = eckart.compress(str(folder), keep=architecture.keep, data=data)
    other = eckart.compress(architecture.load(folder), keep=architecture.keep, data=data, tokenizer=tokenizer)
    assert one.manifest.targets == other.manifest.targets
    assert one.manifest.calibration_tokens == other.manifest.calibration_tokens
    inputs = some_inputs(architecture)
    assert torch.equal(outputs(one.model, inputs), outputs(other.model, inputs))


@pytest.mark.parametrize("structure", SMALLER)
@pytest.mark.parametrize("architecture", [LLAMA, GPT2, T5], ids=str)
def test_plain_save_pretrained_of_the_result_is_enough(tmp_path, architecture, structure):
    model = eckart.compress(architecture.build(), keep=architecture.keep, structure=structure).model
    model.save_pretrained(tmp_path / "plain")
    inputs = some_inputs(architecture)
    assert torch.equal(outputs(architecture.load(tmp_path / "plain"), inputs), outputs(model, inputs))


def test_text_is_read_as_the_model_reads_it_not_as_its_config_was_made(tmp_path, tokenizer):
    # Built from a config, a model's config names no architecture yet.
    path = tmp_path / "book.txt"
    path.write_text("\n".join(" ".join(WORDS[:40]) for _ in range(5)))
    decoder = LLAMA.build()
    assert not decoder.config.architectures
    words = 5 * 40
    whole = eckart.compress(decoder, keep=0.8, data=str(path), tokenizer=tokenizer, max_length=POSITIONS)
    assert whole.manifest.calibration_tokens == words
    lines = eckart.compress(BERT.build(), keep=0.8, data=str(path), tokenizer=tokenizer)
    assert lines.manifest.calibration_tokens == words


def test_an_encoder_decoders_encoder_alone_goes_through(tmp_path, data, tokenizer):
    config = transformers.UMT5Config.from_dict(T5.build().config.to_dict() | {"model_type": "umt5"})
    model = transformers.UMT5EncoderModel(config).eval()
    eckart.compress(model, tmp_path / "out", keep=0.8, data=data, tokenizer=tokenizer)
    inputs = {"input_ids": some_inputs(BERT)["input_ids"]}
    again = transformers.UMT5EncoderModel.from_pretrained(tmp_path / "out")
    assert torch.equal(outputs(again, inputs), outputs(model, inputs))


def test_training_mode_is_kept_and_changes_nothing(data, tokenizer):
    model = GPT2.build().train()
    result = eckart.compress(model, keep=0.8, data=data, tokenizer=tokenizer)
    assert all(module.training for module in model.modules())
    expected = eckart.compress(GPT2.build(), keep=0.8, data=data, tokenizer=tokenizer)
    assert result.manifest.targets == expected.manifest.targets


def test_an_untied_head_is_compressed_by_name_and_reloads(tmp_path):
    result = eckart.compress(LLAMA.build(), tmp_path / "out", rank=6, targets=["lm_head", "q_proj"])
    again, inputs = LLAMA.load(tmp_path / "out"), some_inputs(LLAMA)
    assert isinstance(again.lm_head, LowRankLinear)
    assert torch.equal(outputs(again, inputs), outputs(result.model, inputs))


def test_keep_1_changes_nothing():
    model = LLAMA.build()
    before = copy.deepcopy(model.state_dict())
    manifest = eckart.compress(model, keep=1.0).manifest
    assert manifest.parameters.after == manifest.parameters.before
    assert all(record.structure == "dense" for record in manifest.targets)
    assert before.keys() == model.state_dict().keys()
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_rank_that_saves_nothing_leaves_the_weight_dense_and_says_so():
    # 48 x 48 breaks even at 24; k and v are 24 x 48 and break even at 16.
    result = eckart.compress(LLAMA.build(), rank=20, targets=["q_proj", "k_proj"])
    ranks = {record.name[-6:]: record.rank for record in result.manifest.targets}
    assert ranks == {"q_proj": 20, "k_proj": None}
    (note,) = result.manifest.notes
    assert note.startswith("2 of the 24x48 weights stay dense: lowrank at rank 20 has 1,440 parameters")
    assert "--structure pivoted at this rank saves" in note
    pivoted = eckart.compress(LLAMA.build(), rank=20, targets=["q_proj", "k_proj"], structure="pivoted")
    assert {record.rank for record in pivoted.manifest.targets} == {20}
    assert any(isinstance(module, PivotedLinear) for module in pivoted.model.modules())


def test_ratio_is_of_each_weights_smaller_side():
    records = eckart.compress(LLAMA.build(), ratio=0.25, targets=["q_proj", "k_proj"]).manifest.targets
    assert {record.name[-6:]: record.rank for record in records} == {"q_proj": 12, "k_proj": 6}


def test_a_target_that_no_token_reached_stays_dense_and_the_budget_is_still_met(data, tokenizer):
    class Sometimes(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner, self.unused = inner, nn.ModuleList([nn.Linear(48, 80)])

        def forward(self, x):
            return self.inner(x)

    model = LLAMA.build()
    model.model.layers[0].mlp = Sometimes(model.model.layers[0].mlp)
    manifest = eckart.compress(model, keep=0.8, data=data, tokenizer=tokenizer).manifest
    name = "model.layers.0.mlp.unused.0"
    assert f"{name} stays dense: no token of the data reached it" in manifest.notes
    assert name not in [record.name for record in manifest.targets]
    assert 0.795 < manifest.parameters.keep <= 0.8


def test_an_input_in_a_shape_of_its_own_is_read_without_padding(data, tokenizer):
    # A pooler reads one vector a text: no mask fits that, so the texts are run one by one.
    result = eckart.compress(BERT.build(), rank=6, targets=["pooler.dense"], data=data, tokenizer=tokenizer)
    model, states = BERT.build(), []
    for text in hold_out(read_texts(data))[0]:
        ids = tokenizer(text.text, return_tensors="pt")["input_ids"]
        states.append(outputs(model, {"input_ids": ids})[0, 0])
    x, weight = torch.stack(states).double(), model.pooler.dense.weight.double()
    pooler = result.model.pooler.dense
    left = (weight - pooler.U.weight.double() @ pooler.V.weight.double()) @ x.T
    error = float((left.norm() / (weight @ x.T).norm()).detach())
    assert result.manifest.targets[0].measured_error == pytest.approx(error, rel=1e-4)


# What is refused


def test_a_compressed_model_is_not_compressed_again(tmp_path):
    model = eckart.compress(LLAMA.build(), tmp_path / "out", keep=0.9).model
    for again in (model, str(tmp_path / "out"), LLAMA.load(tmp_path / "out")):
        with pytest.raises(UsageError, match="compressed already"):
            eckart.compress(again, keep=0.8)


@pytest.mark.parametrize(
    ("wrap", "message"),
    [
        (nn.Sequential, "Sequential is not a transformers model"),
        (lambda model: model.model.layers[0].mlp.up_proj, "Linear is not a transformers model"),
        (torch.compile, "not a transformers model"),
    ],
)
def test_what_is_no_transformers_model_is_refused(wrap, message):
    with pytest.raises(UsageError, match=message):
        eckart.compress(wrap(LLAMA.build()), keep=0.8)


def test_a_model_with_adapters_is_refused():
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(target_modules=["q_proj"])
    with pytest.raises(UsageError, match=r"PeftModel\w* is not a transformers model.*merge_and_unload"):
        eckart.compress(peft.get_peft_model(LLAMA.build(), config), keep=0.8)
    model = LLAMA.build()
    # As `model.add_adapter` does, which asks for a newer peft than there may be.
    peft.inject_adapter_in_model(config, model)
    model._hf_peft_config_loaded = True
    with pytest.raises(UsageError, match="has adapters: merge them"):
        eckart.compress(model, keep=0.8)


def test_weights_that_are_not_in_memory_are_refused():
    with torch.device("meta"):
        model = LLAMA.make()
    with pytest.raises(UsageError, match="is not in memory"):
        eckart.compress(model, keep=0.8)


def test_data_needs_a_tokenizer(data):
    with pytest.raises(UsageError, match="pass tokenizer="):
        eckart.compress(LLAMA.build(), keep=0.8, data=data)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_is_named_and_nothing_is_written(tmp_path, bad):
    model = LLAMA.build()
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[2, 3] = bad
    with pytest.raises(EckartError, match=r"model\.layers\.1\.mlp\.up_proj\.weight .*not finite"):
        eckart.compress(model, tmp_path / "out", keep=0.8)
    assert not list(tmp_path.iterdir())


def test_a_model_whose_answer_is_not_finite_is_not_saved(tmp_path):
    model = LLAMA.build()
    with torch.no_grad():
        model.model.norm.weight.fill_(3e38)
    with pytest.raises(EckartError, match="values that are not finite"):
        eckart.compress(model, tmp_path / "out", keep=0.8)
    assert not list(tmp_path.iterdir())


def test_an_impossible_budget_is_refused_before_anything_runs(data, tokenizer, monkeypatch):
    def never(*arguments):
        raise AssertionError("calibration was started")

    monkeypatch.setattr(calibrate, "watch", never)
    model = LLAMA.build()
    before = list(model.state_dict())
    with pytest.raises(
        UsageError, match=r"keep 0.1 is lower than the model allows.*ask for keep 0\.\d+ or more"
    ) as error:
        eckart.compress(model, keep=0.1, data=data, tokenizer=tokenizer)
    assert list(model.state_dict()) == before
    monkeypatch.undo()
    offered = float(str(error.value).partition("ask for keep ")[2].split()[0])
    manifest = eckart.compress(model, keep=offered, data=data, tokenizer=tokenizer).manifest
    assert manifest.parameters.keep <= offered


def test_a_model_that_reads_a_weight_itself_still_runs_and_says_which():
    result = eckart.compress(MAMBA.build(), rank=4, targets=["dt_proj", "in_proj"])
    assert any("dt_proj stays dense" in note for note in result.manifest.notes)
    assert outputs(result.model, some_inputs(MAMBA)).isfinite().all()


def test_the_tokenizer_given_is_saved_beside_the_model(tmp_path, data):
    eckart.compress(LLAMA.build(), tmp_path / "out", keep=0.8, data=data, tokenizer=tiny_tokenizer())
    again = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert again("w1 w2")["input_ids"] == tiny_tokenizer()("w1 w2")["input_ids"]

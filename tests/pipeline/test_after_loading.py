"""A loaded model is an ordinary one: cast, sharded, placed, copied, trained, adapted and saved again."""

from __future__ import annotations

import copy
import json
import shutil

import pytest
import torch
import transformers
from architectures import BERT, GPT2, LLAMA, T5, outputs, some_inputs
from fitting import SINGLE
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

import eckart
from eckart.structures import StructuredLinear

BOTH = pytest.mark.parametrize("structure", SINGLE)
THREE = pytest.mark.parametrize("architecture", [LLAMA, BERT, T5], ids=str)


@pytest.fixture(scope="module")
def made(stored, data, tmp_path_factory):
    """An architecture and a structure to the folder of the compressed model; made once."""
    cache = {}

    def make(architecture, structure):
        key = (architecture.name, structure)
        if key not in cache:
            cache[key] = tmp_path_factory.mktemp("-".join(key)) / "out"
            eckart.compress(
                str(stored(architecture)),
                cache[key],
                keep=architecture.keep,
                method="svd-llm",
                structure=structure,
                data=data,
            )
        return cache[key]

    return make


def assert_same_outputs(architecture, one, other):
    inputs = some_inputs(architecture)
    assert torch.equal(outputs(one, inputs), outputs(other, inputs))


def factored(model):
    return [m for m in model.modules() if isinstance(m, StructuredLinear)]


@BOTH
@THREE
def test_saved_again_by_plain_transformers_it_reloads_the_same(made, tmp_path, architecture, structure):
    model = architecture.load(made(architecture, structure))
    model.save_pretrained(tmp_path / "again")
    again = architecture.load(tmp_path / "again")
    assert len(factored(again)) == len(factored(model)) > 0
    assert_same_outputs(architecture, again, model)
    folders = (made(architecture, structure), tmp_path / "again")
    before, after = (load_file(folder / "model.safetensors") for folder in folders)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@BOTH
@THREE
def test_it_casts_as_a_dense_model_does(made, tmp_path, architecture, structure):
    model = architecture.load(made(architecture, structure))
    full = outputs(model, some_inputs(architecture))
    model.to(torch.bfloat16)
    half = outputs(model, some_inputs(architecture))
    assert half.dtype == torch.bfloat16
    assert 0 < (half.float() - full).norm() < 0.1 * full.norm()
    assert all(m.order.dtype == torch.int32 for m in factored(model) if structure == "pivoted")
    model.save_pretrained(tmp_path / "half")
    again = architecture.load(tmp_path / "half")
    assert again.dtype == torch.bfloat16
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in model.state_dict().items())
    asked = architecture.load(made(architecture, structure), dtype=torch.bfloat16)
    assert all(torch.equal(asked.state_dict()[name], tensor) for name, tensor in model.state_dict().items())


@BOTH
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("architecture", [LLAMA, GPT2, BERT, T5], ids=str)
def test_a_half_precision_model_stays_one_bit_for_bit(stored, data, tmp_path, architecture, dtype, structure):
    architecture.load(stored(architecture), dtype=dtype).save_pretrained(tmp_path / "dense")
    shutil.copy(stored(architecture) / "tokenizer.json", tmp_path / "dense")
    shutil.copy(stored(architecture) / "tokenizer_config.json", tmp_path / "dense")
    result = eckart.compress(
        str(tmp_path / "dense"),
        tmp_path / "out",
        keep=architecture.keep,
        method="svd-llm",
        structure=structure,
        data=data,
    )
    again = architecture.load(tmp_path / "out")
    assert again.dtype == dtype
    assert {p.dtype for m in factored(again) for p in m.parameters()} <= {dtype, torch.float32}
    assert_same_outputs(architecture, again, result.model)
    count = result.manifest.parameters
    assert architecture.keep - 0.005 <= count.after / count.before <= architecture.keep
    for record in result.manifest.targets:
        # Rounding to the model's dtype is the only difference, and it can only be seen, never be zero.
        assert record.measured_error == pytest.approx(record.predicted_error, rel=0.01), record.name
    assert [r.measured_error for r in result.manifest.targets] != [
        r.predicted_error for r in result.manifest.targets
    ]


@BOTH
def test_shards_load_the_same_and_can_be_compressed(made, stored, data, tmp_path, structure):
    model = LLAMA.load(made(LLAMA, structure))
    model.save_pretrained(tmp_path / "sharded", max_shard_size="30KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 3
    assert_same_outputs(LLAMA, LLAMA.load(tmp_path / "sharded"), model)
    shutil.copytree(stored(LLAMA), tmp_path / "dense", ignore=shutil.ignore_patterns("*.safetensors"))
    LLAMA.load(stored(LLAMA)).save_pretrained(tmp_path / "dense", max_shard_size="30KB")
    assert not (tmp_path / "dense" / "model.safetensors").exists()
    result = eckart.compress(
        str(tmp_path / "dense"),
        tmp_path / "out",
        keep=LLAMA.keep,
        method="svd-llm",
        structure=structure,
        data=data,
    )
    assert_same_outputs(LLAMA, LLAMA.load(tmp_path / "out"), model)
    assert_same_outputs(LLAMA, result.model, model)
    # The dense folder's index is no companion: it would name shards that are not there.
    assert not (tmp_path / "out" / "model.safetensors.index.json").exists()


@BOTH
@pytest.mark.parametrize("place", ["cpu", "auto", {"": "cpu"}], ids=str)
def test_a_device_map_is_obeyed(made, structure, place):
    model = LLAMA.load(made(LLAMA, structure), device_map=place)
    assert all(parameter.device.type == "cpu" for parameter in model.parameters())
    assert_same_outputs(LLAMA, model, LLAMA.load(made(LLAMA, structure)))


@BOTH
def test_blocks_offloaded_to_disk_answer_the_same(made, tmp_path, structure):
    places = {"model.embed_tokens": "cpu", "model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "cpu"}
    places |= {"model.layers.0": "cpu", "model.layers.1": "disk"}
    model = LLAMA.load(made(LLAMA, structure), device_map=places, offload_folder=str(tmp_path / "offload"))
    assert next(model.model.layers[1].mlp.up_proj.parameters()).is_meta
    assert_same_outputs(LLAMA, model, LLAMA.load(made(LLAMA, structure)))


@BOTH
def test_copies_are_the_same_and_separate(made, structure):
    model = LLAMA.load(made(LLAMA, structure))
    copied = copy.deepcopy(model)
    assert_same_outputs(LLAMA, copied, model)
    with torch.no_grad():
        next(copied.model.layers[0].mlp.up_proj.parameters()).zero_()
    assert not torch.equal(outputs(copied, some_inputs(LLAMA)), outputs(model, some_inputs(LLAMA)))


@BOTH
def test_it_generates_what_it_generated_before_saving(stored, data, tmp_path, structure):
    result = eckart.compress(
        str(stored(LLAMA)), tmp_path / "out", keep=0.8, method="svd-llm", structure=structure, data=data
    )
    prompt = some_inputs(LLAMA, batch=1)["input_ids"]
    written = [
        model.generate(prompt, max_new_tokens=12, do_sample=False, eos_token_id=None)
        for model in (result.model, LLAMA.load(tmp_path / "out"))
    ]
    assert written[0].shape == (1, 24)
    assert torch.equal(*written)


def test_saved_again_without_its_code_it_is_refused_rather_than_random(made, tmp_path):
    # Plain save_pretrained writes no code; the config still names it, so that nobody gets random weights.
    LLAMA.load(made(LLAMA, "lowrank")).save_pretrained(tmp_path / "again")
    with pytest.raises(OSError, match=r"modeling_eckart\.py"):
        LLAMA.load(tmp_path / "again", trust_remote_code=True)


# Training


@BOTH
@THREE
def test_a_training_step_reaches_every_factor(made, architecture, structure):
    model = architecture.load(made(architecture, structure)).train()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(**some_inputs(architecture))[0].square().mean().backward()
    optimizer.step()
    for name, parameter in model.named_parameters():
        # A bias of the keys alone changes no attention weight: no gradient moves it.
        if name.endswith((".U.weight", ".V.weight")):
            assert not torch.equal(parameter, before[name]), name


@BOTH
def test_the_trainer_trains_and_saves_it(made, tmp_path, structure):
    model = LLAMA.load(made(LLAMA, structure))
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    rows = some_inputs(LLAMA, batch=4)["input_ids"]
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path / "run"),
        max_steps=2,
        per_device_train_batch_size=2,
        learning_rate=1e-2,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
        gradient_checkpointing=True,
    )
    trainer = transformers.Trainer(
        model, arguments, train_dataset=[{"input_ids": row, "labels": row} for row in rows]
    )
    trainer.train()
    assert all(not torch.equal(p, before[name]) for name, p in model.named_parameters() if ".U." in name)
    trainer.save_model(str(tmp_path / "trained"))
    assert_same_outputs(LLAMA, LLAMA.load(tmp_path / "trained"), model.eval())


def test_lora_on_the_factors_trains_saves_and_merges(made, tmp_path):
    peft = pytest.importorskip("peft")
    model = LLAMA.load(made(LLAMA, "lowrank"))
    adapted = peft.get_peft_model(
        model,
        peft.LoraConfig(r=2, target_modules=["q_proj.U", "q_proj.V", "up_proj.U"], init_lora_weights=False),
    )
    trained = [name for name, p in adapted.named_parameters() if p.requires_grad]
    assert len(trained) == 2 * 2 * 3
    assert all("lora_" in name and ("q_proj" in name or "up_proj.U" in name) for name in trained)
    before = {name: p.detach().clone() for name, p in adapted.named_parameters()}
    optimizer = torch.optim.SGD([p for p in adapted.parameters() if p.requires_grad], lr=0.1)
    adapted(**some_inputs(LLAMA))[0].square().mean().backward()
    optimizer.step()
    changed = {name for name, p in adapted.named_parameters() if not torch.equal(p, before[name])}
    assert changed == set(trained)
    adapted.save_pretrained(tmp_path / "adapter")
    again = peft.PeftModel.from_pretrained(LLAMA.load(made(LLAMA, "lowrank")), tmp_path / "adapter")
    assert_same_outputs(LLAMA, again, adapted.eval())
    merged = again.merge_and_unload()
    assert type(merged.model.layers[0].self_attn.q_proj) is eckart.LowRankLinear
    merged.save_pretrained(tmp_path / "merged")
    assert_same_outputs(LLAMA, LLAMA.load(tmp_path / "merged"), merged)
    difference = outputs(merged, some_inputs(LLAMA)) - outputs(adapted, some_inputs(LLAMA))
    assert difference.abs().max() < 1e-4


def test_the_factors_are_plain_linears_by_their_documented_names(made):
    with safe_open(made(LLAMA, "lowrank") / "model.safetensors", "pt") as file:
        low = set(file.keys())
    with safe_open(made(BERT, "pivoted") / "model.safetensors", "pt") as file:
        pivoted = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    assert {name for name in low if "0.self_attn.q_proj" in name} == {
        f"model.layers.0.self_attn.q_proj.{part}.weight" for part in "UV"
    }
    key = "encoder.layer.0.attention.self.key"
    rank = json.loads((made(BERT, "pivoted") / "config.json").read_text())["quantization_config"]["modules"][
        key
    ]["rank"]
    assert {name.removeprefix(f"{key}."): shape for name, shape in pivoted.items() if key in name} == {
        "V.weight": (rank, 48),
        "V.bias": (rank,),
        "U.weight": (48 - rank, rank),
        "U.bias": (48 - rank,),
        "order": (48,),
    }


# Parts and heads


@BOTH
def test_the_bare_backbone_of_a_saved_head_model_is_its_backbone(made, structure):
    whole = LLAMA.load(made(LLAMA, structure))
    bare = transformers.AutoModel.from_pretrained(made(LLAMA, structure))
    assert type(bare) is transformers.LlamaModel
    assert len(factored(bare)) == len(factored(whole)) > 0
    assert_same_outputs(LLAMA, bare, whole.model)


@BOTH
def test_a_head_on_a_saved_backbone_keeps_the_backbone(made, tmp_path, structure):
    bare = BERT.load(made(BERT, structure))
    headed = transformers.AutoModelForSequenceClassification.from_pretrained(
        made(BERT, structure), num_labels=3
    ).eval()
    assert_same_outputs(BERT, headed.bert, bare)
    assert outputs(headed, some_inputs(BERT)).shape == (2, 3)
    headed.save_pretrained(tmp_path / "headed")
    again = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "headed")
    assert_same_outputs(BERT, again, headed)
    assert_same_outputs(BERT, BERT.load(tmp_path / "headed"), bare)


@BOTH
def test_t5s_encoder_alone_is_the_models_encoder(made, structure):
    alone = transformers.T5EncoderModel.from_pretrained(made(T5, structure))
    inputs = {"input_ids": some_inputs(T5)["input_ids"]}
    whole = T5.load(made(T5, structure))
    assert len(factored(alone)) == len(factored(whole.encoder)) > 0
    assert torch.equal(outputs(alone, inputs), outputs(whole.encoder, inputs))


def test_a_backbone_loads_without_its_compressed_head(tmp_path):
    model = eckart.compress(LLAMA.build(), tmp_path / "out", rank=6, targets=["lm_head", "q_proj"]).model
    bare = transformers.AutoModel.from_pretrained(tmp_path / "out")
    assert len(factored(bare)) == 2
    assert_same_outputs(LLAMA, bare, model.model)
    assert isinstance(model.lm_head, nn.Module)


@BOTH
def test_loading_with_trust_remote_code_changes_nothing_where_eckart_is(made, structure):
    trusted = LLAMA.load(made(LLAMA, structure), trust_remote_code=True)
    assert_same_outputs(LLAMA, trusted, LLAMA.load(made(LLAMA, structure)))
    assert len(factored(trusted)) > 0

"""`eckart plan --lora`, and what plan says of tied weights: facts to the parameter, from configs alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import BERT, GPT2, LLAMA, MISTRAL, T5
from outside import Eckart
from safetensors.torch import load_file, save_file

CONFIGS = Path(__file__).parents[1] / "configs"
LLAMA_2 = CONFIGS / "llama-2-7b"


def config_of(folder: Path, **changes: Any) -> Path:
    """A folder with the config of Llama-2-7B and other sizes."""
    folder.mkdir(exist_ok=True)
    config = json.loads((LLAMA_2 / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    return folder


@pytest.mark.parametrize(
    ("layers", "width", "millions"), [(32, 4096, 2.1), (40, 5120, 3.3), (80, 8192, 10.5)]
)
def test_one_square_matrix_a_layer_costs_twice_the_width_times_the_rank(
    eckart: Eckart, tmp_path: Path, layers: int, width: int, millions: float
) -> None:
    heads = {"num_attention_heads": width // 128, "num_key_value_heads": width // 128}
    model = config_of(tmp_path / "model", num_hidden_layers=layers, hidden_size=width, **heads)
    answer = eckart("plan", model, "--lora", "--ranks", "8", "--targets", "q_proj", "--json").json
    (row,) = answer["lora"]["rows"]
    assert row["parameters"] == 2 * width * 8 * layers
    assert round(row["parameters"] / 1e6, 1) == millions
    assert row["bytes"] == 2 * row["parameters"]  # bfloat16 or float16
    assert row["training_bytes"] == (4 + 4 + 4) * row["parameters"]
    assert row["share"] == row["parameters"] / answer["parameters"]["before"]
    assert answer["lora"]["shapes"] == [
        {"kind": "self_attn.q_proj", "shape": [width, width], "count": layers, "break_even": width // 2}
    ]


def test_an_adapter_of_rank_256_and_the_weight(eckart: Eckart) -> None:
    options = ["--ranks", "256", "--targets", "q_proj", "--layers", "top:1", "--json"]
    answer = eckart("plan", LLAMA_2, "--lora", *options).json
    assert answer["lora"]["rows"][0]["parameters"] == 2_097_152
    assert answer["parameters"]["targets_before"] == 16_777_216


def test_beyond_break_even_an_adapter_is_larger_than_the_weight(eckart: Eckart) -> None:
    options = ["--targets", "down_proj", "--layers", "top:1", "--json"]
    answer = eckart("plan", LLAMA_2, "--lora", "--ranks", "2985,2986", *options)
    even, beyond = (row["parameters"] for row in answer.json["lora"]["rows"])
    assert even <= answer.json["parameters"]["targets_before"] < beyond
    assert answer.json["lora"]["shapes"][0]["break_even"] == 2985
    assert "beyond rank 2985 an adapter is larger than a 4096x11008 weight itself" in answer.err


@pytest.mark.parametrize(
    ("architecture", "targets"),
    [(LLAMA, ["q_proj", "v_proj", "down_proj"]), (GPT2, ["c_attn", "mlp.c_proj"]), (T5, ["q", "wo"])],
    ids=str,
)
def test_peft_counts_the_same(eckart: Eckart, stored: Any, architecture: Any, targets: list[str]) -> None:
    peft = pytest.importorskip("peft")
    options = ["--ranks", "3", "--targets", ",".join(targets), "--json"]
    (row,) = eckart("plan", stored(architecture), "--lora", *options).json["lora"]["rows"]
    adapted = peft.get_peft_model(architecture.build(), peft.LoraConfig(r=3, target_modules=targets))
    assert row["parameters"] == adapted.get_nb_trainable_parameters()[0]


def test_the_factors_of_a_compressed_model_are_plain_linears_to_peft(eckart: Eckart, stored: Any) -> None:
    peft = pytest.importorskip("peft")
    cut = ["--keep", "0.6", "--of", "targets", "--targets", "q_proj,up_proj"]
    assert eckart("compress", stored(LLAMA), "-o", "small", *cut).code == 0
    answer = eckart("plan", "small", "--lora", "--ranks", "2", "--json").json
    kinds = {shape["kind"] for shape in answer["lora"]["shapes"]}
    assert {"self_attn.q_proj.U", "self_attn.q_proj.V", "self_attn.k_proj"} <= kinds
    adapted = peft.get_peft_model(
        LLAMA.load("small"), peft.LoraConfig(r=2, target_modules=[row["name"] for row in answer["targets"]])
    )
    assert answer["lora"]["rows"][0]["parameters"] == adapted.get_nb_trainable_parameters()[0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--lora", "--keep", "0.8"], "--keep says how to cut"),
        (["--lora", "--structure", "pivoted"], "--structure says how to cut"),
        (["--lora", "--of", "targets"], "--of says how to cut"),
        (["--lora", "--ranks", "8,0"], "--ranks 8,0"),
        (["--lora", "--ranks", ","], "ranks of 1 or more"),
        (["--lora", "--ranks", "8.5"], "--ranks 8.5: not a whole number"),
        (["--lora", "--ranks", "many"], "--ranks many: not a number"),
        (["--ranks", "8", "--keep", "0.8"], "--lora"),
        (["--lora", "--targets", "w_proj"], "--targets w_proj fits no linear layer"),
    ],
)
def test_what_makes_no_sense_is_refused(eckart: Eckart, stored: Any, options: list[str], words: str) -> None:
    eckart("plan", stored(LLAMA), *options).fails(2, words)


# Tied weights


def tied(answer: dict[str, Any]) -> list[set[str]]:
    return [set(group["names"]) for group in answer["tied"]]


def test_apart_embeddings_could_be_one(eckart: Eckart) -> None:
    answer = eckart("plan", LLAMA_2, "--keep", "0.8", "--json")
    assert answer.json["tied"] == []
    assert answer.json["embedding_parameters"] == 2 * 32000 * 4096
    assert "lm_head.weight and model.embed_tokens.weight have one shape" in answer.err
    assert "they would save 131,072,000 parameters" in answer.err


def test_tied_embeddings_are_one_weight(eckart: Eckart, tmp_path: Path) -> None:
    model = config_of(tmp_path / "model", tie_word_embeddings=True)
    answer = eckart("plan", model, "--keep", "0.8", "--json")
    names = ["model.embed_tokens.weight", "lm_head.weight"]
    assert answer.json["tied"] == [{"names": names, "parameters": 131_072_000, "saved": 131_072_000}]
    assert answer.json["embedding_parameters"] == 131_072_000
    assert answer.json["parameters"]["before"] == 6_738_415_616 - 131_072_000
    assert f"tied: {' = '.join(names)}: one weight of 131,072,000 parameters" in answer.err


def test_a_head_stored_apart_is_not_tied(eckart: Eckart, stored: Any, tmp_path: Path) -> None:
    """As Flan-T5's: transformers ties it where only a config is there."""
    folder = Path(shutil.copytree(stored(T5), tmp_path / "own_head"))
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"] = torch.randn(weights["shared.weight"].shape)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    one = eckart("plan", stored(T5), "--keep", "0.8", "--json").json
    two = eckart("plan", folder, "--lora", "--json").json
    (group,) = tied(one)
    assert "lm_head.weight" in group
    assert tied(two) == [group - {"lm_head.weight"}]
    assert two["embedding_parameters"] == 2 * one["embedding_parameters"]
    assert any("lm_head.weight and shared.weight have one shape" in note for note in two["notes"])


@pytest.mark.parametrize("architecture", [BERT, MISTRAL, GPT2], ids=str)
def test_what_is_tied_is_what_the_loaded_model_shares(eckart: Eckart, stored: Any, architecture: Any) -> None:
    answer = eckart("plan", stored(architecture), "--keep", "0.8", "--json").json
    model = architecture.load(stored(architecture))
    names: dict[int, set[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), set()).add(name)
    assert tied(answer) == [group for group in names.values() if len(group) > 1]

"""An adapter is merged when it is asked for, and never else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from architectures import BERT, LLAMA, tiny_tokenizer, write_data
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

import eckart
from eckart.types import EckartError, UsageError


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "model"
    LLAMA.build(torch.bfloat16).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapter") / "adapter"
    torch.manual_seed(0)
    config = LoraConfig(r=3, lora_alpha=6, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    get_peft_model(LLAMA.build(torch.bfloat16), config).save_pretrained(folder)
    return folder


def merged(model: Path, adapter: Path) -> dict[str, torch.Tensor]:
    """By peft alone: in float32, rounded once."""
    wrapped = PeftModel.from_pretrained(LLAMA.load(model).float(), str(adapter))
    return wrapped.merge_and_unload().to(torch.bfloat16).state_dict()


def test_it_is_in_the_weights_before_the_cut(model: Path, adapter: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    made = eckart.compress(model, out, keep=1.0, method="svd", adapter=adapter)
    stored, expected = load_file(out / "model.safetensors"), merged(model, adapter)
    assert all(torch.equal(stored[name], expected[name]) for name in stored)
    assert set(stored) <= set(expected)
    assert any("adapter" in note for note in made.manifest.notes)
    again = eckart.compress(out=tmp_path / "again", recipe=out / "eckart.json")
    assert again.manifest.files["model.safetensors"] == made.manifest.files["model.safetensors"]


def test_it_is_judged_and_calibrated_with(model: Path, adapter: Path, tmp_path: Path) -> None:
    """Also where the moments of the model without it are on disk."""
    data = str(write_data(tmp_path / "data.jsonl"))
    apart = tmp_path / "apart"
    LLAMA.build(torch.bfloat16).save_pretrained(apart)
    state = merged(model, adapter)
    save_file(
        {name: state[name].contiguous() for name in load_file(apart / "model.safetensors")},
        apart / "model.safetensors",
        {"format": "pt"},
    )
    tiny_tokenizer().save_pretrained(apart)
    scores = [
        eckart.evaluate(folder, "perplexity", data=data, **more).value
        for folder, more in ((apart, {}), (model, {"adapter": adapter}))
    ]
    assert scores[0] == scores[1] != eckart.evaluate(model, "perplexity", data=data).value
    ask = {"keep": 0.8, "method": "svd-llm", "data": data}
    eckart.compress(model, tmp_path / "warm", **ask)
    for name, folder, more in (("one", apart, {"blocks": False}), ("other", model, {"adapter": adapter})):
        eckart.compress(folder, tmp_path / name, **ask, **more)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "other", "warm")]
    assert weights[0] == weights[1] != weights[2]


def test_what_does_not_fit_is_refused_with_nothing_written(
    model: Path, adapter: Path, tmp_path: Path
) -> None:
    def refused(folder: Path, error: type[Exception], words: str, base: Path = model, **more: object) -> None:
        with pytest.raises(error, match=words):
            eckart.compress(base, tmp_path / "out", keep=0.8, method="svd", adapter=folder, **more)
        assert not (tmp_path / "out").exists()

    refused(model, UsageError, "has no adapter_config.json")
    refused(adapter, UsageError, "whole model", blocks=True)
    bert = tmp_path / "bert"
    BERT.build().save_pretrained(bert)
    refused(adapter, EckartError, "does not fit", base=bert)
    less, pickled = tmp_path / "less", tmp_path / "pickled"
    for folder in (less, pickled):
        shutil.copytree(adapter, folder)
    weights = load_file(less / "adapter_model.safetensors")
    weights.pop(sorted(weights)[0])
    save_file(weights, less / "adapter_model.safetensors")
    refused(less, EckartError, "missing")
    (pickled / "adapter_model.safetensors").rename(pickled / "adapter_model.bin")
    refused(pickled, UsageError, "safetensors alone")
    wrong = tmp_path / "wrong"
    shutil.copytree(adapter, wrong)
    config = json.loads((wrong / "adapter_config.json").read_text())
    (wrong / "adapter_config.json").write_text(json.dumps(config | {"r": 7}))
    refused(wrong, EckartError, "does not fit")

"""A compressed model made dense again: the same function, the same layers, and no trace of Eckart."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from architectures import ARCHITECTURES, GPT2, LLAMA, Architecture, outputs, some_inputs
from fitting import SINGLE
from safetensors.torch import load_file

import eckart
from eckart.model import replacing

KINDS = pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)


@KINDS
@pytest.mark.parametrize("structure", SINGLE)
def test_a_merged_model_is_the_factored_one_in_the_layers_it_had(
    architecture: Architecture, structure: str
) -> None:
    dense = architecture.build()
    model = copy.deepcopy(dense)
    eckart.compress(model, keep=architecture.keep, method="svd", structure=structure)
    inputs = some_inputs(architecture)
    factored = outputs(model, inputs)
    names = replacing.merge(model)
    assert names
    assert (outputs(model, inputs) - factored).abs().max() < 3e-5
    for name, module in dense.named_modules():
        now = model.get_submodule(name)
        assert type(now) is type(module)
        assert now.training == module.training
    assert {n: p.shape for n, p in model.named_parameters()} == {
        n: p.shape for n, p in dense.named_parameters()
    }
    assert getattr(model.config, "quantization_config", None) is None
    assert replacing.merge(model) == []


def test_merging_keeps_dtype_and_what_learns() -> None:
    model = LLAMA.build(torch.bfloat16)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    eckart.compress(model, keep=0.7, method="svd")
    replacing.merge(model)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert not any(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("architecture", [LLAMA, GPT2], ids=str)
def test_a_merged_folder_is_dense_and_says_what_was_done(
    architecture: Architecture, stored, tmp_path: Path
) -> None:
    small, merged = tmp_path / "small", tmp_path / "merged"
    dense = stored(architecture)
    eckart.compress(dense, small, keep=0.7, method="svd")
    made = eckart.compress(dense, merged, keep=0.7, method="svd", merge=True).manifest
    assert made.merged
    assert made.parameters.after == made.parameters.before
    assert made.bytes.after == made.bytes.before
    assert any(note.startswith("merged") for note in made.notes)
    assert {(record.structure, record.rank is None) for record in made.targets} == {("dense", False)}
    shapes, before = (
        {name: tensor.shape for name, tensor in load_file(folder / "model.safetensors").items()}
        for folder in (merged, dense)
    )
    assert shapes == before
    config = (merged / "config.json").read_text()
    assert "eckart" not in config
    assert "auto_map" not in config
    assert not (merged / "modeling_eckart.py").exists()
    inputs = some_inputs(architecture)
    one, other = (outputs(architecture.load(folder), inputs) for folder in (small, merged))
    assert (one - other).abs().max() < 1e-5
    assert eckart.verify(merged).ok


def test_a_merged_folder_loads_where_eckart_is_not(stored, tmp_path: Path) -> None:
    result = eckart.compress(stored(LLAMA), tmp_path / "out", keep=0.7, method="svd", merge=True)
    script = (
        "import sys, torch; from transformers import AutoModelForCausalLM as Auto; "
        f"model = Auto.from_pretrained({str(tmp_path / 'out')!r}); "
        "print(float(model(torch.arange(9)[None]).logits.double().sum())); "
        "assert not any(name.partition('.')[0] == 'eckart' for name in sys.modules)"
    )
    run = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        check=True,
    )
    here = float(result.model(torch.arange(9)[None]).logits.double().sum())
    assert float(run.stdout) == pytest.approx(here, abs=1e-5)


def test_verify_sees_a_merged_folder_that_names_code(stored, tmp_path: Path) -> None:
    out = tmp_path / "out"
    eckart.compress(stored(LLAMA), out, keep=0.7, method="svd", merge=True)
    config = out / "config.json"
    config.write_text(config.read_text().replace("{", '{"auto_map": {},', 1))
    verdict = eckart.verify(out)
    assert [check.check for check in verdict.checks if not check.ok] == ["loads without eckart"]

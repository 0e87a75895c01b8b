"""Every architecture goes through compress, a plain folder and plain `from_pretrained`, with nothing lost."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import ARCHITECTURES, Architecture, outputs, some_inputs
from fitting import SPECTRAL
from safetensors import safe_open

import eckart
from eckart import structures
from eckart.structures import Shape
from eckart.types import Manifest

COMBINATIONS = [
    pytest.param(architecture, structure, method, id=f"{architecture}-{structure}-{method}")
    for architecture in ARCHITECTURES
    for structure in SPECTRAL
    for method in ("svd", "svd-llm")
]


@dataclass
class Made:
    """One compression of a stored model: what it gave, and what its folder gives when loaded plainly."""

    folder: Path
    manifest: Manifest
    answer: torch.Tensor
    reloaded: Any


@pytest.fixture(scope="module")
def made(stored, data, tmp_path_factory):
    cache: dict[tuple[str, str, str], Made] = {}

    def make(architecture: Architecture, structure: str, method: str) -> Made:
        key = (architecture.name, structure, method)
        if key not in cache:
            out = tmp_path_factory.mktemp("-".join(key)) / "out"
            result = _compress(stored(architecture), out, architecture, structure, method, data)
            answer = outputs(result.model, some_inputs(architecture))
            cache[key] = Made(out, result.manifest, answer, architecture.load(out))
        return cache[key]

    return make


def _compress(
    folder: Path, out: Path, architecture: Architecture, structure: str, method: str, data: str
) -> Any:
    return eckart.compress(
        str(folder),
        out,
        keep=architecture.keep,
        structure=structure,
        method=method,
        data=data if method == "svd-llm" else None,
    )


def tensors_in(folder: Path) -> dict[str, torch.Tensor]:
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            found |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return found


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _floats(tensors: dict[str, torch.Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors.values() if tensor.is_floating_point())


def _bytes(tensors: dict[str, torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


@pytest.mark.parametrize(("architecture", "structure", "method"), COMBINATIONS)
class TestRoundTrip:
    def test_plain_reload_gives_the_same_outputs_bit_for_bit(self, made, architecture, structure, method):
        one = made(architecture, structure, method)
        assert torch.isfinite(one.answer).all()
        assert torch.equal(outputs(one.reloaded, some_inputs(architecture)), one.answer)

    def test_compression_changes_the_outputs(self, made, stored, architecture, structure, method):
        dense = outputs(architecture.load(stored(architecture)), some_inputs(architecture))
        changed = made(architecture, structure, method).answer
        assert dense.shape == changed.shape
        assert (dense - changed).norm() > 1e-3 * dense.norm()

    def test_budget_is_met_and_never_exceeded(self, made, architecture, structure, method):
        count = made(architecture, structure, method).manifest.parameters
        assert count.after <= architecture.keep * count.before
        assert count.after >= (architecture.keep - 0.005) * count.before

    def test_manifest_counts_what_is_stored(self, made, stored, architecture, structure, method):
        one = made(architecture, structure, method)
        before, after = tensors_in(stored(architecture)), tensors_in(one.folder)
        assert one.manifest.parameters.before == _floats(before)
        assert one.manifest.parameters.after == _floats(after)
        assert one.manifest.parameters.keep == _floats(after) / _floats(before)
        assert one.manifest.bytes.before == _bytes(before)
        assert one.manifest.bytes.after == _bytes(after)
        assert one.manifest == Manifest.model_validate_json((one.folder / "eckart.json").read_text())

    def test_each_target_is_stored_as_its_record_says(self, made, architecture, structure, method):
        one = made(architecture, structure, method)
        tensors = tensors_in(one.folder)
        assert sum(record.rank is not None for record in one.manifest.targets) > 0
        for record in one.manifest.targets:
            if record.rank is None:
                assert f"{record.name}.weight" in tensors
                continue
            shape = Shape(record.out_features, record.in_features)
            parts = structures.find(structure).parts(shape, record.rank)
            for name, part in parts.items():
                assert tensors[f"{record.name}.{name}"].shape == part.shape
            matrices = [tensors[f"{record.name}.{n}"] for n, part in parts.items() if part.role == "matrix"]
            assert record.parameters_after == sum(m.numel() for m in matrices) < record.parameters_before
            assert f"{record.name}.weight" not in tensors

    def test_errors_are_the_predicted_ones_and_not_too_good(self, made, architecture, structure, method):
        for record in made(architecture, structure, method).manifest.targets:
            assert record.measured_error == pytest.approx(record.predicted_error, abs=1e-6)
            # Random weights have flat spectra: a fifth of their parameters is not to be had for nothing.
            assert record.rank is None or 0.01 < record.measured_error < 1

    def test_loading_leaves_an_ordinary_float_model(self, made, architecture, structure, method):
        model = made(architecture, structure, method).reloaded
        assert not model.is_quantized
        assert not hasattr(model, "hf_quantizer")
        assert not hasattr(model, "quantization_method")
        assert all(parameter.requires_grad for parameter in model.parameters())
        form = structures.find(structure)
        inside = [module for module in model.modules() if structures.structure_of(module) is form]
        assert inside
        assert all(type(module.U) is type(module.V) is torch.nn.Linear for module in inside)


@pytest.mark.parametrize("structure", SPECTRAL)
@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
def test_again_in_another_process_gives_the_same_bytes(
    made, process, stored, data, tmp_path, architecture, structure
):
    again = tmp_path / "out"
    answer = process(
        "compress", stored(architecture), "-o", again, "--data", data, "--no-cache", "--method", "svd-llm",
        "--structure", structure, "--keep", architecture.keep,
    )  # fmt: skip
    assert answer.code == 0, answer.err
    first = files_in(made(architecture, structure, "svd-llm").folder)
    assert {"model.safetensors", "config.json", "eckart.json", "tokenizer.json"} <= set(first)
    assert files_in(again) == first


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
def test_targets_are_the_linears_of_the_blocks(made, architecture):
    records = made(architecture, "lowrank", "svd").manifest.targets
    for ending, count in architecture.targets.items():
        assert sum(record.name.endswith(f".{ending}") for record in records) == count
    assert len(records) == sum(architecture.targets.values())


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
def test_what_stays_dense_in_the_blocks_is_named(made, architecture):
    notes = made(architecture, "lowrank", "svd").manifest.notes
    assert len(notes) == len(architecture.dense)
    for ending, note in zip(sorted(architecture.dense), sorted(notes), strict=True):
        assert ending in note
        assert "stays dense" in note


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
def test_saved_files_name_no_path_but_those_that_were_given(made, stored, architecture):
    root = str(stored(architecture).parents[1])
    saved = files_in(made(architecture, "lowrank", "svd-llm").folder)
    manifest = json.loads(saved["eckart.json"])
    assert root in manifest["recipe"].pop("model")
    del manifest["recipe"]["data"]
    for name, content in (saved | {"eckart.json": json.dumps(manifest).encode()}).items():
        assert root.encode() not in content, name


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
def test_config_keeps_what_the_dense_one_said(made, stored, architecture):
    before = json.loads((stored(architecture) / "config.json").read_text())
    after = json.loads((made(architecture, "lowrank", "svd-llm").folder / "config.json").read_text())
    assert {key: after[key] for key in before} == before
    assert set(after) - set(before) == {"auto_map", "quantization_config"}


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
def test_the_card_says_how_to_load_it(made, architecture):
    card = (made(architecture, "lowrank", "svd-llm").folder / "README.md").read_text()
    assert f"from transformers import {architecture.auto}\n" in card
    assert f'{architecture.auto}.from_pretrained("this folder", trust_remote_code=True)' in card
    count = made(architecture, "lowrank", "svd-llm").manifest.parameters
    assert f"{count.after:,} of {count.before:,} parameters" in card

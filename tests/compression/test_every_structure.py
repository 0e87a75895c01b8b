"""What every structure can do, from a folder to a folder: one is held to it as soon as it is registered."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import LLAMA, MIXTRAL, outputs, some_inputs
from safetensors.torch import load_file

import eckart
from eckart import structures
from eckart.integrations.vllm.parts import Part, require_shareable
from eckart.model import building, replacing
from eckart.model.portable.splitting import split_structures

every_structure = pytest.mark.parametrize("structure", structures.replacements())
KEEP, SIZE, LARGER = 0.7, 80_000, 110_000


def dial(structure: str, **more: Any) -> dict[str, Any]:
    """A size that the structure can be asked for."""
    size = {"keep": KEEP} if structures.find(structure).fewer else {"size": SIZE}
    return {"structure": structure, "method": "svd-llm", **size, **more}


@pytest.fixture(scope="module")
def made(stored, data, tmp_path_factory):
    """The folder that a tiny Llama becomes in a structure, made once."""
    cache: dict[str, Path] = {}

    def make(structure: str) -> Path:
        if structure not in cache:
            cache[structure] = tmp_path_factory.mktemp("made") / "out"
            eckart.compress(stored(LLAMA), cache[structure], data=data, **dial(structure))
        return cache[structure]

    return make


def manifest(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "eckart.json").read_text())
    return found


def of_structure(model: Any, structure: str) -> list[str]:
    found = structures.find(structure)
    return [name for name, module in model.named_modules() if structures.structure_of(module) is found]


@every_structure
def test_plan_says_what_compress_does(stored, made, structure):
    planned = eckart.plan(stored(LLAMA), **dial(structure))
    saved = manifest(made(structure))
    assert planned.parameters.model_dump() == saved["parameters"]
    assert planned.bytes.after == saved["bytes"]["after"]
    of_targets = {each.name: row.option for row in planned.sites for each in row.site.targets}
    assert {name: option.model_dump() for name, option in of_targets.items()} == {
        target["name"]: target["option"] for target in saved["targets"]
    }
    assert {row.option.structure for row in planned.sites} <= {structure, "dense"}


@every_structure
def test_it_loads_both_ways_and_is_what_its_manifest_says(made, structure):
    verdict = eckart.verify(made(structure))
    assert verdict.ok, verdict
    assert len(verdict.checks) == 4
    assert of_structure(LLAMA.load(made(structure)), structure)


@every_structure
def test_what_is_stored_is_what_its_tensors_say(made, structure):
    folder = made(structure)
    stored_shapes = {
        name: tuple(each.shape) for name, each in load_file(folder / "model.safetensors").items()
    }
    found = structures.find(structure)
    entries = json.loads((folder / "config.json").read_text())["quantization_config"]["modules"]
    for target in manifest(folder)["targets"]:
        option = target["option"]
        if option["structure"] == "dense":
            continue
        entry = entries[target["name"]]
        inner = entry.get("inner") if isinstance(entry, dict) else None
        shape = structures.Shape(target["out_features"], target["in_features"], inner=inner)
        parts = found.parts(shape, option["size"])
        expected = structures.stored_tensors(parts, option["bits"], 4)
        prefix = f"{target['name']}."
        held = {name.removeprefix(prefix): s for name, s in stored_shapes.items() if name.startswith(prefix)}
        assert held == {name: part.shape for name, part in expected.items()}


@every_structure
def test_a_damaged_folder_is_refused_at_the_door(made, structure, tmp_path):
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for path in made(structure).iterdir():
        (damaged / path.name).write_bytes(path.read_bytes())
    config = json.loads((damaged / "config.json").read_text())
    modules = config["quantization_config"]["modules"]
    name = next(iter(modules))
    entry = (
        modules[name] if isinstance(modules[name], dict) else {"rank": modules[name], "structure": structure}
    )
    modules[name] = {**entry, "rank": entry["rank"] + 1}
    (damaged / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=re.escape(name)):
        LLAMA.load(damaged)


@every_structure
def test_it_is_made_dense_again(made, structure, tmp_path):
    inputs = some_inputs(LLAMA)
    model = LLAMA.load(made(structure))
    before = outputs(model, inputs)
    replaced = of_structure(model, structure)
    assert set(replacing.merge(model)) >= set(replaced)
    assert not of_structure(model, structure)
    assert torch.allclose(outputs(model, inputs), before, atol=1e-4)
    eckart.export(made(structure), tmp_path / "dense", format="dense")
    assert torch.allclose(outputs(LLAMA.load(tmp_path / "dense"), inputs), before, atol=1e-4)


@every_structure
def test_it_is_quantized_or_is_already(stored, data, tmp_path, structure):
    out = tmp_path / "out"
    larger = {} if structures.find(structure).fewer else {"size": LARGER}
    result = eckart.compress(stored(LLAMA), out, data=data, **dial(structure, quantize="int8") | larger)
    options = [record.option for record in result.manifest.targets]
    assert all(option.bits == "int8" for option in options if option.structure == structure)
    assert any(option.structure == structure for option in options)
    inputs = some_inputs(LLAMA)
    assert torch.equal(outputs(LLAMA.load(out), inputs), outputs(result.model, inputs))


@every_structure
def test_it_is_trained_or_says_why_not(stored, data, structure):
    options = dial(structure, training={"tokens": 200, "learning_rate": 1e-3})
    if "training" not in structures.find(structure).supports:
        with pytest.raises(eckart.UsageError, match=f"{re.escape(structure)} is quantized"):
            eckart.compress(stored(LLAMA), data=data, **options)
        return
    plain = eckart.compress(stored(LLAMA), data=data, **dial(structure)).model
    trained = eckart.compress(stored(LLAMA), data=data, **options).model
    names = of_structure(trained, structure)
    assert names == of_structure(plain, structure)
    for name in names:
        one, other = (structures.float_tensors(model.get_submodule(name)) for model in (plain, trained))
        changed = [
            key for key, each in one.items() if each.is_floating_point() and not torch.equal(each, other[key])
        ]
        assert changed == [key for key, each in one.items() if each.is_floating_point()]


@every_structure
def test_block_by_block_is_the_same(stored, made, data, tmp_path, structure):
    out = tmp_path / "out"
    if structures.find(structure).channels:
        with pytest.raises(eckart.UsageError, match="need the whole model in memory"):
            eckart.compress(stored(LLAMA), out, data=data, blocks=True, **dial(structure))
        assert not out.exists()
        return
    eckart.compress(stored(LLAMA), out, data=data, blocks=True, **dial(structure))
    assert [target["option"] for target in manifest(out)["targets"]] == [
        target["option"] for target in manifest(made(structure))["targets"]
    ]
    inputs = some_inputs(LLAMA)
    answer, expected = (outputs(LLAMA.load(folder), inputs) for folder in (out, made(structure)))
    assert (answer - expected).norm() <= 1e-3 * expected.norm()


@every_structure
@pytest.mark.parametrize("blocks", [False, True])
def test_auto_chooses_measures_and_refits_it(stored, data, tmp_path, structure, blocks):
    if blocks and structures.find(structure).channels:
        pytest.skip("it is made of whole models alone")
    out = tmp_path / "out"
    options = dial(structure, method="auto", blocks=blocks)
    result = eckart.compress(stored(LLAMA), out, data=data, **options)
    held_out = result.manifest.held_out
    assert held_out is not None
    assert len(held_out.candidates) > 1
    assert held_out.divergence >= 0
    assert {record.structure for record in result.manifest.targets} <= {structure, "dense"}


@every_structure
def test_a_page_says_what_it_is(made, structure, tmp_path):
    eckart.describe(made(structure), tmp_path / "page")
    assert structure in (tmp_path / "page" / "report.html").read_text()
    assert structure in (tmp_path / "page" / "targets.csv").read_text()


@every_structure
def test_vllm_serves_it_or_is_told_why_not(structure):
    if "sharding" not in structures.find(structure).supports:
        with pytest.raises(eckart.UsageError, match=r"q_proj: the vLLM plugin cannot serve the structure"):
            require_shareable({"q_proj": (structure, 3)})
        return
    require_shareable({"q_proj": (structure, 3)})
    part = Part("q_proj", structure, 3, 10, 12, torch.arange(12), slice(0, 10))
    shape = structures.Shape(12, 10)
    assert set(part.missing(biased=False)) == {
        f"q_proj.{key}" for key in structures.find(structure).parts(shape, 3)
    }


ENDS = ("self_attn.q_proj", "self_attn.o_proj")
"""What two processes split by outputs, and by inputs."""


@every_structure
def test_processes_of_transformers_share_it_or_are_told_why_not(made, structure):
    model = LLAMA.load(made(structure))
    ends = ("mlp.up_proj", "mlp.down_proj") if structures.find(structure).channels else ENDS
    plan = {f"model.layers.*.{ends[0]}": "colwise", f"model.layers.*.{ends[1]}": "rowwise"}
    split_structures(model, plan)
    style = plan[f"model.layers.*.{ends[1]}"]
    assert style.startswith("eckart_")
    from transformers.distributed.parallel_utils import ALL_PARALLEL_STYLES

    (name,) = [each for each in of_structure(model, structure) if each.endswith(f"0.{ends[1]}")]
    module = model.get_submodule(name)
    if "sharding" in structures.find(structure).supports:
        assert ALL_PARALLEL_STYLES[style].install_forward(module, None) is module
        return
    with pytest.raises(ValueError, match="cannot be shared out over processes"):
        ALL_PARALLEL_STYLES[style].install_forward(module, None)


@every_structure
def test_experts_become_it(stored, tmp_path, structure):
    out = tmp_path / "out"
    # Channels are narrowed where they are written and where they are read.
    targets = (
        ["experts.gate_up_proj", "experts.down_proj"]
        if structures.find(structure).channels
        else ["experts.down_proj"]
    )
    size = 8 if structures.find(structure).channels else 2
    result = eckart.compress(
        stored(MIXTRAL), out, targets=targets, structure=structure, method="svd", rank=size
    )
    assert any(record.structure == structure for record in result.manifest.targets)
    inputs = some_inputs(MIXTRAL)
    assert torch.equal(outputs(MIXTRAL.load(out), inputs), outputs(result.model, inputs))


@every_structure
def test_an_embedding_becomes_it_or_is_refused_at_the_start(stored, data, tmp_path, structure):
    asked = dial(structure, targets=["embed_tokens"], data=data) | {"rank": 4}
    asked = {key: value for key, value in asked.items() if key not in ("keep", "size")}
    if "embedding" not in structures.find(structure).supports:
        with pytest.raises(eckart.UsageError, match=r"works on linear layers"):
            eckart.compress(stored(LLAMA), tmp_path / "out", **asked)
        assert not (tmp_path / "out").exists()
        return
    result = eckart.compress(stored(LLAMA), tmp_path / "out", **asked)
    inputs = some_inputs(LLAMA)
    assert torch.equal(outputs(LLAMA.load(tmp_path / "out"), inputs), outputs(result.model, inputs))


@every_structure
def test_it_stands_beside_another_where_it_serves_better(stored, data, tmp_path, structure):
    """A mix: of several structures each site takes what the allocator finds best for the budget."""
    other = "pivoted" if structure != "pivoted" else "lowrank"
    asked = dial(structure, allocation="waterfill", quantize="int8")
    asked["structure"] = f"{structure},{other}"
    if not structures.find(structure).fewer:
        asked["quantize"] = "int4"
    out = tmp_path / "out"
    if structures.find(structure).channels:
        with pytest.raises(eckart.UsageError, match="replaces other groups of weights"):
            eckart.compress(stored(LLAMA), out, data=data, **asked)
        return
    result = eckart.compress(stored(LLAMA), out, data=data, **asked)
    assert {record.structure for record in result.manifest.targets} <= {structure, other, "dense"}
    inputs = some_inputs(LLAMA)
    assert torch.equal(outputs(LLAMA.load(out), inputs), outputs(result.model, inputs))
    if "keep" in asked:
        assert result.manifest.parameters.keep <= KEEP
    else:
        assert (out / "model.safetensors").stat().st_size <= SIZE


def test_bits_are_a_choice_of_each_site(stored, data, tmp_path):
    out = tmp_path / "out"
    options: dict[str, Any] = {
        "structure": "pivoted,quantized+lowrank",
        "quantize": "none,int8,int4",
        "allocation": "waterfill",
        "method": "kfac",
        "size": LARGER,
        "data": data,
    }
    result = eckart.compress(stored(LLAMA), out, **options)
    found = {(record.structure, record.quantize) for record in result.manifest.targets}
    assert len({bits for _, bits in found}) > 1
    assert (out / "model.safetensors").stat().st_size <= LARGER
    inputs = some_inputs(LLAMA)
    assert torch.equal(outputs(LLAMA.load(out), inputs), outputs(result.model, inputs))
    assert eckart.verify(out).ok
    again = eckart.compress(stored(LLAMA), tmp_path / "again", blocks=True, **options)
    assert [r.option for r in again.manifest.targets] == [r.option for r in result.manifest.targets]


@every_structure
def test_a_loaded_copy_stays_what_it_is(made, structure):
    model = LLAMA.load(made(structure))
    twin = copy.deepcopy(model)
    assert of_structure(twin, structure) == of_structure(model, structure)
    inputs = some_inputs(LLAMA)
    assert torch.equal(outputs(twin, inputs), outputs(model, inputs))
    assert building.is_compressed(model.config)

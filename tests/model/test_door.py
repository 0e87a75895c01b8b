"""A folder whose config and weights disagree is refused, with what is wrong named, and never half loaded.

By plain `from_pretrained` with Eckart imported, by Eckart's own loading, and by `trust_remote_code` in a
process that never imported Eckart.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from architectures import BERT, LLAMA, MIXTRAL, outputs, some_inputs
from fitting import SPECTRAL
from safetensors.torch import load_file, save_file

import eckart
from eckart.model import building, loading, portable
from eckart.types import EckartError

UP = "model.layers.0.mlp.up_proj"
DENSE = "model.layers.1.self_attn.o_proj"
WEIGHTS = "model.safetensors"
NEWER = portable.FORMAT_VERSION + 1

ALONE = """
import json, sys
import transformers
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING, AUTO_QUANTIZER_MAPPING
said = {}
for name, folder in json.load(sys.stdin).items():
    for mapping in (AUTO_QUANTIZER_MAPPING, AUTO_QUANTIZATION_CONFIG_MAPPING):
        mapping.pop("eckart", None)
    try:
        transformers.AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    except ValueError as error:
        said[name] = str(error)
assert not any(name.partition(".")[0] == "eckart" for name in sys.modules)
print(json.dumps(said))
"""


def config(**changes: Any) -> Callable[[Path], None]:
    """Change the entry of the config."""

    def damage(folder: Path) -> None:
        whole = json.loads((folder / "config.json").read_text())
        whole["quantization_config"] |= changes
        (folder / "config.json").write_text(json.dumps(whole))

    return damage


def entries(**changes: Any) -> Callable[[Path], None]:
    """Change what the config says of `UP`, or of other names, with `__` for a dot; `None` takes one out."""

    def damage(folder: Path) -> None:
        modules = json.loads((folder / "config.json").read_text())["quantization_config"]["modules"]
        for name, entry in changes.items():
            dotted = UP if name == "up" else name.replace("__", ".")
            modules.pop(dotted, None) if entry is None else modules.update({dotted: entry})
        config(modules=modules)(folder)

    return damage


def tensors(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """Change the weights."""

    def damage(folder: Path) -> None:
        weights = load_file(folder / WEIGHTS)
        change(weights)
        save_file(
            {name: tensor.contiguous() for name, tensor in weights.items()},
            folder / WEIGHTS,
            {"format": "pt"},
        )

    return damage


def narrower(part: str) -> Callable[[Path], None]:
    return tensors(lambda weights: weights.update({f"{UP}.{part}": weights[f"{UP}.{part}"][..., :-1]}))


def without(part: str) -> Callable[[Path], None]:
    return tensors(lambda weights: weights.pop(f"{UP}.{part}"))


def swap_for_dense(weights: dict[str, Any]) -> None:
    for part in ("U.weight", "V.weight", "U.bias", "V.bias", "order"):
        weights.pop(f"{UP}.{part}", None)
    weights[f"{UP}.weight"] = torch.zeros(80, 48)


PIVOTED = {"rank": 6, "structure": "pivoted"}
DAMAGE: dict[str, tuple[str, Callable[[Path], None], list[str]]] = {
    "newer": ("lowrank", config(format_version=NEWER), [f"format {NEWER}", "up to format", "update eckart"]),
    "no version": ("lowrank", config(format_version="new"), ["format new", "update eckart"]),
    "no dict": ("lowrank", config(modules=[UP]), ["modules", "a list"]),
    "unknown structure": (
        "lowrank",
        entries(up={"rank": 6, "structure": "rotated"}),
        [UP, "'rotated'", "update eckart"],
    ),
    "rank zero": ("lowrank", entries(up=0), [UP, "rank 0", "whole number"]),
    "rank true": ("lowrank", entries(up=True), [UP, "rank True", "whole number"]),
    "rank in words": ("lowrank", entries(up="six"), [UP, "rank 'six'", "whole number"]),
    "no rank": ("pivoted", entries(up={"structure": "pivoted"}), [UP, "rank None", "whole number"]),
    "rank too large": ("lowrank", entries(up=49), [UP, "rank 49", "80x48"]),
    "rank above": ("lowrank", entries(up=7), [UP, "rank 7", "V.weight", "(6, 48)", "(7, 48)"]),
    "rank below": ("lowrank", entries(up=5), [UP, "rank 5", "V.weight", "(6, 48)", "(5, 48)"]),
    "pivoted above": ("pivoted", entries(up={**PIVOTED, "rank": 7}), [UP, "rank 7", "V.weight"]),
    "other structure": ("lowrank", entries(up=PIVOTED), [UP, "order", "is not among the weights"]),
    "not so pivoted": ("pivoted", entries(up=6), [UP, "U.weight", "(74, 6)", "(80, 6)"]),
    "not named": ("lowrank", entries(up=None), [UP, "does not say"]),
    "no such module": (
        "lowrank",
        entries(model__layers__0__mlp__upper=6),
        ["model.layers.0.mlp.upper", "no such module"],
    ),
    "no such block": (
        "lowrank",
        entries(model__layers__7__mlp__up_proj=6),
        ["model.layers.7.mlp.up_proj", "neither LlamaForCausalLM"],
    ),
    "no such head": ("lowrank", entries(lm_hat=6), ["'lm_hat'", "neither LlamaForCausalLM"]),
    "a block": ("lowrank", entries(model__layers__1__mlp=6), ["'model.layers.1.mlp'", "LlamaMLP"]),
    "dense": ("lowrank", entries(**{DENSE.replace(".", "__"): 6}), [DENSE, "V.weight", "not among"]),
    "dense on disk": ("pivoted", tensors(swap_for_dense), [UP, "order", "not among"]),
    "no U": ("lowrank", without("U.weight"), [UP, "U.weight", "not among"]),
    "no V": ("pivoted", without("V.weight"), [UP, "V.weight", "not among"]),
    "no order": ("pivoted", without("order"), [UP, "order", "not among"]),
    "narrow U": ("lowrank", narrower("U.weight"), [UP, "U.weight", "(80, 5)"]),
    "narrow V": ("pivoted", narrower("V.weight"), [UP, "V.weight", "(6, 47)"]),
    "short order": ("pivoted", narrower("order"), [UP, "order", "(79,)"]),
    "a bias": (
        "lowrank",
        tensors(lambda weights: weights.update({f"{UP}.U.bias": torch.zeros(80)})),
        [UP, "U.bias", "is no part of that"],
    ),
}
"""What is damaged: in a folder of which structure, how, and the words that the error must hold."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A compressed tiny Llama by structure, one of its layers dense."""
    root = tmp_path_factory.mktemp("made")
    for structure in SPECTRAL:
        targets = ["up_proj", "down_proj", "q_proj"]
        eckart.compress(LLAMA.build(), root / structure, rank=6, structure=structure, targets=targets)
    return {structure: root / structure for structure in SPECTRAL}


@pytest.fixture(scope="module")
def damaged(made: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder for each damage."""
    root = tmp_path_factory.mktemp("damaged")
    for name, (structure, damage, _) in DAMAGE.items():
        shutil.copytree(made[structure], root / name)
        damage(root / name)
    return {name: root / name for name in DAMAGE}


@pytest.fixture(scope="module")
def alone(damaged: dict[str, Path]) -> dict[str, str]:
    """What each folder's own code said where Eckart was never imported."""
    folders = json.dumps({name: str(folder) for name, folder in damaged.items()})
    run = subprocess.run(
        [sys.executable, "-c", ALONE], input=folders, capture_output=True, text=True, check=True
    )
    said: dict[str, str] = json.loads(run.stdout.splitlines()[-1])
    return said


@pytest.mark.parametrize("name", DAMAGE)
def test_transformers_refuses_it_where_eckart_is_imported(damaged: dict[str, Path], name: str) -> None:
    with pytest.raises(ValueError, match=r"\w") as refused:
        transformers.AutoModelForCausalLM.from_pretrained(damaged[name])
    assert [word for word in DAMAGE[name][2] if word not in str(refused.value)] == []


@pytest.mark.parametrize("name", DAMAGE)
def test_its_own_code_refuses_it_where_eckart_is_not(alone: dict[str, str], name: str) -> None:
    assert [word for word in DAMAGE[name][2] if word not in alone.get(name, "")] == []


@pytest.mark.parametrize("name", DAMAGE)
def test_eckart_refuses_it(damaged: dict[str, Path], name: str) -> None:
    with pytest.raises(EckartError) as refused:
        loading.load_model(damaged[name])
    assert [word for word in [*DAMAGE[name][2], str(damaged[name])] if word not in str(refused.value)] == []
    # Nothing is lost at the end, where it says what to do.
    assert " …" not in str(refused.value).removeprefix(str(damaged[name]))


@pytest.mark.parametrize("name", ["newer", "no dict", "rank zero", "rank too large", "no such module"])
def test_a_config_that_cannot_be_is_refused_without_weights_too(damaged: dict[str, Path], name: str) -> None:
    with pytest.raises(EckartError) as refused:
        building.build_empty(loading.load_config(damaged[name]))
    assert [word for word in DAMAGE[name][2] if word not in str(refused.value)] == []


def test_a_damaged_shard_is_found_among_many(made: dict[str, Path], tmp_path: Path) -> None:
    model = LLAMA.load(made["pivoted"])
    model.save_pretrained(tmp_path / "shards", max_shard_size="30KB")
    again = LLAMA.load(tmp_path / "shards")
    assert torch.equal(outputs(again, some_inputs(LLAMA)), outputs(model, some_inputs(LLAMA)))
    entries(up={**PIVOTED, "rank": 5})(tmp_path / "shards")
    with pytest.raises(ValueError, match=rf"{UP} pivoted of rank 5.*V.weight is stored as \(6, 48\)"):
        LLAMA.load(tmp_path / "shards", device_map="cpu")


def test_a_missing_bias_is_named(tmp_path: Path) -> None:
    eckart.compress(BERT.build(), tmp_path / "out", rank=6, structure="pivoted", targets=["query"])
    name = "encoder.layer.1.attention.self.query"
    weights = load_file(tmp_path / "out" / WEIGHTS)
    del weights[f"{name}.V.bias"]
    save_file(weights, tmp_path / "out" / WEIGHTS, {"format": "pt"})
    with pytest.raises(ValueError, match=rf"{name} is compressed, but its V.bias is not among the weights"):
        BERT.load(tmp_path / "out")
    # A head on the backbone finds it under another name, and so does the error.
    with pytest.raises(ValueError, match=rf"bert\.{name} is compressed, but its V.bias"):
        transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")


def test_weights_that_a_library_stores_by_other_names_are_found(tmp_path: Path) -> None:
    # Mixtral's gate is `block_sparse_moe.gate` on disk and `mlp.gate` in the model.
    model = MIXTRAL.build()
    eckart.compress(model, tmp_path / "out", rank=6, targets=["o_proj"])
    stored = load_file(tmp_path / "out" / WEIGHTS)
    assert any("block_sparse_moe" in name for name in stored)
    again = MIXTRAL.load(tmp_path / "out")
    assert isinstance(again.get_submodule("model.layers.0.self_attn.o_proj"), eckart.LowRankLinear)
    shapes = portable.stored_shapes([str(tmp_path / "out" / WEIGHTS)])
    assert shapes == {name: tuple(tensor.shape) for name, tensor in stored.items()}


def test_a_header_that_is_none_is_named(made: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(made["lowrank"], tmp_path / "out")
    (folder / WEIGHTS).write_bytes(b"\x05\0\0\0\0\0\0\0[1,2]")
    with pytest.raises(
        ValueError, match=r"model\.safetensors is truncated or corrupt; fetch or save it again"
    ):
        LLAMA.load(folder)


def test_weights_of_another_kind_are_left_to_transformers() -> None:
    assert portable.stored_shapes(["pytorch_model.bin"]) is None

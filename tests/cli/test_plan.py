"""`eckart plan`: the published facts, to the parameter, from configs alone."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import LLAMA, T5
from fitting import SMALLER
from outside import Eckart
from safetensors.torch import load_file, save_file

CONFIGS = Path(__file__).parents[1] / "configs"
FLAN_T5 = CONFIGS / "flan-t5-base"
LLAMA_2 = CONFIGS / "llama-2-7b"
MISTRAL = CONFIGS / "mistral-7b"
FLAN_T5_PARAMETERS = 222_903_552
FLAN_T5_HEAD = 24_674_304
ATTENTION = ["--targets", "q,k,v,o"]


def test_low_rank_at_half_the_width_saves_nothing_and_plan_says_so(eckart: Eckart) -> None:
    """Flan-T5-base, q, k, v, o at rank 384 of 768: 2 · 768 · 384 = 768²."""
    answer = eckart("plan", FLAN_T5, *ATTENTION, "--rank", "384", "--json")
    count = answer.json["parameters"]
    assert count["before"] == count["after"] == FLAN_T5_PARAMETERS
    assert count["targets_before"] == count["targets_after"] == 144 * 768**2
    assert {row["option"]["size"] for row in answer.json["targets"]} == {None}
    (note,) = [note for note in answer.json["notes"] if "stay dense" in note]
    assert "144 of the 768x768 weights" in note
    assert "589,824 parameters, dense has 589,824" in note
    assert "--structure pivoted at this rank saves 25.0%" in note
    assert note in answer.err


def test_pivoted_at_half_the_width_saves_a_quarter(eckart: Eckart) -> None:
    answer = eckart("plan", FLAN_T5, *ATTENTION, "--rank", "384", "--structure", "pivoted", "--json").json
    count = answer["parameters"]
    assert count["targets_after"] / count["targets_before"] == 0.75
    assert count["after"] == FLAN_T5_PARAMETERS - 144 * 768**2 // 4
    assert {row["parameters"]["after"] for row in answer["targets"]} == {384 * (768 + 768 - 384)}


def test_a_bare_config_mentions_the_head_that_a_checkpoint_may_have(eckart: Eckart) -> None:
    answer = eckart("plan", FLAN_T5, "--keep", "0.9", "--json").json
    assert answer["parameters"]["before"] == FLAN_T5_PARAMETERS
    assert any(f"{FLAN_T5_HEAD:,} parameters more" in note for note in answer["notes"])


@pytest.mark.parametrize(("ratio", "left"), [(0.1, 0.139), (0.25, 0.349), (0.5, 0.697)])
def test_what_a_ratio_keeps_of_a_mistral_layer(eckart: Eckart, ratio: float, left: float) -> None:
    answer = eckart("plan", MISTRAL, "--ratio", ratio, "--layers", "top:1", "--json").json
    count = answer["parameters"]
    assert len(answer["targets"]) == 7
    assert all(row["name"].startswith("model.layers.31.") for row in answer["targets"])
    assert round(count["targets_after"] / count["targets_before"], 3) == left


@pytest.mark.parametrize(("layers", "left"), [(1, 0.97), (2, 0.95), (3, 0.92), (4, 0.90)])
def test_what_cutting_the_top_layers_leaves_of_mistral(eckart: Eckart, layers: int, left: float) -> None:
    answer = eckart("plan", MISTRAL, "--ratio", "0.1", "--layers", f"top:{layers}", "--json").json
    assert round(answer["parameters"]["keep"], 2) == left


def test_break_even_of_llama_2(eckart: Eckart) -> None:
    answer = eckart("plan", LLAMA_2, "--rank", "256", "--json").json
    assert answer["parameters"]["before"] == 6_738_415_616
    assert answer["bytes"]["before"] == 2 * 6_738_415_616
    square = [row for row in answer["targets"] if row["shape"] == [4096, 4096]]
    assert len(square) == 4 * 32
    for row in square:
        # It breaks even at 2048, half the width, so it pays up to the rank before.
        assert row["break_even"] == {"lowrank": 2047, "pivoted": 4095}
        assert row["parameters"] == {"before": 16_777_216, "after": 2_097_152}


@pytest.mark.parametrize("rank", [2047, 2048])
def test_low_rank_pays_up_to_the_rank_below_break_even(eckart: Eckart, rank: int) -> None:
    answer = eckart(
        "plan", LLAMA_2, "--rank", rank, "--targets", "q_proj", "--layers", "top:1", "--json"
    ).json
    (row,) = answer["targets"]
    saved = row["parameters"]["before"] - row["parameters"]["after"]
    assert (row["option"]["size"], saved) == ((2047, 2 * 4096) if rank == 2047 else (None, 0))


@pytest.mark.parametrize("of", ["model", "targets"])
@pytest.mark.parametrize("structure", SMALLER)
def test_the_budget_is_met_from_below_to_half_a_percent(eckart: Eckart, structure: str, of: str) -> None:
    options = ["--keep", "0.5", "--structure", structure, "--of", of, "--json"]
    count = eckart("plan", MISTRAL, *options).json["parameters"]
    kept = count["keep"] if of == "model" else count["targets_after"] / count["targets_before"]
    assert 0.4975 <= kept <= 0.5


def test_memory_for_moments_is_counted_where_some_are_taken(eckart: Eckart) -> None:
    def memory(method: str) -> int:
        answer = eckart("plan", LLAMA_2, "--keep", "0.5", "--method", method, "--json").json
        return int(answer["peak_memory_bytes"])

    # In float32: their widths are above 512.
    down_projections = 32 * 4 * 11008**2
    assert memory("svd-llm") - memory("svd") > down_projections


@pytest.fixture
def own_head(stored: Any, tmp_path: Path) -> Path:
    """A tiny T5 whose checkpoint has a head of its own, as Flan-T5's has."""
    folder = Path(shutil.copytree(stored(T5), tmp_path / "own_head"))
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"] = torch.randn(weights["shared.weight"].shape)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_a_head_that_a_checkpoint_has_of_its_own_is_counted(
    eckart: Eckart, stored: Any, own_head: Path
) -> None:
    head = 96 * 48
    options = ["--keep", "0.8", "--json"]
    tied = eckart("plan", stored(T5), *options).json
    apart = eckart("plan", own_head, *options).json
    assert apart["parameters"]["before"] == tied["parameters"]["before"] + head
    assert any("lm_head.weight is stored apart" in note for note in apart["notes"])
    assert not any("lm_head" in note for note in tied["notes"])
    made = eckart("compress", own_head, "-o", "out", "--keep", "0.8", "--json").json
    for field in ("parameters", "bytes"):
        assert made[field] == apart[field]
    saved = load_file("out/model.safetensors")
    assert torch.equal(saved["lm_head.weight"], load_file(own_head / "model.safetensors")["lm_head.weight"])


def test_a_head_that_is_stored_twice_is_counted_once(eckart: Eckart, stored: Any, own_head: Path) -> None:
    weights = load_file(own_head / "model.safetensors")
    weights["lm_head.weight"] = weights["shared.weight"].clone()
    save_file(weights, own_head / "model.safetensors", metadata={"format": "pt"})
    options = ["--keep", "0.8", "--json"]
    assert (
        eckart("plan", own_head, *options).json["parameters"]
        == (eckart("plan", stored(T5), *options).json["parameters"])
    )


def test_an_index_without_its_shards_is_enough_to_plan(eckart: Eckart, stored: Any, tmp_path: Path) -> None:
    """As they come from the hub, where plan fetches no weights."""
    folder = tmp_path / "index"
    LLAMA.build().save_pretrained(folder, max_shard_size="60KB")
    for shard in folder.glob("*.safetensors"):
        shard.unlink()
    assert (folder / "model.safetensors.index.json").exists()
    options = ["--keep", "0.8", "--json"]
    assert (
        eckart("plan", folder, *options).json["parameters"]
        == (eckart("plan", stored(LLAMA), *options).json["parameters"])
    )

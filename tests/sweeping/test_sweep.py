"""`sweep`: what is measured, how often, in what order, and that the model comes out of it as it went in."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import LLAMA, outputs, some_inputs, write_data
from fitting import SPECTRAL

import eckart
from eckart import EckartError, UsageError, linalg
from eckart.compression.bench import Bench
from eckart.compression.loaded import Loaded, prepare
from eckart.model.targets import find_targets
from eckart.recipes.making import make_recipe
from eckart.sweeping import measuring
from eckart.sweeping.truncating import Truncated
from eckart.types import Sweep

Run = Callable[..., Sweep]


# The model


def bench_of(model: Any) -> Bench:
    recipe = make_recipe(method="laser", ratio=1.0)
    return prepare(Loaded(model, None, cache=False), recipe, []).bench


def test_full_rank_changes_nothing_and_the_dense_weights_come_back_bit_for_bit(model: Any) -> None:
    inputs = some_inputs(LLAMA)
    before, weights = outputs(model, inputs), {n: p.clone() for n, p in model.named_parameters()}
    targets = find_targets(model).targets
    full = {target.name: min(target.out_features, target.in_features) for target in targets}
    with Truncated(bench_of(model), full) as truncated:
        truncated.put(full)
        assert (outputs(model, inputs) - before).abs().max() < 1e-4
        truncated.put(dict.fromkeys(full, 3))
        assert (outputs(model, inputs) - before).abs().max() > 1e-2
        for name in full:
            assert torch.linalg.matrix_rank(model.get_submodule(name).weight) == 3
        truncated.put({targets[0].name: 2})
        ranks = [int(torch.linalg.matrix_rank(model.get_submodule(t.name).weight)) for t in targets]
        assert ranks == [2, *list(full.values())[1:]]
    assert all(torch.equal(p, weights[n]) for n, p in model.named_parameters())


def test_a_truncated_weight_is_the_best_of_its_rank(model: Any) -> None:
    name = "model.layers.1.mlp.up_proj"
    weight = model.get_submodule(name).weight.detach().clone()
    with Truncated(bench_of(model), {name: 30}) as truncated:
        truncated.put({name: 7})
        error = (model.get_submodule(name).weight.detach() - weight).norm()
    assert error == pytest.approx(float(torch.linalg.svdvals(weight)[7:].norm()), rel=1e-5)


def test_each_weight_is_decomposed_once(sweep: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    solved: list[int] = []
    really = linalg.decompose_many

    def counted(weights: Any, *rest: Any, **more: Any) -> Any:
        solved.extend([more["rank"]] * len(weights))
        return really(weights, *rest, **more)

    monkeypatch.setattr(linalg, "decompose_many", counted)
    made = sweep(ratios=[0.1, 0.5, 0.25], layers=["top:1..2", "0", "0-1"], search=True, grid=True)
    assert len(made.cells) == 12
    assert len(solved) == 14
    assert set(solved) == {12, 24}


@pytest.mark.parametrize("error", [KeyboardInterrupt, EckartError])
def test_the_model_is_dense_again_after_a_sweep_and_after_an_error(
    model: Any, sweep: Run, error: type[BaseException], tmp_path: Path
) -> None:
    weights = {name: p.clone() for name, p in model.named_parameters()}
    sweep(save=tmp_path / "saved")
    assert all(torch.equal(p, weights[n]) for n, p in model.named_parameters())
    assert getattr(model.config, "quantization_config", None) is None

    def fail(cell: Any) -> None:
        if cell.ranks:
            raise error

    with pytest.raises(error):
        sweep(on_cell=fail)
    assert all(torch.equal(p, weights[n]) for n, p in model.named_parameters())


# The grid


def test_the_dense_model_is_first_and_every_figure_is_true(
    sweep: Run, model: Any, data: str, tokenizer: Any
) -> None:
    made = sweep(prompts=["w1 w2", "w3"], continuation=5)
    total = model.num_parameters()
    score = eckart.evaluate(model, "perplexity", data, tokenizer=tokenizer)
    assert (made.dense.value, made.dense.loss) == (score.value, score.details["loss"])
    assert (made.dense.parameters, made.dense.keep, made.dense.ranks) == (total, 1.0, {})
    assert [(cell.ratio, cell.layers) for cell in made.cells] == [
        (0.25, "top:1"), (0.25, "top:2"), (0.5, "top:1"), (0.5, "top:2")
    ]  # fmt: skip
    quarter = made.cells[1]
    saved = eckart.compress(LLAMA.load(model.name_or_path), method="laser", ratio=0.25).manifest
    assert quarter.parameters == saved.parameters.after
    assert quarter.keep == quarter.parameters / total
    assert {len(cell.continuations) for cell in [made.dense, *made.cells]} == {2}
    assert made.metric == "perplexity"
    assert made.lower_is_better
    assert made.notes == []


def test_what_comes_to_the_same_weights_is_measured_once(sweep: Run, asked: list[Any]) -> None:
    made = sweep(ratios=[0.5], layers=["top:1", "1", "top:2", "0-1", "bottom:1"])
    assert len(asked) == 4
    assert made.cells[0].value == made.cells[1].value
    assert made.cells[2].value == made.cells[3].value


def test_prompts_need_no_task(sweep: Run) -> None:
    made = sweep(task=None, data=None, prompts="w1 <b>[red]", continuation=3)
    assert made.metric is None
    assert all(cell.value is None and len(cell.continuations) == 1 for cell in made.cells)
    assert made.prompts == ["w1 <b>[red]"]


def test_what_fails_is_said_and_the_others_go_on(
    sweep: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, asked: list[Any]
) -> None:
    really = measuring.run

    def broken(request: Any) -> Any:
        if len(asked) == 2:
            asked.append(None)
            raise EckartError("no memory left")
        return really(request)

    with monkeypatch.context() as patch:
        patch.setattr(measuring, "run", broken)
        made = sweep(out=tmp_path / "out", prompts=["w1"])
    assert [cell.error is None for cell in made.cells] == [True, False, True, True]
    assert "no memory left" in made.notes[0]
    assert made.notes[0].startswith("0.25:top:2 failed: ")
    assert len(made.cells[1].continuations) == 1
    asked.clear()
    again = sweep(out=tmp_path / "out", prompts=["w1"])
    assert len(asked) == 1
    assert [cell.error for cell in again.cells] == [None] * 4
    assert again.notes == []


def test_a_dense_model_that_cannot_be_measured_ends_it(
    sweep: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def broken(request: Any) -> Any:
        raise EckartError("the loss is not finite")

    monkeypatch.setattr(measuring, "run", broken)
    with pytest.raises(EckartError, match="not finite"):
        sweep(out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


# The search


def test_the_search_goes_from_the_last_block_and_is_never_worse_where_it_looked(
    sweep: Run, model: Any
) -> None:
    made = sweep(search=True, ratios=[0.9, 0.3], layers=None, grid=None)
    assert made.cells == []
    assert made.start is not None
    assert made.found is not None
    assert [step.block for step in made.steps] == sorted((step.block for step in made.steps), reverse=True)
    assert {step.stack for step in made.steps} == {"model.layers"}
    taken = [step for step in made.steps if step.taken]
    assert taken
    values = [made.start.value, *(step.value for step in taken)]
    assert all(later <= before for before, later in pairwise(values))
    for before, step in pairwise(made.steps):
        same = (before.block, before.kind) == (step.block, step.kind)
        # The smaller ratio first, and nothing more once one was taken.
        assert (before.ratio, step.ratio) == (0.3, 0.9) if same else step.ratio == 0.3
        assert not (same and before.taken)
    assert made.found.ranks == {
        f"model.layers.{step.block}.{step.kind}": max(1, int(step.ratio * _smaller(model, step)))
        for step in taken
    }


def _smaller(model: Any, step: Any) -> int:
    return min(model.get_submodule(f"model.layers.{step.block}.{step.kind}").weight.shape)


def test_the_search_looks_at_every_fifth_text_and_all_else_is_measured_on_the_others(
    sweep: Run, asked: list[Any], tmp_path: Path
) -> None:
    made = sweep(search=True, grid=True, limit=12, targets="down_proj", out=tmp_path / "out")
    sizes = [len(request.material) for request in asked]
    assert set(sizes) == {3, 9}
    different = [made.dense.ranks, made.found.ranks, *(cell.ranks for cell in made.cells)]
    assert sizes.count(9) == len({str(ranks) for ranks in different})
    seen = next(request.material for request in asked if len(request.material) == 3)
    rest = next(request.material for request in asked if len(request.material) == 9)
    assert not {text.text for text in seen} & {text.text for text in rest}
    assert len(made.notes) == 1
    assert (tmp_path / "out" / "steps.csv").read_text().count("\n") == len(made.steps) + 1


@pytest.mark.parametrize(
    ("trial", "lower", "smaller", "takes"),
    [
        ((1.9, None), True, False, True),
        ((2.1, None), True, True, False),
        ((2.1, None), False, False, True),
        ((1.9, None), False, True, False),
        ((2.0, None), True, True, True),
        ((2.0, None), True, False, False),
        ((2.0, 0.9), False, False, True),
        ((2.0, 1.1), False, True, False),
        ((2.0, 1.0), False, True, True),
        ((None, None), True, True, False),
    ],
)
def test_equal_scores_are_settled_by_loss_and_then_by_size(
    trial: tuple[float | None, float | None], lower: bool, smaller: bool, takes: bool
) -> None:
    from eckart.sweeping.searching import _at_least_as_good

    now = measuring.Measured(value=2.0, loss=1.0)
    value, loss = trial
    assert _at_least_as_good(measuring.Measured(value=value, loss=loss), now, lower, smaller) is takes


# The folder


def test_a_sweep_that_was_stopped_is_gone_on_with_to_the_same_files(
    sweep: Run, asked: list[Any], tmp_path: Path
) -> None:
    options = {"search": True, "grid": True, "targets": "down_proj", "prompts": ["w1"], "continuation": 4}
    sweep(out=tmp_path / "whole", **options)
    whole = len(asked)
    asked.clear()
    told = []

    def stop(cell: Any) -> None:
        told.append(cell)
        if len(told) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep(out=tmp_path / "out", on_cell=stop, **options)
    lines = tmp_path / "out" / "measured.jsonl"
    lines.write_text(lines.read_text() + '{"key": "half a li')
    sweep(out=tmp_path / "out", **options)
    assert len(asked) == whole
    names = sorted(path.name for path in (tmp_path / "whole").iterdir())
    assert names == [
        "cells.csv", "measured.jsonl", "report.html", "request.json", "steps.csv", "sweep.json"
    ]  # fmt: skip
    for name in names:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    asked.clear()
    made = sweep(out=tmp_path / "out", **options)
    assert asked == []
    assert Sweep.model_validate_json((tmp_path / "out" / "sweep.json").read_bytes()) == made


def test_another_request_is_refused_and_says_what_differs(sweep: Run, tmp_path: Path, data: str) -> None:
    out = tmp_path / "out"
    sweep(out=out, limit=3, ratios=[0.5])
    other = str(write_data(tmp_path / "other.jsonl", seed=1))
    for change, options in {
        "ratios (0.5 there, 0.25 here)": {"ratios": [0.25]},
        "layers (top:1..2 there, top:1 here)": {"layers": "top:1"},
        "targets (none there, q_proj here)": {"targets": "q_proj"},
        "limit (3 there, 4 here)": {"limit": 4},
        "data (": {"data": other},
        "search (False there, True here)": {"search": True, "grid": True},
        "prompts ([] there, ['w1'] here)": {"prompts": "w1"},
    }.items():
        with pytest.raises(UsageError) as caught:
            sweep(**{"out": out, "limit": 3, "ratios": [0.5], **options})
        assert change in str(caught.value)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thing").touch()
    with pytest.raises(UsageError, match=r"holds something else \(thing\)"):
        sweep(out=tmp_path / "full")


# Saving


@pytest.mark.parametrize("structure", SPECTRAL)
def test_the_best_cell_is_saved_with_its_parameters_and_its_score(
    sweep: Run, tmp_path: Path, data: str, structure: str
) -> None:
    # At 0.7 the square weights would be larger as factors: their products are saved.
    made = sweep(ratios=[0.7, 0.6], structure=structure, save=tmp_path / "best", out=tmp_path / "out")
    best = min(made.cells, key=lambda cell: cell.value)
    assert eckart.evaluate(str(tmp_path / "best"), "perplexity", data).value == pytest.approx(
        best.value, rel=1e-5
    )
    manifest = json.loads((tmp_path / "best" / "eckart.json").read_text())
    assert manifest["parameters"]["after"] == best.parameters
    assert manifest["recipe"]["method"] == "laser"
    assert (manifest["recipe"]["ratio"], manifest["recipe"]["layers"]) == (best.ratio, best.layers)
    assert {t["name"]: t["option"]["size"] for t in manifest["targets"] if t["option"]["size"]} == best.ranks
    assert eckart.verify(tmp_path / "best").ok


def test_a_cell_is_saved_by_its_name_and_merged_where_asked(sweep: Run, tmp_path: Path, data: str) -> None:
    made = sweep(save=tmp_path / "saved", cell="0.25:top:1", merge=True)
    out = tmp_path / "saved"
    assert eckart.evaluate(str(out), "perplexity", data).value == made.cells[0].value
    manifest = json.loads((out / "eckart.json").read_text())
    assert manifest["merged"]
    assert manifest["parameters"]["after"] == made.dense.parameters
    assert "eckart" not in (out / "config.json").read_text()
    assert eckart.verify(out).ok


def test_what_a_search_found_is_saved(sweep: Run, tmp_path: Path) -> None:
    made = sweep(search=True, save=tmp_path / "found", ratios=[0.3, 0.9])
    manifest = json.loads((tmp_path / "found" / "eckart.json").read_text())
    assert made.found is not None
    assert manifest["parameters"]["after"] == made.found.parameters < made.dense.parameters
    assert {
        t["name"]: t["option"]["size"] for t in manifest["targets"] if t["option"]["size"]
    } == made.found.ranks
    assert manifest["recipe"]["ratio"] is None

"""Basis selection and training within `compress`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import BERT, GPT2, LLAMA, T5, outputs, some_inputs
from safetensors.torch import load_file

import eckart
from eckart.types import Manifest

LONG = {"steps": 30, "batch": 4, "learning_rate": 1e-3}


def manifest(folder: Path) -> Manifest:
    return Manifest.model_validate_json((folder / "eckart.json").read_text())


@pytest.mark.parametrize("method", ["basis-selection", "basis-training"])
@pytest.mark.parametrize("tiny", [LLAMA, GPT2, T5, BERT], ids=lambda each: each.name)
def test_every_shape_of_model_comes_out_whole(method, tiny, stored, data, tmp_path):
    out = tmp_path / "out"
    made = eckart.compress(
        str(stored(tiny)), out, keep=0.6, of="targets", method=method, data=data, training=LONG
    )
    counted = made.manifest.parameters
    assert 0.59 <= counted.targets_after / counted.targets_before <= 0.6
    loaded, inputs = tiny.load(out), some_inputs(tiny)
    saved, kept = loaded.state_dict(), made.model.state_dict()
    assert saved.keys() == kept.keys()
    assert all(torch.equal(saved[name], kept[name]) for name in kept)
    # Odd ranks: where a weight lies in memory decides by which kernel it is multiplied.
    assert torch.allclose(outputs(loaded, inputs), outputs(made.model, inputs), atol=1e-6)
    first, second = manifest(out).training
    assert (first.purpose, second.purpose) == (method, "recovery")
    assert (first.teacher is not None) == (tiny is BERT)
    assert not Path(f"{out}.training").exists()


def test_the_tokens_are_shared_between_selection_and_what_follows(stored, data, tmp_path):
    training = {"tokens": 4000, "batch": 4}
    made = eckart.compress(
        str(stored(LLAMA)),
        method="basis-selection",
        keep=0.6,
        data=data,
        training=training,
        selection={"share": 0.5},
    )
    first, second = made.manifest.training
    assert first.tokens == pytest.approx(2000, rel=0.3)
    assert second.tokens == pytest.approx(2000, rel=0.3)


def test_any_cut_is_trained_when_asked(stored, data, tmp_path):
    cut = eckart.compress(str(stored(LLAMA)), method="svd", keep=0.6, data=data)
    assert cut.manifest.training == []
    trained = eckart.compress(str(stored(LLAMA)), method="svd", keep=0.6, data=data, training=LONG)
    (run,) = trained.manifest.training
    assert run.steps == 30
    assert run.losses[-1][1] < run.losses[0][1]
    assert trained.manifest.parameters == cut.manifest.parameters
    assert [record.rank for record in trained.manifest.targets] == [r.rank for r in cut.manifest.targets]
    assert all(record.measured_error is None for record in trained.manifest.targets if record.rank)


BROKEN = {"keep": 0.6, "method": "basis-selection", "selection": {"share": 0.5}}
STEPS = {"tokens": 8000, "batch": 2, "save_every": 3}


@pytest.fixture(scope="module")
def whole(stored, data, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "out"
    eckart.compress(str(stored(LLAMA)), out, data=data, training=STEPS, **BROKEN)
    return load_file(out / "model.safetensors")


@pytest.mark.parametrize("stage", ["basis-selection", "recovery"])
def test_a_killed_run_goes_on_to_the_same_bytes(stage, whole, stored, data, tmp_path):
    model, out = str(stored(LLAMA)), tmp_path / "out"
    run = subprocess.Popen(
        [
            sys.executable, "-m", "eckart", "compress", model, "-o", str(out), "--keep", "0.6",
            "--method", "basis-selection", "--data", data, "--tokens", "8k", "--batch", "2",
            "--save-every", "3", "--share", "0.5",
        ],
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    work = Path(f"{out}.training")
    while not (work / stage / "checkpoint-6").exists():
        assert run.poll() is None, "it ended before it could be killed"
        time.sleep(0.005)
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert not out.exists()
    asked = {"data": data, "training": STEPS, **BROKEN}
    with pytest.raises(eckart.UsageError, match="--resume"):
        eckart.compress(model, out, **asked)
    with pytest.raises(eckart.UsageError, match="selection changed"):
        eckart.compress(model, out, resume=True, **(asked | {"selection": {"share": 0.5, "prunes": 7}}))
    eckart.compress(model, out, resume=True, **asked)
    assert not work.exists()
    saved = load_file(out / "model.safetensors")
    assert saved.keys() == whole.keys()
    assert all(torch.equal(saved[name], whole[name]) for name in whole)


def test_a_model_in_memory_is_dense_again_where_training_failed(stored, tokenizer, data):
    model = LLAMA.load(stored(LLAMA))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(eckart.EckartError, match="not finite at step"):
        eckart.compress(
            model, method="basis-training", keep=0.6, data=data, tokenizer=tokenizer,
            training={"steps": 30, "learning_rate": 1e30, "clip": 1e30},
        )  # fmt: skip
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"method": "basis-selection", "rank": 3}, "--keep"),
        ({"method": "basis-selection", "keep": 0.5, "data": None}, "needs data"),
        ({"method": "svd", "keep": 0.5, "data": None, "training": {"steps": 1}}, "--data"),
        ({"method": "svd", "keep": 0.5, "selection": {"prunes": 3}}, "--prunes is for basis-selection"),
        ({"method": "basis-selection", "keep": 0.5, "selection": {"prunes": 0}}, "--prunes 0"),
        ({"method": "basis-selection", "keep": 0.5, "selection": {"importance": "x"}}, "--importance x"),
        ({"method": "svd", "keep": 0.5, "recovery": "basis-selection", "allocation": "uniform"}, "learned"),
        ({"method": "svd", "keep": 0.5, "allocation": "learned"}, "learned"),
        ({"method": "svd", "keep": 0.5, "training": {"train": "lora"}}, "eckart recover"),
        ({"method": "svd", "keep": 0.5, "training": {"steps": 1, "epochs": 1}}, "one of --steps"),
    ],
)
def test_what_cannot_be_is_said_before_any_work(options: dict[str, Any], said, stored, data, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(eckart.UsageError, match=said):
        eckart.compress(str(stored(LLAMA)), out, **({"data": data} | options))
    assert list(tmp_path.iterdir()) == []


def test_the_command_says_what_training_came_to(stored, data, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "eckart", "compress", str(stored(LLAMA)), "-o", str(tmp_path / "out"),
         "--keep", "0.6", "--method", "basis-training", "--data", data, "--epochs", "1", "--json"],
        capture_output=True, text=True, check=True, env=os.environ,
    )  # fmt: skip
    answer = json.loads(done.stdout)
    assert [run["purpose"] for run in answer["training"]] == ["basis-training", "recovery"]
    assert "basis-training:" in done.stderr

"""Calls from Python that cannot be meant: each is one short error that names the argument."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from architectures import LLAMA

import eckart
from eckart.types import UsageError

SVD = {"keep": 0.8, "method": "svd"}


@pytest.fixture(scope="module")
def at(stored: Any, data: str, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A dense folder, a small one, data, a model in memory."""
    small = tmp_path_factory.mktemp("small") / "out"
    eckart.compress(stored(LLAMA), small, **SVD)
    return SimpleNamespace(dense=stored(LLAMA), small=small, data=data, model=LLAMA.build())


CALLS: dict[str, tuple[Callable[[Any, Path], Any], str]] = {
    "no model": (lambda at, out: eckart.compress(), "name a model"),
    "no size": (lambda at, out: eckart.compress(at.dense), "say how small"),
    "size by its place": (
        lambda at, out: eckart.compress(at.dense, out, 0.8),
        "model and out by their places",
    ),
    "place and name": (lambda at, out: eckart.verify(at.small, out=at.small), "out twice"),
    "a number for a model": (
        lambda at, out: eckart.compress(3, out, **SVD),
        "int is not a transformers model",
    ),
    "a list of models": (lambda at, out: eckart.compress([at.dense], out, **SVD), "list is not"),
    "a layer for a model": (
        lambda at, out: eckart.compress(torch.nn.Linear(3, 3), out, **SVD),
        "Linear is not",
    ),
    "weights for a model": (
        lambda at, out: eckart.compress(at.model.state_dict(), **SVD),
        "OrderedDict is not",
    ),
    "a number for out": (
        lambda at, out: eckart.compress(at.dense, 3, **SVD),
        "out is of type int: give a path",
    ),
    "words for keep": (lambda at, out: eckart.compress(at.dense, out, keep="most"), "keep most"),
    "percent for keep": (lambda at, out: eckart.compress(at.dense, out, keep=80), "keep 80"),
    "a list for keep": (lambda at, out: eckart.compress(at.dense, out, keep=[0.8]), "keep"),
    "true for keep": (lambda at, out: eckart.compress(at.dense, out, keep=True), "keep True"),
    "nan for keep": (lambda at, out: eckart.compress(at.dense, out, keep=float("nan")), "keep nan"),
    "a size of no unit": (lambda at, out: eckart.compress(at.dense, out, size="3XB"), "size 3XB"),
    "a size below zero": (lambda at, out: eckart.compress(at.dense, out, size=-1), "size -1"),
    "a size without end": (lambda at, out: eckart.compress(at.dense, out, size=float("inf")), "size inf"),
    "half a rank": (lambda at, out: eckart.compress(at.dense, out, rank=2.5), "rank 2.5"),
    "a number for targets": (lambda at, out: eckart.compress(at.dense, out, targets=3, **SVD), "targets 3"),
    "targets misspelt": (
        lambda at, out: eckart.compress(at.dense, out, targets="qproj", **SVD),
        "did you mean q_proj",
    ),
    "a number for layers": (lambda at, out: eckart.compress(at.dense, out, layers=1, **SVD), "layers 1"),
    "a method misspelt": (
        lambda at, out: eckart.compress(at.dense, out, keep=0.8, method="svdlm"),
        "svd-llm",
    ),
    "an option misspelt": (lambda at, out: eckart.compress(at.dense, out, kep=0.8), "did you mean keep"),
    "a number for data": (
        lambda at, out: eckart.compress(at.dense, out, keep=0.8, data=3),
        "data is of type int",
    ),
    "numbers for rows": (
        lambda at, out: eckart.compress(at.dense, out, keep=0.8, data=[1, 2]),
        "data, row 1",
    ),
    "no rows": (lambda at, out: eckart.compress(at.dense, out, keep=0.8, data=[]), "data is empty"),
    "nothing in a mapping": (
        lambda at, out: eckart.compress(at.dense, out, keep=0.8, data={}),
        "data is empty",
    ),
    "bytes for data": (
        lambda at, out: eckart.compress(at.dense, out, keep=0.8, data=b"abc"),
        "data is of type",
    ),
    "words for samples": (
        lambda at, out: eckart.compress(at.dense, out, keep=0.8, data=at.data, samples="all"),
        "samples 'all'",
    ),
    "a number for a device": (lambda at, out: eckart.compress(at.dense, out, device=0, **SVD), "device 0"),
    "no such device": (lambda at, out: eckart.compress(at.dense, out, device="gpu", **SVD), "device gpu"),
    "no such dtype": (lambda at, out: eckart.compress(at.dense, out, dtype="fp8", **SVD), "dtype 'fp8'"),
    "yes for true": (lambda at, out: eckart.compress(at.dense, out, resume="yes", **SVD), "resume 'yes'"),
    "a number for a recipe": (
        lambda at, out: eckart.compress(at.dense, out, recipe=3),
        "recipe is of type int",
    ),
    "a number for training": (
        lambda at, out: eckart.compress(at.dense, out, keep=0.8, data=at.data, training=3),
        "training is of type int: give a mapping",
    ),
    "training misspelt": (
        lambda at, out: eckart.compress(at.dense, out, keep=0.8, data=at.data, training={"tokns": 1}),
        "did you mean tokens",
    ),
    "a name for a tokenizer": (
        lambda at, out: eckart.compress(at.model, out, keep=0.8, data=at.data, tokenizer="gpt2"),
        "tokenizer is of type str",
    ),
    "a number for track": (
        lambda at, out: eckart.compress(at.dense, out, track=3, **SVD),
        "track is of type int",
    ),
    "plan of a model": (lambda at, out: eckart.plan(at.model, keep=0.8), "model is of type LlamaForCausalLM"),
    "plan of nothing": (lambda at, out: eckart.plan(), "needs model"),
    "plan with data": (lambda at, out: eckart.plan(at.dense, keep=0.8, data=at.data), "'data'"),
    "no task": (lambda at, out: eckart.evaluate(at.dense), "needs task"),
    "a number for a task": (lambda at, out: eckart.evaluate(at.dense, 3), "task is of type int: give text"),
    "words for a limit": (
        lambda at, out: eckart.evaluate(at.dense, "perplexity", at.data, limit="x"),
        "limit 'x'",
    ),
    "words for k": (lambda at, out: eckart.evaluate(at.dense, "humaneval", at.data, k="x"), "k x"),
    "evaluating a number": (lambda at, out: eckart.evaluate(3, "perplexity", at.data), "int is not"),
    "evaluate's option misspelt": (
        lambda at, out: eckart.evaluate(at.dense, "perplexity", at.data, limt=1),
        "did you mean limit",
    ),
    "verifying a number": (lambda at, out: eckart.verify(3), "out is of type int"),
    "verifying nothing": (lambda at, out: eckart.verify(None), "out is of type NoneType"),
    "verifying a model": (lambda at, out: eckart.verify(at.model), "out is of type LlamaForCausalLM"),
    "a race of a number": (lambda at, out: eckart.bench(3), "model is of type int"),
    "words for tokens": (lambda at, out: eckart.bench(at.small, tokens="x"), "prompt 'x'"),
    "words for batches": (lambda at, out: eckart.bench(at.small, batches="x"), "batch x"),
    "recovering a model": (lambda at, out: eckart.recover(at.model, out, data=at.data), "model is of type"),
    "recovering to a number": (
        lambda at, out: eckart.recover(at.small, 3, data=at.data),
        "out is of type int",
    ),
    "no format": (lambda at, out: eckart.export(at.small, out), "needs format"),
    "a format misspelt": (lambda at, out: eckart.export(at.small, out, format="ggfu"), "format ggfu"),
    "exporting a model": (lambda at, out: eckart.export(at.model, out, format="dense"), "model is of type"),
    "comparing to a number": (lambda at, out: eckart.compare(at.dense, 3, keep=0.8), "out is of type int"),
    "comparing methods 3": (lambda at, out: eckart.compare(at.dense, out, keep=0.8, methods=3), "methods 3"),
    "no ratios": (lambda at, out: eckart.sweep(at.dense), "needs ratios"),
    "ratios that are none": (lambda at, out: eckart.sweep(at.dense, ratios=None), "needs ratios"),
    "words for ratios": (lambda at, out: eckart.sweep(at.dense, ratios="x", prompts="a"), "ratios x"),
    "analyzing a number": (lambda at, out: eckart.analyze(3), "int is not"),
    "analyzing a vector": (lambda at, out: eckart.analyze(torch.ones(3)), r"shape \(3,\)"),
    "words for ranks": (lambda at, out: eckart.analyze(at.dense, ranks="x"), "ranks x"),
    "analyze's option misspelt": (lambda at, out: eckart.analyze(at.dense, rank=3), "did you mean ranks"),
    "bases of a number": (lambda at, out: eckart.bases(3), "int is not"),
    "words for bases": (lambda at, out: eckart.bases(at.dense, bases="x"), "bases 'x'"),
    "describing a number": (lambda at, out: eckart.describe(3, out), "path is of type int"),
    "prompts 3": (
        lambda at, out: eckart.describe(at.small, out, prompts=3),
        "prompts is of type int: give a list",
    ),
    "adapters on a number": (lambda at, out: eckart.lora_targets(3), "int is no model"),
    "fusing a folder": (lambda at, out: eckart.fuse(at.small), "is no model"),
    "words for adapters' ranks": (lambda at, out: eckart.plan_lora(at.dense, ranks="x"), "ranks x"),
}


@pytest.mark.parametrize("name", CALLS)
def test_one_short_error_names_the_argument(name: str, at: SimpleNamespace, tmp_path: Path) -> None:
    call, words = CALLS[name]
    with pytest.raises(UsageError, match=words) as caught:
        call(at, tmp_path / "out")
    said = str(caught.value)
    assert "\n" not in said
    assert len(said) < 400
    assert not list(tmp_path.iterdir())


def test_what_can_be_meant_is_taken(at: SimpleNamespace, tmp_path: Path) -> None:
    """Objects of torch, one name for a list of one, sizes in words, a set."""
    device, dtype = torch.device("cpu"), torch.float32
    made = eckart.compress(
        at.dense, tmp_path / "a", size="180KB", method="svd", targets="q_proj", device=device, dtype=dtype
    )
    assert made.manifest.recipe.dtype == "float32"
    made = eckart.compress(at.dense, tmp_path / "b", targets={"q_proj", "k_proj"}, keep="95%", method="svd")
    assert {target.name.rpartition(".")[2] for target in made.manifest.targets} == {"q_proj", "k_proj"}
    race = eckart.bench(at.small, tokens=8, new=2, rounds=None, batches=1, memory=False)
    assert race.rounds == 7

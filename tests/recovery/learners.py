"""Tiny models with factors, examples for them, and a run of training in one line."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from architectures import Architecture, tiny_tokenizer, write_data

from eckart.data import read_texts
from eckart.model import targets
from eckart.recovery import learning, windows
from eckart.recovery.settings import make_training
from eckart.recovery.training import Trained, TrainingMethod, train
from eckart.structures import LowRankLinear, put

TOKENIZER = tiny_tokenizer(bos=True)
_CUT: dict[str, Any] = {}


def cut(architecture: Architecture, rank: int = 8) -> Any:
    """The tiny model with factors in the place of its targets, and no dropout."""
    if architecture.name not in _CUT:
        model = still(architecture.build())
        for target in targets.find_targets(model).targets:
            layer = model.get_submodule(target.name)
            if hasattr(layer, "in_features"):
                put(model, target.name, LowRankLinear.from_linear(layer, rank))
        _CUT[architecture.name] = model
    return copy.deepcopy(_CUT[architecture.name])


def still(model: Any) -> Any:
    """The model without dropout, so that what it computes does not depend on chance."""
    for module in model.modules():
        for name in ("p", "dropout", "attn_dropout", "attention_dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    return model


def some_examples(model: Any, folder: Path, rows: int = 32) -> list[windows.Example]:
    """Prompts and completions of many lengths."""
    texts = read_texts(str(write_data(folder / f"{rows}.jsonl", rows)))
    return windows.read(model, TOKENIZER, texts, 64).rows


def learn(model: Any, examples: Any, workdir: Path, resume: bool = False, **more: Any) -> Trained:
    """Train a few steps at a learning rate that shows."""
    own = {name: more.pop(name) for name in list(more) if name in SETTINGS}
    given = {"steps": 8, "batch": 8, "learning_rate": 5e-3, "seed": 1, **own}
    settings = make_training(**given)
    finish = learning.choose(model, settings)
    method = TrainingMethod(**more)
    trained = train(model, TOKENIZER, examples, settings, workdir=workdir, method=method, resume=resume)
    finish()
    return trained


SETTINGS = set(make_training().__class__.model_fields)


def closest(one: Trained, other: Trained) -> float:
    """The largest difference between losses of the same step."""
    assert [step for step, _ in one.losses] == [step for step, _ in other.losses]
    return max(abs(a - b) for (_, a), (_, b) in zip(one.losses, other.losses, strict=True))

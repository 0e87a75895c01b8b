"""What the tests of calibration share: targets, windows, and gradients by brute force."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from eckart.data import read_texts
from eckart.model.mixtures import is_expert
from eckart.model.targets import find_targets
from eckart.model.text import batches, windows

ALL = frozenset({"second", "absolute", "gradient", "fisher"})
BACKWARD = frozenset({"gradient", "fisher"})


def targets_of(model: Any) -> list[str]:
    """The targets that read every token: an expert reads some, and no mask says which."""
    names = [target.name for target in find_targets(model).targets]
    return [name for name in names if not is_expert(model, name)]


def cut_for(model: Any, tokenizer: Any, data: str) -> Any:
    return windows(model, tokenizer, read_texts(data), 64)


def alone(model: Any, tokenizer: Any, cut: Sequence[Any]) -> list[dict[str, Tensor]]:
    """A batch for each window, where nothing is padded."""
    return [batches(model, tokenizer, [window])[0] for window in cut]


def relative(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm() / other.norm())


def brute_force(model: Any, names: Sequence[str], single: Sequence[dict[str, Tensor]], loss: Any) -> Any:
    """`Σ g gᵀ` and the row Fisher of each name: autograd on outputs and weights, one window at a time."""
    second: dict[str, Any] = dict.fromkeys(names, 0)
    fisher: dict[str, Any] = dict.fromkeys(names, 0)
    outputs: dict[str, list[Tensor]] = {}

    def keep(name: str) -> Any:
        def hook(module: Any, arguments: Any, output: Tensor) -> None:
            output.retain_grad()
            outputs.setdefault(name, []).append(output)

        return hook

    hooks = [model.get_submodule(name).register_forward_hook(keep(name)) for name in names]
    weights = {name: model.get_submodule(name).weight for name in names}
    for batch in single:
        outputs.clear()
        model.zero_grad()
        loss(model(**{key: value for key, value in batch.items() if key != "labels"}), batch).backward()
        for name, weight in weights.items():
            for output in outputs[name]:
                g = output.grad.double().reshape(-1, output.shape[-1])
                second[name] = second[name] + g.T @ g
            gradient = weight.grad if type(model.get_submodule(name)).__name__ == "Linear" else weight.grad.T
            fisher[name] = fisher[name] + gradient.double().square().sum(1)
    for hook in hooks:
        hook.remove()
    model.zero_grad()
    return second, fisher

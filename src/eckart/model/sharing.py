"""Which weights of a model are one weight under several names."""

from __future__ import annotations

from typing import Any

from eckart.types import Tied


def tied(model: Any) -> list[Tied]:
    """The weights that are tied, in the model's order; it may be on the meta device.

    There transformers ties by declaration only, so what it declares counts beside what is the same tensor.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    first: dict[int, str] = {}
    leader = {name: first.setdefault(id(parameter), name) for name, parameter in parameters.items()}
    for name, source in dict(getattr(model, "all_tied_weights_keys", None) or {}).items():
        if name in leader and source in leader:
            one, other = sorted((leader[name], leader[source]), key=list(parameters).index)
            leader = {each: one if head == other else head for each, head in leader.items()}
    groups: dict[str, list[str]] = {}
    for name, head in leader.items():
        groups.setdefault(head, []).append(name)
    return [
        Tied(
            names=names,
            parameters=parameters[head].numel(),
            saved=parameters[head].numel() * (len(names) - 1),
        )
        for head, names in groups.items()
        if len(names) > 1
    ]

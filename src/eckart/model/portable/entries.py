"""What a config says of each module, and what it may not say."""

from __future__ import annotations

from typing import Any

from eckart.structures.pieces import Shape
from eckart.structures.registry import find, replacements

BARE = next(name for name in replacements() if find(name).entry(1) == 1)
"""The structure of an entry that is a rank alone."""


def read_entry(name: str, entry: Any) -> tuple[str, int]:
    """Structure and size of one module, as its entry in `modules` gives them.

    Args:
        entry: a rank, or `{"rank": …, "structure": …}`.

    Raises:
        ValueError: neither of the two, a structure that is not known, or a size that is none.
    """
    full = entry if isinstance(entry, dict) else {"rank": entry}
    structure, size = full.get("structure", BARE), full.get("rank")
    if structure not in replacements():
        raise ValueError(f"{name}: unknown structure {structure!r}; update eckart")
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise ValueError(
            f"{name}: the config gives it rank {size!r}, and a rank is a whole number of 1 or more; "
            "fetch or save the folder again"
        )
    return structure, size


def read_inner(name: str, entry: Any, shape: Shape) -> tuple[str, int] | None:
    """On which side of a layer the inner channels of an MLP are, and how many, where its entry says that.

    Raises:
        ValueError: the layer has no such side.
    """
    inner = entry.get("inner") if isinstance(entry, dict) else None
    if inner is None:
        return None
    sides = {"outputs": shape.out_features, "inputs": shape.in_features}
    side, width = inner if isinstance(inner, list) and len(inner) == 2 else (None, None)
    if side not in sides or not isinstance(width, int) or width < 1 or sides[side] % width:
        raise ValueError(
            f"{name}: the config says that its inner channels are {inner!r}, and it is "
            f"{shape.out_features}x{shape.in_features} in this model; fetch or save the folder again"
        )
    return side, width


def require_entries(modules: Any) -> None:
    """Raises ValueError where `modules` is not a name to an entry for each module."""
    if not isinstance(modules, dict):
        raise ValueError(
            f"quantization_config.modules in config.json is a {type(modules).__name__}, and should map "
            "names of modules to ranks; fetch or save the folder again"
        )
    for name, entry in modules.items():
        read_entry(name, entry)


def require_size(name: str, structure: str, size: int, shape: Shape) -> None:
    """Raises ValueError where a size is larger than a layer can have."""
    if size > find(structure).largest(shape):
        raise ValueError(
            f"{name}: the config gives it rank {size}, and it is {shape.out_features}x{shape.in_features} in "
            "this model: a rank is no larger than the smaller side; fetch or save the folder again"
        )

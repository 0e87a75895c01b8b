"""What a config says of each module, and what it may not say."""

from __future__ import annotations

from typing import Any

from eckart.model.portable.structures import STRUCTURES


def read_entry(name: str, entry: Any) -> tuple[str, int]:
    """Structure and rank of one module, as its entry in `modules` gives them.

    Args:
        entry: a rank (`lowrank`), or `{"rank": …, "structure": …}`.

    Raises:
        ValueError: neither of the two, a structure that is not known, or a rank that is none.
    """
    full = entry if isinstance(entry, dict) else {"rank": entry}
    structure, rank = full.get("structure", "lowrank"), full.get("rank")
    if structure not in STRUCTURES:
        raise ValueError(f"{name}: unknown structure {structure!r}; update eckart")
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise ValueError(
            f"{name}: the config gives it rank {rank!r}, and a rank is a whole number of 1 or more; "
            "fetch or save the folder again"
        )
    return structure, rank


def require_entries(modules: Any) -> None:
    """Raises ValueError where `modules` is not a name to an entry for each module."""
    if not isinstance(modules, dict):
        raise ValueError(
            f"quantization_config.modules in config.json is a {type(modules).__name__}, and should map "
            "names of modules to ranks; fetch or save the folder again"
        )
    for name, entry in modules.items():
        read_entry(name, entry)


def require_rank(name: str, rank: int, in_features: int, out_features: int) -> None:
    """Raises ValueError where a rank is larger than a layer's smaller side."""
    if rank > min(in_features, out_features):
        raise ValueError(
            f"{name}: the config gives it rank {rank}, and it is {out_features}x{in_features} in this "
            "model: a rank is no larger than the smaller side; fetch or save the folder again"
        )

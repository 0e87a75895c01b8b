"""The structures by their names."""

from __future__ import annotations

from typing import Any

from eckart.structures.contract import Structure

STRUCTURES: dict[str, Structure] = {}


def add(structure: Structure) -> Structure:
    """Register a structure under its name; one that is there already is replaced."""
    STRUCTURES[structure.name] = structure
    return structure


def find(name: str) -> Structure:
    """The structure of that name.

    Raises:
        KeyError: there is none.
    """
    return STRUCTURES[name]


def replacements() -> list[str]:
    """The names of all but the dense weight itself."""
    return [name for name in STRUCTURES if name != "dense"]


def structure_of(module: Any) -> Structure | None:
    """The structure whose module this is; `None` for any other, a dense layer too."""
    return STRUCTURES.get(getattr(type(module), "structure", ""))

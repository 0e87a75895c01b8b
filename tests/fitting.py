"""The registered structures by what they can do, and one fitted to a weight, for tests that need it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from eckart import structures
from eckart.linalg import Problem, Side
from eckart.model import replacing
from eckart.model.targets import weight_of
from eckart.structures import Shape
from eckart.types import Option

SMALLER = [name for name in structures.replacements() if structures.find(name).fewer]
"""With fewer parameters than a dense weight."""
SINGLE = [name for name in SMALLER if not structures.find(name).channels]
"""Those of them for weights of any kind, which no model becomes a plain one by."""
SPECTRAL = [name for name in SMALLER if structures.find(name).spectral]
"""Those of them that stand for the best approximation of a rank."""
EMBEDDING = [name for name in SMALLER if "embedding" in structures.find(name).supports]
SHARDING = [name for name in SMALLER if "sharding" in structures.find(name).supports]


def fitted(weight: Tensor, structure: str, size: int) -> tuple[Option, dict[str, Any]]:
    """A structure for a weight `(out, in)` in the identity metric, of this size or its largest."""
    form, weight = structures.find(structure), weight.detach().clone()
    size = min(size, form.largest(Shape(*weight.shape)))
    (found,) = form.fit([Problem(weight, Side(), Side())], size)
    return Option(structure=structure, size=size), dict(found.tensors)


def dense(structure: str, tensors: dict[str, Any], size: int) -> Tensor:
    """The weight that the tensors of a structure stand for, float64."""
    return structures.find(structure).dense(tensors, size)[0]


def put_fitted(model: Any, name: str, structure: str, size: int) -> dict[str, Tensor]:
    """Replace a module by a structure that is fitted to its weight; its tensors as they are saved."""
    with torch.no_grad():
        option, tensors = fitted(weight_of(model.get_submodule(name)), structure, size)
    return replacing.replace(model, name, option, tensors)

"""What replaces a weight: one file a structure, and the contract that all of them keep.

These files travel with every saved model, so they import torch and each other only.
"""

from eckart.structures import (
    contract,
    dense,
    factored,
    kronecker,
    lowrank,
    modules,
    narrow_mlp,
    pieces,
    pivoted,
    quantized,
    quantized_lowrank,
    registry,
)
from eckart.structures.contract import LinearStructure, Structure
from eckart.structures.factored import FactoredEmbedding, FactoredLinear, FactoredStructure
from eckart.structures.lowrank import LowRankLinear
from eckart.structures.modules import StructuredEmbedding, StructuredLinear, parts_of, put
from eckart.structures.narrow_mlp import NarrowLinear
from eckart.structures.pieces import (
    Fitted,
    Part,
    Problem,
    Rounded,
    Shape,
    Shard,
    Site,
    stored_once,
    values_of,
)
from eckart.structures.pivoted import PivotedLinear
from eckart.structures.quantized import BITS, QuantizedLinear, float_tensors, stored_tensors
from eckart.structures.registry import STRUCTURES, add, find, replacements, structure_of

FILES = (
    pieces,
    contract,
    registry,
    modules,
    quantized,
    factored,
    dense,
    lowrank,
    pivoted,
    quantized_lowrank,
    kronecker,
    narrow_mlp,
)
"""In the order in which they import each other."""

__all__ = [
    "BITS",
    "FILES",
    "STRUCTURES",
    "FactoredEmbedding",
    "FactoredLinear",
    "FactoredStructure",
    "Fitted",
    "LinearStructure",
    "LowRankLinear",
    "NarrowLinear",
    "Part",
    "PivotedLinear",
    "Problem",
    "QuantizedLinear",
    "Rounded",
    "Shape",
    "Shard",
    "Site",
    "Structure",
    "StructuredEmbedding",
    "StructuredLinear",
    "add",
    "find",
    "float_tensors",
    "parts_of",
    "put",
    "replacements",
    "stored_once",
    "stored_tensors",
    "structure_of",
    "values_of",
]

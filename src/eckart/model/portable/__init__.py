"""The modules of a compressed model and the loader that puts them in place.

This room travels: its files are saved with every compressed model as one, `modeling_eckart.py`, after
those of `structures/`, so that `trust_remote_code=True` loads it where Eckart is not installed. They
therefore import torch, transformers and each other only.
"""

from __future__ import annotations

import ast
import functools
import inspect

from eckart import structures
from eckart.model.portable import (
    embeddings,
    entries,
    experts,
    groups,
    loader,
    quantized,
    splitting,
    stored,
    swapping,
)
from eckart.model.portable.embeddings import put_structure, retie, untie
from eckart.model.portable.experts import ExpertStack, roll, unroll
from eckart.model.portable.groups import group_ties, share_groups
from eckart.model.portable.loader import FORMAT_VERSION, QUANT_METHOD, EckartConfig, EckartLoader, register
from eckart.model.portable.quantized import quantize_modules
from eckart.model.portable.stored import stored_shapes
from eckart.model.portable.swapping import swap_modules

__all__ = [
    "FORMAT_VERSION",
    "QUANT_METHOD",
    "EckartConfig",
    "EckartLoader",
    "ExpertStack",
    "group_ties",
    "put_structure",
    "quantize_modules",
    "register",
    "retie",
    "roll",
    "share_groups",
    "source",
    "stored_shapes",
    "swap_modules",
    "unroll",
    "untie",
]

PARTS = (
    *structures.FILES,
    groups,
    embeddings,
    entries,
    swapping,
    experts,
    quantized,
    splitting,
    stored,
    loader,
)
"""The files that travel, each after those that it imports."""


@functools.cache
def source() -> str:
    """All of `PARTS` as one file, which registers the loader when it is imported."""
    imports: dict[str, None] = {}
    bodies = []
    for part in PARTS:
        lines = inspect.getsource(part).splitlines()
        first = 0
        for node in ast.parse("\n".join(lines)).body:
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                own = isinstance(node, ast.ImportFrom) and str(node.module).startswith(
                    ("eckart", "__future__")
                )
                if not own:
                    imports["\n".join(lines[node.lineno - 1 : node.end_lineno])] = None
                first = node.end_lineno or first
        bodies.append("\n".join(lines[first:]).strip("\n"))
    head = f'"""{(__doc__ or "").strip()}\n"""\n\nfrom __future__ import annotations\n'
    return "\n\n\n".join([head + "\n" + "\n".join(imports), *bodies, "register()\n"])


register()

"""Eckart makes pretrained transformers smaller with low-rank structure, and says what that cost.

Importing it teaches transformers to load the models it saves, by plain `from_pretrained`. That costs
nothing until transformers itself is imported, and names are fetched when they are first used: so the
command line answers at once.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from typing import TYPE_CHECKING, Any

from eckart.registration import import_in_silence, when_imported
from eckart.types import EckartError, UsageError

if TYPE_CHECKING:
    # Each from its own file: in a cycle mypy takes a function of the room for the file of its name.
    from eckart.estimate.adapters import plan_lora
    from eckart.model.fusing import fuse
    from eckart.model.lora import lora_targets
    from eckart.pipeline.analyze import analyze
    from eckart.pipeline.bases import bases
    from eckart.pipeline.bench import bench
    from eckart.pipeline.compare import compare
    from eckart.pipeline.compress import compress
    from eckart.pipeline.evaluate import evaluate
    from eckart.pipeline.export import export
    from eckart.pipeline.plan import plan
    from eckart.pipeline.push import push
    from eckart.pipeline.recover import recover
    from eckart.pipeline.report import describe
    from eckart.pipeline.sweep import sweep
    from eckart.pipeline.verify import verify
    from eckart.structures import LowRankLinear, PivotedLinear

__all__ = [
    "EckartError",
    "LowRankLinear",
    "PivotedLinear",
    "UsageError",
    "analyze",
    "bases",
    "bench",
    "compare",
    "compress",
    "describe",
    "evaluate",
    "export",
    "fuse",
    "lora_targets",
    "plan",
    "plan_lora",
    "push",
    "recover",
    "sweep",
    "verify",
]

ROOMS = {
    "LowRankLinear": "eckart.structures",
    "PivotedLinear": "eckart.structures",
    "describe": "eckart.pipeline.report",
    "fuse": "eckart.model.fusing",
    "lora_targets": "eckart.model.lora",
    "plan_lora": "eckart.estimate.adapters",
}
"""Where the public names are that are no verb in a file of its own."""

import_in_silence()
when_imported("transformers.quantizers.auto", "eckart.model.portable")


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.metadata.version("eckart")
    if name in __all__:
        room = ROOMS.get(name, f"eckart.pipeline.{name}")
        return getattr(importlib.import_module(room), name)
    raise AttributeError(f"module 'eckart' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__

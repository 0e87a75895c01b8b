"""The names that stand for a choice, and that what was asked for is one of them: known without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from eckart.recipes.catalogue import METHODS, METRICS, SELECTIONS, find_method, find_metric
from eckart.recipes.efforts import EFFORTS
from eckart.types import Quantize, UsageError, require_on, unknown

TRYING = "auto"
"""The allocation that tries others on held-out data, and takes the best."""
MEASURED = ("measured", TRYING)
"""Allocations that run the model on held-out data."""
LEARNED = "learned"
"""The allocation that comes out of training, where recovery is one of `SELECTIONS`."""
ALLOCATIONS = ("uniform", "equal", "energy", "waterfill", *MEASURED, LEARNED)
"""Those of `allocate`, by name, which computes and takes numpy; and those that run a model."""
REFIT, IMITATION = "refit", "imitation"
RECOVERIES = ("none", REFIT, IMITATION, f"{REFIT}+{IMITATION}", *SELECTIONS)
QUANTIZE = get_args(Quantize)
EVERY_BITS = ",".join(("none", *QUANTIZE))
"""All that a weight may be stored in, each as serves best."""
STRUCTURES = tuple(sorted({name for row in METHODS.values() for name in row.structure.split(",")}))
"""Those of the rows: a structure that Python registers beside them has no row, and no option names it."""
OF = ("model", "targets")
DENSE = "dense"
"""In `compare`'s methods: the dense model, which is only named where it is rounded, as `dense:int8`."""
GOALS = ("size", "speed")
HARNESS = "lm-eval:"
"""How the names of tasks begin that lm-evaluation-harness finds."""
TASKS = (
    "perplexity",
    "stsb",
    "gsm8k",
    "math",
    "samsum",
    "pairs",
    "humaneval",
    "mbpp",
    "pocket",
    "pocket-math",
    "pocket-code",
    "pocket-stories",
    f"{HARNESS}NAME",
)
"""Those of `evaluation`, by name, which takes torch."""

AXES: dict[str, tuple[str, ...]] = {
    "structure": STRUCTURES,
    "allocation": ALLOCATIONS,
    "recovery": RECOVERIES,
    "metric": tuple(METRICS),
    "effort": tuple(EFFORTS),
    "quantize": QUANTIZE,
}
"""Values that stand behind a colon in `compare`'s methods."""


def require_known(asked: Mapping[str, Any]) -> None:
    """Look at the values that are names, as far as they were given.

    Args:
        asked: options by name; `goal`, `of`, `on`, `methods`, `task` and those of `recipes.options.Axes`
            are looked at.

    Raises:
        UsageError: there is none of a name; names the nearest.
    """
    if name := asked.get("method"):
        find_method(name)
    if name := asked.get("metric"):
        find_metric(name)
    for kind in ("allocation", "recovery", "effort"):
        _require(kind, asked.get(kind), AXES[kind])
    if (goal := asked.get("goal")) is not None and goal not in GOALS:
        raise UsageError(f"--for {goal}: a model can be made for size or for speed")
    of = asked.get("of")
    if of is not None and of not in OF:
        raise UsageError(f"--of {of}: keep is counted over the model or over the targets")
    if (on := asked.get("on")) is not None:
        require_on(on)
    if (task := asked.get("task")) is not None and not task.startswith(HARNESS):
        _require("task", task, TASKS)
    for bits in (asked.get("quantize") or "").split(","):
        _require("quantize", None if bits == "none" else bits, QUANTIZE)
    for label in asked.get("methods") or ():
        choices_of(label)


def require_structures(names: str, known: Sequence[str] = STRUCTURES) -> None:
    """Raises UsageError where one of the structures, by commas, is not known."""
    for name in names.split(","):
        _require("structure", name, known)


def choices_of(label: str, known: Sequence[str] = STRUCTURES) -> dict[str, Any]:
    """The method and the values on its axes that a label of `compare` names, as `kfac:pivoted:uniform`.

    Args:
        known: the structures there are.

    Returns:
        Options of a recipe; of a dense model that is rounded the size among them.

    Raises:
        UsageError: there is none of a name, or two are of one axis.
    """
    name, *values = (part.strip() for part in label.split(":"))
    found: dict[str, Any] = {"method": "svd" if name == DENSE else find_method(name).name}
    axes = {**AXES, "structure": tuple(known)}
    for value in values:
        axis = next((axis for axis, there in axes.items() if value in there), None)
        if axis is None:
            every = [each for there in axes.values() for each in there]
            raise UsageError(f"method {label}: {unknown('value', value, every)}")
        if axis in found:
            raise UsageError(f"method {label}: {found[axis]} and {value} both say the {axis}")
        found[axis] = value
    if name == DENSE:
        if "quantize" not in found or set(found) - {"method", "metric", "quantize"}:
            raise UsageError(
                f"method {label}: the dense model is measured anyway; rounded it is "
                f"{DENSE}:{QUANTIZE[0]}, or in a metric {DENSE}:{QUANTIZE[0]}:input"
            )
        found["keep"] = 1.0
    return found


def _require(kind: str, name: str | None, known: Sequence[str]) -> None:
    if name and name not in known:
        raise UsageError(unknown(kind, name, known))

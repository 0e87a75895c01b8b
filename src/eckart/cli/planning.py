"""`eckart plan`: sizes before anything is run."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import eckart
from eckart.cli.options import Model, verb
from eckart.cli.saying import show_notes, show_table, shrunk, tell
from eckart.recipes import reading, verbs
from eckart.recipes.options import Targets
from eckart.types import UsageError

if TYPE_CHECKING:
    from eckart.estimate.adapters import LoraPlan
    from eckart.estimate.planned import Plan, PlannedSite
    from eckart.estimate.suggested import Suggested, Times
    from eckart.types import Option

TENFOLD = 10
PARAMETERS = {"pocket": "2.6M parameters", "SmolLM2": "135M"}


@verb(verbs.PlanOrLora, "eckart plan MODEL --keep 0.8")
def plan(model: Model, **given: Any) -> dict[str, Any]:
    """Sizes and break-even ranks before anything is run; needs only a config."""
    options = reading.given(verbs.PlanOrLora, given).options
    if options.pop("lora", False):
        adapters = eckart.plan_lora(model, **_of_adapters(options))
        _show_lora(adapters)
        return _lora_json(adapters)
    if "ranks" in options:
        raise UsageError("--ranks are of adapters: give --lora too, or --rank for a cut by hand")
    from eckart.estimate.suggested import Suggested

    made = eckart.plan(model, **options)
    if isinstance(made, Suggested):
        _show_suggested(made)
        return _suggested_json(made)
    show_plan(made)
    return plan_json(made)


def show_plan(made: Plan) -> None:
    """The plan as a table, its notes, and what it comes to."""
    groups: dict[tuple[str, int, int], list[PlannedSite]] = {}
    for row in made.sites:
        target = row.site.targets[0]
        # An expert goes by the name of all of them.
        kind = next(part for part in reversed(target.name.split(".")) if not part.isdigit())
        groups.setdefault((kind, target.out_features, target.in_features), []).append(row)
    pays = [f"{name} pays\nup to" for name in made.sites[0].break_even]
    head = ("weight", "out x in", "count", *pays, "option", "left")
    table = []
    for (kind, out_features, in_features), rows in groups.items():
        left = sum(row.parameters_after for row in rows) / sum(row.parameters_before for row in rows)
        table.append(
            (
                kind,
                f"{out_features}x{in_features}",
                str(len(rows)),
                *map(str, rows[0].break_even.values()),
                _options([row.option for row in rows]),
                f"{left:.1%}",
            )
        )
    tell(f"{made.architecture}, {made.recipe.structure}:")
    show_table(head, table)
    show_sharing(made)
    show_notes(made.notes)
    tell(shrunk(made.parameters, made.bytes))
    _show_cost(made)


def _show_cost(made: Plan) -> None:
    whole, block = (f"{size / 1e9:.1f} GB" for size in (made.memory.whole, made.memory.least))
    on = f" on {made.tokens:,} tokens of data" if made.tokens else ""
    tell(
        f"compress would take roughly {whole} of memory, or {block} with one block of the model at a time "
        f"(--memory), and {_duration(made.compress_seconds)} of computing here{on}"
    )
    others = {name: took for name, took in made.efforts.items() if name != made.recipe.effort}
    if others:
        tell("; ".join(f"with --effort {name} {_duration(took)}" for name, took in others.items()))


def _show_suggested(made: Suggested) -> None:
    """Sizes to choose from, and what each cost models that were measured."""
    measured = list(made.rows[0].perplexity)
    tell(f"{made.architecture}, {made.recipe.method}: sizes to choose from")
    show_table(
        ("--keep", "parameters", "MB", "speed", *(f"perplexity\n{name}" for name in measured)),
        [
            (
                f"{row.keep:g}",
                f"{row.plan.parameters.after:,}",
                f"{row.plan.bytes.after / 1e6:,.1f}",
                f"x {row.speed:.2f}",
                *(_times(row.perplexity[name]) for name in measured),
            )
            for row in made.rows
        ],
    )
    tell("speed: of the cut weights, if time went with operations; `eckart bench` measures it")
    tell(_said_of_experience(made, measured))
    show_notes(made.notes)
    _show_cost(made.rows[0].plan)


def _said_of_experience(made: Suggested, measured: list[str]) -> str:
    if not measured:
        return f"what {made.recipe.method} costs in quality was not measured on models like this one"
    models = " and ".join(f"{name} ({PARAMETERS[name]})" for name in measured)
    return (
        f"perplexity: times the dense one, where {models} kept as much of their targets by "
        f"{made.recipe.method} (< and >: by a smaller or a larger cut); of this model nothing was measured"
    )


def _times(found: Times) -> str:
    value = f"x {found.value:.3f}" if found.value < TENFOLD else f"x {found.value:.0f}"
    return f"{found.bound} {value}".strip()


def _suggested_json(made: Suggested) -> dict[str, Any]:
    return {
        "out": None,
        "method": made.recipe.method,
        "structure": made.recipe.structure,
        "architecture": made.architecture,
        "seconds": made.seconds,
        "peak_memory_bytes": made.rows[0].plan.memory.whole,
        "block_memory_bytes": made.rows[0].plan.memory.least,
        "compress_seconds": made.rows[0].plan.compress_seconds,
        "efforts": made.rows[0].plan.efforts,
        "calibration_tokens": made.rows[0].plan.tokens,
        "sizes": [
            {
                "keep": row.keep,
                "parameters": row.plan.parameters.model_dump(),
                "bytes": row.plan.bytes.model_dump(),
                "speed": row.speed,
                "perplexity": {name: asdict(found) for name, found in row.perplexity.items()},
            }
            for row in made.rows
        ],
        "notes": made.notes,
    }


def show_sharing(made: Plan | LoraPlan) -> None:
    """How much of a model is embeddings, and what tied weights save."""
    total = made.parameters if isinstance(made.parameters, int) else made.parameters.before
    tell(f"embeddings: {made.embedding_parameters:,} parameters ({made.embedding_parameters / total:.1%})")
    for group in made.tied:
        tell(
            f"tied: {' = '.join(group.names)}: one weight of {group.parameters:,} parameters, which saves "
            f"{group.saved:,}"
        )


def _duration(seconds: float) -> str:
    """Roughly: `20 s`, `4 min`, `3 h`."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(1, round(seconds))} s"


def _options(options: list[Option]) -> str:
    """`128`, `127-128`, `dense`, or `127-128, 2 dense`; of several structures each with its name, and with
    its bits what is rounded: `176 int4, 4 dense int8`.
    """
    groups: dict[tuple[str, str], list[int]] = {}
    for option in sorted(options, key=lambda option: option.structure == "dense"):
        groups.setdefault((option.structure, f" {option.bits}" if option.bits else ""), []).append(
            option.size or 0
        )
    if len(groups) == 1 and options[0].structure == "dense":
        return f"dense{next(iter(groups))[1]}"
    several = len({structure for structure, _ in groups} - {"dense"}) > 1
    found = []
    for (structure, bits), sizes in groups.items():
        if structure == "dense":
            found.append(f"{len(sizes)} dense{bits}")
            continue
        low, high = min(sizes), max(sizes)
        span = str(low) if low == high else f"{low}-{high}"
        found.append((f"{structure} " if several else "") + span + bits)
    return ", ".join(found)


def _of_adapters(options: dict[str, Any]) -> dict[str, Any]:
    """The options, of which none says how to cut."""
    for name in verbs.fields(verbs.Plan):
        if name not in verbs.fields(Targets) and name in options and (name, options[name]) != ("of", "model"):
            said = verbs.flag(verbs.Plan, name)
            raise UsageError(f"{said} says how to cut, and --lora plans adapters: give one of them")
    return {name: value for name, value in options.items() if name != "of"}


def plan_json(made: Plan) -> dict[str, Any]:
    """A plan, as `--json` gives it."""
    return {
        "out": None,
        "method": made.recipe.method,
        "structure": made.recipe.structure,
        "architecture": made.architecture,
        "parameters": made.parameters.model_dump(),
        "bytes": made.bytes.model_dump(),
        "seconds": made.seconds,
        "peak_memory_bytes": made.memory.whole,
        "block_memory_bytes": made.memory.least,
        "compress_seconds": made.compress_seconds,
        "efforts": made.efforts,
        "calibration_tokens": made.tokens,
        "targets": [
            {
                "name": row.site.name,
                "shape": [row.site.targets[0].out_features, row.site.targets[0].in_features],
                "option": row.option.model_dump(),
                "parameters": {"before": row.parameters_before, "after": row.parameters_after},
                "break_even": row.break_even,
            }
            for row in made.sites
        ],
        "embedding_parameters": made.embedding_parameters,
        "tied": [group.model_dump() for group in made.tied],
        "notes": made.notes,
    }


def _lora_json(made: LoraPlan) -> dict[str, Any]:
    return {
        "out": None,
        "architecture": made.architecture,
        "parameters": {"before": made.parameters, "targets_before": made.targets_parameters},
        "bytes": {"before": made.bytes},
        "seconds": made.seconds,
        "targets": [
            {"name": target.name, "shape": [target.out_features, target.in_features]}
            for target in made.targets
        ],
        "lora": {
            "targets": len(made.targets),
            "rows": [
                {
                    "rank": row.rank,
                    "parameters": row.parameters,
                    "share": row.share,
                    "bytes": row.bytes,
                    "training_bytes": row.training_bytes,
                }
                for row in made.rows
            ],
            "shapes": [
                {
                    "kind": shape.kind,
                    "shape": [shape.out_features, shape.in_features],
                    "count": shape.count,
                    "break_even": shape.break_even,
                }
                for shape in made.shapes
            ],
        },
        "embedding_parameters": made.embedding_parameters,
        "tied": [group.model_dump() for group in made.tied],
        "notes": made.notes,
    }


def _show_lora(made: LoraPlan) -> None:
    tell(f"{made.architecture}, {made.parameters:,} parameters, adapters on {len(made.targets)} weights:")
    show_table(
        ("weight", "out x in", "count", "adapter as large\nas the weight at rank"),
        [
            (each.kind, f"{each.out_features}x{each.in_features}", str(each.count), str(each.break_even))
            for each in made.shapes
        ],
    )
    show_table(
        ("rank", "parameters", "of the model", "MB in its dtype", "MB in training"),
        [
            (
                str(row.rank),
                f"{row.parameters:,}",
                f"{row.share:.2%}",
                f"{row.bytes / 1e6:,.1f}",
                f"{row.training_bytes / 1e6:,.1f}",
            )
            for row in made.rows
        ],
    )
    tell("In training: float32 and Adam's two moments; gradients, activations and the model come on top.")
    show_sharing(made)
    show_notes(made.notes)

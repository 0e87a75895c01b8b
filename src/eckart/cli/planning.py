"""`eckart plan`: sizes before anything is run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.table import Table

from eckart.cli.ending import errors
from eckart.cli.options import Debug, Json, Model, takes
from eckart.cli.saying import console, print_json, say, show_notes, show_plan, show_sharing
from eckart.recipes import reading, verbs
from eckart.recipes.options import Targets
from eckart.types import UsageError

if TYPE_CHECKING:
    from eckart.pipeline import LoraPlan, Plan


@takes(verbs.PlanOrLora)
def plan(model: Model, as_json: Json = False, debug: Debug = False, **given: Any) -> None:
    """Sizes and break-even ranks before anything is run; needs only a config."""
    with errors(debug):
        from eckart import pipeline

        options = reading.given(verbs.PlanOrLora, given).options
        if options.pop("lora", False):
            adapters = pipeline.plan_lora(model, **_of_adapters(options))
            _show_lora(adapters)
            print_json(as_json, _lora_json(adapters))
            return
        if "ranks" in options:
            raise UsageError("--ranks are of adapters: give --lora too, or --rank for a cut by hand")
        made = pipeline.plan(model, **options)
        show_plan(made)
        print_json(as_json, _plan_json(made))


def _of_adapters(options: dict[str, Any]) -> dict[str, Any]:
    """The options, of which none says how to cut."""
    for name in verbs.fields(verbs.Plan):
        if name not in verbs.fields(Targets) and name in options and (name, options[name]) != ("of", "model"):
            said = verbs.flag(verbs.Plan, name)
            raise UsageError(f"{said} says how to cut, and --lora plans adapters: give one of them")
    return {name: value for name, value in options.items() if name != "of"}


def _plan_json(made: Plan) -> dict[str, Any]:
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
    table = Table("weight", "out x in", "count", "adapter as large\nas the weight at rank")
    for shape in made.shapes:
        size = f"{shape.out_features}x{shape.in_features}"
        table.add_row(shape.kind, size, str(shape.count), str(shape.break_even))
    say(f"{made.architecture}, {made.parameters:,} parameters, adapters on {len(made.targets)} weights:")
    console.print(table)
    table = Table("rank", "parameters", "of the model", "MB in its dtype", "MB in training")
    for row in made.rows:
        table.add_row(
            str(row.rank),
            f"{row.parameters:,}",
            f"{row.share:.2%}",
            f"{row.bytes / 1e6:,.1f}",
            f"{row.training_bytes / 1e6:,.1f}",
        )
    console.print(table)
    say("In training: float32 and Adam's two moments; gradients, activations and the model come on top.")
    show_sharing(made)
    show_notes(made.notes)

"""From what was asked for to a recipe, and from a recipe to ranks: shared by `plan` and `compress`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from os import PathLike
from typing import Any, Unpack

from pydantic import ValidationError

from eckart import recipes, structures
from eckart.recipes import names, reading, verbs
from eckart.recipes.catalogue import Method
from eckart.recipes.efforts import EFFORTS, NORMAL, Effort
from eckart.recipes.names import IMITATION, LEARNED, MEASURED, REFIT, TRYING
from eckart.recipes.options import Adapters
from eckart.recovery.settings import Training, make_training
from eckart.structures import Structure
from eckart.types import Recipe, Selection, UsageError

_AS_GIVEN = ("goal", "of", "layers", "data", "fields", "on", "samples", "max_length", "effort")


def make_recipe(**options: Unpack[verbs.Cut]) -> Recipe:
    """Fill the four axes from a method's row where they were not named, and check every value.

    Without a method: `auto`; where ranks are given by hand, `svd-llm` with data and `svd` without. What
    `auto` has no data for becomes plain: identity metric, uniform ranks, no refit. For `quantized+lowrank`
    it is `caldera` with data and `svd` without, and int4 where nothing is said of bits. With data and a size
    in bytes `auto` gives each weight its bits too, unless something is said of its structure or allocation.

    Args:
        options: by name; those of a selection also in a mapping `selection`.

    Raises:
        UsageError: a value that does not exist, no dial or more than one, or no data where some are needed.
    """
    asked = reading.completed(verbs.Cut, reading.given(verbs.Cut, options))
    names.require_known(asked)
    row = _row(asked)
    structure = asked["structure"] or row.structure
    recovery = asked["recovery"] or row.recovery
    learned = LEARNED if recovery in recipes.SELECTIONS else row.allocation
    allocation = asked["allocation"] or learned
    chosen = _known_structures(structure)
    fixed = [each.name for each in chosen if "training" not in each.supports]
    if fixed and IMITATION in recovery.split("+"):
        if asked["recovery"]:
            raise UsageError(f"recovery {recovery} trains, and {fixed[0]} cannot be trained: leave one out")
        # The row's own: what is left of it without the training.
        recovery = recovery.removesuffix(f"+{IMITATION}")
    quantize = asked["quantize"] or row.quantize or _usual_bits(asked, row, chosen)
    selection = make_selection(reading.selection_of(asked), allocation, recovery, asked["keep"])
    reading.require_size(asked)
    _check_structures(chosen, asked["keep"], selection)
    made = Recipe(
        **{name: asked[name] for name in (*reading.DIALS, *_AS_GIVEN)},
        method=row.name,
        metric=asked["metric"] or row.metric,
        structure=structure,
        allocation=allocation,
        recovery=recovery,
        selection=selection,
        quantize=quantize,
        targets=asked["targets"] or None,
    )
    if made.data is None:
        for what in uses_of_data(made):
            raise UsageError(
                f"{what} needs data: give --data FILE (.jsonl, .txt, .csv) with text like the model's own "
                "use; svd needs none"
            )
    _check_goal(made)
    if made.effort != NORMAL and not scales(made):
        raise UsageError(
            f"--effort {made.effort}: {made.method} takes no gradients, tries no allocations and imitates "
            "nothing, so that there is nothing to put more or less work into; leave it out"
        )
    return made


def made_again(values: Mapping[str, Any]) -> Recipe | None:
    """The recipe of a cut that the fields of one make; `None` where they make none."""
    known = verbs.fields(verbs.Cut)
    try:
        return make_recipe(
            **{key: each for key, each in values.items() if key in known or key == "selection"}
        )
    except UsageError:
        return None


def _check_goal(made: Recipe) -> None:
    if made.goal == "size":
        return
    reasons = {
        "--quantize": made.quantize,
        f"recovery {made.recovery}": made.selection,
        "ranks by hand": made.by_hand,
        "--energy": made.energy,
    }
    if why := next((name for name, there in reasons.items() if there), None):
        raise UsageError(
            f"--for speed chooses sizes by how fast layers of floats are, and {why} leaves no such choice: "
            "leave one out"
        )


def _row(asked: Mapping[str, Any]) -> Method:
    """The row of the catalogue that is meant."""
    named = _known_structures(asked["structure"]) if asked["structure"] else []
    by_hand = asked["rank"] is not None or asked["ratio"] is not None
    usual = _usual_method(named, by_hand, bool(asked["data"]))
    row = recipes.find_method(asked["method"] or usual)
    if row.name == "auto" and asked["data"] is None:
        row = replace(row, metric="identity", allocation="uniform", recovery="none")
    return row


def _usual_bits(asked: Mapping[str, Any], row: Method, chosen: Sequence[Structure]) -> str | None:
    """What matrices may be stored in where nothing is said of that."""
    if all(each.needs_bits for each in chosen):
        return "int4"
    in_bytes = asked["size"] is not None and asked["goal"] == "size" and asked["data"] is not None
    free = all(asked[name] is None for name in ("structure", "allocation", "recovery", "targets"))
    # Nothing saves so many bytes at so little loss, and errors say what each number of bits costs.
    return names.EVERY_BITS if row.name == "auto" and in_bytes and free else None


def make_settings(recipe: Recipe, training: Mapping[str, Any] | None) -> Training | None:
    """How a model is trained in or after its cut, where that was asked for or is a part of the method.

    Raises:
        UsageError: there is nothing to learn from, or nothing that can be trained so.
    """
    if training is None and recipe.selection is None:
        return None
    if recipe.data is None:
        raise UsageError("training needs something to learn from: give --data FILE")
    for name in recipe.structures:
        if "training" not in structures.find(name).supports:
            raise UsageError(f"{name} is quantized as it is made, and whole numbers cannot be trained")
    settings = make_training(**{"max_length": recipe.max_length, **(training or {})})
    if settings.by_peft:
        raise UsageError(
            f"--train {settings.train}: adapters come after the cut, by `eckart recover OUT --train "
            f"{settings.train}`"
        )
    return settings


def recipe_of(
    model: Any, asked: dict[str, Any], training: dict[str, Any] | None
) -> tuple[Recipe, Training | None]:
    """All that does it again, and how the model is trained in it."""
    cut = {name: value for name, value in asked.items() if name in verbs.fields(verbs.Cut)}
    made = make_recipe(**cut)
    settings = make_settings(made, training)
    more = {
        "model": str(model) if isinstance(model, (str, PathLike)) else None,
        "training": settings and settings.model_dump(exclude_none=True, exclude=set(verbs.fields(Adapters))),
        "dtype": asked["dtype"],
        "merge": asked["merge"],
        "drop_unused": asked["drop_unused"],
        "adapter": None if asked["adapter"] is None else str(asked["adapter"]),
        "bos": asked["bos"],
    }
    return made.model_copy(update=more), settings


def make_selection(
    given: Mapping[str, Any], allocation: str, recovery: str, keep: float | None
) -> Selection | None:
    """How bases are selected; `None` where they are not. What is `None` in `given` is as it is by default.

    Raises:
        UsageError: a value that does not exist or is out of range, or of no use with this recovery.
    """
    given = {name: value for name, value in given.items() if value is not None}
    known = " and ".join(recipes.SELECTIONS)
    if (allocation == LEARNED) != (recovery in recipes.SELECTIONS):
        raise UsageError(
            f"allocation {allocation} with recovery {recovery}: {LEARNED} ranks come out of {known}, and "
            "these give no others"
        )
    if recovery not in recipes.SELECTIONS:
        if given:
            raise UsageError(f"--{_dashed(next(iter(given)))} is for {known}")
        return None
    if keep is None:
        raise UsageError(f"{recovery} trains towards a size: give --keep")
    try:
        selection = Selection(**{**recipes.SELECTIONS[recovery].model_dump(), **given})
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        raise UsageError(f"--{_dashed(name)} {given[name]}: {first['msg']}") from None
    return selection


def _dashed(name: str) -> str:
    return name.replace("_", "-")


def uses_of_data(recipe: Recipe) -> dict[str, bool]:
    """What in a recipe looks at the data, as a user would name it, and whether the cut is calibrated for it.

    What is only trained is not, and where ranks are given by hand no allocation measures any.
    """
    row = recipes.METHODS.get(recipe.method)
    weighed_by = recipe.method if row and row.metric == recipe.metric else recipe.metric
    uses = {
        weighed_by: (bool(recipes.find_metric(recipe.metric).moments), True),
        f"allocation {recipe.allocation}": (recipe.allocation in MEASURED, has_budget(recipe)),
        f"recovery {recipe.recovery}": (recipe.recovery != "none", refits(recipe) or imitates(recipe)),
        "--max-loss": (recipe.max_loss is not None, True),
    }
    return {what: calibrated for what, (looks, calibrated) in uses.items() if looks}


def refits(recipe: Recipe) -> bool:
    """Whether factors are fitted again, in closed form, to what the cut model reads."""
    return REFIT in recipe.recovery.split("+")


def imitates(recipe: Recipe) -> bool:
    """Whether factors are trained to say what the dense model says on the windows calibrated on."""
    return IMITATION in recipe.recovery.split("+")


def effort_of(recipe: Recipe) -> Effort:
    """How much work the recipe puts into what may have more or less."""
    return EFFORTS[recipe.effort]


def scales(recipe: Recipe) -> bool:
    """Whether there is something in a recipe that more or less work can be put into."""
    weighed_by_gradients = recipes.find_metric(recipe.metric).left != "identity"
    return weighed_by_gradients or imitates(recipe) or (has_budget(recipe) and recipe.allocation == TRYING)


def by_effort(recipe: Recipe) -> dict[str, Recipe]:
    """The same at each effort; none where there is nothing to put more or less work into."""
    names = EFFORTS if scales(recipe) else ()
    return {name: recipe.model_copy(update={"effort": name}) for name in names}


def needs_data(recipe: Recipe) -> bool:
    """Whether the cut is calibrated on data."""
    return any(uses_of_data(recipe).values())


def knows_options(recipe: Recipe) -> bool:
    """Whether the ranks depend neither on the weights nor on the data."""
    return recipe.by_hand or recipe.keep == 1 or (has_budget(recipe) and recipe.allocation == "uniform")


def has_budget(recipe: Recipe) -> bool:
    """Whether it says to what size, in parameters or in bytes."""
    return recipe.keep is not None or recipe.size is not None


def needs_held_out(recipe: Recipe) -> bool:
    """Whether the recipe measures the model on data that it was not calibrated on."""
    return recipe.max_loss is not None or (has_budget(recipe) and recipe.allocation in MEASURED)


def _known_structures(asked: str) -> list[Structure]:
    """The structures named, by commas.

    Raises:
        UsageError: there is no such one.
    """
    names.require_structures(asked, structures.replacements())
    return [structures.find(name) for name in asked.split(",")]


def _usual_method(asked: Sequence[Structure], by_hand: bool, has_data: bool) -> str:
    """The row that is meant where none is named: for a structure with more parameters than dense its own."""
    if asked and not any(structure.fewer for structure in asked):
        own = (row.name for row in recipes.METHODS.values() if row.structure == asked[0].name)
        return next(own, "svd") if has_data else "svd"
    if by_hand:
        return "svd-llm" if has_data else "svd"
    return "auto"


def _check_structures(chosen: Sequence[Structure], keep: float | None, selected: Selection | None) -> None:
    """Raises UsageError where structures cannot do what is asked of them."""
    names = ",".join(structure.name for structure in chosen)
    if keep is not None and not any(structure.fewer for structure in chosen):
        raise UsageError(
            f"{names} has more parameters than a dense weight, in fewer bytes: say how small by --size, "
            "--rank or --ratio"
        )
    if selected is not None and not (len(chosen) == 1 and chosen[0].spectral):
        spectral = " or ".join(n for n in structures.replacements() if structures.find(n).spectral)
        raise UsageError(f"a selection of bases ends in factors: --structure {spectral}, not {names}")

"""Recipe files: YAML or JSON by hand, and what Eckart itself saved of a run."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from eckart.data import is_built_in
from eckart.recipes import verbs
from eckart.recipes.making import made_again
from eckart.recipes.options import Adapters
from eckart.recipes.reading import Given, given
from eckart.types import Recipe, UsageError

NO_MODEL = "name a model: MODEL, or model in the file of --recipe"
WHOLE = 2
"""Since this format a manifest's recipe has all that a run was asked for."""
AXES = ("metric", "structure", "allocation", "recovery", "quantize", "selection")


def asked(
    kind: type, model: Any, options: Mapping[str, Any], recipe: str | Path | Mapping[str, Any] | None
) -> tuple[Any, Given]:
    """The model, and the options that were given: in the recipe, and over these by name.

    Args:
        kind: a verb's options.
        model: as given; `None` is that of the recipe.
        recipe: a file, or what would be in one.

    Raises:
        UsageError: an option does not exist or is of another type, or the file is no recipe.
    """
    own = given(kind, options)
    if recipe is None:
        found, under = None, Given()
    else:
        found, under = _read(kind, recipe)
    model = found if model is None else model
    if model is None:
        raise UsageError(under.lacking.get("model", NO_MODEL))
    under.lacking.pop("model", None)
    return model, own.over(under)


def _read(kind: type, recipe: str | Path | Mapping[str, Any]) -> tuple[Any, Given]:
    """The model and the options of a recipe."""
    if isinstance(recipe, Mapping):
        document, path = dict(recipe), "recipe"
    else:
        path = os.fspath(recipe)
        document = _document(path)
    lacking: dict[str, str] = {}
    if "protocol" in document:
        values = _comparison(kind, document, path, lacking)
    elif isinstance(document.get("recipe"), Mapping):
        values = (_recovery if kind is verbs.Recover else _cut)(kind, document, path, lacking)
    else:
        values = document
    model = values.pop("model", None)
    if model is not None and not isinstance(model, (str, os.PathLike)):
        raise UsageError(f"{path}: model {model!r}: not a folder, a hub id, or pocket")
    found = given(kind, values, f"{path}: ")
    found.lacking = lacking
    return model, found


def _document(path: str) -> dict[str, Any]:
    """The mapping in a file of YAML or JSON."""
    import yaml

    # YAML 1.2's numbers: `2e-4` is one.
    loader: Any = type("Loader", (yaml.SafeLoader,), {})
    loader.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
    )
    try:
        text = Path(path).read_text(encoding="utf-8")
        document = json.loads(text) if text.lstrip().startswith("{") else yaml.load(text, loader)
    except FileNotFoundError:
        raise UsageError(f"--recipe {path}: there is no such file") from None
    except OSError as error:
        raise UsageError(f"--recipe {path}: {error.strerror or error}") from None
    except (ValueError, yaml.YAMLError) as error:
        words = " ".join(str(error).split())
        raise UsageError(f"--recipe {path}: neither YAML nor JSON: {words}") from None
    if not isinstance(document, dict):
        raise UsageError(f"--recipe {path}: no options in it, as `keep: 0.8`, a line each")
    return document


def _cut(kind: type, manifest: dict[str, Any], path: str, lacking: dict[str, str]) -> dict[str, Any]:
    """The options that a manifest's recipe is made from."""
    if kind is verbs.Compare:
        raise UsageError(
            f"{path} is of one model: compare takes a compare.json, or a file of its own options"
        )
    recipe = _recipe(manifest, path)
    if recipe.structure == "dense":
        raise UsageError(f"{path}: nothing was cut there; eckart recover --recipe {path} trains it again")
    values = recipe.model_dump(exclude_none=True)
    for name in AXES:
        # What the method's row has anyway is left out, so that another --method brings its own.
        without = {key: value for key, value in values.items() if key != name}
        if made_again(without) == made_again(values):
            values = without
    if manifest.get("format_version", 1) < WHOLE:
        _lack_names(path, manifest.get("source"), values, lacking)
        values["merge"] = bool(manifest.get("merged"))
        if manifest.get("training"):
            lacking["training"] = (
                f"{path} is of an older Eckart and does not say how the cut was trained: give --tokens, "
                "--epochs or --steps"
            )
    elif "model" not in values:
        lacking["model"] = f"{path} names no model, as it was one in memory: give MODEL"
    return values


def _recovery(kind: type, manifest: dict[str, Any], path: str, lacking: dict[str, str]) -> dict[str, Any]:
    """The options that the last recovery in a manifest was asked for by."""
    runs = [run for run in manifest.get("training") or [] if isinstance(run, dict)]
    old = manifest.get("format_version", 1) < WHOLE
    run = next((run for run in reversed(runs) if run.get("recipe") or old), None)
    if run is None:
        raise UsageError(
            f"{path}: that model was not recovered; eckart compress --recipe {path} cuts it again"
        )
    values = {**(run.get("recipe") or {}), "training": run.get("settings")}
    if old:
        objective = run.get("objective") or {}
        values |= {name: objective.get(name) for name in verbs.fields(verbs.Teacher) if name != "teacher"}
        values["data"] = run.get("data")
        _lack_names(path, None, values, lacking)
        if run.get("teacher"):
            lacking["teacher"] = f"{path} is of an older Eckart: give --teacher (there {run['teacher']})"
    return {name: value for name, value in values.items() if value is not None}


def _comparison(kind: type, kept: dict[str, Any], path: str, lacking: dict[str, str]) -> dict[str, Any]:
    """The options that a comparison was asked for by."""
    if kind is not verbs.Compare:
        raise UsageError(f"{path} is a comparison: eckart compare --recipe {path} makes it again")
    values: dict[str, Any] = {
        name: value
        for name, value in kept["protocol"].items()
        if name in verbs.fields(kind) or name == "training"
    }
    settings, adapters = values.get("training") or {}, verbs.fields(Adapters)
    if settings:
        values["training"] = {name: each for name, each in settings.items() if name not in adapters}
    values |= {"keep": kept.get("keeps"), "methods": list(kept.get("methods") or {})}
    if (names := kept.get("asked")) is None:
        values |= {name: kept.get(name) for name in ("data", "test")}
        _lack_names(path, kept.get("source"), values, lacking)
    else:
        values |= names
    return {name: value for name, value in values.items() if value is not None}


def _recipe(manifest: dict[str, Any], path: str) -> Recipe:
    try:
        return Recipe.model_validate(manifest["recipe"])
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        raise UsageError(f"{path}: recipe {name}: {first['msg']}") from None


def _lack_names(path: str, source: str | None, values: dict[str, Any], lacking: dict[str, str]) -> None:
    """Take out what older files name without its folder, and say that it is to be given."""
    values.pop("model", None)
    there = f" (there {source})" if source else ""
    lacking["model"] = f"{path} is of an older Eckart and names no model: give MODEL{there}"
    for name in ("data", "test"):
        if (file := values.get(name)) is not None and not is_built_in(str(file)):
            del values[name]
            lacking[name] = (
                f"{path} is of an older Eckart and names data without a folder: give --{name} ({file})"
            )

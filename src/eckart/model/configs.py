"""What a model folder's config may not say, looked at before transformers reads it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import CONFIG_MAPPING

from eckart.model.finding import ADAPTER
from eckart.types import EckartError, UsageError

LONGEST_REASON = 200
COUNTED = re.compile(r"layers?$|n_layer|blocks?$|depths?$|experts?$")
"""Names of counts in configs: of what a model is built of one by one."""
MOST = 10_000
"""Of them at most: more would be built for hours."""


def require_usable(folder: Path) -> None:
    """Refuse a folder whose config no model can be built from, or not the one that its files mean.

    Raises:
        UsageError: the folder holds an adapter.
        EckartError: it has no config, or one that needs code of its own, or that asks for what cannot be.
    """
    path = folder / "config.json"
    _refuse_adapter(folder)
    if not path.is_file():
        raise EckartError(f"{folder} is not a model folder: it has no config.json")
    raw = raw_config(folder)
    if not isinstance(raw.get("model_type", ""), str):
        raise EckartError(f"{path}: model_type is {raw['model_type']!s:.60}, and should be a name")
    _refuse_foreign_code(folder, raw)
    names = raw.get("architectures")
    if names is not None and not (isinstance(names, list) and all(isinstance(each, str) for each in names)):
        raise EckartError(f"{path}: architectures is {names!s:.60}, and should be a list of names of classes")
    for name in ("dtype", "torch_dtype"):
        dtype = raw.get(name)
        known = isinstance(dtype, str) and isinstance(getattr(torch, dtype, None), torch.dtype)
        if dtype is not None and not known:
            raise EckartError(
                f"{path}: {name} is {dtype!r:.60}, which torch does not know; write it as float16, bfloat16 "
                "or float32"
            )
    for name, count in _counts(raw):
        if count > MOST:
            raise EckartError(f"{path}: {name} is {count:,}, and no model has more than {MOST:,} of them")


def raw_config(folder: Path) -> dict[str, Any]:
    """`config.json` as it stands, before transformers fills in its defaults.

    Raises:
        EckartError: it is no JSON object.
    """
    path = folder / "config.json"
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise EckartError(f"{path} cannot be used: {said(error)}") from error
    except RecursionError:
        raise EckartError(f"{path} cannot be used: it is nested too deeply") from None
    if not isinstance(raw, dict):
        raise EckartError(f"{path} cannot be used: it is a {type(raw).__name__}, and should be an object")
    return raw


def _refuse_adapter(folder: Path) -> None:
    """Raises UsageError for an adapter of peft: alone it is no model, and beside one it would be applied."""
    if not (folder / ADAPTER).is_file():
        return
    if (folder / "config.json").is_file():
        raise UsageError(
            f"{folder} has an adapter ({ADAPTER}) beside its weights, which transformers would apply: "
            "move the adapter into a folder of its own, and merge it with --adapter FOLDER if it is wanted"
        )
    raise UsageError(
        f"{folder} is an adapter ({ADAPTER}), not a model: name the model that it was trained on, and merge "
        "it with --adapter FOLDER"
    )


def _refuse_foreign_code(folder: Path, raw: dict[str, Any]) -> None:
    """Raises EckartError where a config is of a kind that only code beside it knows."""
    kind, code = raw.get("model_type"), raw.get("auto_map")
    if isinstance(code, dict) and code and kind not in CONFIG_MAPPING:
        files = ", ".join(map(str, code.values()))[:LONGEST_REASON]
        raise EckartError(
            f"{folder} needs code of its own ({files}), and Eckart runs none: transformers "
            f"{transformers.__version__} has no model_type {kind!r}. If it has this model under another "
            "name, convert the folder to that first"
        )


def _counts(raw: Any, depth: int = 0) -> Iterator[tuple[str, int]]:
    """How many of something that is built one by one a config asks for: layers, blocks, experts."""
    for name, value in raw.items() if isinstance(raw, dict) and depth < 8 else ():
        if isinstance(value, dict):
            yield from _counts(value, depth + 1)
        elif COUNTED.search(str(name)):
            for each in value if isinstance(value, list) else [value]:
                if isinstance(each, int) and not isinstance(each, bool):
                    yield str(name), each


def said(error: Exception) -> str:
    """What a library's error says, in one line that is not too long."""
    words = " ".join(str(error).split()) or type(error).__name__
    return words if len(words) <= LONGEST_REASON else words[:LONGEST_REASON].rsplit(" ", 1)[0] + " …"

"""A compressed model into a plain Hugging Face folder that loads with Eckart and without it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import transformers
from transformers import GenerationConfig

from eckart.model import building, cards, portable
from eckart.model.quietness import quiet
from eckart.model.replacing import describe

MODELING_FILE = "modeling_eckart"
SHARD = "5GB"
LESS_USUAL = ("AutoModelForPreTraining", "AutoModelForTextEncoding")
"""Doors to classes that have another one of their own."""


def save_model(
    model: Any,
    folder: Path,
    source: str,
    summary: str,
    max_shard_size: str = SHARD,
    weights: bool = True,
    origin: Path | None = None,
) -> None:
    """Write config, weights, the modelling file and a model card into an existing folder.

    Args:
        weights: whether the weights too; if not, they are there, or will be.
        origin: the folder that the model came from, of whose card licence, language and tags are kept.
    """
    describe(model)
    autos = auto_classes(model)
    model.config.auto_map = {auto: f"{MODELING_FILE}.{kind}" for auto, kind in autos.items()}
    try:
        with quiet(), _lenient_generation_config(model, folder):
            own: dict[str, Any] = {} if weights else {"state_dict": {}}
            model.save_pretrained(folder, max_shard_size=max_shard_size, **own)
    finally:
        del model.config.auto_map
    (folder / f"{MODELING_FILE}.py").write_text(modeling_source(set(autos.values())))
    auto = auto_of(autos, stock_class(model).__name__)
    cards.write(folder, cards.COMPRESSED, source, origin, summary=summary, auto=auto, file=MODELING_FILE)


def save_plain(
    model: Any, folder: Path, source: str, summary: str, origin: Path | None = None, narrow: bool = False
) -> None:
    """The same of a model that has plain layers alone, and needs no modelling file.

    Args:
        narrow: whether it is smaller than it was; else it was multiplied out.
    """
    with quiet(), _lenient_generation_config(model, folder):
        model.save_pretrained(folder, max_shard_size=SHARD)
    auto = auto_of(auto_classes(model), stock_class(model).__name__)
    card = cards.NARROW if narrow else cards.MERGED
    cards.write(folder, card, source, origin, summary=summary, auto=auto)


@contextmanager
def _lenient_generation_config(model: Any, folder: Path) -> Iterator[None]:
    """Save a model's generation config as it is, also where transformers would refuse the whole model for it.

    Many published models carry one that contradicts itself (a temperature without sampling).
    """
    generation = getattr(model, "generation_config", None)
    if generation is None:
        yield
        return
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = generation
    path = folder / "generation_config.json"
    if path.is_file():
        generation.to_json_file(path)


EARLIER_SOURCES = frozenset(
    {
        "0eabafc667c1e538a32ff3501cc671163519e1f76326a41e7fe7e212a81c4ff2",
        "46d2aa4c8ccb4c5209adb7186a756f527321fa289558b484025fa9c4250019a6",
    }
)
"""SHA-256 of what travelled with models of earlier versions, but for their classes: it may be run too."""


def is_own_source(text: str, classes: set[str]) -> bool:
    """Whether a file is what this version, or a known earlier one, wrote into a folder with these classes."""
    for tail in (_stock_classes(classes), _stock_classes(classes).replace(NATIVE, "")):
        body = text.removesuffix(tail)
        if body == portable.source() or hashlib.sha256(body.encode()).hexdigest() in EARLIER_SOURCES:
            return True
    return False


def modeling_source(classes: set[str]) -> str:
    """The file that a compressed folder carries: the loader, and the stock classes by their own names."""
    return portable.source() + _stock_classes(classes)


NATIVE = """
    # What it stores has the names that transformers gives it on loading its own classes.
    is_custom_code = classmethod(lambda cls: False)
"""


def _stock_classes(classes: set[str]) -> str:
    lines = ["", "import transformers  # noqa: E402", ""]
    for name in sorted(classes):
        lines += [
            "",
            f"class {name}(transformers.{name}):",
            '    """The stock class, loaded through the structures above."""',
            NATIVE,
        ]
    return "\n".join(lines)


def auto_classes(model: Any) -> dict[str, str]:
    """Each `AutoModel…` that takes this model's config, with the stock class that it would choose.

    All of them, not those of this architecture alone: a head on a saved backbone must find the factors too.
    """
    stock = stock_class(model).__name__
    autos = {}
    for attribute, kinds in building.auto_choices(model.config):
        names = [kind.__name__ for kind in kinds]
        autos[attribute] = stock if stock in names else names[0]
    return autos


def read_auto_map(config: dict[str, Any]) -> dict[str, str] | None:
    """The `auto_map` of a `config.json`, as `auto_classes` gives it; `None` where it names other code."""
    auto_map = config.get("auto_map")
    if not isinstance(auto_map, dict):
        return None
    prefix = f"{MODELING_FILE}."
    autos = {auto: str(value).removeprefix(prefix) for auto, value in auto_map.items()}
    ours = all(auto_map[auto] == prefix + kind and kind.isidentifier() for auto, kind in autos.items())
    return autos if ours else None


def auto_of(autos: dict[str, str], architecture: str) -> str:
    """The `AutoModel…` that loads an architecture; plain `AutoModel` where none is for it."""
    fitting = [auto for auto, kind in autos.items() if kind == architecture]
    return min(fitting, key=lambda auto: (auto in LESS_USUAL, auto), default="AutoModel")


def stock_class(model: Any) -> Any:
    """The class in transformers that a model is, or is derived from, as by a travelling file."""
    return next(
        getattr(transformers, kind.__name__)
        for kind in type(model).__mro__
        if hasattr(transformers, kind.__name__)
    )

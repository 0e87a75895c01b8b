"""What a verb was asked for: options by name or from a recipe file, checked against their groups."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from math import inf
from numbers import Integral, Real
from typing import Any, get_args

from eckart.data import named
from eckart.recipes import verbs
from eckart.recipes.options import Option, Selection, count, percent, size
from eckart.recovery.settings import LENGTHS
from eckart.types import UsageError

DIALS = ("keep", "max_loss", "energy", "rank", "ratio", "size")
"""How small: exactly one of them."""
DATA = ("data", "test", "examples")
"""Options that name data, or are given it."""
WINDOW = "max_length"
"""A setting of a training that is an option of the data."""
TORCH = ("device", "dtype")
"""Options that torch has objects for."""
WORDS = {
    float: "a number",
    int: "a whole number",
    bool: "true or false",
    str: "text",
    Sequence[str]: "names",
    Sequence[float]: "numbers",
    Sequence[int]: "whole numbers",
}
PARSED: dict[Any, str] = {
    percent: "a share, as 0.8 or 80%",
    size: "a size above 0, as 8GB or 512MB",
    count: "a count above 0, as 10M",
}


@dataclass
class Given:
    """Options that somebody gave.

    Attributes:
        options: by name, but for those of a training.
        training: settings of a training; `None` where nothing was said of one.
        lacking: names that have to be given elsewhere, and what to say where they are not.
    """

    options: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] | None = None
    lacking: dict[str, str] = field(default_factory=dict)

    def over(self, under: Given) -> Given:
        """These, and those of `under` that are not given here; of alternatives only what is given here."""
        training = None
        if self.training is not None or under.training is not None:
            training = _over(self.training or {}, under.training or {}, LENGTHS)
        return Given(_over(self.options, under.options, DIALS), training, under.lacking)


def given(kind: type, values: Mapping[str, Any], where: str = "") -> Given:
    """Options by name, or in mappings under the names of their groups, checked.

    Args:
        kind: a verb's options.
        values: `None` is not given.
        where: a file, for messages.

    Raises:
        UsageError: there is no such option, or its value is of another type.
    """
    known, groups = verbs.fields(kind), verbs.GROUPS[kind]
    trained = [name for name, group in groups.items() if group in verbs.TRAINED]
    settings = {name: option for group in trained for name, option in verbs.fields(groups[group]).items()}
    found = Given()
    for written, value in values.items():
        name = str(written).replace("-", "_")
        if value is None and name in groups:
            continue
        if name in DATA and isinstance(value, Mapping) and not value:
            raise UsageError(f"{where}{name} is empty: there is nothing in it")
        if name in groups and isinstance(value, Mapping):
            inner = {str(key).replace("-", "_"): each for key, each in value.items()}
            window = inner.pop(WINDOW, None) if name in trained else None
            allowed = settings if name in trained else verbs.fields(groups[name])
            if strange := next((key for key in inner if _named(kind, key) not in allowed), None):
                raise UsageError(f"{where}{unknown_name(f'{name} option', strange, allowed)}")
            part = given(kind, inner, where)
            found.options |= part.options
            if name in trained:
                own = {} if window is None else {WINDOW: checked(kind, WINDOW, window, where)}
                found.training = (found.training or {}) | (part.training or {}) | own
            continue
        name = _named(kind, name)
        if name not in known:
            raise UsageError(f"{where}{unknown_name('option', str(written), known)}")
        if value is None:
            continue
        one = checked(kind, name, value, where)
        if name in settings:
            found.training = (found.training or {}) | {name: one}
        else:
            found.options[name] = one
    return found


def require_size(asked: Mapping[str, Any]) -> None:
    """Look at what says how small, and at how much data.

    Args:
        asked: every option of a cut, as of `completed`.

    Raises:
        UsageError: not exactly one says how small, or a number is out of range.
    """
    keep, max_loss, energy, rank, ratio, size = (asked[name] for name in DIALS)
    dials = {f"--{name.replace('_', '-')}": asked[name] for name in DIALS}
    given = [name for name, value in dials.items() if value is not None]
    if len(given) != 1:
        had = f"{' and '.join(given)} were given" if given else "none was given"
        raise UsageError(f"say how small by exactly one of {', '.join(dials)}: {had}")
    if keep is not None and not 0 < keep <= 1:
        raise UsageError(f"keep {keep:g} is not a share of the parameters: it is above 0 and at most 1")
    if max_loss is not None and not 0 < max_loss < inf:
        raise UsageError(
            f"max-loss {max_loss:g} is not an increase of the loss: it is above 0, as 2% or 0.02"
        )
    if energy is not None and not 0 < energy <= 1:
        raise UsageError(f"energy {energy:g} is not a share of the energy: it is above 0 and at most 1")
    if ratio is not None and not 0 < ratio <= 1:
        raise UsageError(f"ratio {ratio:g} is not a share of the smaller side: it is above 0 and at most 1")
    if rank is not None and rank < 1:
        raise UsageError(f"rank {rank} is not a rank: it is 1 or more")
    if size is not None and size < 1:
        raise UsageError(f"size {size} is not a number of bytes: it is 1 or more, as 300MB")
    if (asked["samples"] is not None and asked["samples"] < 1) or asked["max_length"] < 1:
        raise UsageError("--samples and --max-length are 1 or more")


def words_of(option: Option, of: Any) -> str:
    """What a value of an option should have been."""
    return PARSED.get(option.parse, WORDS[of])


def completed(kind: type, found: Given) -> dict[str, Any]:
    """Every option but those of a training: as given, else its default."""
    for name, why in found.lacking.items():
        if name not in found.options and (name != "training" or found.training is None):
            raise UsageError(why)
    settings = {
        name
        for group in verbs.TRAINED
        if group in verbs.GROUPS[kind].values()
        for name in verbs.fields(group)
    }
    return {
        name: found.options.get(name, option.default)
        for name, option in verbs.fields(kind).items()
        if name not in settings
    }


def selection_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the options that say how bases are selected."""
    return {name: options[name] for name in verbs.fields(Selection) if options.get(name) is not None}


def _over(over: dict[str, Any], under: dict[str, Any], alternatives: Sequence[str]) -> dict[str, Any]:
    if any(name in over for name in alternatives):
        under = {name: value for name, value in under.items() if name not in alternatives}
    return under | over


def _named(kind: type, name: str) -> str:
    """The option that goes by a name or by its flag."""
    flags = {
        verbs.flag(kind, known).partition("/")[0].removeprefix("--").replace("-", "_"): known
        for known in verbs.fields(kind)
    }
    return name if name in verbs.fields(kind) else flags.get(name, name)


def unknown_name(what: str, name: str, known: Mapping[str, Any]) -> str:
    """That there is none of a name, and which was meant."""
    near = get_close_matches(name.replace("-", "_"), known, 1, 0.4)
    meant = f"; did you mean {near[0]}?" if near else f"; there are: {', '.join(known)}"
    return f"unknown {what} {name!r}{meant}"


def checked(kind: type, name: str, value: Any, where: str = "") -> Any:
    """A value as its option has it.

    Raises:
        UsageError: it is of another type.
    """
    option, of = verbs.fields(kind)[name], verbs.kind_of(verbs.hints(kind)[name])
    label = f"{where}{name}" if where else verbs.flag(kind, name).partition("/")[0]
    if name in DATA:
        try:
            value = named(value)
        except UsageError as error:
            raise UsageError(f"{where}{error}") from None
    elif isinstance(value, os.PathLike):
        value = os.fspath(value)
    elif name in TORCH and type(value).__module__ == "torch":
        value = str(value).removeprefix("torch.")
    elif isinstance(value, (set, frozenset)):
        value = sorted(value, key=str)
    if isinstance(value, str) and not value.strip():
        raise UsageError(f"{label} is empty")
    if (each := get_args(of)) and not option.repeated and isinstance(value, str):
        value = [part.strip() for part in value.split(",") if part.strip()]
    elif each and (isinstance(value, str) or not isinstance(value, Sequence)):
        value = [value]
    elif option.parse is not None and isinstance(value, str):
        try:
            value = option.parse(value)
        except ValueError:
            raise UsageError(f"{label} {value}: not {words_of(option, of)}") from None
    if each:
        return [_typed(f"{label}", one, each[0], text=True) for one in value]
    return _typed(label, value, of)


def _typed(label: str, value: Any, of: type, text: bool = False) -> Any:
    """A value that is of a type, or as good as one.

    Args:
        text: whether a number may be written as text, as in a list by commas.
    """
    if text and of is not str and isinstance(value, str):
        try:
            value = percent(value) if of is float else float(value)
        except ValueError:
            raise UsageError(f"{label} {value}: not a number") from None
    if of in (float, int) and isinstance(value, (int, float, Real)) and type(value) is not bool:
        number = float(value)
        if of is float:
            return number
        if isinstance(value, Integral) or number.is_integer():
            return int(value)  # type: ignore[arg-type]
        raise UsageError(f"{label} {number:g}: not a whole number")
    if value == "":
        raise UsageError(f"{label} is empty")
    if of in (str, bool) and isinstance(value, of):
        return value
    raise UsageError(f"{label} {value!r}: not {WORDS[of]}")

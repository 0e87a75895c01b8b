"""Plain data as it was saved, read back and checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from eckart.types import EckartError


def read_plain(path: Path, kind: Any) -> Any:
    """What a file of JSON holds.

    Args:
        kind: a class of `types`, or a list of one.

    Raises:
        EckartError: it holds something else.
    """
    try:
        return TypeAdapter(kind).validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise EckartError(f"{path} is damaged: {where + ': ' if where else ''}{first['msg']}") from None

"""Where folders appear, whole or not at all, and what gives way to them. Knows nothing of weights."""

from eckart.folders.giving_way import (
    EXPORTED,
    give_way,
    overwriting,
    refuse_existing,
    require_giving_way,
)
from eckart.folders.owning import owned
from eckart.folders.writing import (
    appearing,
    copy_companions,
    refuse_full,
    replace_file,
    settle,
)

__all__ = [
    "EXPORTED",
    "appearing",
    "copy_companions",
    "give_way",
    "overwriting",
    "owned",
    "refuse_existing",
    "refuse_full",
    "replace_file",
    "require_giving_way",
    "settle",
]

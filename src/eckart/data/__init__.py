"""A file, or a name, into texts or rows. Knows formats; knows no model."""

from eckart.data.files import SEPARATOR
from eckart.data.hub import without_bars
from eckart.data.pocket import POCKET_TEXTS, is_built_in
from eckart.data.reading import read_pairs, read_rows, read_texts, texts_of
from eckart.data.shapes import SHAPES, Shape
from eckart.data.sources import digest_of, named, remember, require_there

__all__ = [
    "POCKET_TEXTS",
    "SEPARATOR",
    "SHAPES",
    "Shape",
    "digest_of",
    "is_built_in",
    "named",
    "read_pairs",
    "read_rows",
    "read_texts",
    "remember",
    "require_there",
    "texts_of",
    "without_bars",
]

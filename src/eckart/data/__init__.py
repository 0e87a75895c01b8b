"""A file, or a name, into texts or rows. Knows formats; knows no model."""

from eckart.data.files import SEPARATOR
from eckart.data.pocket import POCKET_TEXTS, is_built_in
from eckart.data.reading import read_pairs, read_rows, read_texts, texts_of
from eckart.data.shapes import SHAPES, Shape

__all__ = [
    "POCKET_TEXTS",
    "SEPARATOR",
    "SHAPES",
    "Shape",
    "is_built_in",
    "read_pairs",
    "read_rows",
    "read_texts",
    "texts_of",
]

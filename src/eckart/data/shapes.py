"""What a row of data asks and answers: one table, for calibration, training and tasks alike.

So a model is trained on the words that it is asked in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from eckart.data import chats
from eckart.types import Text, UsageError

Row = dict[str, Any]
NAMED = 8
"""Fields that a message names at most."""
LISTS = ("test_list",)
"""Fields that hold several texts."""


@dataclass(frozen=True)
class Shape:
    """Rows that have these fields, and the text that one of them makes.

    Attributes:
        fields: all of them strings, but for those of `LISTS`.
        of: what is known to come so.
        text: from a row to its text.
    """

    fields: tuple[str, ...]
    of: str
    text: Callable[[Row], Text]

    def fits(self, row: Row) -> bool:
        return all(_is_text(field, row.get(field)) for field in self.fields)


def _is_text(field: str, value: object) -> bool:
    if field in LISTS:
        return isinstance(value, list) and all(isinstance(each, str) for each in value)
    return isinstance(value, str)


def _lines(text: str) -> str:
    """Lines ended alike: MBPP and SAMSum have two ways within one file."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def mbpp_prompt(row: Row) -> str:
    """A task of MBPP as it is asked: what to write, and the tests that it has to pass."""
    tests = "\n".join(row["test_list"])
    return _lines(f'"""\n{row["text"]}\n{tests}\n"""\n')


def _instruction(row: Row) -> Text:
    given = row.get("input")
    given = f"\nInput: {given}" if isinstance(given, str) and given.strip() else ""
    return Text(f"Instruction: {row['instruction']}{given}\nResponse:", f" {row['output']}")


def _summary(kind: str, field: str, summary: str) -> Callable[[Row], Text]:
    return lambda row: Text(
        f"{kind}:\n{_lines(row[field]).strip()}\nSummary:", f" {_lines(row[summary]).strip()}"
    )


# The first that fits counts: MBPP's rows have a field `text` too.
SHAPES = (
    Shape(("text", "code", "test_list"), "MBPP", lambda row: Text(mbpp_prompt(row), _lines(row["code"]))),
    Shape(("text",), "plain text", lambda row: Text("", row["text"])),
    Shape(
        ("prompt", "completion"),
        "what is asked and answered",
        lambda row: Text(row["prompt"], row["completion"]),
    ),
    Shape(
        ("question", "answer"),
        "GSM8K",
        lambda row: Text(f"Question: {row['question']}\nAnswer:", f" {row['answer']}"),
    ),
    Shape(
        ("problem", "solution"),
        "MATH",
        lambda row: Text(f"Problem: {row['problem']}\nSolution:", f" {row['solution']}"),
    ),
    Shape(("dialogue", "summary"), "SAMSum", _summary("Dialogue", "dialogue", "summary")),
    Shape(
        ("prompt", "canonical_solution"),
        "HumanEval",
        lambda row: Text(row["prompt"], row["canonical_solution"]),
    ),
    Shape(("instruction", "output"), "instructions", _instruction),
    Shape(("article", "highlights"), "CNN/DailyMail", _summary("Article", "article", "highlights")),
    Shape(("document", "summary"), "XSum", _summary("Document", "document", "summary")),
)


def text_of(row: Row, where: str, fields: tuple[str, ...] = ()) -> Text:
    """The text of a row.

    Args:
        where: the file and the line, for messages.
        fields: the names of one field with text, or of two with prompt and completion, taken as they
            stand; default the first shape that fits.

    Raises:
        UsageError: the row has no such fields, or a character that is none.
    """
    lower = {str(name).strip().lower(): value for name, value in row.items()}
    chat = None if fields else chats.chat_of(lower, where)
    if fields:
        text = _named(row, where, fields)
    elif chat is not None:
        text = chat
    else:
        fitting = ((each, shape) for each in (row, lower) for shape in SHAPES if shape.fits(each))
        row, shape = next(fitting, (row, None))
        if shape is None:
            raise UsageError(f"{where}: {_missing(row)}")
        text = shape.text(row)
    # JSON can spell half of a surrogate pair, which no tokenizer takes.
    try:
        text.text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"{where}: a character that is none ({error.reason})") from None
    return text


def parse_fields(fields: str | None) -> tuple[str, ...]:
    """The names in `PROMPT,COMPLETION`, or in `TEXT`.

    Raises:
        UsageError: neither one name nor two.
    """
    if fields is None:
        return ()
    names = tuple(name.strip() for name in fields.split(","))
    if len(names) > 2 or not all(names):
        raise UsageError(f"--fields {fields}: give PROMPT,COMPLETION, or one field with text")
    return names


def _named(row: Row, where: str, fields: tuple[str, ...]) -> Text:
    fields = tuple(field if field in row else _spelled(field, row) for field in fields)
    if len(fields) == 1 and chats.is_chat(row.get(fields[0])):
        return chats.text_of(row[fields[0]], f"{where}, {fields[0]}")
    for field in fields:
        if not isinstance(row.get(field), str):
            why = f"field {field} is {_kind(row[field])}, not text" if field in row else f"no field {field}"
            raise UsageError(f"{where}: {why}; {_found(row)}")
    return Text("", row[fields[0]]) if len(fields) == 1 else Text(row[fields[0]], row[fields[1]])


def _spelled(field: str, row: Row) -> str:
    """A field as the row spells it: capitals do not count."""
    return next((str(name) for name in row if str(name).strip().lower() == field.lower()), field)


def _missing(row: Row) -> str:
    for shape in SHAPES:
        if all(field in row for field in shape.fields):
            wrong = next(field for field in shape.fields if not _is_text(field, row[field]))
            return (
                f"field {wrong} is {_kind(row[wrong])}, and should be text: leave the row out, or name other "
                "fields with --fields"
            )
    pairs = [" and ".join(shape.fields) for shape in SHAPES if len(shape.fields) == 2]
    return (
        f"no field text, nor {', nor '.join(pairs)}, nor messages; {_found(row)}; "
        "name what to take with --fields PROMPT,COMPLETION"
    )


def _kind(value: object) -> str:
    """What a value is, in JSON's words."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    kinds = {(int, float): "a number", (list, tuple): "a list", (dict,): "an object"}
    return next((words for types, words in kinds.items() if isinstance(value, types)), type(value).__name__)


def _found(row: Row) -> str:
    names = [str(name) for name in row if name is not None]
    if not names:
        return "there is no field at all"
    return f"there is {', '.join(names[:NAMED])}{', …' if len(names) > NAMED else ''}"

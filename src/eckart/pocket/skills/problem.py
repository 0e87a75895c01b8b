"""What a word problem is, and the people and things it can be about."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import NamedTuple


class Person(NamedTuple):
    """A name with its subject and possessive pronoun."""

    name: str
    they: str
    their: str


class Noun(NamedTuple):
    """A countable thing."""

    one: str
    many: str


def _people(names: str, they: str, their: str) -> list[Person]:
    return [Person(name, they, their) for name in names.split()]


def _nouns(pairs: str) -> list[Noun]:
    return [Noun(*pair.split("/")) for pair in pairs.split()]


PEOPLE = [
    *_people(
        "Mia Nora Lena Ada Ruth Ivy Zoe Tara Maya Elsa Priya Hana Rosa June Vera Amy Lucy Sara Kate",
        "she",
        "her",
    ),
    *_people(
        "Tom Ben Omar Leo Sam Max Ravi Finn Hugo Paul Ned Kofi Ivan Noah Eli Jack Adam Carl Owen",
        "he",
        "his",
    ),
]
THINGS = _nouns(
    "apple/apples pear/pears marble/marbles sticker/stickers pencil/pencils shell/shells "
    "coin/coins book/books card/cards button/buttons bead/beads stamp/stamps egg/eggs "
    "plum/plums candle/candles crayon/crayons ribbon/ribbons stone/stones flower/flowers "
    "cookie/cookies muffin/muffins badge/badges peach/peaches balloon/balloons nut/nuts "
    "lemon/lemons onion/onions brick/bricks tile/tiles rope/ropes carrot/carrots magnet/magnets "
    "feather/feathers"
)
HOLDERS = _nouns(
    "bag/bags box/boxes jar/jars basket/baskets pack/packs tray/trays crate/crates "
    "bowl/bowls drawer/drawers sack/sacks"
)
GOODS = _nouns(
    "pen/pens cup/cups hat/hats ball/balls kite/kites mug/mugs lamp/lamps toy/toys "
    "plant/plants scarf/scarves ticket/tickets sandwich/sandwiches puzzle/puzzles lantern/lanterns "
    "brush/brushes"
)


@dataclass(frozen=True)
class Problem:
    """A drawn problem: its kind and numbers, the question, the worked lines and the result."""

    key: str
    question: str
    steps: tuple[str, ...]
    answer: int


def key_of(kind: str, *numbers: int | str) -> str:
    """The canonical content of a problem: its kind and its numbers, not its wording."""
    return ":".join([kind, *map(str, numbers)])


def two_people(rng: random.Random) -> tuple[Person, Person]:
    """Two different people."""
    first, second = rng.sample(PEOPLE, 2)
    return first, second


def plus(a: int, b: int) -> str:
    """A sum as it is worked out: by columns, ones first, where a single fact does not do.

    Two-digit sums in one go took the model more data than it gets; column by column, every step
    is one of a few hundred facts.
    """
    if a < 10 and b < 10:
        return f"{a} + {b} = {a + b}"
    ones = a % 10 + b % 10
    carry = " + 1" if ones > 9 else ""
    tens = a // 10 + b // 10 + ones // 10
    columns = f"{a % 10} + {b % 10} = {ones}, {a // 10} + {b // 10}{carry} = {tens}"
    return f"{a} + {b} ({columns}) = {a + b}"


def minus(a: int, b: int) -> str:
    """A difference as it is worked out, by columns like `plus`; `b` is at most `a`."""
    if a < 20 and b < 10:
        return f"{a} - {b} = {a - b}"
    borrowed = a % 10 < b % 10
    ones = a % 10 + 10 * borrowed
    borrow = " - 1" if borrowed else ""
    tens = a // 10 - b // 10 - borrowed
    columns = f"{ones} - {b % 10} = {ones - b % 10}, {a // 10} - {b // 10}{borrow} = {tens}"
    return f"{a} - {b} ({columns}) = {a - b}"

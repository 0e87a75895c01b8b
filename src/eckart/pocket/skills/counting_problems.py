"""Word problems about counts: gaining and losing, groups, shares, comparisons, totals.

Results stay below about 200 and factors below 11, so that a very small model can learn the
arithmetic.
"""

from __future__ import annotations

import random
from typing import NamedTuple

from eckart.pocket.skills.problem import (
    HOLDERS,
    PEOPLE,
    THINGS,
    Person,
    Problem,
    key_of,
    minus,
    plus,
    two_people,
)


class _Event(NamedTuple):
    """What happens to a count: the new total, how it is told, its worked lines and its key."""

    total: int
    told: str
    steps: tuple[str, ...]
    code: str


def _gain(rng: random.Random, count: int, who: Person, other: str, many: str) -> _Event:
    more = rng.randint(2, 50)
    told = rng.choice(
        [
            f"{who.they.capitalize()} finds {more} more {many}.",
            f"Then {who.they} buys {more} more {many}.",
            f"{other} gives {who.name} {more} {many}.",
            f"{who.they.capitalize()} gets {more} {many} from {other}.",
        ]
    )
    step = f"After getting {more}: {plus(count, more)}."
    return _Event(count + more, told, (step,), f"+{more}")


def _packs(rng: random.Random, count: int, who: Person, other: str, many: str) -> _Event:
    packs, each = rng.randint(2, 6), rng.randint(2, 10)
    box, boxes = rng.choice(HOLDERS)
    told = rng.choice(
        [
            f"{who.they.capitalize()} buys {packs} {boxes} of {each} {many}.",
            f"Then {who.they} gets {packs} {boxes} with {each} {many} each.",
            f"{other} brings {packs} {boxes}, and each {box} holds {each} {many}.",
        ]
    )
    extra = packs * each
    steps = (
        f"The {boxes} hold {packs} * {each} = {extra} {many}.",
        f"After getting {extra}: {plus(count, extra)}.",
    )
    return _Event(count + extra, told, steps, f"+{packs}x{each}")


def _lose(rng: random.Random, count: int, who: Person, other: str, many: str) -> _Event:
    less = rng.randint(2, count - 2)
    told = rng.choice(
        [
            f"{who.they.capitalize()} loses {less} {many}.",
            f"Then {who.they} gives {less} {many} to {other}.",
            f"{who.they.capitalize()} sells {less} of {who.their} {many}.",
            f"{other} takes {less} {many}.",
        ]
    )
    step = f"After losing {less}: {minus(count, less)}."
    return _Event(count - less, told, (step,), f"-{less}")


def _half(rng: random.Random, count: int, who: Person, other: str, many: str) -> _Event:
    told = rng.choice(
        [
            f"{who.they.capitalize()} gives half of {who.their} {many} to {other}.",
            f"Then {who.they} loses half of {who.their} {many}.",
        ]
    )
    return _Event(count // 2, told, (f"Half is left: {count} / 2 = {count // 2}.",), "half")


def _double(rng: random.Random, count: int, who: Person, other: str, many: str) -> _Event:
    del other
    told = rng.choice(
        [
            f"Then {who.they} doubles the number of {many}.",
            f"{who.they.capitalize()} works hard and doubles {who.their} {many}.",
        ]
    )
    return _Event(count * 2, told, (f"Twice as many: {plus(count, count)}.",), "double")


def chain(rng: random.Random) -> Problem:
    """Someone owns things and one to three things happen to them, one after the other."""
    who = rng.choice(PEOPLE)
    name = who.name
    other = rng.choice([person.name for person in PEOPLE if person.name != name])
    _, many = rng.choice(THINGS)
    count = rng.randint(5, 60)
    numbers: list[int | str] = [count]
    text = [rng.choice([f"{name} has {count} {many}.", f"{name} starts with {count} {many}."])]
    steps = [f"{name} has {count} {many}."]
    for _ in range(rng.choice([1, 2, 2, 3])):
        events = [_gain, _packs]
        if count > 6:
            events += [_lose, _lose]
        if count % 2 == 0 and count <= 40:
            events.append(_half)
        if count < 60:
            events.append(_double)
        event = rng.choice(events)(rng, count, who, other, many)
        count = event.total
        text.append(event.told)
        steps += event.steps
        numbers.append(event.code)
    text.append(
        rng.choice(
            [
                f"How many {many} does {name} have now?",
                f"How many {many} does {who.they} have in the end?",
            ]
        )
    )
    return Problem(key_of("chain", *numbers), " ".join(text), tuple(steps), count)


def groups(rng: random.Random) -> Problem:
    """Equal groups, perhaps with loose ones added."""
    name, _, _ = rng.choice(PEOPLE)
    _, many = rng.choice(THINGS)
    box, boxes = rng.choice(HOLDERS)
    packs, each, loose = rng.randint(2, 10), rng.randint(2, 10), rng.choice([0, rng.randint(2, 40)])
    product = packs * each
    text = rng.choice(
        [
            f"{name} packs {packs} {boxes} with {each} {many} in each {box}.",
            f"There are {packs} {boxes}. Each {box} holds {each} {many}.",
            f"A shelf has {packs} {boxes} of {each} {many}.",
        ]
    )
    steps = [f"The {boxes} hold {packs} * {each} = {product} {many}."]
    if loose:
        text += rng.choice(
            [f" There are also {loose} loose {many}.", f" Another {loose} {many} lie on a table."]
        )
        steps.append(f"With the loose ones: {plus(product, loose)}.")
    text += rng.choice([f" How many {many} are there in all?", f" How many {many} is that?"])
    return Problem(key_of("groups", packs, each, loose), text, tuple(steps), product + loose)


def share(rng: random.Random) -> Problem:
    """Things are pooled, some are put aside, and the rest is shared equally."""
    (name, they, _), (other, _, _) = two_people(rng)
    _, many = rng.choice(THINGS)
    friends, each = rng.randint(2, 10), rng.randint(2, 10)
    total = friends * each
    shape = rng.choice(["plain", "pool", "keep"])
    steps: list[str] = []
    if shape == "pool" and total > 5:
        mine = rng.randint(2, total - 2)
        yours = total - mine
        text = f"{name} has {mine} {many} and {other} has {yours} {many}. They put them together "
        steps.append(f"Together: {plus(mine, yours)}.")
        numbers = [mine, yours, friends]
    elif shape == "keep":
        kept = rng.randint(2, 30)
        text = f"{name} has {total + kept} {many}. {they.capitalize()} keeps {kept} of them "
        steps.append(f"To share: {minus(total + kept, kept)}.")
        numbers = [total + kept, kept, friends]
    else:
        shape = "plain"
        text = f"{name} has {total} {many} "
        numbers = [total, friends]
    rest = "the rest" if shape == "keep" else "them"
    text += rng.choice(
        [
            f"and shares {rest} equally among {friends} friends."
            if shape != "pool"
            else f"and share {rest} equally among {friends} friends.",
            f"to split {rest} equally between {friends} children."
            if shape == "plain"
            else f"and {'split' if shape == 'pool' else 'splits'} {rest} equally between {friends} children.",
        ]
    )
    text += rng.choice([f" How many {many} does each get?", f" How many {many} are in one share?"])
    steps.append(f"Each share: {total} / {friends} = {each}.")
    return Problem(key_of("share", shape, *numbers), text, tuple(steps), each)


def compare(rng: random.Random) -> Problem:
    """Two people own things; one count is told relative to the other."""
    (name, _, _), (other, _, _) = two_people(rng)
    _, many = rng.choice(THINGS)
    relation = rng.choice(["more", "fewer", "times", "difference"])
    base = rng.randint(4, 60)
    text = f"{name} has {base} {many}. "
    if relation == "difference":
        second = rng.choice([n for n in range(3, 90) if n != base])
        text += f"{other} has {second} {many}. "
        high, low = max(base, second), min(base, second)
        winner = name if base > second else other
        loser = other if base > second else name
        if rng.random() < 0.5:
            text += f"How many more {many} does {winner} have than {loser}?"
        else:
            text += f"How many fewer {many} does {loser} have than {winner}?"
        step = f"{winner} has more: {minus(high, low)}."
        return Problem(key_of("difference", base, second), text, (step,), high - low)
    if relation == "more":
        gap = rng.randint(2, 40)
        second = base + gap
        text += f"{other} has {gap} more {many} than {name}. "
        step = f"{other} has {plus(base, gap)} {many}."
    elif relation == "fewer":
        gap = rng.randint(2, base - 1)
        second = base - gap
        text += f"{other} has {gap} fewer {many} than {name}. "
        step = f"{other} has {minus(base, gap)} {many}."
    else:
        base, gap = rng.randint(3, 10), rng.randint(2, 10)
        second = base * gap
        text = f"{name} has {base} {many}. {other} has {gap} times as many {many} as {name}. "
        step = f"{other} has {base} * {gap} = {second} {many}."
    if rng.random() < 0.5:
        text += f"How many {many} does {other} have?"
        return Problem(key_of(relation, base, gap, "one"), text, (step,), second)
    text += rng.choice([f"How many {many} do they have together?", f"How many {many} do both have in total?"])
    total = base + second
    steps = (step, f"Together: {plus(base, second)}.")
    return Problem(key_of(relation, base, gap, "both"), text, steps, total)


def seats(rng: random.Random) -> Problem:
    """A grid of places, some of them taken in one or two batches."""
    rows, seats = rng.randint(3, 10), rng.randint(3, 10)
    total = rows * seats
    place, places, taken_word = rng.choice(
        [
            ("A hall", "seats", "are taken"),
            ("A bus park", "spaces", "are used"),
            ("A garden", "plants", "are cut"),
            ("A wall", "tiles", "are broken"),
            ("A theater", "chairs", "are sold"),
        ]
    )
    taken = rng.randint(2, total - 5)
    text = f"{place} has {rows} rows of {seats} {places}. {taken} {places} {taken_word}."
    steps = [
        f"The rows have {rows} * {seats} = {total} {places}.",
        f"Left over: {minus(total, taken)}.",
    ]
    left, numbers = total - taken, [rows, seats, taken]
    if rng.random() < 0.4:
        later = rng.randint(1, left - 2)
        text += f" Later {later} more {taken_word}."
        steps.append(f"Later: {minus(left, later)}.")
        left -= later
        numbers.append(later)
    text += rng.choice([f" How many {places} remain?", f" How many {places} are left?"])
    return Problem(key_of("seats", *numbers), text, tuple(steps), left)


def total(rng: random.Random) -> Problem:
    """A total over three named parts."""
    name, _, _ = rng.choice(PEOPLE)
    parts = [rng.randint(3, 60) for _ in range(3)]
    days = rng.choice(
        [("Monday", "Tuesday", "Friday"), ("May", "June", "July"), ("spring", "summer", "fall")]
    )
    preposition = "on" if days[0] == "Monday" else "in"
    _, many = rng.choice(THINGS)
    verb = rng.choice(["collects", "sells", "paints", "counts", "packs"])
    text = f"{name} {verb} {parts[0]} {many} {preposition} {days[0]}, {parts[1]} {preposition} "
    text += f"{days[1]} and {parts[2]} {preposition} {days[2]}. "
    text += rng.choice([f"How many {many} is that in total?", f"What is the total of {many}?"])
    first = parts[0] + parts[1]
    steps = (
        f"First two: {plus(parts[0], parts[1])}.",
        f"With the third: {plus(first, parts[2])}.",
    )
    return Problem(key_of("sum", *parts), text, steps, first + parts[2])

"""Math word problems with worked steps, written from our own templates.

Every problem kind is a function that draws numbers and words and returns a `Problem`. Results
stay below about 200 and factors below 13, so that a very small model can learn the arithmetic.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from eckart.pocket.sample import Sample

# Name, subject pronoun, possessive pronoun.
PEOPLE = [
    (name, "she", "her")
    for name in "Mia Nora Lena Ada Ruth Ivy Zoe Tara Maya Elsa Priya Hana Rosa June Vera Amy Lucy Sara Kate".split()
] + [
    (name, "he", "his")
    for name in "Tom Ben Omar Leo Sam Max Ravi Finn Hugo Paul Ned Kofi Ivan Noah Eli Jack Adam Carl Owen".split()
]
# Singular and plural of countable things.
THINGS = [
    tuple(pair.split("/"))
    for pair in (
        "apple/apples pear/pears marble/marbles sticker/stickers pencil/pencils shell/shells "
        "coin/coins book/books card/cards button/buttons bead/beads stamp/stamps egg/eggs "
        "plum/plums candle/candles crayon/crayons ribbon/ribbons stone/stones flower/flowers "
        "cookie/cookies muffin/muffins badge/badges peach/peaches balloon/balloons nut/nuts "
        "lemon/lemons onion/onions brick/bricks tile/tiles rope/ropes carrot/carrots magnet/magnets "
        "feather/feathers"
    ).split()
]
HOLDERS = [
    tuple(pair.split("/"))
    for pair in (
        "bag/bags box/boxes jar/jars basket/baskets pack/packs tray/trays crate/crates "
        "bowl/bowls drawer/drawers sack/sacks"
    ).split()
]
GOODS = [
    tuple(pair.split("/"))
    for pair in (
        "pen/pens cup/cups hat/hats ball/balls kite/kites mug/mugs lamp/lamps toy/toys "
        "plant/plants scarf/scarves ticket/tickets sandwich/sandwiches puzzle/puzzles lantern/lanterns brush/brushes"
    ).split()
]


@dataclass(frozen=True)
class Problem:
    """A drawn problem: its kind and numbers, the question, the worked lines and the result."""

    key: str
    question: str
    steps: tuple[str, ...]
    answer: int


def _key(kind: str, *numbers: int | str) -> str:
    return ":".join([kind, *map(str, numbers)])


def _two_people(rng: random.Random) -> tuple[tuple[str, str, str], tuple[str, str, str]]:
    first, second = rng.sample(PEOPLE, 2)
    return first, second


def _chain(rng: random.Random) -> Problem:
    """Someone owns things and one to three things happen to them, one after the other."""
    name, they, their = rng.choice(PEOPLE)
    other = rng.choice([person[0] for person in PEOPLE if person[0] != name])
    _, many = rng.choice(THINGS)
    count = rng.randint(5, 60)
    numbers: list[int | str] = [count]
    text = [rng.choice([f"{name} has {count} {many}.", f"{name} starts with {count} {many}."])]
    steps = [f"{name} has {count} {many}."]
    for _ in range(rng.choice([1, 2, 2, 3])):
        events = ["gain", "packs"]
        if count > 6:
            events += ["lose", "lose"]
        if count % 2 == 0:
            events.append("half")
        if count < 60:
            events.append("double")
        event = rng.choice(events)
        if event == "gain":
            more = rng.randint(2, 50)
            text.append(
                rng.choice(
                    [
                        f"{they.capitalize()} finds {more} more {many}.",
                        f"Then {they} buys {more} more {many}.",
                        f"{other} gives {name} {more} {many}.",
                        f"{they.capitalize()} gets {more} {many} from {other}.",
                    ]
                )
            )
            steps.append(f"After getting {more}: {count} + {more} = {count + more}.")
            count, code = count + more, f"+{more}"
        elif event == "packs":
            packs, each = rng.randint(2, 6), rng.randint(2, 10)
            box, boxes = rng.choice(HOLDERS)
            text.append(
                rng.choice(
                    [
                        f"{they.capitalize()} buys {packs} {boxes} of {each} {many}.",
                        f"Then {they} gets {packs} {boxes} with {each} {many} each.",
                        f"{other} brings {packs} {boxes}, and each {box} holds {each} {many}.",
                    ]
                )
            )
            extra = packs * each
            steps.append(f"The {boxes} hold {packs} * {each} = {extra} {many}.")
            steps.append(f"After getting {extra}: {count} + {extra} = {count + extra}.")
            count, code = count + extra, f"+{packs}x{each}"
        elif event == "lose":
            less = rng.randint(2, count - 2)
            text.append(
                rng.choice(
                    [
                        f"{they.capitalize()} loses {less} {many}.",
                        f"Then {they} gives {less} {many} to {other}.",
                        f"{they.capitalize()} sells {less} of {their} {many}.",
                        f"{other} takes {less} {many}.",
                    ]
                )
            )
            steps.append(f"After losing {less}: {count} - {less} = {count - less}.")
            count, code = count - less, f"-{less}"
        elif event == "half":
            text.append(
                rng.choice(
                    [
                        f"{they.capitalize()} gives half of {their} {many} to {other}.",
                        f"Then {they} loses half of {their} {many}.",
                    ]
                )
            )
            steps.append(f"Half is left: {count} / 2 = {count // 2}.")
            count, code = count // 2, "half"
        else:
            text.append(
                rng.choice(
                    [
                        f"Then {they} doubles the number of {many}.",
                        f"{they.capitalize()} works hard and doubles {their} {many}.",
                    ]
                )
            )
            steps.append(f"Twice as many: {count} * 2 = {count * 2}.")
            count, code = count * 2, "double"
        numbers.append(code)
    text.append(
        rng.choice(
            [
                f"How many {many} does {name} have now?",
                f"How many {many} does {they} have in the end?",
            ]
        )
    )
    return Problem(_key("chain", *numbers), " ".join(text), tuple(steps), count)


def _groups(rng: random.Random) -> Problem:
    """Equal groups, perhaps with loose ones added."""
    name, they, _ = rng.choice(PEOPLE)
    _, many = rng.choice(THINGS)
    box, boxes = rng.choice(HOLDERS)
    packs, each, loose = rng.randint(2, 12), rng.randint(2, 12), rng.choice([0, rng.randint(2, 40)])
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
        steps.append(f"With the loose ones: {product} + {loose} = {product + loose}.")
    text += rng.choice([f" How many {many} are there in all?", f" How many {many} is that?"])
    return Problem(_key("groups", packs, each, loose), text, tuple(steps), product + loose)


def _share(rng: random.Random) -> Problem:
    """Things are pooled, some are put aside, and the rest is shared equally."""
    (name, they, _), (other, _, _) = _two_people(rng)
    _, many = rng.choice(THINGS)
    friends, each = rng.randint(2, 10), rng.randint(2, 12)
    total = friends * each
    shape = rng.choice(["plain", "pool", "keep"])
    steps: list[str] = []
    if shape == "pool" and total > 5:
        mine = rng.randint(2, total - 2)
        yours = total - mine
        text = f"{name} has {mine} {many} and {other} has {yours} {many}. They put them together "
        steps.append(f"Together: {mine} + {yours} = {total}.")
        numbers = [mine, yours, friends]
    elif shape == "keep":
        kept = rng.randint(2, 30)
        text = f"{name} has {total + kept} {many}. {they.capitalize()} keeps {kept} of them "
        steps.append(f"To share: {total + kept} - {kept} = {total}.")
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
            else f"and {'split' if shape == 'pool' else 'splits'} {rest} equally between "
            f"{friends} children.",
        ]
    )
    text += rng.choice([f" How many {many} does each get?", f" How many {many} are in one share?"])
    steps.append(f"Each share: {total} / {friends} = {each}.")
    return Problem(_key("share", shape, *numbers), text, tuple(steps), each)


def _compare(rng: random.Random) -> Problem:
    """Two people own things; one count is told relative to the other."""
    (name, _, _), (other, _, _) = _two_people(rng)
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
        steps = (f"{winner} has more: {high} - {low} = {high - low}.",)
        return Problem(_key("difference", base, second), text, steps, high - low)
    if relation == "more":
        gap = rng.randint(2, 40)
        second = base + gap
        text += f"{other} has {gap} more {many} than {name}. "
        step = f"{other} has {base} + {gap} = {second} {many}."
    elif relation == "fewer":
        gap = rng.randint(2, base - 1)
        second = base - gap
        text += f"{other} has {gap} fewer {many} than {name}. "
        step = f"{other} has {base} - {gap} = {second} {many}."
    else:
        base, gap = rng.randint(3, 20), rng.randint(2, 5)
        second = base * gap
        text = f"{name} has {base} {many}. {other} has {gap} times as many {many} as {name}. "
        step = f"{other} has {base} * {gap} = {second} {many}."
    if rng.random() < 0.5:
        text += f"How many {many} does {other} have?"
        return Problem(_key(relation, base, gap, "one"), text, (step,), second)
    text += rng.choice(
        [f"How many {many} do they have together?", f"How many {many} do both have in total?"]
    )
    total = base + second
    steps = (step, f"Together: {base} + {second} = {total}.")
    return Problem(_key(relation, base, gap, "both"), text, steps, total)


def _shop(rng: random.Random) -> Problem:
    """Buying one or two kinds of goods, perhaps asking for the change."""
    name, they, _ = rng.choice(PEOPLE)
    (one, many), (one2, many2) = rng.sample(GOODS, 2)
    count, price = rng.randint(2, 9), rng.randint(2, 10)
    cost = count * price
    numbers: list[int | str] = [count, price]
    text = rng.choice(
        [
            f"{name} buys {count} {many} for {price} dollars each",
            f"One {one} costs {price} dollars. {name} buys {count} {many}",
        ]
    )
    steps = [f"The {many} cost {count} * {price} = {cost} dollars."]
    if rng.random() < 0.5:
        count2, price2 = rng.randint(2, 6), rng.randint(2, 9)
        cost2 = count2 * price2
        numbers += ["and", count2, price2]
        text += f" and {count2} {many2} for {price2} dollars each"
        steps.append(f"The {many2} cost {count2} * {price2} = {cost2} dollars.")
        steps.append(f"In total: {cost} + {cost2} = {cost + cost2}.")
        cost += cost2
    if rng.random() < 0.5:
        paid = cost + rng.randint(1, 50)
        numbers += ["paid", paid]
        text += rng.choice(
            [
                f". {they.capitalize()} pays with {paid} dollars. How much change does {they} get?",
                f". {they.capitalize()} had {paid} dollars. How many dollars are left?",
            ]
        )
        steps.append(f"Left over: {paid} - {cost} = {paid - cost}.")
        return Problem(_key("change", *numbers), text, tuple(steps), paid - cost)
    text += rng.choice([f". How much does {they} pay?", ". How many dollars is that in total?"])
    return Problem(_key("shop", *numbers), text, tuple(steps), cost)


def _rate(rng: random.Random) -> Problem:
    """Something happens at a steady rate; perhaps a bonus, a loss or a goal follows."""
    name, they, their = rng.choice(PEOPLE)
    rate, time = rng.randint(2, 12), rng.randint(2, 12)
    done = rate * time
    scene, unit, verb, noun = rng.choice(
        [
            (f"{name} earns {rate} dollars an hour and works {time} hours", "dollars", "earn", 0),
            (f"{name} reads {rate} pages a day for {time} days", "pages", "read", 1),
            (f"{name} walks {rate} miles a day for {time} days", "miles", "walk", 1),
            (f"{name} bakes {rate} pies an hour for {time} hours", "pies", "bake", 0),
            (f"{name} rides {rate} miles an hour for {time} hours", "miles", "ride", 1),
            (f"{name} writes {rate} letters a week for {time} weeks", "letters", "write", 0),
            (f"{name} plants {rate} trees a day for {time} days", "trees", "plant", 0),
        ]
    )
    steps = [f"In that time: {rate} * {time} = {done} {unit}."]
    shape = rng.choice(["plain", "goal", "less" if not noun else "goal", "more"])
    if shape == "goal":
        goal = done + rng.randint(2, 60)
        text = f"{scene}. {their.capitalize()} goal is {goal} {unit}. "
        text += f"How many {unit} are still missing?"
        steps.append(f"Still missing: {goal} - {done} = {goal - done}.")
        return Problem(_key("goal", rate, time, goal), text, tuple(steps), goal - done)
    if shape == "less":
        gone = rng.randint(1, done - 1)
        text = f"{scene}. Then {they} gives away {gone} {unit}. How many {unit} are left?"
        steps.append(f"Left over: {done} - {gone} = {done - gone}.")
        return Problem(_key("rate-less", rate, time, gone), text, tuple(steps), done - gone)
    if shape == "more":
        extra = rng.randint(2, 50)
        text = f"{scene}. Before that, {they} already had {extra} {unit}. "
        text += f"How many {unit} is that in total?"
        steps.append(f"In total: {done} + {extra} = {done + extra}.")
        return Problem(_key("rate-more", rate, time, extra), text, tuple(steps), done + extra)
    text = f"{scene}. How many {unit} does {they} {verb} in all?"
    return Problem(_key("rate", rate, time), text, tuple(steps), done)


def _ages(rng: random.Random) -> Problem:
    """Ages now and some years away."""
    (name, they, _), (other, _, _) = _two_people(rng)
    age, gap, years = rng.randint(4, 40), rng.randint(2, 20), rng.randint(2, 20)
    if rng.random() < 0.5:
        second, step = age + gap, f"{other} is {age} + {gap} = {age + gap}."
        text = f"{name} is {age} years old. {other} is {gap} years older than {name}."
        kind = "older"
    else:
        age += gap
        second, step = age - gap, f"{other} is {age} - {gap} = {age - gap}."
        text = f"{name} is {age} years old. {other} is {gap} years younger than {name}."
        kind = "younger"
    if rng.random() < 0.3:
        total = age + second
        text += " What is the sum of their ages?"
        steps = (step, f"Together: {age} + {second} = {total}.")
        return Problem(_key(kind, age, gap, "sum"), text, steps, total)
    text += f" How old will {other} be in {years} years?"
    steps = (step, f"In {years} years: {second} + {years} = {second + years}.")
    return Problem(_key(kind, age, gap, years), text, steps, second + years)


def _seats(rng: random.Random) -> Problem:
    """A grid of places, some of them taken in one or two batches."""
    rows, seats = rng.randint(3, 12), rng.randint(3, 12)
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
        f"Left over: {total} - {taken} = {total - taken}.",
    ]
    left, numbers = total - taken, [rows, seats, taken]
    if rng.random() < 0.4:
        later = rng.randint(1, left - 2)
        text += f" Later {later} more {taken_word}."
        steps.append(f"Later: {left} - {later} = {left - later}.")
        left -= later
        numbers.append(later)
    text += rng.choice([f" How many {places} remain?", f" How many {places} are left?"])
    return Problem(_key("seats", *numbers), text, tuple(steps), left)


def _weeks(rng: random.Random) -> Problem:
    """Saving a fixed amount until a price is reached."""
    name, they, _ = rng.choice(PEOPLE)
    one, _ = rng.choice(GOODS)
    weekly, weeks, saved = rng.randint(2, 12), rng.randint(2, 12), rng.randint(3, 50)
    missing = weekly * weeks
    price = missing + saved
    unit, units = rng.choice([("week", "weeks"), ("day", "days"), ("month", "months")])
    text = rng.choice(
        [
            f"A {one} costs {price} dollars. {name} has {saved} dollars and saves {weekly} dollars "
            f"a {unit}.",
            f"{name} wants a {one} for {price} dollars. {they.capitalize()} already has {saved} "
            f"dollars and saves {weekly} more each {unit}.",
        ]
    )
    text += f" After how many {units} can {they} buy it?"
    steps = (
        f"Still missing: {price} - {saved} = {missing}.",
        f"Time needed: {missing} / {weekly} = {weeks} {units}.",
    )
    return Problem(_key("weeks", price, saved, weekly), text, steps, weeks)


def _sum(rng: random.Random) -> Problem:
    """A total over three named parts."""
    name, they, _ = rng.choice(PEOPLE)
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
        f"First two: {parts[0]} + {parts[1]} = {first}.",
        f"With the third: {first} + {parts[2]} = {first + parts[2]}.",
    )
    return Problem(_key("sum", *parts), text, steps, first + parts[2])


_KINDS: list[Callable[[random.Random], Problem]] = [
    _chain, _chain, _chain, _groups, _share, _compare, _compare,
    _shop, _shop, _rate, _rate, _ages, _seats, _weeks, _sum,
]  # fmt: skip


def draw(rng: random.Random) -> Sample:
    """Draw one word problem; its completion is the worked steps and a last line `#### n`."""
    problem = rng.choice(_KINDS)(rng)
    completion = "\n".join([*problem.steps, f"#### {problem.answer}"]) + "\n"
    return Sample(
        "math", problem.key, problem.question + "\n", completion, answer=str(problem.answer)
    )

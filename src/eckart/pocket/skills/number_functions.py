"""Families of small functions over integers and lists of integers."""

from __future__ import annotations

import random
from typing import Any

from eckart.pocket.skills.function_spec import Inputs, Op, Spec


def _number_filter(rng: random.Random) -> Op:
    """A condition on the integer `n`; the words read as a noun phrase over `{}`."""
    k = rng.randint(2, 20)
    small = rng.randint(2, 9)
    high = k + rng.randint(2, 10)
    more = rng.choice(["greater than", "above", "larger than"])
    less = rng.choice(["less than", "below", "smaller than"])
    multiple = rng.choice([f"{{}} divisible by {small}", f"{{}} that are multiples of {small}"])
    return rng.choice(
        [
            Op("even", "even {}", "n % 2 == 0"),
            Op("odd", "odd {}", "n % 2 == 1"),
            Op("pos", "positive {}", "n > 0"),
            Op("neg", "negative {}", "n < 0"),
            Op(f"gt{k}", f"{{}} {more} {k}", f"n > {k}", (k, k + 1)),
            Op(f"gt{k}", f"{{}} {more} {k}", f"n > {k}", (k, k + 1)),
            Op(f"lt{k}", f"{{}} {less} {k}", f"n < {k}", (k, k - 1)),
            Op(f"lt{k}", f"{{}} {less} {k}", f"n < {k}", (k, k - 1)),
            Op(f"div{small}", multiple, f"n % {small} == 0", (small, 3 * small)),
            Op(f"ne{k}", f"{{}} not equal to {k}", f"n != {k}", (k,)),
            Op(f"in{k}-{high}", f"{{}} from {k} to {high}", f"{k} <= n <= {high}", (k, high)),
        ]
    )


def _number_map(rng: random.Random) -> Op:
    """A change of the integer `n`; the words read after 'each'."""
    k = rng.randint(2, 20)
    plus = rng.choice(["increased by", "plus"])
    minus = rng.choice(["decreased by", "minus"])
    times = rng.choice(["multiplied by", "times"])
    return rng.choice(
        [
            Op("double", "doubled", "n * 2"),
            Op("square", "squared", "n * n"),
            Op("neg", "negated", "-n"),
            Op(f"add{k}", f"{plus} {k}", f"n + {k}"),
            Op(f"sub{k}", f"{minus} {k}", f"n - {k}"),
            Op(f"mul{k}", f"{times} {k}", f"n * {k}"),
            Op(f"mod{k}", f"modulo {k}", f"n % {k}"),
            Op(f"floor{k}", f"divided by {k} and rounded down", f"n // {k}"),
        ]
    )


def _number_lists(constants: tuple[Any, ...]) -> Inputs:
    """Inputs of one list of integers in which the constants turn up."""

    def inputs(rng: random.Random) -> tuple[Any, ...]:
        pool = [*constants, *(rng.randint(-9, 30) for _ in range(6))]
        return ([rng.choice(pool) for _ in range(rng.choice([0, 2, 3, 4, 5]))],)

    return inputs


def numbers(rng: random.Random) -> Spec:
    """Filter, change and reduce a list of integers."""
    keep = _number_filter(rng)
    change = _number_map(rng) if rng.random() < 0.6 else Op("id", "", "n")
    goal = rng.choice(["list", "list", "sum", "sum", "count", "max", "min", "all", "any", "product"])
    if goal in ("count", "all", "any"):
        change = Op("id", "", "n")
    items = keep.words.format("numbers")
    each = f", each {change.words}" if change.words else ""
    loop = ["for n in numbers:", f"    if {keep.expr}:"]
    listing = f"[{change.expr} for n in numbers if {keep.expr}]"
    if goal == "list":
        doc = rng.choice([f"Return a list of the {items}{each}.", f"List the {items}{each}."])
        body = [f"return {listing}"]
    elif goal == "sum":
        doc = rng.choice([f"Return the sum of the {items}{each}.", f"Add up the {items}{each}."])
        body = ["total = 0", *loop, f"        total += {change.expr}", "return total"]
    elif goal == "product":
        doc = f"Return the product of the {items}{each}."
        body = ["result = 1", *loop, f"        result *= {change.expr}", "return result"]
    elif goal == "count":
        doc = rng.choice([f"Count the {items}.", f"Return how many of the {items} there are."])
        body = ["count = 0", *loop, "        count += 1", "return count"]
    elif goal in ("all", "any"):
        doc = f"Return True if {goal} of the numbers are among the {items}."
        body = [f"return {goal}({keep.expr} for n in numbers)"]
    else:
        word = {"max": ["largest", "maximum"], "min": ["smallest", "minimum"]}[goal]
        doc = f"Return the {rng.choice(word)} of the {items}{each}, or 0 if there are none."
        body = [f"return {goal}({listing}, default=0)"]
    name = rng.choice([f"{goal}_numbers", f"{goal}_{keep.code.rstrip('-0123456789')}"])
    key = f"numbers:{keep.code}:{change.code}:{goal}"
    return Spec(key, name, ("numbers",), doc, tuple(body), _number_lists(keep.constants))


def arithmetic(rng: random.Random) -> Spec:
    """Two or three steps of integer arithmetic."""
    codes, phrases, body = [], [], []
    for _ in range(rng.choice([2, 2, 3])):
        k = rng.randint(2, 20)
        code, phrase, line = rng.choice(
            [
                (f"add{k}", f"add {k}", f"n = n + {k}"),
                (f"sub{k}", f"subtract {k}", f"n = n - {k}"),
                (f"mul{k}", f"multiply by {k}", f"n = n * {k}"),
                (f"floor{k}", f"divide by {k} rounding down", f"n = n // {k}"),
                (f"mod{k}", f"take the remainder by {k}", f"n = n % {k}"),
                ("square", "square it", "n = n * n"),
                ("neg", "negate it", "n = -n"),
                ("abs", "take the absolute value", "n = abs(n)"),
                (f"atleast{k}", f"raise it to at least {k}", f"n = max(n, {k})"),
                (f"atmost{k}", f"limit it to at most {k}", f"n = min(n, {k})"),
            ]
        )
        codes.append(code)
        phrases.append(phrase)
        body.append(line)
    doc = f"Start with n, {', then '.join(phrases)}."
    name = rng.choice(["compute", "change", "steps", "transform"])

    def inputs(rng: random.Random) -> tuple[Any, ...]:
        return (rng.randint(-9, 40),)

    return Spec(f"arith:{':'.join(codes)}", name, ("n",), doc, (*body, "return n"), inputs)


def branch(rng: random.Random) -> Spec:
    """A condition on an integer with a different result on each side."""
    test = _number_filter(rng)
    if_true, if_false = _number_map(rng), _number_map(rng)
    condition = test.words.format("").replace("that are", "").strip()
    condition = " ".join(condition.split()).replace("multiples of", "a multiple of")
    condition = (
        condition.replace("from", "between").replace(" to ", " and ", 1)
        if (test.code.startswith("in"))
        else condition
    )
    doc = f"If n is {condition}, return n {if_true.words}; otherwise return n {if_false.words}."
    body = (f"if {test.expr}:", f"    return {if_true.expr}", f"return {if_false.expr}")
    near = test.constants

    def inputs(rng: random.Random) -> tuple[Any, ...]:
        return (rng.choice([rng.randint(-9, 40), *near]),)

    name = rng.choice(["choose", "decide", "branch", "either"])
    key = f"branch:{test.code}:{if_true.code}:{if_false.code}"
    return Spec(key, name, ("n",), doc, body, inputs)


def counting(rng: random.Random) -> Spec:
    """A loop over the integers up to a limit."""
    keep, change = _number_filter(rng), _number_map(rng)
    if rng.random() < 0.5:
        change = Op("id", "", "n")
    start = rng.choice([0, 1, 1, 2, 3, 5, 10])
    goal = rng.choice(["list", "sum", "count"])
    if goal == "count":
        change = Op("id", "", "n")
    each = f", each {change.words}" if change.words else ""
    items = f"{keep.words.format('integers')} in the range from {start} to limit"
    head = [f"for n in range({start}, limit + 1):", f"    if {keep.expr}:"]
    if goal == "list":
        doc = f"Return a list of the {items}{each}."
        body = ["result = []", *head, f"        result.append({change.expr})", "return result"]
    elif goal == "sum":
        doc = f"Return the sum of the {items}{each}."
        body = ["total = 0", *head, f"        total += {change.expr}", "return total"]
    else:
        doc = f"Count the {items}."
        body = ["count = 0", *head, "        count += 1", "return count"]

    def inputs(rng: random.Random) -> tuple[Any, ...]:
        return (rng.randint(0, 30 if goal != "list" else 15),)

    name = rng.choice([f"{goal}_range", f"{goal}_up_to", f"range_{goal}"])
    key = f"range:{start}:{keep.code}:{change.code}:{goal}"
    return Spec(key, name, ("limit",), doc, tuple(body), inputs)


def slicing(rng: random.Random) -> Spec:
    """Two or three steps that rearrange a list."""
    codes: list[str] = []
    phrases, body = [], []
    while len(codes) < rng.choice([2, 2, 3]):
        k, v = rng.randint(1, 4), rng.randint(0, 20)
        s = "" if k == 1 else "s"
        count = "" if k == 1 else f"{k} "
        code, phrase, line = rng.choice(
            [
                (f"drop{k}", f"drop the first {count}item{s}", f"items = items[{k}:]"),
                (f"trim{k}", f"drop the last {count}item{s}", f"items = items[:-{k}]"),
                (f"take{k}", f"keep the first {count}item{s}", f"items = items[:{k}]"),
                (f"tail{k}", f"keep the last {count}item{s}", f"items = items[-{k}:]"),
                (f"step{k + 1}", f"keep every item number {k + 1}", f"items = items[::{k + 1}]"),
                ("rev", "reverse the list", "items = items[::-1]"),
                ("sort", "sort it", "items = sorted(items)"),
                ("desc", "sort it in descending order", "items = sorted(items, reverse=True)"),
                (f"app{v}", f"append {v}", f"items = items + [{v}]"),
                (f"pre{v}", f"put {v} in front", f"items = [{v}] + items"),
                (f"del{v}", f"remove every {v}", f"items = [x for x in items if x != {v}]"),
            ]
        )
        if code not in codes:
            codes.append(code)
            phrases.append(phrase)
            body.append(line)
    doc = f"Take the list, {', then '.join(phrases)}."
    removed = tuple(int(code[3:]) for code in codes if code.startswith("del"))

    def inputs(rng: random.Random) -> tuple[Any, ...]:
        pool = [*removed, *(rng.randint(0, 20) for _ in range(5))]
        return ([rng.choice(pool) for _ in range(rng.choice([0, 3, 4, 5, 6]))],)

    name = rng.choice(["rearrange", "change_items", "edit_list", "steps"])
    return Spec(f"slice:{':'.join(codes)}", name, ("items",), doc, (*body, "return items"), inputs)


def pairs(rng: random.Random) -> Spec:
    """Combine two lists of integers item by item."""
    k = rng.randint(2, 20)
    combine = rng.choice(
        [
            Op("sum", "sums", "x + y"),
            Op("dif", "differences", "x - y"),
            Op("prod", "products", "x * y"),
            Op("max", "larger items", "max(x, y)"),
            Op("min", "smaller items", "min(x, y)"),
        ]
    )
    change = rng.choice(
        [
            Op(f"add{k}", f", each increased by {k}", f"{combine.expr} + {k}"),
            Op(f"sub{k}", f", each decreased by {k}", f"{combine.expr} - {k}"),
            Op(f"mul{k}", f", each multiplied by {k}", f"({combine.expr}) * {k}"),
        ]
    )
    goal = rng.choice(["list", "sum", "count"])
    zipped = "for x, y in zip(a, b)"
    if goal == "list":
        doc = f"Return a list of the pairwise {combine.words} of a and b{change.words}."
        body = [f"return [{change.expr} {zipped}]"]
    elif goal == "sum":
        doc = f"Return the sum of the pairwise {combine.words} of a and b{change.words}."
        body = ["total = 0", f"{zipped}:", f"    total += {change.expr}", "return total"]
    else:
        change = Op(f"gt{k}", f" that are greater than {k}", f"{combine.expr} > {k}")
        doc = f"Count the pairwise {combine.words} of a and b{change.words}."
        body = ["count = 0", f"{zipped}:", f"    if {change.expr}:"]
        body += ["        count += 1", "return count"]

    def inputs(rng: random.Random) -> tuple[Any, ...]:
        size = rng.randint(1, 4)
        return tuple([rng.randint(0, k + 5) for _ in range(size)] for _ in range(2))

    name = rng.choice([f"pair_{goal}", f"{goal}_pairs", f"zip_{goal}"])
    key = f"pairs:{combine.code}:{change.code}:{goal}"
    return Spec(key, name, ("a", "b"), doc, tuple(body), inputs)

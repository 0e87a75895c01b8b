"""Families of small functions over words, texts and their characters."""

from __future__ import annotations

import random
from typing import Any

from eckart.pocket.skills.function_spec import Op, Spec

_LETTERS = "abcdefghiklmnoprstuw"
_WORDS = """
    sun moon tree river stone bird cloud apple table window garden paper music water bread house
    light green small happy winter summer button silver castle forest island rabbit tiger lemon
    pencil rocket a to we cat dog fox owl ant ice oak anna level noon toot deed
"""


def _word_filter(rng: random.Random) -> Op:
    k, c = rng.randint(2, 7), rng.choice(_LETTERS)
    starts = rng.choice(["start with", "begin with"])
    return rng.choice(
        [
            Op(f"long{k}", f"words longer than {k} letters", f"len(w) > {k}"),
            Op(f"short{k}", f"words shorter than {k} letters", f"len(w) < {k}"),
            Op(f"len{k}", f"words with exactly {k} letters", f"len(w) == {k}"),
            Op(f"start{c}", f"words that {starts} {c!r}", f"w.startswith({c!r})", (c,)),
            Op(f"end{c}", f"words that end with {c!r}", f"w.endswith({c!r})", (c,)),
            Op(f"has{c}", f"words that contain {c!r}", f"{c!r} in w", (c,)),
            Op(f"not{c}", f"words without the letter {c!r}", f"{c!r} not in w", (c,)),
            Op("pal", "words that are palindromes", "w == w[::-1]"),
        ]
    )


def _word_map(rng: random.Random) -> Op:
    k, c, d = rng.randint(2, 4), *rng.sample(_LETTERS, 2)
    return rng.choice(
        [
            Op("upper", rng.choice(["in upper case", "in capital letters"]), "w.upper()"),
            Op("rev", "reversed", "w[::-1]"),
            Op("title", "capitalized", "w.capitalize()"),
            Op(f"times{k}", f"repeated {k} times", f"w * {k}"),
            Op(f"first{k}", f"cut to the first {k} letters", f"w[:{k}]"),
            Op(f"drop{k}", f"without the first {k} letters", f"w[{k}:]"),
            Op(f"suffix{c}", f"followed by {c!r}", f"w + {c!r}"),
            Op(f"prefix{c}", f"with {c!r} in front", f"{c!r} + w"),
            Op(f"swap{c}{d}", f"with {c!r} replaced by {d!r}", f"w.replace({c!r}, {d!r})", (c,)),
        ]
    )


def _word(rng: random.Random, letters: tuple[Any, ...]) -> str:
    """A word in which, half of the time, one of the letters is first, last or inside."""
    word = rng.choice(_WORDS.split())
    if letters and rng.random() < 0.5:
        at = rng.choice([0, len(word), rng.randint(0, len(word))])
        word = word[:at] + rng.choice(letters) + word[at:]
    return word


def words(rng: random.Random) -> Spec:
    """Filter, change and reduce a list of words."""
    keep = _word_filter(rng)
    change = _word_map(rng) if rng.random() < 0.6 else Op("id", "", "w")
    goal = rng.choice(["list", "list", "join", "count", "letters", "first", "tally"])
    sep = ""
    if goal in ("count", "letters"):
        change = Op("id", "", "w")
    each = f", each {change.words}" if change.words else ""
    loop = ["for w in words:", f"    if {keep.expr}:"]
    listing = f"[{change.expr} for w in words if {keep.expr}]"
    if goal == "list":
        doc = rng.choice([f"Return a list of the {keep.words}{each}.", f"List the {keep.words}{each}."])
        body = [f"return {listing}"]
    elif goal == "join":
        sep = rng.choice(["-", "+", "/", ",", ":", ""])
        how = f"with {sep!r} between them" if sep else "without a separator"
        doc = f"Join the {keep.words}{each}, {how}."
        body = [f"return {sep!r}.join({listing})"]
    elif goal == "count":
        doc = rng.choice([f"Count the {keep.words}.", f"Return the number of {keep.words}."])
        body = ["count = 0", *loop, "        count += 1", "return count"]
    elif goal == "letters":
        doc = f"Return the total length of the {keep.words}."
        body = ["total = 0", *loop, "        total += len(w)", "return total"]
    elif goal == "first":
        doc = f"Return the first of the {keep.words}{each}, or None if there are none."
        body = [*loop, f"        return {change.expr}", "return None"]
    else:
        doc = f"Return a dictionary that counts the {keep.words}{each}."
        body = ["counts = {}", *loop, f"        key = {change.expr}"]
        body += ["        counts[key] = counts.get(key, 0) + 1", "return counts"]
    letters = (*keep.constants, *change.constants)

    def inputs(rng: random.Random) -> tuple[Any, ...]:
        return ([_word(rng, letters) for _ in range(rng.choice([0, 2, 3, 3, 4]))],)

    name = rng.choice([f"{goal}_words", f"words_{goal}", f"{goal}_of_words"])
    key = f"words:{keep.code}:{change.code}:{goal}{sep}"
    return Spec(key, name, ("words",), doc, tuple(body), inputs)


def text_steps(rng: random.Random) -> Spec:
    """Two or three steps on a string."""
    codes: list[str] = []
    phrases, body = [], []
    letters: list[str] = []
    while len(codes) < rng.choice([2, 2, 3]):
        k, (c, d) = rng.randint(1, 4), rng.sample(_LETTERS, 2)
        count, s = ("", "") if k == 1 else (f"{k} ", "s")
        code, phrase, line = rng.choice(
            [
                ("upper", "put it in upper case", "text = text.upper()"),
                ("rev", "reverse it", "text = text[::-1]"),
                (f"swap{c}{d}", f"replace {c!r} by {d!r}", f"text = text.replace({c!r}, {d!r})"),
                (f"swap{c}{d}", f"replace {c!r} by {d!r}", f"text = text.replace({c!r}, {d!r})"),
                (f"del{c}", f"remove every {c!r}", f"text = text.replace({c!r}, '')"),
                (f"app{c}", f"append {c!r}", f"text = text + {c!r}"),
                (f"pre{c}", f"put {c!r} in front", f"text = {c!r} + text"),
                (f"drop{k}", f"drop the first {count}letter{s}", f"text = text[{k}:]"),
                (f"take{k}", f"keep the first {count}letter{s}", f"text = text[:{k}]"),
                (f"tail{k}", f"keep the last {count}letter{s}", f"text = text[-{k}:]"),
                (f"times{k + 1}", f"repeat it {k + 1} times", f"text = text * {k + 1}"),
            ]
        )
        if code not in codes:
            codes.append(code)
            phrases.append(phrase)
            body.append(line)
            letters += [c] if c in code[-2:] else []
    doc = f"Take the text, {', then '.join(phrases)}."

    def inputs(rng: random.Random) -> tuple[Any, ...]:
        return (_word(rng, tuple(letters)),)

    name = rng.choice(["rewrite", "change_text", "edit_text", "steps"])
    return Spec(f"text:{':'.join(codes)}", name, ("text",), doc, (*body, "return text"), inputs)


def characters(rng: random.Random) -> Spec:
    """Go through the characters of a string."""
    group = "".join(sorted(rng.sample(_LETTERS, rng.randint(2, 4))))
    c = rng.choice(_LETTERS)
    keep = rng.choice(
        [
            Op("vowel", "vowels", "ch in 'aeiou'", ("a", "e")),
            Op("cons", "characters that are not vowels", "ch not in 'aeiou'", ("a", "e")),
            Op(f"eq{c}", f"characters equal to {c!r}", f"ch == {c!r}", (c,)),
            Op(f"ne{c}", f"characters other than {c!r}", f"ch != {c!r}", (c,)),
            Op(f"in-{group}", f"characters in {group!r}", f"ch in {group!r}", tuple(group)),
            Op(f"out-{group}", f"characters not in {group!r}", f"ch not in {group!r}", tuple(group)),
            Op(f"after{c}", f"characters after {c!r} in the alphabet", f"ch > {c!r}", (c,)),
            Op(f"before{c}", f"characters before {c!r} in the alphabet", f"ch < {c!r}", (c,)),
        ]
    )
    goal = rng.choice(["keep", "count", "positions", "upper", "double", "mask", "list"])
    loop = ["for ch in text:", f"    if {keep.expr}:"]
    changed = {"upper": "ch.upper()", "double": "ch + ch", "mask": "'*'"}
    if goal == "keep":
        doc = f"Return a string of only the {keep.words}."
        body = [f"return ''.join(ch for ch in text if {keep.expr})"]
    elif goal == "list":
        doc = f"Return a list of the {keep.words}."
        body = [f"return [ch for ch in text if {keep.expr}]"]
    elif goal == "count":
        doc = rng.choice([f"Count the {keep.words}.", f"Return the number of {keep.words}."])
        body = ["count = 0", *loop, "        count += 1", "return count"]
    elif goal == "positions":
        doc = f"Return the positions of the {keep.words}."
        body = [f"return [i for i, ch in enumerate(text) if {keep.expr}]"]
    else:
        action = {
            "upper": "put the {} in upper case",
            "double": "write the {} twice",
            "mask": "hide the {} behind '*'",
        }[goal].format(keep.words)
        doc = f"Copy the text, but {action}."
        body = ["result = ''", *loop, f"        result += {changed[goal]}"]
        body += ["    else:", "        result += ch", "return result"]

    def inputs(rng: random.Random) -> tuple[Any, ...]:
        return (_word(rng, keep.constants) + _word(rng, keep.constants),)

    name = rng.choice([f"{goal}_chars", f"{goal}_characters", f"text_{goal}"])
    return Spec(f"chars:{keep.code}:{goal}", name, ("text",), doc, tuple(body), inputs)

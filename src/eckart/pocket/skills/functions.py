"""Small Python functions to complete: signature, docstring and example, then the body and tests.

The families are in `number_functions.py` and `text_functions.py`; this file turns a drawn
specification into a prompt, a reference body and assert statements.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from eckart.pocket.sample import Sample
from eckart.pocket.skills.function_spec import Spec
from eckart.pocket.skills.number_functions import arithmetic, branch, counting, numbers, pairs, slicing
from eckart.pocket.skills.text_functions import characters, text_steps, words

TESTS_PER_FUNCTION = 5

_FAMILIES: list[Callable[[random.Random], Spec]] = [
    numbers, numbers, words, words, arithmetic, branch, counting, slicing, text_steps,
    characters, pairs,
]  # fmt: skip


def _call(name: str, args: tuple[Any, ...]) -> str:
    return f"{name}({', '.join(map(repr, args))})"


def _reference(spec: Spec, source: str) -> Any:
    """The reference function as a callable. The source is our own, so it is simply executed."""
    scope: dict[str, Any] = {}
    exec(source, scope)
    return scope[spec.name]


def _enough(spec: Spec, function: Any, pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Add calls until there are enough, with more than one value among them where possible."""
    # A generator of its own, so that what the tests need does not change the stream of texts.
    rng = random.Random(f"tests|{spec.key}")
    calls = dict(pairs)
    for _ in range(40):
        if len(calls) >= TESTS_PER_FUNCTION and len(set(calls.values())) > 1:
            break
        args = spec.inputs(rng)
        calls.setdefault(_call(spec.name, args), repr(function(*args)))
    return list(calls.items())


def render(spec: Spec, rng: random.Random) -> Sample:
    """Write a specification as a sample; expected values come from running the reference."""
    head = f"def {spec.name}({', '.join(spec.params)}):\n"
    body = "".join(f"    {line}\n" for line in spec.body)
    function = _reference(spec, head + body)
    calls: dict[str, str] = {}
    # Two more than needed: one for the example, one for a repeated draw.
    for _ in range(TESTS_PER_FUNCTION + 2):
        args = spec.inputs(rng)
        calls[_call(spec.name, args)] = repr(function(*args))
    pairs = list(calls.items())
    doc = f'    """{spec.doc}\n'
    if len(pairs) > TESTS_PER_FUNCTION and rng.random() < 0.6:
        call, value = pairs.pop()
        doc += f"\n    >>> {call}\n    {value}\n"
        doc += '    """\n'
    else:
        doc = doc.rstrip("\n") + '"""\n'
    pairs = _enough(spec, function, pairs[:TESTS_PER_FUNCTION])
    tests = tuple(f"assert {call} == {value}" for call, value in pairs)
    return Sample("code", spec.key, head + doc, body, tests=tests)


def draw(rng: random.Random) -> Sample:
    """Draw one function to complete."""
    return render(rng.choice(_FAMILIES)(rng), rng)

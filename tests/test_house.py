"""Rules of the house that import-linter cannot say (its contracts are in pyproject.toml)."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import eckart

ROOT = Path(eckart.__file__).parent
MODULES = {path.relative_to(ROOT).as_posix(): path for path in sorted(ROOT.rglob("*.py"))}
LONGEST = 400
LONGEST_VERB = 150
MOST_PARAMETERS = 8
MOST_FILES = 15

CROWDED = {
    "cli": "a file for each command, and what they share",
    "model": "its file of merging and swapping, of rounding, of the vocabulary and of fusing are to move",
}
"""Folders of more than fifteen files, and why."""

STRUCTURE_NAME = re.compile(r"\"(lowrank|pivoted|quantized\+lowrank|kronecker|narrow-mlp)\"")
PRODUCTS = {"matmul", "mm", "bmm", "mv", "addmm", "einsum", "tensordot", "dot", "vdot", "inner", "outer"}
SOLVERS = {"norm", "svd", "svdvals", "eigh", "eig", "qr", "lu", "cholesky", "lstsq", "pinv", "inv", "solve"}
COMPUTING = PRODUCTS | SOLVERS | {"linalg"}
COMPUTERS = ("torch", "np", "numpy", "scipy")
CLOCKS = {"perf_counter", "perf_counter_ns", "monotonic", "process_time", "thread_time"}
CACHES = {"cache", "lru_cache", "cached_property"}
WORKERS = {"subprocess", "multiprocessing", "threading", "concurrent"}

MAY_IMPORT = {
    "model/portable/": {"torch", "transformers", "eckart.model.portable", "eckart.structures"},
    "structures/": {"torch", "eckart.structures"},
    "report/": {"matplotlib", "eckart.report", "eckart.types"},
    "allocate/": {"numpy", "eckart.allocate", "eckart.types"},
    "types/": {"torch", "numpy", "pydantic", "eckart.types"},
}
"""All that a folder may import besides the standard library. The first two are saved with every model."""

Rule = Callable[[str, str], Iterator[str]]
"""`rule(module, source)`: what breaks it in the source of a module."""


def parameters(module: str, source: str) -> Iterator[str]:
    """Functions of more than eight parameters that are no public verb."""

    def search(node: ast.AST, path: str) -> Iterator[str]:
        for child in ast.iter_child_nodes(node):
            inner = path
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                inner = f"{path}.{child.name}".lstrip(".")
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                given = [*child.args.posonlyargs, *child.args.args, *child.args.kwonlyargs]
                count = sum(each.arg not in ("self", "cls") for each in given)
                verb = module.startswith("pipeline/") and inner in eckart.__all__
                if count > MOST_PARAMETERS and not verb:
                    yield inner
            yield from search(child, inner)

    return search(ast.parse(source), "")


def docstrings(module: str, source: str) -> Iterator[str]:
    """Modules, public functions and public classes without one. A method may be said by its class."""
    tree = ast.parse(source)
    for node in [tree, *tree.body]:
        if isinstance(node, ast.Module):
            name = "module"
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            name = node.name
        else:
            continue
        overload = any(ast.unparse(each) == "overload" for each in getattr(node, "decorator_list", ()))
        if not (name.startswith("_") or overload or ast.get_docstring(node)):
            yield name


def structures(module: str, source: str) -> Iterator[str]:
    """A structure's name where only the structures themselves and the catalogue have a use for one."""
    if not module.startswith(("structures/", "recipes/")):
        yield from STRUCTURE_NAME.findall(source.replace("'", '"'))


def imports(source: str) -> Iterator[tuple[str, str]]:
    """`(module, name)` of all that is imported, wherever it is; of a module alone the name is empty."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (("." * node.level + (node.module or ""), alias.name) for alias in node.names)


def foreign(module: str, source: str) -> Iterator[str]:
    """Imports that a folder which may import little has no right to."""
    allowed = next((names for folder, names in MAY_IMPORT.items() if module.startswith(folder)), None)
    for origin, name in imports(source) if allowed is not None else ():
        whole = f"{origin}.{name}" if name else origin
        known = any(f"{whole}.".startswith(f"{each}.") for each in allowed or ())
        if not known and origin.partition(".")[0] not in sys.stdlib_module_names:
            yield whole


def of_verbs(rule: Rule) -> Rule:
    """A rule for the files of `pipeline/`."""

    def only(module: str, source: str) -> Iterator[str]:
        if module.startswith("pipeline/"):
            yield from rule(module, source)

    return only


def computing(module: str, source: str) -> Iterator[str]:
    """Matrix products and decompositions, whoever they are asked of, and sums of products."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.BinOp | ast.AugAssign) and isinstance(node.op, ast.MatMult):
            yield f"line {node.lineno}: @"
        if isinstance(node, ast.Attribute) and node.attr in COMPUTING:
            named = node.value.id if isinstance(node.value, ast.Name) else ""
            # Eckart's own room of that name may be called.
            if node.attr != "linalg" or named in COMPUTERS:
                yield f"line {node.lineno}: .{node.attr}"
        if isinstance(node, ast.Attribute) and node.attr == "sum" and isinstance(node.value, ast.BinOp):
            yield f"line {node.lineno}: (…).sum"
    for origin, name in imports(source):
        if origin.partition(".")[0] in COMPUTERS and {*origin.split("."), name} & COMPUTING:
            yield f"import {origin} {name}".rstrip()


def timing(module: str, source: str) -> Iterator[str]:
    """Clocks."""
    tree = ast.parse(source)
    yield from {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)} & CLOCKS
    yield from {name for origin, name in imports(source) if origin == "time"} & CLOCKS


def caching(module: str, source: str) -> Iterator[str]:
    """Caches of functions."""
    for origin, name in imports(source):
        if origin == "functools" and (not name or name in CACHES):
            yield name or origin


def working(module: str, source: str) -> Iterator[str]:
    """Processes and threads."""
    yield from sorted({origin for origin, _ in imports(source) if origin.partition(".")[0] in WORKERS})


def long(module: str, source: str) -> Iterator[str]:
    """Verbs of more than 150 lines: they read like a table of contents."""
    if len(source.splitlines()) > LONGEST_VERB:
        yield "too long"


RULES: dict[str, Rule] = {
    "parameters": parameters,
    "docstrings": docstrings,
    "structures": structures,
    "imports": foreign,
    "verbs compute": of_verbs(computing),
    "verbs take time": of_verbs(timing),
    "verbs cache": of_verbs(caching),
    "verbs have workers": of_verbs(working),
    "verbs are long": of_verbs(long),
}

NOT_YET: dict[str, list[str]] = {}
"""What breaks a rule today, by the rule: it may only become less."""


def offenders(rule: Rule, modules: dict[str, str]) -> list[str]:
    """`module` or, where a rule is about functions, `module: name`."""
    named = rule in (parameters, docstrings)
    found = {
        f"{module}: {name}" if named else module
        for module, source in modules.items()
        for name in rule(module, source)
    }
    return sorted(found)


@pytest.fixture(scope="module")
def sources() -> dict[str, str]:
    return {module: path.read_text(encoding="utf-8") for module, path in MODULES.items()}


every_module = pytest.mark.parametrize("module", MODULES)


def test_modules_are_found() -> None:
    assert {"types/__init__.py", "linalg/solve.py", "pocket/train.py"} <= set(MODULES)
    assert all(any(module.startswith(folder) for module in MODULES) for folder in ("pipeline/", "recipes/"))
    assert set(NOT_YET) <= set(RULES)


@pytest.mark.parametrize("rule", RULES)
def test_rule_is_kept_but_where_it_is_not_yet(rule: str, sources: dict[str, str]) -> None:
    """What is no longer broken has to leave the table."""
    assert offenders(RULES[rule], sources) == NOT_YET.get(rule, [])


NINE = "a, b, c, d, e, f, g, h, i"


@pytest.mark.parametrize(
    ("rule", "module", "source"),
    [
        ("parameters", "types/x.py", f"def f({NINE}): ..."),
        ("parameters", "types/x.py", f"class C:\n def __init__(self, {NINE}): ..."),
        ("parameters", "types/x.py", f"def f(*, {NINE}): ..."),
        ("parameters", "types/x.py", f"def f():\n async def g({NINE}): ..."),
        ("parameters", "types/x.py", f"def compress({NINE}): ..."),
        ("parameters", "pipeline/x.py", f"class C:\n def compress({NINE}): ..."),
        ("docstrings", "types/x.py", "def f(): ..."),
        ("docstrings", "types/x.py", "'''Of f.'''\ndef f(): ..."),
        ("docstrings", "types/x.py", "'''Of C.'''\nclass C: ..."),
        ("structures", "types/x.py", 'if structure == "lowrank": ...'),
        ("structures", "types/x.py", "if structure == 'quantized+lowrank': ..."),
        ("imports", "structures/x.py", "import transformers"),
        ("imports", "structures/x.py", "from eckart.types import Target"),
        ("imports", "structures/x.py", "from eckart import linalg"),
        ("imports", "model/portable/x.py", "import numpy as np"),
        ("imports", "model/portable/x.py", "def f():\n from eckart.model import loading"),
        ("imports", "model/portable/x.py", "from . import swapping"),
        ("imports", "report/x.py", "from eckart.data import read_texts"),
        ("imports", "report/x.py", "import numpy"),
        ("imports", "allocate/x.py", "import torch"),
        ("imports", "types/x.py", "from eckart import linalg"),
        ("verbs compute", "pipeline/x.py", "x = a @ b"),
        ("verbs compute", "pipeline/x.py", "x = weight.T @ b"),
        ("verbs compute", "pipeline/x.py", "a @= b"),
        ("verbs compute", "pipeline/x.py", "torch.linalg.eigh(a)"),
        ("verbs compute", "pipeline/x.py", "import torch.linalg"),
        ("verbs compute", "pipeline/x.py", "from torch import linalg"),
        ("verbs compute", "pipeline/x.py", "from torch.linalg import svd"),
        ("verbs compute", "pipeline/x.py", "from numpy import dot"),
        ("verbs compute", "pipeline/x.py", "np.linalg.norm(a)"),
        ("verbs compute", "pipeline/x.py", "torch.norm(a)"),
        ("verbs compute", "pipeline/x.py", "np.dot(a, b)"),
        ("verbs compute", "pipeline/x.py", "torch.matmul(a, b)"),
        ("verbs compute", "pipeline/x.py", "a.mm(b)"),
        ("verbs compute", "pipeline/x.py", "w.svd()"),
        ("verbs compute", "pipeline/x.py", "(a * b).sum()"),
        ("verbs compute", "pipeline/x.py", "torch.einsum('ij,jk', a, b)"),
        ("verbs take time", "pipeline/x.py", "import time\nstarted = time.perf_counter()"),
        ("verbs take time", "pipeline/x.py", "from time import monotonic"),
        ("verbs cache", "pipeline/x.py", "from functools import lru_cache"),
        ("verbs have workers", "pipeline/x.py", "import subprocess"),
        ("verbs have workers", "pipeline/x.py", "from concurrent.futures import ThreadPoolExecutor"),
        ("verbs are long", "pipeline/x.py", "x = 1\n" * 151),
    ],
)
def test_rule_sees_what_breaks_it(rule: str, module: str, source: str) -> None:
    assert offenders(RULES[rule], {module: source})


@pytest.mark.parametrize(
    ("rule", "module", "source"),
    [
        ("parameters", "pipeline/x.py", f"def compress({NINE}): ..."),
        ("parameters", "types/x.py", "def f(self, a, b, c, d, e, f, g, h, *rest, **more): ..."),
        (
            "docstrings",
            "types/x.py",
            "'''Of C.'''\nclass C:\n '''C.'''\n def method(self): ...\ndef _f(): ...",
        ),
        ("structures", "recipes/x.py", 'Method(structure="lowrank")'),
        ("imports", "structures/x.py", "import math\nimport torch.nn\nfrom eckart.structures import x"),
        ("imports", "model/portable/x.py", "from eckart import structures\nfrom transformers import a"),
        ("verbs compute", "linalg/x.py", "a @ b"),
        (
            "verbs compute",
            "pipeline/x.py",
            "from eckart import linalg\nlinalg.decompose(w)\n@property\ndef f(): 0",
        ),
        ("verbs are long", "pipeline/x.py", "x = 1\n" * 150),
    ],
)
def test_rule_lets_pass_what_keeps_it(rule: str, module: str, source: str) -> None:
    assert not offenders(RULES[rule], {module: source})


def crowded(modules: list[str]) -> set[str]:
    """Folders of too many files."""
    folders = [module.rpartition("/")[0] for module in modules]
    return {folder for folder in folders if folders.count(folder) > MOST_FILES}


def test_no_folder_holds_more_files_than_one_can_name() -> None:
    assert crowded(list(MODULES)) == set(CROWDED)
    assert crowded([f"types/{index}.py" for index in range(MOST_FILES)]) == set()
    assert crowded([f"types/{index}.py" for index in range(MOST_FILES + 1)]) == {"types"}


@every_module
def test_no_file_does_more_than_a_file_should(module: str) -> None:
    lines = len(MODULES[module].read_text(encoding="utf-8").splitlines())
    assert lines <= LONGEST, f"{lines} lines: past {LONGEST} it becomes a folder"

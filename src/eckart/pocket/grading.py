"""Judge completions: the final number of a word problem, and the tests of a function.

What running generated code is protected from: code is parsed first, and anything outside a small
whitelist of syntax, names and methods is failed without being run, so there are no imports, no
files, no attributes that lead to the interpreter's insides, no names with a double underscore.
The rest runs in one separate process with few builtins, an empty working directory, an empty
environment, and limits on time, processor and memory, so endless loops and huge results fail only
themselves. What it is not: a sandbox for an adversary. The process runs as the same user, on the
same kernel, with network access; only the whitelist keeps code from using them. It judges small
functions written by a language model, and should not be offered anything else.
"""

from __future__ import annotations

import ast
import contextlib
import json
import re
import selectors
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from eckart.pocket.sample import Sample

# Above the worker's own limits (1 s by alarm, 3 s by processor limit): it only has to strike when
# those fail.
_ANSWER_SECONDS = 8.0
_MAX_SOURCE = 4000


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_NODES = (
    ast.Module, ast.FunctionDef, ast.arguments, ast.arg, ast.Return, ast.Assign, ast.AugAssign,
    ast.For, ast.While, ast.If, ast.Expr, ast.Pass, ast.Break, ast.Continue, ast.BoolOp,
    ast.BinOp, ast.UnaryOp, ast.IfExp, ast.Dict, ast.Set, ast.List, ast.Tuple, ast.ListComp,
    ast.SetComp, ast.DictComp, ast.GeneratorExp, ast.comprehension, ast.Compare, ast.Call,
    ast.keyword, ast.Constant, ast.Attribute, ast.Subscript, ast.Slice, ast.Name, ast.Starred,
    ast.expr_context, ast.boolop, ast.operator, ast.unaryop, ast.cmpop,
)  # fmt: skip
_FUNCTIONS = _names(
    "abs all any bool dict divmod enumerate filter float int isinstance len list map max min ord "
    "chr pow range reversed round set sorted str sum tuple zip"
)
# `format` and `format_map` are left out on purpose: their templates reach attributes.
_METHODS = _names(
    "append add capitalize copy count endswith extend find get index insert isalpha isdigit "
    "islower isupper items join keys lower lstrip pop remove replace reverse rstrip sort split "
    "startswith strip swapcase title update upper values"
)
_NUMBER = re.compile(r"\s*(-?\d+)[ \t]*(?:\n|$)")


def grade_math(completion: str, sample: Sample) -> bool:
    """Whether the number behind the last `####` of the completion is exactly the answer."""
    _, found, tail = completion.rpartition("####")
    match = _NUMBER.match(tail) if found else None
    return match is not None and match.group(1) == sample.answer


def function_source(completion: str, sample: Sample) -> str:
    """Prompt and generated body, cut where the function ends: at the first top-level line."""
    body: list[str] = []
    for line in completion.split("\n"):
        if line.strip() and not line[0].isspace():
            break
        body.append(line)
    return sample.prompt + "\n".join(body) + "\n"


def is_allowed(source: str) -> bool:
    """Whether source is one function made of whitelisted syntax, names and methods only."""
    if len(source) > _MAX_SOURCE:
        return False
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    if len(tree.body) != 1 or not isinstance(tree.body[0], ast.FunctionDef):
        return False
    function = tree.body[0]
    return all(_is_allowed_node(node, function) for node in ast.walk(tree))


def _is_allowed_node(node: ast.AST, function: ast.FunctionDef) -> bool:
    named = [getattr(node, field, None) for field in ("id", "arg", "name")]
    if any(isinstance(name, str) and "__" in name for name in named):
        return False
    if isinstance(node, ast.FunctionDef):
        return node is function and not node.decorator_list
    if isinstance(node, ast.Attribute):
        return node.attr in _METHODS
    if isinstance(node, ast.Call) and not isinstance(node.func, ast.Attribute):
        # Besides methods, only listed functions and the function itself are called.
        return isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS | {function.name}
    return isinstance(node, _NODES)


class _Worker:
    """The subprocess, started when needed and again after it was killed."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None

    def _start(self) -> subprocess.Popen[bytes]:
        script = Path(__file__).with_name("sandbox.py")
        return subprocess.Popen(
            [sys.executable, "-I", "-S", str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=self._directory,
            env={},
        )

    def run(self, source: str, tests: Sequence[str]) -> bool:
        """Run one function; a worker that dies or stays silent fails this function only."""
        if self._process is None:
            self._process = self._start()
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        job = json.dumps({"source": source, "tests": list(tests)}) + "\n"
        try:
            process.stdin.write(job.encode())
            process.stdin.flush()
        except BrokenPipeError:
            self.close()
            return False
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            line = process.stdout.readline() if selector.select(_ANSWER_SECONDS) else b""
        if not line.endswith(b"\n"):
            self.close()
            return False
        return line.strip() == b"true"

    def close(self) -> None:
        """Kill the process, if there is one, and release its pipes."""
        if self._process is None:
            return
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        self._process.wait()
        self._process = None


def grade_code(completions: Sequence[str], samples: Sequence[Sample]) -> list[bool]:
    """Whether each completion, put behind its sample's prompt, passes all of its tests."""
    verdicts: list[bool] = []
    with tempfile.TemporaryDirectory() as directory:
        worker = _Worker(directory)
        try:
            for completion, sample in zip(completions, samples, strict=True):
                source = function_source(completion, sample)
                verdicts.append(is_allowed(source) and worker.run(source, sample.tests))
        finally:
            worker.close()
    return verdicts

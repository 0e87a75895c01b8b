"""Rules of the house that import-linter cannot say (its contracts are in pyproject.toml)."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import eckart

ROOT = Path(eckart.__file__).parent
MODULES = {str(path.relative_to(ROOT)): path for path in sorted(ROOT.rglob("*.py"))}
LONGEST = 400
PRODUCTS = {"matmul", "mm", "bmm", "mv", "addmm", "einsum", "tensordot", "linalg"}

every_module = pytest.mark.parametrize("module", MODULES)


def parsed(source: str) -> ast.Module:
    return ast.parse(source)


def computations(tree: ast.Module) -> list[str]:
    """Matrix products, and anything of `torch` or `numpy` that makes one."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp | ast.AugAssign) and isinstance(node.op, ast.MatMult):
            found.append(f"line {node.lineno}: @")
        if isinstance(node, ast.Attribute) and node.attr in PRODUCTS:
            named = node.value.id if isinstance(node.value, ast.Name) else ""
            if node.attr != "linalg" or named in ("torch", "np", "numpy"):
                found.append(f"line {node.lineno}: .{node.attr}")
        if isinstance(node, ast.ImportFrom | ast.Import):
            names = [getattr(node, "module", None) or "", *(alias.name for alias in node.names)]
            if any(name.startswith(("torch.linalg", "numpy.linalg", "scipy.linalg")) for name in names) or (
                names[0] in ("torch", "numpy", "scipy") and PRODUCTS & set(names[1:])
            ):
                found.append(f"line {node.lineno}: import")
    return found


def test_modules_are_found() -> None:
    assert {"types/__init__.py", "linalg/solve.py", "pocket/train.py"} <= set(MODULES)
    assert any(module.startswith("pipeline/") for module in MODULES)


@pytest.mark.parametrize("module", [module for module in MODULES if module.startswith("pipeline")])
def test_pipeline_computes_nothing(module: str) -> None:
    assert not computations(parsed(MODULES[module].read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    "source",
    [
        "x = a @ b",
        "a @= b",
        "torch.linalg.eigh(a)",
        "import torch.linalg",
        "from torch import linalg",
        "from torch.linalg import svd",
        "np.linalg.norm(a)",
        "torch.matmul(a, b)",
        "a.mm(b)",
        "torch.einsum('ij,jk', a, b)",
    ],
)
def test_rule_sees_a_computation(source: str) -> None:
    assert computations(parsed(source))


def test_rule_lets_eckarts_own_solver_be_called() -> None:
    assert not computations(
        parsed("from eckart import linalg\nlinalg.decompose(w, a, b)\n@property\ndef f(): 0")
    )


@every_module
def test_no_file_does_more_than_a_file_should(module: str) -> None:
    lines = len(MODULES[module].read_text(encoding="utf-8").splitlines())
    assert lines <= LONGEST, f"{lines} lines: past {LONGEST} it becomes a folder"


@every_module
def test_every_module_says_what_it_is_for(module: str) -> None:
    assert ast.get_docstring(parsed(MODULES[module].read_text(encoding="utf-8")))

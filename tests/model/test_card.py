"""A model card shows names as they are."""

from __future__ import annotations

from pathlib import Path

import pytest
from architectures import LLAMA

import eckart


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("all-MiniLM_L6.v2", "all-MiniLM_L6.v2"),
        ("<img src=x onerror=alert(1)>", r"\<img src=x onerror=alert(1)\>"),
        ("a\n---\nlicense: mit", "a --- license: mit"),
        ("[click](evil) `x`", r"\[click\](evil) \`x\`"),
        ("\x1b[31mred", r" \[31mred"),
    ],
)
def test_a_name_is_no_markup(tmp_path: Path, name: str, shown: str) -> None:
    LLAMA.build().save_pretrained(tmp_path / name)
    eckart.compress(tmp_path / name, tmp_path / "out", keep=0.8, method="svd")
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert f"# {shown}, compressed\n" in card
    assert card.count("\n---\n") == 1

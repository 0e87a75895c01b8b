"""A model card shows names as they are."""

from __future__ import annotations

from pathlib import Path

import pytest
from architectures import LLAMA
from huggingface_hub import ModelCard

import eckart
from eckart.model import cards


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


def front_matter(folder: Path) -> dict[str, object]:
    """As the hub's own library reads it."""
    return ModelCard.load(folder / "README.md").data.to_dict()


def test_the_front_matter_keeps_what_holds_for_the_result_too(tmp_path: Path) -> None:
    LLAMA.build().save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "README.md").write_text(
        "---\nlicense: apache-2.0\nlanguage:\n- en\ntags:\n- chat\nwidget:\n- text: x\n"
        "model-index:\n- name: x\n---\n\n# Model\n"
    )
    eckart.compress(tmp_path / "model", tmp_path / "out", keep=0.8, method="svd")
    expected = {"license": "apache-2.0", "language": ["en"], "library_name": "transformers"}
    assert front_matter(tmp_path / "out") == {**expected, "tags": ["chat", "eckart", "low-rank"]}
    assert "# Model" not in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    # Found again by the same result, block by block and merged.
    eckart.compress(tmp_path / "model", tmp_path / "blocks", keep=0.8, method="svd", blocks=True)
    eckart.compress(tmp_path / "model", tmp_path / "dense", keep=0.8, method="svd", merge=True)
    for made in ("blocks", "dense"):
        assert front_matter(tmp_path / made) == front_matter(tmp_path / "out")


@pytest.mark.parametrize(
    "text",
    [
        "---\nlicense: [1, {a: b}]\ntags: 3\nlanguage: {x: y}\n---\n",
        "---\n{{{{ : \n---\n",
        "---\n!!python/object/apply:os.system ['true']\n---\n",
        "no front matter",
        '---\nlicense: "a\\u0007b"\n---\n',
    ],
)
def test_a_card_that_is_none_is_left_out(tmp_path: Path, text: str) -> None:
    (tmp_path / "README.md").write_text(text)
    cards.write(tmp_path, cards.MERGED, "model", tmp_path, summary="", auto="AutoModel")
    assert front_matter(tmp_path) == {"library_name": "transformers", "tags": ["eckart", "low-rank"]}


def test_a_name_of_the_hub_is_the_base_model(tmp_path: Path) -> None:
    cards.write(tmp_path, cards.MERGED, "owner/model-1.0", None, summary="", auto="AutoModel")
    assert front_matter(tmp_path)["base_model"] == "owner/model-1.0"

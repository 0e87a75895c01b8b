"""BOS is the tokenizer's matter, unless it is asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from architectures import BERT, LLAMA, WORDS, tiny_tokenizer, write_data
from tokenizers.processors import TemplateProcessing

import eckart
from eckart.model.loading import load_tokenizer
from eckart.model.text import begun, windows
from eckart.types import Text, UsageError


def stored(folder: Path, adds: bool, architecture: Any = LLAMA) -> Path:
    """A model whose tokenizer puts `<s>` before a text, or not."""
    architecture.build().save_pretrained(folder)
    tokenizer = tiny_tokenizer()
    if adds:
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)]
        )
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("adds", [True, False])
@pytest.mark.parametrize("bos", [None, True, False])
def test_a_text_begins_as_the_tokenizer_says_or_as_was_asked(tmp_path: Path, adds: bool, bos: bool | None):
    tokenizer = load_tokenizer(stored(tmp_path / "model", adds), bos)
    (window,) = windows(LLAMA.build(), tokenizer, [Text("", " ".join(WORDS[:5]))], 64)
    begins = adds if bos is None else bos
    assert len(window.ids) == 5 + begins
    assert (window.ids[0] == tokenizer.bos_token_id) == begins
    assert begun(tokenizer, []) == []


@pytest.mark.parametrize(("asked", "found"), [({}, False), ({"bos": True}, True)])
def test_the_manifest_says_which_and_its_recipe_does_it_again(
    tmp_path: Path, asked: dict[str, bool], found: bool
) -> None:
    model, data = stored(tmp_path / "model", adds=False), write_data(tmp_path / "data.jsonl")
    eckart.compress(model, tmp_path / "out", keep=0.8, method="svd-llm", data=str(data), cache=False, **asked)
    recipe = json.loads((tmp_path / "out" / "eckart.json").read_text())["recipe"]
    assert recipe["bos"] is found
    eckart.compress(out=tmp_path / "again", recipe=tmp_path / "out" / "eckart.json", cache=False)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("out", "again")]
    assert weights[0] == weights[1]


def test_it_changes_what_is_measured(tmp_path: Path) -> None:
    model, data = stored(tmp_path / "model", adds=False), write_data(tmp_path / "data.jsonl")
    plain, begins = (
        eckart.evaluate(model, "perplexity", data=str(data), bos=bos).details["tokens"]
        for bos in (None, True)
    )
    assert begins > plain


def test_it_is_refused_where_it_says_nothing(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data.jsonl")
    encoder = stored(tmp_path / "encoder", adds=False, architecture=BERT)
    with pytest.raises(UsageError, match="of decoders"):
        eckart.compress(encoder, keep=0.8, method="svd-llm", data=str(data), bos=True)
    model = stored(tmp_path / "model", adds=False)
    bare = tiny_tokenizer()
    bare.bos_token = None
    bare.save_pretrained(model)
    with pytest.raises(UsageError, match="no BOS token"):
        eckart.evaluate(model, "perplexity", data=str(data), bos=False)

"""GGUF files, as llama.cpp writes them: the same model as its safetensors, or a refusal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from gguf_models import TEXT, tiny, written
from outside import Eckart

import eckart
from eckart.model.loading import find_model, load_model, load_tokenizer
from eckart.types import EckartError, UsageError


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny(tmp_path_factory.mktemp("gguf") / "plain")


@pytest.fixture(scope="module")
def file(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(plain, tmp_path_factory.mktemp("file") / "tiny.gguf")


def test_it_is_the_same_model(plain: Path, file: Path) -> None:
    folder = find_model(file)
    ids = load_tokenizer(plain)(TEXT, return_tensors="pt")["input_ids"][:, :40]
    assert load_tokenizer(folder)(TEXT)["input_ids"][:40] == ids[0].tolist()
    with torch.no_grad():
        one, other = (load_model(each)(ids).logits for each in (plain, folder))
    assert (one - other).abs().max() < 1e-6


def test_it_comes_to_the_same_compressed_folder(plain: Path, file: Path, tmp_path: Path) -> None:
    data = [TEXT * 3] * 40
    made = {}
    for name, model in (("plain", plain), ("file", file)):
        made[name] = eckart.compress(model, tmp_path / name, keep=0.8, method="svd-llm", data=data)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in made]
    assert weights[0] == weights[1]
    assert made["file"].manifest.source == "tiny.gguf"
    assert "license: apache-2.0" in (tmp_path / "file" / "README.md").read_text()


def test_every_verb_takes_it(process: Eckart, file: Path, tmp_path: Path) -> None:
    (tmp_path / "data.txt").write_text("<|endoftext|>".join([TEXT * 3] * 40))
    small = ["--keep", "0.8", "--data", "data.txt"]
    assert "LlamaForCausalLM" in process("plan", file, "--keep", "0.8").out
    for line in (
        ["analyze", file, "-o", "looked", "--fast"],
        ["evaluate", file, "--task", "perplexity", "--data", "data.txt"],
        ["compare", file, "-o", "compared", "--methods", "svd", *small],
    ):
        answer = process(*line)
        assert answer.code == 0, answer.err
        assert "%|" not in answer.err


def test_what_no_weight_takes_is_refused(plain: Path, tmp_path: Path) -> None:
    more = {"rope_freqs__weight": np.ones(8, np.float32)}
    with pytest.raises(EckartError, match="rotary positions by rope_freqs"):
        find_model(written(plain, tmp_path / "scaled.gguf", **more))
    more = {"blk__0__strange__weight": np.ones((4, 4), np.float32)}
    with pytest.raises(EckartError, match="transformers would read something else"):
        find_model(written(plain, tmp_path / "strange.gguf", **more))


def test_damaged_files_and_other_names_are_refused(file: Path, tmp_path: Path) -> None:
    whole = file.read_bytes()
    (tmp_path / "cut.gguf").write_bytes(whole[:2000])
    (tmp_path / "weights.gguf").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "other.gguf").write_bytes(b"PK" + whole)
    for name in ("cut", "weights", "other"):
        with pytest.raises(EckartError, match=f"{name}.gguf"):
            find_model(tmp_path / f"{name}.gguf")
    with pytest.raises(UsageError, match="name one of them"):
        find_model(tmp_path)
    assert not list(tmp_path.glob(".*"))

"""Folders of sentence-transformers: judged, compressed and loaded as their users do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import BERT, WORDS, tiny_tokenizer, write_data
from scipy.stats import spearmanr
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer

import eckart
from eckart.evaluation.tasks.stsb import embed
from eckart.model.loading import load_model, load_tokenizer
from eckart.types import EckartError

SENTENCES = [" ".join(WORDS[start : start + length]) for start, length in enumerate((3, 9, 1, 14, 6, 2, 20))]
PAIRS = [(float(at % 5), SENTENCES[at], SENTENCES[(3 * at + 1) % len(SENTENCES)]) for at in range(7)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first token of a tiny BERT, a dense layer, length 1; behind a prompt, and cut at 16 tokens."""
    made = tmp_path_factory.mktemp("sentences")
    BERT.build().save_pretrained(made / "bare")
    tiny_tokenizer().save_pretrained(made / "bare")
    torch.manual_seed(0)
    reader = Transformer(str(made / "bare"), max_seq_length=16)
    width = reader.get_embedding_dimension()
    behind = [Pooling(width, pooling_mode="cls"), Dense(width, 8), Normalize()]
    prompts = {"search": "w80 w81 "}
    whole = SentenceTransformer(
        modules=[reader, *behind], prompts=prompts, default_prompt_name="search", device="cpu"
    )
    whole.save(str(made / "model"))
    return made / "model"


def theirs(folder: Path) -> torch.Tensor:
    """Embeddings as the user of sentence-transformers gets them."""
    found = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    return found.encode(SENTENCES, convert_to_tensor=True)


def ours(folder: Path) -> torch.Tensor:
    return embed(load_model(folder), load_tokenizer(folder), SENTENCES)


def test_embeddings_are_sentence_transformers_own(folder: Path) -> None:
    assert (ours(folder) - theirs(folder)).abs().max() < 1e-5
    assert ours(folder).shape == (len(SENTENCES), 8)


def test_a_score_is_what_its_user_gets(folder: Path, tmp_path: Path) -> None:
    data = tmp_path / "pairs.csv"
    data.write_text("".join(f"genre\tfile\tyear\tid\t{s}\t{a}\t{b}\n" for s, a, b in PAIRS))
    row = {sentence: index for index, sentence in enumerate(SENTENCES)}
    found = theirs(folder)
    cosines = [float(found[row[a]] @ found[row[b]]) for _, a, b in PAIRS]
    expected = spearmanr(cosines, [score for score, _, _ in PAIRS]).statistic
    assert eckart.evaluate(folder, "stsb", data=str(data)).value == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("blocks", [False, True])
def test_the_result_loads_there_with_every_module(folder: Path, tmp_path: Path, blocks: bool) -> None:
    data = write_data(tmp_path / "data.jsonl")
    made = eckart.compress(
        folder, tmp_path / "out", keep=0.8, of="targets", method="kfac", data=str(data), blocks=blocks
    )
    assert made.manifest.held_out is not None
    assert any(note.startswith("2_Dense stays dense, and is copied") for note in made.manifest.notes)
    assert (tmp_path / "out" / "2_Dense" / "model.safetensors").is_file()
    assert (ours(tmp_path / "out") - theirs(tmp_path / "out")).abs().max() < 1e-5
    assert (theirs(tmp_path / "out") - theirs(folder)).abs().max() > 1e-4


def test_a_plan_says_what_stays(folder: Path) -> None:
    assert any("2_Dense stays dense" in note for note in eckart.plan(folder, keep=0.8).notes)


def test_the_metric_is_of_what_its_user_compares(folder: Path, tmp_path: Path) -> None:
    """Other pooling, other gradients: also where moments were kept on disk for the same weights."""
    data = write_data(tmp_path / "data.jsonl")
    plain = tmp_path / "plain"
    shutil.copytree(folder, plain)
    (plain / "modules.json").unlink()
    weights = []
    for model, name in ((folder, "head"), (plain, "mean")):
        eckart.compress(
            model, tmp_path / name, keep=0.8, of="targets", method="kfac", data=str(data), blocks=False
        )
        weights.append((tmp_path / name / "model.safetensors").read_bytes())
    assert weights[0] != weights[1]


def _foreign(modules: Any) -> None:
    modules[1]["type"] = "os.system"


def _outside(modules: Any) -> None:
    modules[2]["path"] = "../elsewhere"


def _no_list(modules: Any) -> None:
    modules[0].pop("idx")


@pytest.mark.parametrize(
    ("edit", "words"),
    [(_foreign, "runs no code"), (_outside, "outside of the folder"), (_no_list, "not what")],
)
def test_what_is_not_its_own_is_refused(
    folder: Path, tmp_path: Path, edit: Callable[[Any], None], words: str
) -> None:
    changed = tmp_path / "model"
    shutil.copytree(folder, changed)
    modules = json.loads((changed / "modules.json").read_text())
    edit(modules)
    (changed / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(EckartError, match=words):
        eckart.compress(changed, tmp_path / "out", keep=0.8, method="svd")
    assert not (tmp_path / "out").exists()


def test_a_pickle_is_refused(folder: Path, tmp_path: Path) -> None:
    changed = tmp_path / "model"
    shutil.copytree(folder, changed)
    (changed / "2_Dense" / "model.safetensors").rename(changed / "2_Dense" / "pytorch_model.bin")
    with pytest.raises(EckartError, match="is a pickle"):
        eckart.compress(changed, tmp_path / "out", keep=0.8, method="svd")

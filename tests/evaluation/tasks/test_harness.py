"""The harness's tasks by name, from a folder of local ones: its figures, kept answers, and its failures."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import BERT, LLAMA, T5, WORDS

from eckart import EckartError, UsageError, evaluate
from eckart.evaluation.tasks import harness

CHOICES = """
task: tiny_choices
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: label
metric_list: [{{metric: acc}}]
"""
WRITTEN = """
task: tiny_written
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{choices[0]}}}}"
generation_kwargs: {{until: ["w5"], max_gen_toks: 4}}
metric_list: [{{metric: exact_match}}]
"""
BROKEN = """
task: tiny_broken
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}-not-there}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "x"
"""
GROUP = """
group: tiny_group
task: [tiny_choices, tiny_written]
"""
ROWS = [
    {"question": f"{WORDS[n]} {WORDS[n + 1]}", "choices": ["w30", "w40 w41"], "label": n % 2}
    for n in range(6)
]


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    for name, task in (("choices", CHOICES), ("written", WRITTEN), ("broken", BROKEN), ("group", GROUP)):
        (folder / f"{name}.yaml").write_text(task.format(data=folder / "rows.jsonl"))
    return str(folder)


@torch.no_grad()
def said(model: Any, tokenizer: Any, question: str, choice: str) -> float:
    """Log-likelihood of a choice behind a question, by hand."""
    asked, ids = (tokenizer(text)["input_ids"] for text in (question, f"{question} {choice}"))
    scores = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    return sum(float(scores[at - 1, ids[at]]) for at in range(len(asked), len(ids)))


def test_a_task_of_the_harness_measures_the_loaded_model(stored: Any, tokenizer: Any, tasks: str) -> None:
    model = LLAMA.load(stored(LLAMA))
    score = evaluate(model, "lm-eval:tiny_choices", tokenizer=tokenizer, include=tasks)
    right = 0
    for row in ROWS:
        values = [said(model, tokenizer, row["question"], choice) for choice in row["choices"]]
        right += values.index(max(values)) == row["label"]
    assert (score.task, score.metric) == ("lm-eval:tiny_choices", "acc")
    assert score.value == right / len(ROWS)
    assert score.details["results"]["tiny_choices"]["acc"] == score.value
    assert score.details["samples"] == len(ROWS)


def test_an_encoder_decoder_is_measured_too(stored: Any, tasks: str) -> None:
    score = evaluate(stored(T5), "lm-eval:tiny_written", include=tasks, limit=2)
    assert (score.metric, score.details["samples"]) == ("exact_match", 2)


def test_answers_are_kept_and_not_asked_again(
    stored: Any, tasks: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    out = tmp_path / "out"
    monkeypatch.setattr(harness, "CHUNK", 1)
    chunks: list[int] = []

    def breaks(items: Any, description: str, total: int) -> Any:
        for item in items:
            if len(chunks) == 2:
                raise KeyboardInterrupt
            chunks.append(total)
            yield item

    def run(track: Any) -> Any:
        return evaluate(stored(LLAMA), "lm-eval:tiny_choices", include=tasks, batch=2, out=out, track=track)

    with pytest.raises(KeyboardInterrupt):
        run(breaks)
    assert chunks == [6, 6]
    assert len((out / "answers.jsonl").read_text().splitlines()) == 4
    with (out / "answers.jsonl").open("a") as file:
        file.write('["half a li')
    totals: list[int] = []

    def counts(items: Any, description: str, total: int) -> Any:
        totals.append(total)
        return items

    score = run(counts)
    assert totals == [4]
    assert score == evaluate(stored(LLAMA), "lm-eval:tiny_choices", include=tasks, batch=2)
    kept = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    assert len(kept) == len(ROWS)
    assert sum(row["acc"] for row in kept) / len(kept) == score.value
    assert capsys.readouterr().out == ""


def test_tries_at_one_prompt_are_several_answers() -> None:
    class Asked:
        def __init__(self, *args: str) -> None:
            self.args = args

    keys = harness._keys("generate_until", [Asked("a"), Asked("a"), Asked("b")])
    assert len(set(keys)) == 3
    assert harness._keys("generate_until", [Asked("b"), Asked("a"), Asked("a")])[1:] == keys[:2]
    assert not set(keys) & set(harness._keys("loglikelihood", [Asked("a"), Asked("b")]))


def test_a_group_without_a_figure_is_the_mean_of_its_tasks() -> None:
    tables = {
        "group": {},
        "a": {"acc": 0.5, "acc_stderr": 0.1},
        "b": {"f1": 0.1, "acc": 1.0},
        "c": {"f1": 0.2},
    }
    assert harness._first(tables, "group") == ("mean of acc", 0.75)
    assert harness._first({"group": {"acc_stderr": 0.1, "f1": 0.3}}, "group") == ("f1", 0.3)
    assert harness._figures({"alias": "a", "acc,none": 1, "bad,none": math.nan, "x,f": 2}) == {
        "acc": 1.0,
        "x,f": 2.0,
    }
    with pytest.raises(EckartError, match="no figure"):
        harness._first({"group": {}}, "group")


def test_a_group_is_found_by_its_name(stored: Any, tasks: str) -> None:
    score = evaluate(stored(LLAMA), "lm-eval:tiny_group", include=tasks, limit=2)
    assert {"tiny_choices", "tiny_written"} <= set(score.details["results"])


def test_what_the_harness_cannot_do_is_said(stored: Any, tasks: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="knows no task 'nothing_such'"):
        evaluate(stored(LLAMA), "lm-eval:nothing_such", include=tasks)
    with pytest.raises(UsageError, match="no such folder"):
        evaluate(stored(LLAMA), "lm-eval:tiny_choices", include=str(tmp_path / "none"))
    with pytest.raises(EckartError, match="lm-eval:tiny_broken: lm-eval could not run it"):
        evaluate(stored(LLAMA), "lm-eval:tiny_broken", include=tasks)
    with pytest.raises(UsageError, match="BertModel writes no text"):
        evaluate(stored(BERT), "lm-eval:tiny_choices", include=tasks)

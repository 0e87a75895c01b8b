"""`eckart evaluate` on the tasks in which a model writes: its JSON, its folder, and every wrong request."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from architectures import BERT, LLAMA, T5
from outside import Eckart, listing


@pytest.fixture
def questions(tmp_path: Path) -> str:
    rows = [{"question": f"w{n} w{n + 1}", "answer": f"w2 #### {n}"} for n in range(4)]
    (tmp_path / "questions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return "questions.jsonl"


@pytest.mark.parametrize("architecture", [LLAMA, T5], ids=str)
def test_a_score_its_answers_and_its_folder(
    eckart: Eckart, stored: Any, tmp_path: Path, questions: str, architecture: Any
) -> None:
    command = ["evaluate", stored(architecture), "--task", "gsm8k", "--data", questions, "-o", "out"]
    command += ["--max-new-tokens", "4", "--batch", "2", "--limit", "3", "--json"]
    answer = eckart(*command)
    assert {"task": "gsm8k", "metric": "exact_match", "samples": 3}.items() <= answer.json.items()
    assert "gsm8k: exact_match 0" in answer.err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "request.json",
        "samples.jsonl",
        "score.json",
    ]
    assert json.loads((tmp_path / "out" / "score.json").read_text()) == answer.json
    assert len((tmp_path / "out" / "samples.jsonl").read_text().splitlines()) == 3
    before = listing(tmp_path / "out")
    assert eckart(*command).json == answer.json
    assert set(listing(tmp_path / "out")) == set(before)


def test_summaries_show_all_their_figures(eckart: Eckart, stored: Any, data: str) -> None:
    command = ["evaluate", stored(LLAMA), "--task", "pairs", "--data", data, "--limit", "2", "--json"]
    answer = eckart(*command, "--max-new-tokens", "4").json
    assert answer["metric"] == "rouge1"
    assert {"rouge1", "rouge2", "rougeL", "rougeLsum", "loss", "tokens", "samples"} < set(answer)


def test_fields_name_what_is_asked(eckart: Eckart, stored: Any, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("ask,say,other\nw1,#### 2,x\n")
    command = ["evaluate", stored(LLAMA), "--task", "gsm8k", "--data", "a.csv", "-o", "out"]
    assert eckart(*command, "--fields", "ask,say", "--json").json["samples"] == 1
    assert json.loads((tmp_path / "out" / "samples.jsonl").read_text())["prompt"] == "w1"


def test_prompts_that_were_cut_are_said(eckart: Eckart, stored: Any, tmp_path: Path) -> None:
    row = {"prompt": "w1 " * 100, "completion": "#### 2"}
    (tmp_path / "long.jsonl").write_text(json.dumps(row))
    answer = eckart("evaluate", stored(LLAMA), "--task", "gsm8k", "--data", "long.jsonl", "--json")
    assert answer.json["cut_prompts"] == 1
    assert "note: 1 prompts were longer than the model takes" in answer.err


@pytest.mark.parametrize(
    ("task", "option", "words"),
    [
        ("perplexity", ["--k", "1"], ["--k is for humaneval and mbpp", "perplexity"]),
        ("gsm8k", ["--temperature", "0.5"], ["--temperature is for humaneval and mbpp"]),
        ("stsb", ["--out", "out"], ["--out is for gsm8k", "leave it out for stsb"]),
        ("gsm8k", ["--include", "x"], ["--include is for lm-eval:NAME"]),
        ("gsm8k", ["--allow-code-execution"], ["--allow-code-execution is for humaneval"]),
        ("stsb", ["--fields", "a,b"], ["--fields is for perplexity"]),
        ("gsm8k", ["--max-new-tokens", "0"], ["--max-new-tokens 0", "1 or more"]),
        ("gsm8k", ["--max-new-tokens", "64"], ["--max-new-tokens 64", "64 tokens"]),
        ("gsm8k", ["--batch", "0"], ["--batch 0"]),
        ("gsm8k", ["--shots", "2"], ["--examples FILE"]),
        ("gsm8k", ["--examples", "questions.jsonl"], ["--shots N"]),
        ("gsm8k", ["--shots", "9", "--examples", "questions.jsonl"], ["--shots 9", "4 examples"]),
        (
            "gsm8k",
            ["--fields", "question,nope"],
            ["questions.jsonl, line 1", "no field nope", "question, answer"],
        ),
        ("gsm8k", ["--fields", "a,b,c"], ["--fields a,b,c", "PROMPT,COMPLETION"]),
        ("gsm8k", ["--fields", "answer"], ["text 1", "needs a prompt", "--fields"]),
        ("math", [], ["questions.jsonl, text 1", r"no \boxed"]),
        ("mbpp", ["--allow-code-execution"], ["row 1", "field text"]),
        ("humaneval", ["--allow-code-execution"], ["row 1", "field prompt"]),
        ("humaneval", ["--k", "0"], ["--k 0"]),
        ("humaneval", ["--k", "1.5"], ["--k 1.5", "whole number"]),
        ("humaneval", ["--k", "many"], ["--k many"]),
        ("humaneval", ["--k", "1,10"], ["--k 10", "--samples 10"]),
        ("humaneval", ["--samples", "5"], ["--samples 5", "--temperature"]),
        ("humaneval", ["--temperature", "-1"], ["--temperature -1"]),
        ("lm-eval:nothing_such", [], ["brings its own data"]),
        ("gsm9k", [], ["'gsm9k'", "did you mean gsm8k?", "lm-eval:NAME"]),
    ],
)
def test_a_wrong_request_is_refused_in_a_line(
    eckart: Eckart,
    stored: Any,
    tmp_path: Path,
    questions: str,
    task: str,
    option: list[str],
    words: list[str],
) -> None:
    before = listing(tmp_path)
    answer = eckart("evaluate", stored(LLAMA), "--task", task, "--data", questions, *option)
    answer.fails(2, *words)
    assert listing(tmp_path) == before


def test_a_task_without_its_data_asks_for_it(eckart: Eckart, stored: Any) -> None:
    for task in ("gsm8k", "math", "samsum", "pairs"):
        eckart("evaluate", stored(LLAMA), "--task", task).fails(2, task, "--data FILE")


def test_data_without_the_fields_names_those_there_are(eckart: Eckart, stored: Any, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({f"field{n}": "x" for n in range(40)}))
    answer = eckart("evaluate", stored(LLAMA), "--task", "samsum", "--data", "a.jsonl")
    answer.fails(2, "a.jsonl, line 1", "dialogue and summary", "field0, field1", "--fields PROMPT,COMPLETION")
    (tmp_path / "b.txt").write_text("w1 w2")
    answer = eckart("evaluate", stored(LLAMA), "--task", "samsum", "--data", "b.txt")
    answer.fails(2, "b.txt, text 1", "needs a prompt")


def test_data_that_the_hub_would_have_are_not_to_be_had_offline(eckart: Eckart, stored: Any) -> None:
    answer = eckart("evaluate", stored(LLAMA), "--task", "gsm8k", "--data", "some-org/some-data:main")
    answer.fails(2, "no such data: some-org/some-data:main")


def test_a_model_that_writes_nothing_is_named(eckart: Eckart, stored: Any, questions: str) -> None:
    answer = eckart("evaluate", stored(BERT), "--task", "gsm8k", "--data", questions)
    answer.fails(2, "BertModel", "writes no text")


def test_a_folder_with_something_else_stays_as_it_is(
    eckart: Eckart, stored: Any, tmp_path: Path, questions: str
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("the only copy")
    before = listing(tmp_path)
    answer = eckart("evaluate", stored(LLAMA), "--task", "gsm8k", "--data", questions, "-o", "out")
    answer.fails(2, "out exists already", "thesis.txt")
    answer = eckart("evaluate", stored(LLAMA), "--task", "gsm8k", "--data", questions, "-o", questions)
    answer.fails(2, questions)
    assert listing(tmp_path) == before


def test_another_request_for_a_folder_is_refused(
    eckart: Eckart, stored: Any, tmp_path: Path, questions: str
) -> None:
    command = [
        "evaluate",
        stored(LLAMA),
        "--task",
        "gsm8k",
        "--data",
        questions,
        "-o",
        "out",
        "--max-new-tokens",
    ]
    assert eckart(*command, "3").code == 0
    before = listing(tmp_path)
    eckart(*command, "4").fails(2, "out", "another request", "max_new_tokens (3 there, 4 here)")
    assert listing(tmp_path) == before

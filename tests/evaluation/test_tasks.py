"""Tasks in which a model writes: graded, kept one by one, and gone on with by the same request alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from architectures import GPT2, LLAMA

from eckart import EckartError, UsageError, evaluate
from eckart.data import read_texts
from eckart.evaluation import TASKS, find_task, generation
from eckart.evaluation.asking import shown
from eckart.evaluation.generation import Written
from eckart.evaluation.measuring import read_material
from eckart.types import Text

REAL = Path(__file__).parents[3] / "shared" / "data" / "tasks"
QUESTIONS = [("w1 w2", "w3 #### 1"), ("w4", "#### 1,000"), ("w5 w6 w7", "#### 3"), ("w8", "#### 4")]
ANSWERS = ["so it is 1", "$1000.00.", "w9 w9", "#### 5"]
CODE = [
    {
        "task_id": n,
        "text": "Return it.",
        "code": f"def f():\n    return {n}",
        "test_list": [f"assert f() == {n}"],
    }
    for n in range(3)
]


@pytest.fixture
def questions(tmp_path: Path) -> str:
    rows = [json.dumps({"question": question, "answer": answer}) for question, answer in QUESTIONS]
    (tmp_path / "questions.jsonl").write_text("\n".join(rows))
    return str(tmp_path / "questions.jsonl")


class Writer:
    """Stands for `write`: gives these answers, in batches of two, and remembers what it was asked."""

    def __init__(self, answers: list[str], fails_after: int | None = None) -> None:
        self.answers, self.fails_after = answers, fails_after
        self.prompts: list[str] = []
        self.fresh: list[int] = []
        self.options: dict[str, Any] = {}

    def __call__(
        self, model: Any, tokenizer: Any, prompts: list[str], decoding: Any, **options: Any
    ) -> Iterator[list[Written]]:
        self.prompts, self.options = prompts, {**options, **vars(decoding)}
        for batch, at in enumerate(range(0, len(prompts), 2)):
            if batch == self.fails_after:
                raise KeyboardInterrupt
            indices = [
                index for index in (at + 1, at) if index < len(prompts) and index not in options["done"]
            ]
            self.fresh += indices
            yield [Written(index, self.answers[index], True, index == 0) for index in indices]


@pytest.fixture
def says(monkeypatch: pytest.MonkeyPatch) -> Any:
    def use(answers: list[str], fails_after: int | None = None) -> Writer:
        writer = Writer(answers, fails_after)
        monkeypatch.setattr("eckart.evaluation.asking.write", writer)
        return writer

    return use


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]


def test_answers_are_graded_and_kept(stored: Any, questions: str, says: Any, tmp_path: Path) -> None:
    writer = says(ANSWERS)
    score = evaluate(stored(LLAMA), "gsm8k", questions, out=tmp_path / "out")
    assert (score.task, score.metric, score.value) == ("gsm8k", "exact_match", 0.5)
    assert score.details == {"right": 2, "samples": 4, "unfinished": 0, "cut_prompts": 1}
    assert writer.prompts == [f"Question: {question}\nAnswer:" for question, _ in QUESTIONS]
    kept = lines(tmp_path / "out")
    assert [row["index"] for row in kept] == [0, 1, 2, 3]
    assert [row["right"] for row in kept] == [True, True, False, False]
    assert [row["answer"] for row in kept] == ["1", "1000", "9", "5"]
    assert [row["reference"] for row in kept] == ["1", "1000", "3", "4"]
    assert [row["written"] for row in kept] == ANSWERS
    assert json.loads((tmp_path / "out" / "score.json").read_text()) == score.as_json()


def test_a_killed_run_is_gone_on_with(stored: Any, questions: str, says: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    says(ANSWERS, fails_after=1)
    with pytest.raises(KeyboardInterrupt):
        evaluate(stored(LLAMA), "gsm8k", questions, out=out)
    assert [row["index"] for row in lines(out)] == [1, 0]
    assert not (out / "score.json").exists()
    # What a kill left of a line that was being written.
    with (out / "samples.jsonl").open("a") as file:
        file.write('{"index": 2, "written": "hal')
    writer = says(ANSWERS)
    score = evaluate(stored(LLAMA), "gsm8k", questions, out=out)
    assert sorted(writer.fresh) == [2, 3]
    assert score.value == 0.5
    assert [row["written"] for row in lines(out)] == ANSWERS
    writer = says([])
    assert evaluate(stored(LLAMA), "gsm8k", questions, out=out) == score
    assert writer.fresh == []


def test_a_run_that_was_broken_off_ends_as_an_unbroken_one(
    stored: Any, questions: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = evaluate(stored(LLAMA), "gsm8k", questions, batch=2, max_new_tokens=5, out=tmp_path / "whole")
    real = generation.write

    def breaks(*arguments: Any, **options: Any) -> Iterator[list[Written]]:
        yield next(iter(real(*arguments, **options)))
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("eckart.evaluation.asking.write", breaks)
        with pytest.raises(KeyboardInterrupt):
            evaluate(stored(LLAMA), "gsm8k", questions, batch=2, max_new_tokens=5, out=tmp_path / "broken")
    assert len(lines(tmp_path / "broken")) == 2
    assert (
        evaluate(stored(LLAMA), "gsm8k", questions, batch=2, max_new_tokens=5, out=tmp_path / "broken")
        == whole
    )
    for name in ("samples.jsonl", "score.json", "request.json"):
        assert (tmp_path / "broken" / name).read_text() == (tmp_path / "whole" / name).read_text()


def test_another_request_is_refused_by_what_differs(
    stored: Any, questions: str, says: Any, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    says(ANSWERS)
    evaluate(stored(LLAMA), "gsm8k", questions, out=out)
    for words, options in (
        ("max_new_tokens (none there, 9 here)", {"max_new_tokens": 9}),
        ("limit (none there, 2 here)", {"limit": 2}),
        ("examples", {"shots": 1, "examples": questions}),
    ):
        with pytest.raises(UsageError) as caught:
            evaluate(stored(LLAMA), "gsm8k", questions, out=out, **options)
        assert words in str(caught.value)
        assert "another request" in str(caught.value)
    with pytest.raises(UsageError, match="weights"):
        evaluate(stored(GPT2), "gsm8k", questions, out=out)
    Path(questions).write_text(Path(questions).read_text().replace("w8", "w9"))
    with pytest.raises(UsageError, match=r"data \("):
        evaluate(stored(LLAMA), "gsm8k", questions, out=out)
    with pytest.raises(UsageError, match=r"task \(gsm8k there, pairs here\)"):
        evaluate(stored(LLAMA), "pairs", questions, out=out)


def test_the_same_weights_elsewhere_are_the_same_request(
    stored: Any, tokenizer: Any, questions: str, says: Any, tmp_path: Path
) -> None:
    writer = says(ANSWERS)
    score = evaluate(stored(LLAMA), "gsm8k", questions, out=tmp_path / "out")
    LLAMA.load(stored(LLAMA)).save_pretrained(tmp_path / "moved")
    tokenizer.save_pretrained(tmp_path / "moved")
    writer = says([])
    assert evaluate(tmp_path / "moved", "gsm8k", questions, out=tmp_path / "out") == score
    assert writer.fresh == []


@pytest.mark.parametrize("content", [b"{broken\n", b'{"no": "index"}\n', b"[]\n"])
def test_damaged_answers_are_an_error(
    stored: Any, questions: str, says: Any, tmp_path: Path, content: bytes
) -> None:
    says(ANSWERS)
    evaluate(stored(LLAMA), "gsm8k", questions, out=tmp_path / "out")
    (tmp_path / "out" / "samples.jsonl").write_bytes(content)
    with pytest.raises(EckartError, match="damaged"):
        evaluate(stored(LLAMA), "gsm8k", questions, out=tmp_path / "out")


def test_worked_examples_stand_before_each_prompt(stored: Any, questions: str, says: Any) -> None:
    writer = says(ANSWERS)
    evaluate(stored(LLAMA), "gsm8k", questions, shots=2, examples=questions)
    first, second = (f"Question: {question}\nAnswer: {answer}\n\n" for question, answer in QUESTIONS[:2])
    assert writer.prompts[3] == f"{first}{second}Question: w8\nAnswer:"
    assert shown("a", [Text("p", "c\n")]) == "pc\n\na"


def test_math_is_graded_by_boxes(stored: Any, says: Any, tmp_path: Path) -> None:
    rows = [{"problem": "p", "solution": rf"so $\boxed{{{answer}}}$."} for answer in (r"\frac12", "3", "4")]
    (tmp_path / "math.json").write_text(json.dumps(rows))
    writer = says([r"\boxed{1/2}", "3", r"\boxed{4} no, \boxed{5}"])
    score = evaluate(stored(LLAMA), "math", str(tmp_path / "math.json"))
    assert score.value == pytest.approx(1 / 3)
    assert writer.options["stop"] == ("Problem:",)


def test_small_models_get_fewer_new_tokens_unless_told(stored: Any, questions: str, says: Any) -> None:
    writer = says(ANSWERS)
    evaluate(stored(LLAMA), "gsm8k", questions)
    assert writer.options["max_new_tokens"] == 32
    evaluate(stored(LLAMA), "gsm8k", questions, max_new_tokens=50)
    assert writer.options["max_new_tokens"] == 50


@pytest.fixture
def code(tmp_path: Path) -> str:
    (tmp_path / "code.jsonl").write_text("\n".join(map(json.dumps, CODE)))
    return str(tmp_path / "code.jsonl")


def test_programs_are_run_and_pass_at_k_counted(stored: Any, code: str, says: Any, tmp_path: Path) -> None:
    right, wrong = "def f():\n    return {}\n", "def f():\n    return -1\n"
    writer = says([right.format(0), wrong, right.format(1), right.format(1), wrong, "def"])
    score = evaluate(
        stored(LLAMA),
        "mbpp",
        code,
        k=[1, 2],
        samples=2,
        temperature=0.8,
        seed=3,
        allow_code_execution=True,
        out=tmp_path / "out",
    )
    assert (score.metric, score.value) == ("pass@1", 0.5)
    assert score.details["pass@2"] == pytest.approx(2 / 3)
    assert (score.details["problems"], score.details["samples"], score.details["right"]) == (3, 6, 3)
    assert "network" in score.details["protection"]
    assert (writer.options["temperature"], writer.options["seed"]) == (0.8, 3)
    assert writer.prompts[0] == writer.prompts[1]
    kept = lines(tmp_path / "out")
    assert [row["right"] for row in kept] == [True, False, True, True, False, False]
    assert kept[1]["why"] == "wrong"


def test_code_is_not_run_without_leave(stored: Any, code: str, says: Any, tmp_path: Path) -> None:
    writer = says([])
    with pytest.raises(UsageError, match="--allow-code-execution"):
        evaluate(stored(LLAMA), "mbpp", code, out=tmp_path / "out")
    assert writer.prompts == []
    assert not (tmp_path / "out").exists()


def test_every_task_says_what_it_reads() -> None:
    assert find_task("perplexty") is None
    assert all(find_task(name) is task and task.name == name for name, task in TASKS.items())
    found = find_task("lm-eval:hellaswag")
    assert found is not None
    assert not found.needs_data


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no {REAL}: the real data are not here")
@pytest.mark.parametrize(("task", "name"), [("humaneval", "HumanEval.jsonl.gz"), ("mbpp", "mbpp.jsonl")])
def test_problems_are_asked_as_training_on_their_rows_asks(task: str, name: str) -> None:
    items, texts = read_material(task, str(REAL / name), True), read_texts(str(REAL / name))
    assert [item.prompt for item in items] == [text.prompt for text in texts]

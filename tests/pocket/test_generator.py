"""The data generator: splits that cannot overlap, determinism, and samples that are correct."""

from __future__ import annotations

import re
from itertools import islice, pairwise

import pytest

from eckart.pocket import SKILLS, samples, split_of
from eckart.pocket.grading import grade_code, grade_math

MANY = 3000


@pytest.mark.parametrize("skill", SKILLS)
def test_splits_share_neither_keys_nor_texts(skill: str) -> None:
    train = list(islice(samples(skill, "train", seed=1), MANY))
    test = list(islice(samples(skill, "test", seed=1), MANY // 4))
    assert not {s.key for s in train} & {s.key for s in test}
    assert not {s.text for s in train} & {s.text for s in test}
    assert all(split_of(skill, s.key) == "train" for s in train)
    assert all(split_of(skill, s.key) == "test" for s in test)


@pytest.mark.parametrize("skill", SKILLS)
def test_text_determines_the_key(skill: str) -> None:
    # Were one text possible under two keys, it could be in both splits.
    keys: dict[str, str] = {}
    for sample in islice(samples(skill, "train", seed=2), MANY):
        text = sample.completion if skill == "stories" else sample.prompt
        assert keys.setdefault(text, sample.key) == sample.key


@pytest.mark.parametrize("skill", SKILLS)
def test_same_seed_same_stream_and_other_seed_other_stream(skill: str) -> None:
    first = list(islice(samples(skill, "test", seed=3), 20))
    assert first == list(islice(samples(skill, "test", seed=3), 20))
    assert first != list(islice(samples(skill, "test", seed=4), 20))


@pytest.mark.parametrize("skill", SKILLS)
def test_stream_has_variety(skill: str) -> None:
    drawn = list(islice(samples(skill, "train", seed=5), 1000))
    assert len({s.text for s in drawn}) > 950
    assert len({s.key for s in drawn}) > 800


def test_every_math_sample_passes_its_own_grader() -> None:
    for sample in islice(samples("math", "test", seed=6), 500):
        assert grade_math(sample.completion, sample)
        assert 0 <= int(sample.answer) < 250


def test_every_worked_step_of_math_is_true() -> None:
    for sample in islice(samples("math", "test", seed=7), 1000):
        for line in sample.completion.splitlines():
            if " = " not in line:
                continue
            # "37 + 48 (7 + 8 = 15, 3 + 4 + 1 = 8) = 85": the columns in brackets, then the whole.
            columns = re.findall(r"\(([^)]*)\)", line)
            whole = re.sub(r" \([^)]*\)", "", line)
            equations = [part for found in columns for part in found.split(", ")]
            equations += re.findall(r"\d+ [-+*/] \d+ = \d+", whole)
            assert len(equations) in (1, 3), line
            for equation in equations:
                left, right = equation.split(" = ")
                # Digits and signs of arithmetic only, as the patterns above ensure.
                assert re.fullmatch(r"[\d +*/-]+", left), line
                assert eval(left) == int(right), line


def test_every_code_sample_passes_its_own_tests() -> None:
    drawn = list(islice(samples("code", "test", seed=8), 300))
    assert all(grade_code([s.completion for s in drawn], drawn))
    assert all(len(s.tests) >= 5 for s in drawn)
    one_value = [s for s in drawn if len({test.split(" == ")[-1] for test in s.tests}) == 1]
    assert len(one_value) < 0.05 * len(drawn)


def test_tests_tell_functions_apart() -> None:
    # The body of another function of the same parameters should hardly ever pass.
    drawn = list(islice(samples("code", "test", seed=8), 400))
    pairs = [
        (other.completion, sample)
        for sample, other in pairwise(drawn)
        if sample.completion != other.completion
        and sample.prompt.split("(")[1].split("\n")[0] == other.prompt.split("(")[1].split("\n")[0]
    ]
    assert len(pairs) > 20
    passed = grade_code([completion for completion, _ in pairs], [sample for _, sample in pairs])
    assert sum(passed) <= 0.05 * len(pairs)


def test_stories_bring_their_hero_and_object_back() -> None:
    for sample in islice(samples("stories", "test", seed=9), 200):
        item = sample.key.split(":")[4]
        first, last = sample.completion.strip().split("\n")
        assert item in first + last
        assert "{" not in sample.text
        assert sample.completion.count(item) >= 2


@pytest.mark.parametrize(("skill", "split"), [("poems", "train"), ("math", "dev")])
def test_unknown_names_are_refused(skill: str, split: str) -> None:
    with pytest.raises(ValueError, match="unknown"):
        next(samples(skill, split))

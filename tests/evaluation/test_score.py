"""Which way a metric is good."""

from __future__ import annotations

from typing import Any

import pytest
from architectures import BERT, LLAMA, WORDS

from eckart import evaluate
from eckart.evaluation import lower_is_better


def test_small_perplexities_and_large_shares_are_good() -> None:
    assert lower_is_better("perplexity")
    for metric in ("spearman", "exact_match", "pass@1", "mean of exact_match and pass@1"):
        assert not lower_is_better(metric)


@pytest.mark.parametrize("task", ["perplexity", "stsb"])
def test_a_task_names_its_metric_as_it_is_judged(stored: Any, data: str, tmp_path: Any, task: str) -> None:
    rows = [f"main\tnews\t2016\t1\t{n}\t{WORDS[n]} w40\tw50 {WORDS[n + 9]}\n" for n in range(9)]
    (tmp_path / "pairs.csv").write_text("".join(rows))
    model, source = (LLAMA, data) if task == "perplexity" else (BERT, str(tmp_path / "pairs.csv"))
    assert lower_is_better(evaluate(stored(model), task, source).metric) == (task == "perplexity")

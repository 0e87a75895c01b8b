"""`bench`: which models are run side by side, and what is said of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import BERT, GPT2, LLAMA
from fitting import SPECTRAL

import eckart
from eckart import UsageError, structures
from eckart.model import replacing
from eckart.structures import Site
from eckart.types import Option, Target, TargetRecord

SITE = Site((Target("x", 64, 64, False),))

FEW: dict[str, Any] = {"tokens": 8, "new": 2, "rounds": 1, "memory": False}


@pytest.fixture(scope="module")
def small(stored: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bench") / "small"
    eckart.compress(stored(LLAMA), out, ratio=0.25, method="svd", structure="pivoted")
    return out


def test_a_compressed_model_runs_beside_its_dense_self(small: Path, stored: Any) -> None:
    with_other, without = (eckart.bench(small, other, **FEW) for other in (stored(LLAMA), None))
    assert with_other.other == stored(LLAMA).name
    assert without.other == "its dense counterpart"
    for race in (with_other, without):
        assert [(row.of, row.phase) for row in race.rows] == [
            ("targets", "prefill"),
            ("targets", "decode"),
            ("model", "prefill"),
            ("model", "decode"),
        ]
        for row in race.rows:
            assert row.ratio is not None
            assert row.ideal is not None
            assert row.of_ideal == row.ratio / row.ideal
            assert row.seconds > 0
            tokens = 8 if row.phase == "prefill" else 1
            assert row.tokens_per_second == pytest.approx(tokens / row.seconds)
    assert [row.ideal for row in with_other.rows] == [row.ideal for row in without.rows]


def test_the_ideal_is_the_ratio_of_parameters(small: Path, stored: Any) -> None:
    manifest = eckart.compress(stored(LLAMA), ratio=0.25, method="svd", structure="pivoted").manifest
    race = eckart.bench(small, **FEW)
    count = manifest.parameters
    assert race.rows[0].ideal == pytest.approx(count.targets_before / count.targets_after)
    head = 96 * 48
    left = count.after - head  # the embedding is looked up, the norms are vectors
    norms = sum(p.numel() for p in LLAMA.build().parameters() if p.ndim == 1)
    assert race.rows[2].ideal == pytest.approx((count.before - head - norms) / (left - norms))


def test_rounded_weights_count_as_what_they_stand_for(small: Path, stored: Any, tmp_path: Path) -> None:
    out = tmp_path / "rounded"
    eckart.compress(stored(LLAMA), out, ratio=0.25, method="svd", structure="pivoted", quantize="int8")
    rounded, floats = (eckart.bench(each, stored(LLAMA), **FEW) for each in (out, small))
    assert [row.ideal for row in rounded.rows] == [row.ideal for row in floats.rows]


def test_a_dense_model_runs_by_itself(stored: Any) -> None:
    race = eckart.bench(stored(GPT2), **FEW)
    assert race.other is None
    assert [(row.of, row.phase, row.ratio) for row in race.rows] == [
        ("model", "prefill", None),
        ("model", "decode", None),
    ]


def test_an_encoder_only_reads(stored: Any) -> None:
    assert {row.phase for row in eckart.bench(stored(BERT), **FEW).rows} == {"prefill"}


def test_another_kind_of_model_is_compared_as_a_whole(small: Path, stored: Any) -> None:
    race = eckart.bench(small, stored(GPT2), **FEW)
    assert {row.of for row in race.rows} == {"model"}
    assert "targets are not timed alone" in race.notes[0]


def test_fused_and_compiled(small: Path) -> None:
    race = eckart.bench(small, **{**FEW, "batches": (1, 2)}, fuse=True)
    assert race.fused
    assert [row.batch for row in race.rows] == [1] * 4 + [2] * 4


def test_memory_is_each_models_own(small: Path, stored: Any) -> None:
    race = eckart.bench(small, stored(LLAMA), **{**FEW, "memory": True})
    assert race.memory is not None
    assert race.other_memory is not None
    assert race.memory.weights_bytes < race.other_memory.weights_bytes
    assert race.other_memory.weights_bytes == replacing.count_bytes(LLAMA.build())
    assert 10**8 < race.memory.peak_bytes < 4 * 10**9


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"tokens": 0}, "--prompt 0"),
        ({"new": 0}, "--new 0"),
        ({"rounds": 0}, "--rounds 0"),
        ({"batches": (1, 0)}, "--batch 0"),
        ({"batches": ()}, "--batch"),
        ({"tokens": 500}, "the model has 64 positions"),
    ],
)
def test_a_wrong_request_is_refused(wrong: dict[str, Any], words: str, stored: Any) -> None:
    with pytest.raises(UsageError, match=words):
        eckart.bench(stored(LLAMA), **{**FEW, **wrong})


# compress says of a rank that it is no faster


def record(rank: int | None, structure: str = "lowrank", side: int = 64) -> TargetRecord:
    return TargetRecord(
        name="x",
        out_features=side,
        in_features=side,
        option=Option(structure=structure, size=rank),
        parameters_before=side**2,
        parameters_after=side**2,
    )


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """A dense layer takes a second; factors for one token a tenth for each rank, for many tokens a tenth."""
    asked: list[tuple[Any, ...]] = []

    def seconds(out: int, in_: int, structure: str, rank: int, rows: int, *rest: Any) -> tuple[float, float]:
        asked.append((structure, rank, rows))
        return rank / 10 if rows == 1 else 0.1, 1.0

    monkeypatch.setattr("eckart.estimate.gains._seconds", seconds)
    return asked


def test_one_line_says_what_all_cut_weights_together_gain(asked: list[Any]) -> None:
    from eckart.estimate.gains import slower

    ranks = (4, 6, 20, 30, 40)
    (said,) = slower([record(rank) for rank in ranks] + [record(None)], torch.float32, "cpu")
    # Those between the timed ranks are interpolated: 5 seconds of dense layers beside 10 of factors.
    assert "0.50 times as fast for a token by itself, 10.00 times as fast for 64 tokens at once" in said
    assert {rank for _, rank, _ in asked} == {4, 20, 40}


def test_what_gained_is_not_spoken_of(asked: list[Any]) -> None:
    from eckart.estimate.gains import slower

    # One of them is slower, all together are not.
    assert slower([record(rank) for rank in (2, 4, 12)], torch.float32, "cpu") == []


def test_nothing_is_timed_where_nothing_was_cut(asked: list[Any]) -> None:
    from eckart.estimate.gains import slower

    assert slower([record(None, "dense")], torch.float32, "cpu") == []
    assert asked == []


@pytest.mark.parametrize("structure", SPECTRAL)
def test_layers_are_timed_on_their_own_shapes(structure: str) -> None:
    from eckart.estimate.gains import slower

    said = slower([record(structures.find(structure).sizes(SITE)[-1], structure)], torch.float32, "cpu")
    assert len(said) <= 1
    assert all("times as fast for a token by itself" in words for words in said)

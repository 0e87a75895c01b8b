"""One method's process in a comparison, with real models: its rows are those of `compress` and `evaluate`."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from architectures import BERT, LLAMA, MAMBA, WORDS, Architecture
from safetensors.torch import load_file, save_file

from eckart import EckartError, compress, evaluate, linalg, structures
from eckart.comparison import worker as comparing
from eckart.comparison import workers
from eckart.comparison.protocol import Protocol, Request
from eckart.comparison.worker import MethodRun, Peak, progress_sender
from eckart.compression import memory_store
from eckart.compression import search as searching
from eckart.data.splitting import hold_out
from eckart.model import replacing
from eckart.recipes.making import make_recipe
from eckart.types import ComparisonRow, Recipe, Text

SAMPLES = 20
CLEAR = Path("/proc/self/clear_refs")

Make = Callable[..., Request]
Told = list[dict[str, Any]]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process there is much to collect, and it is not a model's."""
    monkeypatch.setattr("eckart.comparison.worker.gc.collect", lambda: 0)


@pytest.fixture
def request_of(stored: Any, data: str) -> Make:
    """A request for the dense model, or for a row of the catalogue with other axes."""

    def make(architecture: Architecture = LLAMA, method: str | None = None, **options: Any) -> Request:
        asked: dict[str, Any] = {
            "model": str(stored(architecture)),
            "keeps": [1.0] if method is None else [0.9, 0.7],
            "of": "model",
            "targets": None,
            "layers": None,
            "data": data,
            "test": data,
            "held_out": False,
            "max_length": 32,
            "task": "perplexity",
            "limit": None,
            "device": "cpu",
            "dtype": "auto",
        }
        axes = {
            axis: options.pop(axis)
            for axis in ("structure", "allocation", "metric", "quantize")
            if axis in options
        }
        asked |= options
        recipe: Recipe | None = None
        if method is not None:
            shared = {name: asked[name] for name in ("of", "targets", "layers", "data", "max_length")}
            recipe = make_recipe(method=method, keep=asked["keeps"][0], samples=SAMPLES, **shared, **axes)
        own = ("model", "keeps", "data", "test", "held_out", "debug")
        protocol = Protocol(
            model="its hash",
            data="its hash",
            test="its hash",
            samples=SAMPLES,
            **dict.fromkeys(("eckart", "torch", "transformers"), "0"),
            **{name: value for name, value in asked.items() if name not in own},
        )
        given = {name: asked[name] for name in own if name in asked}
        return Request(method=method or "dense", recipe=recipe, protocol=protocol, **given)

    return make


def told(request: Request) -> Told:
    said: Told = []
    MethodRun(request, said.append).rows()
    json.dumps(said, allow_nan=False)
    return said


def rows(said: Told) -> list[ComparisonRow]:
    return [ComparisonRow.model_validate(message["row"]) for message in said if "row" in message]


@pytest.mark.parametrize("of", ["model", "targets"])
@pytest.mark.parametrize(
    ("method", "axes"),
    [
        ("svd", {}),
        ("svd-llm", {"structure": "pivoted"}),
        ("kfac", {"structure": "pivoted", "allocation": "waterfill"}),
        ("aa-svd", {}),
        ("lems", {}),
        ("auto", {}),
        ("svd-llm", {"quantize": "int8"}),
    ],
    ids=lambda value: value if isinstance(value, str) else ":".join(value.values()),
)
def test_rows_are_those_of_compress_and_evaluate(
    request_of: Make, stored: Any, tokenizer: Any, data: str, method: str, axes: dict[str, str], of: str
) -> None:
    """So nothing of one size is left in the next."""
    found = rows(told(request_of(method=method, of=of, **axes)))
    assert [row.keep for row in found] == [0.9, 0.7]
    for row in found:
        made = compress(
            stored(LLAMA), keep=row.keep, method=method, of=of, data=data, samples=SAMPLES, max_length=32,
            cache=False, **axes,
        )  # fmt: skip
        count = made.manifest.parameters
        assert (row.parameters, row.targets_parameters) == (count.after, count.targets_after)
        score = evaluate(made.model, "perplexity", data, max_length=32, tokenizer=tokenizer)
        assert row.value == pytest.approx(score.value, rel=1e-5)
        assert row.loss == pytest.approx(score.details["loss"], rel=1e-5)
        assert (row.metric, row.task, row.of, row.error) == ("perplexity", "perplexity", of, None)
        assert (row.quantize, row.bytes) == (axes.get("quantize"), made.manifest.bytes.after)


@pytest.mark.parametrize("bits", ["int8", "int4"])
def test_the_dense_model_rounded_is_a_row(request_of: Make, stored: Any, bits: str) -> None:
    (dense,) = rows(told(request_of()))
    (row,) = rows(told(request_of(method="svd", quantize=bits, keeps=[1.0])))
    assert (row.parameters, row.quantize, row.error) == (dense.parameters, bits, None)
    made = compress(stored(LLAMA), keep=1.0, method="svd", quantize=bits)
    assert dense.bytes is not None
    assert row.bytes == made.manifest.bytes.after < dense.bytes


@pytest.mark.parametrize("method", ["svd", "basis-training"])
def test_trained_rows_are_those_of_compress_too(
    request_of: Make, stored: Any, tokenizer: Any, data: str, method: str
) -> None:
    training = {"steps": 5, "batch": 4, "max_length": 32}
    found = rows(told(request_of(method=method, training=training)))
    assert [row.keep for row in found] == [0.9, 0.7]
    for row in found:
        made = compress(
            stored(LLAMA), keep=row.keep, method=method, data=data, samples=SAMPLES, max_length=32,
            training=training,
        )  # fmt: skip
        assert row.parameters == made.manifest.parameters.after
        score = evaluate(made.model, "perplexity", data, max_length=32, tokenizer=tokenizer)
        assert row.value == pytest.approx(score.value, rel=1e-5)


def test_the_dense_row_is_the_model_as_it_is(request_of: Make, stored: Any, data: str) -> None:
    (row,) = rows(told(request_of()))
    model = LLAMA.load(stored(LLAMA))
    score = evaluate(stored(LLAMA), "perplexity", data, max_length=32)
    assert (row.method, row.keep, row.value, row.seconds) == ("dense", 1, score.value, 0)
    assert row.parameters == replacing.count_parameters(model)
    assert row.targets_parameters == sum(
        model.get_submodule(f"model.layers.{layer}.{name}").weight.numel()
        for layer in (0, 1)
        for name in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
                     "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
    )  # fmt: skip
    assert row.peak_memory_bytes is not None
    assert row.peak_memory_bytes > 10**7


def test_what_is_held_out_is_measured_and_not_calibrated_on(
    request_of: Make, stored: Any, data: str, tmp_path: Path, tokenizer: Any
) -> None:
    lines = Path(data).read_text().splitlines(keepends=True)
    (tmp_path / "held.jsonl").write_text("".join(lines[7::8]))
    del lines[7::8]
    (tmp_path / "kept.jsonl").write_text("".join(lines))
    found = rows(told(request_of(method="svd-llm", held_out=True, test=None)))
    for row in found:
        made = compress(
            stored(LLAMA), keep=row.keep, method="svd-llm", data=str(tmp_path / "kept.jsonl"),
            samples=SAMPLES, max_length=32, cache=False,
        )  # fmt: skip
        held = str(tmp_path / "held.jsonl")
        score = evaluate(made.model, "perplexity", held, max_length=32, tokenizer=tokenizer)
        assert row.value == pytest.approx(score.value, rel=1e-5)


def test_texts_are_split_without_rest() -> None:
    texts = [Text("", str(number)) for number in range(17)]
    kept, held = hold_out(texts)
    assert [int(text.text) for text in held] == [7, 15]
    assert sorted(kept + held, key=lambda text: int(text.text)) == texts


def test_the_limit_takes_the_first_texts(request_of: Make, stored: Any, data: str) -> None:
    (row,) = rows(told(request_of(limit=3)))
    assert row.value == evaluate(stored(LLAMA), "perplexity", data, limit=3, max_length=32).value


def test_an_encoder_is_measured_by_its_pairs(request_of: Make, stored: Any, tmp_path: Path) -> None:
    lines = [f"main\tnews\t2016\t1\t{n}\t{WORDS[n]} w40\tw50 {WORDS[n + 9]}\n" for n in range(9)]
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("".join(lines))
    (dense,) = rows(told(request_of(BERT, task="stsb", test=str(pairs))))
    assert dense.value == evaluate(stored(BERT), "stsb", str(pairs), max_length=32).value
    found = rows(told(request_of(BERT, method="svd-llm", task="stsb", test=str(pairs))))
    assert [(row.metric, row.loss, row.error) for row in found] == [("spearman", None, None)] * 2


def test_a_size_that_is_too_small_fails_and_the_others_do_not(request_of: Make) -> None:
    found = rows(told(request_of(method="svd", keeps=[0.9, 0.01, 0.7])))
    assert [row.value is None for row in found] == [False, True, False]
    assert str(found[1].error).startswith("keep 0.01 is lower than the model allows")
    assert found[1].parameters is None
    alone = rows(told(request_of(method="svd", keeps=[0.7])))
    assert alone[0].value == found[2].value


def test_a_cut_that_breaks_half_way_leaves_the_next_whole(
    request_of: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = rows(told(request_of(method="svd")))
    install, broken = comparing.Course.cut, []

    def cut(self: Any, recipe: Recipe, keep_dense: bool = False) -> Any:
        done = install(self, recipe, keep_dense)
        if not broken:
            broken.append(recipe.keep)
            raise MemoryError
        return done

    monkeypatch.setattr(comparing.Course, "cut", cut)
    first, second = rows(told(request_of(method="svd")))
    assert first.error == "unexpected MemoryError"
    assert second.value == whole[1].value


def test_a_model_that_is_cut_but_cannot_be_measured_says_what_it_was(
    request_of: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise EckartError("the loss is not finite")

    monkeypatch.setattr(comparing, "measure", broken)
    for row in rows(told(request_of(method="svd"))):
        assert (row.error, row.value) == ("the loss is not finite", None)
        assert None not in (row.parameters, row.seconds, row.peak_memory_bytes)
    with pytest.raises(EckartError, match="not finite"):
        told(request_of())


def test_a_damaged_weight_is_named(request_of: Make, stored: Any, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    LLAMA.load(stored(LLAMA)).save_pretrained(folder)
    for file in stored(LLAMA).glob("tokenizer*"):
        (folder / file.name).write_bytes(file.read_bytes())
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][3, 4] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        EckartError, match=r"model.layers.1.mlp.up_proj.weight has values that are not finite"
    ):
        told(request_of(model=str(folder)))


def test_what_stays_dense_is_told_once(request_of: Make) -> None:
    notes = [message for message in told(request_of(MAMBA, method="svd")) if "note" in message]
    assert ["dt_proj" in message["note"] for message in notes] == [True] * len(notes)
    assert notes
    assert not any("keep" in message for message in notes)


def test_a_row_that_keeps_more_than_was_asked_for_says_so(
    request_of: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where no token of the data reaches a target."""
    kept = comparing.Course.cut
    monkeypatch.setattr(
        comparing.Course,
        "cut",
        lambda self, recipe, keep_dense: kept(self, recipe.model_copy(update={"keep": 0.9}), keep_dense),
    )
    notes = [message for message in told(request_of(method="svd", of="targets")) if "note" in message]
    (note,) = notes
    assert note["keep"] == 0.7
    assert note["note"] in {f"{share} of the targets is left, more than was asked for" for share in
                            ("0.900", "0.899", "0.898")}  # fmt: skip


# What a row took


class Clock:
    """Stands still unless it is told."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.mark.parametrize("method", ["svd", "lems", "aa-svd", "auto"])
def test_seconds_are_those_of_compress_for_each_size_alone(
    request_of: Make, stored: Any, data: str, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """Every step takes a second: the first size pays no more than the second, and measuring costs nothing."""
    clock = Clock()
    monkeypatch.setattr(comparing, "time", clock)

    def timed(owner: Any, name: str) -> None:
        original = getattr(owner, name)

        def step(*args: Any, **options: Any) -> Any:
            clock.now += 1
            return original(*args, **options)

        monkeypatch.setattr(owner, name, step)

    timed(memory_store, "observe")
    timed(linalg, "decompose")
    timed(linalg, "decompose_many")
    for name in structures.replacements():
        timed(structures.find(name), "fit")
    timed(searching.Search, "measure")
    timed(comparing, "measure")
    for row in rows(told(request_of(method=method))):
        started = clock.now
        compress(
            stored(LLAMA),
            keep=row.keep,
            method=method,
            data=data,
            samples=SAMPLES,
            max_length=32,
            cache=False,
        )
        assert row.seconds == clock.now - started > 10


def touch(size: int) -> None:
    """Take so much memory, and give it back. (`bytes(size)` would take none.)"""
    b"x" * size


@pytest.mark.skipif(not os.access(CLEAR, os.W_OK), reason="this system does not put its mark back")
def test_a_peak_forgets_what_it_is_told_to() -> None:
    size = 300 * 2**20
    peak = Peak()
    peak.forget()
    before = peak.so_far()
    touch(size)  # a measurement, say
    peak.forget()
    assert peak.so_far() < before + size / 2
    touch(size)
    assert peak.so_far() > before + size / 2
    peak.forget()
    assert peak.so_far() > before + size / 2


@pytest.mark.skipif(not os.access(CLEAR, os.W_OK), reason="this system does not put its mark back")
def test_measuring_is_no_part_of_the_peak(request_of: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    size, measure = 500 * 2**20, comparing.measure

    def large(*args: Any) -> Any:
        touch(size)
        return measure(*args)

    Peak().forget()
    monkeypatch.setattr(comparing, "measure", large)
    first, second = rows(told(request_of(method="svd")))
    assert first.peak_memory_bytes is not None
    assert second.peak_memory_bytes is not None
    assert first.peak_memory_bytes <= second.peak_memory_bytes < first.peak_memory_bytes + size / 2


# Talking


def test_progress_is_told_without_loops_within_loops() -> None:
    said: Told = []
    track = progress_sender(said.append)
    for _ in track("ab", "outer", 2):
        assert list(track([1, 2, 3], "inner", 3)) == [1, 2, 3]
    for _ in track("cd", "left", 2):
        break
    assert said == [
        {"begin": "outer", "total": 2},
        {"step": 1},
        {"step": 1},
        {"begin": "left", "total": 2},
    ]
    list(track("e", "next", 1))
    assert said[-2:] == [{"begin": "next", "total": 1}, {"step": 1}]


def test_a_process_ends_with_who_asked(request_of: Make) -> None:
    """However that ended: its end of the pipe is closed."""
    request = request_of(method="svd", keeps=[1 - n / 1000 for n in range(1, 500)])
    process = subprocess.Popen(
        workers.WORKER,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdin.write(request.model_dump_json() + "\n")
    process.stdin.flush()
    while "row" not in json.loads(process.stdout.readline()):
        pass
    process.stdin.close()
    assert process.wait(100) == 1
    assert len(process.stdout.read().splitlines()) < 1000
    assert process.stderr.read() == ""

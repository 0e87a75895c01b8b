"""The cache gives what watching gives, to the bit, and only for the very same question."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from architectures import BERT, GPT2, LLAMA, MAMBA, T5

from eckart import calibrate, checkpoint
from eckart.calibrate import observing
from eckart.data import read_texts
from eckart.model.targets import find_targets
from eckart.model.text import Window, batches, windows

ALL = frozenset({"second", "absolute", "gradient", "fisher"})
INPUTS = frozenset({"second", "absolute"})


def observe(
    model: Any, tokenizer: Any, windows: Any, names: Any, kinds: Any, cache: bool = True,
    folder: Path | None = None, gradient_windows: int | None = None, **loss: Any,
) -> calibrate.Observed:  # fmt: skip
    """Moments, with what the options say in one line."""
    gradients = observing.Gradients(windows=gradient_windows, **loss)
    kept = observing.MomentCache(cache, folder)
    return observing.observe(model, tokenizer, windows, names, kinds, gradients=gradients, cache=kept)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("ECKART_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "moments"


@pytest.fixture
def watched(monkeypatch) -> list[Any]:
    """One entry for each run over the data."""
    runs: list[Any] = []
    plain = calibrate.watch

    def watch(*given: Any, **named: Any) -> Any:
        runs.append(named)
        return plain(*given, **named)

    monkeypatch.setattr(calibrate, "watch", watch)
    return runs


@pytest.fixture(scope="module")
def llama() -> Any:
    return LLAMA.build()


@pytest.fixture(scope="module")
def cut(llama, tokenizer, data) -> list[Window]:
    return windows(llama, tokenizer, read_texts(data), 64)[:6]


def names_of(model: Any) -> list[str]:
    return [target.name for target in find_targets(model).targets]


def assert_identical(one: Any, other: Any) -> None:
    assert list(one.spaces.items()) == list(other.spaces.items())
    assert (one.tokens, one.kinds) == (other.tokens, other.kinds)
    for part in ("moments", "gradients"):
        first, second = getattr(one, part), getattr(other, part)
        assert list(first) == list(second)
        for name, moment in first.items():
            assert (moment.tokens, moment.windows) == (second[name].tokens, second[name].windows)
            for kind in ("second", "absolute", "fisher"):
                sums = getattr(moment, kind), getattr(second[name], kind)
                assert (sums[0] is None) == (sums[1] is None)
                if sums[0] is not None:
                    assert sums[0].dtype == sums[1].dtype
                    assert torch.equal(*sums), (name, kind)


# Cached and fresh


@pytest.mark.parametrize("architecture", [LLAMA, GPT2, T5, BERT], ids=str)
def test_what_is_cached_is_what_was_watched_to_the_bit(architecture, tokenizer, data, cache, watched):
    model = architecture.build()
    names, some = names_of(model), windows(model, tokenizer, read_texts(data), 64)[:6]
    plain = observe(model, tokenizer, some, names, ALL, cache=False)
    assert not cache.exists()
    fresh = observe(model, tokenizer, some, names, ALL)
    runs = len(watched)
    cached = observe(model, tokenizer, some, names, ALL)
    assert len(watched) == runs == 2
    assert_identical(fresh, plain)
    assert_identical(cached, plain)
    assert len(os.listdir(cache)) == 1
    moment = next(iter(cached.moments.values()))
    assert torch.equal(moment.second, moment.second.T)


def test_what_comes_from_the_cache_may_be_changed(llama, tokenizer, cut, cache):
    names = names_of(llama)
    for _ in range(2):
        found = observe(llama, tokenizer, cut, names, ALL)
    kept = found.moments[names[0]].second.clone()
    for moment in (*found.moments.values(), *found.gradients.values()):
        for total in (moment.second, moment.absolute, moment.fisher):
            if total is not None:
                total.add_(1)
    again = observe(llama, tokenizer, cut, names, ALL)
    assert torch.equal(again.moments[names[0]].second, kept)


# The key


def test_every_difference_that_matters_is_another_entry(llama, tokenizer, cut, cache, watched, monkeypatch):
    names, cut = names_of(llama), cut[:3]
    base: dict[str, Any] = {
        "model": llama, "tokenizer": tokenizer, "windows": cut, "names": names, "kinds": ALL,
        "labels": "sampled", "temperature": 1.0, "seed": 0, "gradient_windows": 2,
    }  # fmt: skip
    observe(**base)
    weight = LLAMA.build()
    with torch.no_grad():
        weight.lm_head.weight[0, 0] += 1e-3
    config = LLAMA.build()
    config.config.rms_norm_eps *= 2
    attention = LLAMA.build()
    attention.set_attn_implementation("eager")
    longer = [*cut[:-1], Window([*cut[-1].ids, 5])]
    for change in (
        {"model": weight},
        {"model": config},
        {"model": attention},
        {"model": LLAMA.build(torch.bfloat16)},
        {"windows": longer},
        {"windows": cut[:-1]},
        {"windows": cut[::-1]},
        {"names": names[:-1]},
        {"kinds": ALL - {"fisher"}},
        {"labels": "data"},
        {"temperature": 2.0},
        {"seed": 1},
        {"gradient_windows": 1},
    ):
        runs, entries = len(watched), len(os.listdir(cache))
        observe(**(base | change))
        assert (len(watched) > runs, len(os.listdir(cache))) == (True, entries + 1), change
    monkeypatch.setattr(observing, "version", lambda name: "next")
    runs = len(watched)
    observe(**base)
    assert len(watched) > runs


def test_what_makes_no_difference_is_none(llama, tokenizer, cut, watched):
    names = names_of(llama)
    observe(llama, tokenizer, cut, names, INPUTS)
    runs = len(watched)
    twin = LLAMA.build()
    twin.config._name_or_path = "elsewhere"
    observe(twin, tokenizer, cut, names, INPUTS, labels="data", temperature=3.0, seed=9, gradient_windows=2)
    assert len(watched) == runs


def test_a_folder_is_known_by_its_files(stored, tokenizer, data, tmp_path, watched):
    folder = stored(LLAMA)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    some, names = windows(model, tokenizer, read_texts(data), 64)[:4], names_of(model)

    def runs_for(place: Path) -> int:
        before = len(watched)
        observe(model, tokenizer, some, names, INPUTS, folder=place)
        return len(watched) - before

    assert runs_for(folder) == 1
    assert runs_for(folder) == 0
    copy = tmp_path / "copy"
    model.save_pretrained(copy)
    (copy / "config.json").write_bytes((folder / "config.json").read_bytes())
    assert runs_for(copy) == 0
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-3}))
    assert runs_for(copy) == 1
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    assert runs_for(copy) == 1
    model.to(torch.bfloat16)
    assert runs_for(folder) == 1


# A cache that is wrong, full or not there


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "foreign", "renamed", "folder"])
def test_what_is_damaged_or_foreign_is_made_again(llama, tokenizer, cut, cache, watched, damage):
    names = names_of(llama)
    fresh = observe(llama, tokenizer, cut, names, ALL)
    (entry,) = cache.iterdir()
    content = bytearray(entry.read_bytes())
    if damage == "flipped":
        content[-100] ^= 1
        entry.write_bytes(content)
    elif damage == "cut":
        entry.write_bytes(content[:-1])
    elif damage == "empty":
        entry.write_bytes(b"")
    elif damage == "foreign":
        observing.checkpoint.write_tensors(entry, {"x": torch.ones(2)}, {"key": entry.stem, "observed": {}})
    elif damage == "renamed":
        observe(llama, tokenizer, cut[:2], names, ALL)
        (other,) = set(cache.iterdir()) - {entry}
        other.replace(entry)
    else:
        entry.unlink()
        (entry / "inside").mkdir(parents=True)
    runs = len(watched)
    assert_identical(observe(llama, tokenizer, cut, names, ALL), fresh)
    assert len(watched) == runs + 1
    if damage != "folder":
        assert_identical(observe(llama, tokenizer, cut, names, ALL), fresh)
        assert len(watched) == runs + 1


@pytest.mark.parametrize("where", ["file", "no home", "full"])
def test_a_cache_that_cannot_be_written_is_no_error(
    llama, tokenizer, cut, tmp_path, monkeypatch, watched, where
):
    if where == "file":
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("ECKART_CACHE", str(tmp_path / "file"))
    elif where == "no home":
        monkeypatch.delenv("ECKART_CACHE")
        monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    else:
        monkeypatch.setattr("eckart.checkpoint.tensors.save_file", raises(OSError(28, "No space left")))
    for _ in range(2):
        assert observe(llama, tokenizer, cut, names_of(llama), INPUTS).moments
    assert len(watched) == 2
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "file"]


def raises(error: Exception) -> Any:
    def fail(*given: Any, **named: Any) -> None:
        raise error

    return fail


def test_the_cache_is_where_it_is_said_to_be(monkeypatch, tmp_path):
    assert checkpoint.cache_dir() == tmp_path / "cache"
    monkeypatch.setenv("ECKART_CACHE", "~/mine")
    assert checkpoint.cache_dir() == Path.home() / "mine"
    monkeypatch.delenv("ECKART_CACHE")
    assert checkpoint.cache_dir() == Path.home() / ".cache" / "eckart"


def test_what_was_used_longest_ago_goes_first(llama, tokenizer, cut, cache, monkeypatch):
    names = names_of(llama)

    def entry(seed: int) -> Path:
        before = set(cache.iterdir()) if cache.exists() else set()
        observe(llama, tokenizer, cut, names, ALL, seed=seed)
        return next(iter(set(cache.iterdir()) - before), Path())

    first, second = entry(0), entry(1)
    for age, path in ((200, first), (100, second)):
        os.utime(path, (1e9 - age, 1e9 - age))
    left = cache / f".{first.stem[:8]}-half.safetensors"
    left.write_bytes(b"what a crash left")
    os.utime(left, (1e9 - 300, 1e9 - 300))
    # Used again, the first is the youngest.
    entry(0)
    size = first.stat().st_size
    monkeypatch.setattr(observing, "CACHE_BYTES", int(2.5 * size))
    third = entry(2)
    assert set(cache.iterdir()) == {first, third}
    monkeypatch.setattr(observing, "CACHE_BYTES", size // 2)
    entry(3)
    assert set(cache.iterdir()) == {first, third}


# Some windows differentiated, all of them read


@pytest.mark.parametrize("wanted", [1, 4, 6, 100])
def test_each_window_is_read_once_and_as_many_as_wanted_are_differentiated(llama, tokenizer, cut, wanted):
    names = names_of(llama)
    seen = observe(llama, tokenizer, cut, names, ALL, gradient_windows=wanted, cache=False)
    whole = observe(llama, tokenizer, cut, names, INPUTS, cache=False)
    assert seen.tokens == whole.tokens == sum(len(window.ids) for window in cut)
    assert seen.kinds == ALL
    for name, moment in whole.moments.items():
        assert seen.moments[name].tokens == moment.tokens
        assert torch.allclose(seen.moments[name].second, moment.second, rtol=1e-4, atol=1e-4)
    count = min(wanted, len(cut))
    chosen = [cut[at * len(cut) // count] for at in range(count)]
    for moment in seen.gradients.values():
        assert moment.windows == count
        assert moment.tokens == sum(len(window.ids) for window in chosen)
    some = observe(llama, tokenizer, chosen, names, ALL, cache=False)
    for name, moment in some.gradients.items():
        assert torch.allclose(seen.gradients[name].second, moment.second, rtol=1e-4, atol=1e-6)


def test_only_gradients_need_only_their_windows(llama, tokenizer, cut):
    seen = observe(
        llama, tokenizer, cut, names_of(llama), frozenset({"fisher"}), gradient_windows=2, cache=False
    )
    assert seen.moments == {}
    assert seen.tokens == len(cut[0].ids) + len(cut[3].ids)


def test_windows_are_run_alone_where_padding_is_unknown(llama, tokenizer, cut, monkeypatch):
    names = names_of(llama)
    expected = observe(llama, tokenizer, cut, names, ALL, gradient_windows=3, cache=False)
    plain, shapes = calibrate.watch, []

    def watch(model: Any, names: Any, made: Any, *given: Any, **named: Any) -> Any:
        if any(not batch["attention_mask"].all() for batch in made):
            raise calibrate.PaddingUnknownError("this")
        shapes.extend(len(batch["input_ids"]) for batch in made)
        return plain(model, names, made, *given, **named)

    monkeypatch.setattr(calibrate, "watch", watch)
    seen = observe(llama, tokenizer, cut, names, ALL, gradient_windows=3, cache=False)
    assert shapes == [1] * len(cut)
    assert torch.allclose(
        seen.gradients[names[0]].second, expected.gradients[names[0]].second, rtol=1e-4, atol=1e-6
    )


def test_an_encoder_is_probed_whatever_the_labels(tokenizer, data, watched):
    model = BERT.build()
    some = windows(model, tokenizer, read_texts(data), 64)[:2]
    sampled = observe(model, tokenizer, some, names_of(model), ALL, labels="sampled")
    assert_identical(observe(model, tokenizer, some, names_of(model), ALL, labels="data"), sampled)
    assert len(watched) == 1


def test_batches_for_a_backward_pass_are_smaller(tokenizer, data, watched, monkeypatch):
    model = MAMBA.build()
    some = windows(model, tokenizer, read_texts(data), 64)[:4]
    monkeypatch.setattr(observing, "BACKWARD_TOKENS", 1)
    counted = []
    plain = batches
    monkeypatch.setattr(
        observing.text, "batches", lambda *given, **named: counted.append(named) or plain(*given, **named)
    )
    observe(model, tokenizer, some, names_of(model), ALL, gradient_windows=2, cache=False)
    assert counted == [{"batch_tokens": 1, "said": False}, {"said": False}]

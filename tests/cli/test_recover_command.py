"""`eckart recover` from outside: its folder, its JSON, kills, several processes, bad input."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from architectures import BERT, GPT2, LLAMA, T5, tiny_tokenizer
from outside import Eckart
from safetensors.torch import load_file

import eckart as eckart_
from eckart.pipeline.verify import verify


@pytest.fixture(scope="module")
def cut(stored: Any, data: str, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """An architecture to the folder of its compressed tiny model; made once."""
    root = tmp_path_factory.mktemp("cut")

    def make(architecture: Any) -> str:
        out = root / architecture.name
        if not out.exists():
            eckart_.compress(stored(architecture), out, keep=0.8, method="svd")
        return str(out)

    return make


FEW = ["--steps", "6", "--batch", "8", "--learning-rate", "5e-3"]


def training(out: Path | str) -> dict[str, Any]:
    """The record of the last run in a folder."""
    record: dict[str, Any] = json.loads(Path(out, "eckart.json").read_text())["training"][-1]
    return record


def test_the_result_is_the_same_plain_folder(
    eckart: Eckart, cut: Any, stored: Any, data: str, tmp_path: Path
) -> None:
    answer = eckart("recover", cut(LLAMA), "-o", "out", "--data", data, *FEW, "--json")
    made = answer.json
    assert set(made) == {
        "out", "method", "steps", "tokens", "loss", "parameters", "bytes", "seconds", "peak_memory_bytes",
        "notes", "learned", "held_out", "warnings",
    }  # fmt: skip
    assert (made["out"], made["method"], made["steps"]) == ("out", "recover", 6)
    assert made["loss"]["last"] < made["loss"]["first"]
    assert verify("out").ok
    assert sorted(os.listdir("out")) == sorted(os.listdir(cut(LLAMA)))
    before = json.loads(Path(cut(LLAMA), "eckart.json").read_text())
    after = json.loads(Path("out", "eckart.json").read_text())
    assert after["parameters"] == before["parameters"] == made["parameters"]
    assert after["recipe"] == before["recipe"]
    record = training("out")
    assert record["settings"]["batch"] == 8
    assert record["data_sha256"]
    assert len(record["losses"]) == 6
    assert os.listdir(tmp_path) == ["out"]
    again = eckart("recover", "out", "-o", "again", "--data", data, *FEW, "--train", "lora", "--json").json
    assert len(json.loads(Path("again", "eckart.json").read_text())["training"]) == 2
    assert again["parameters"] == made["parameters"]


@pytest.mark.parametrize("architecture", [GPT2, T5], ids=str)
def test_other_architectures(eckart: Eckart, cut: Any, data: str, architecture: Any) -> None:
    made = eckart("recover", cut(architecture), "-o", "out", "--data", data, *FEW, "--json").json
    assert made["steps"] == 6
    assert any(".U." in name for name in architecture.load("out").state_dict())


def test_a_teacher_is_imitated(eckart: Eckart, cut: Any, stored: Any, data: str) -> None:
    arguments = ["--data", data, "--teacher", stored(BERT), *FEW, "--learning-rate", "1e-2", "--steps", "12"]
    made = eckart("recover", cut(BERT), "-o", "out", *arguments, "--json").json
    assert made["loss"]["last"] < made["loss"]["first"]
    record = training("out")
    assert record["teacher"] == "bert"
    assert record["objective"]["temperature"] == 1
    arguments = ["--data", data, "--teacher", stored(LLAMA), *FEW, "--train", "all"]
    dense = eckart("recover", stored(LLAMA), "-o", "dense", *arguments, "--json").json
    assert dense["loss"]["first"] == pytest.approx(0, abs=1e-6)
    assert "quantization_config" not in json.loads(Path("dense", "config.json").read_text())


def test_kill_9_at_any_step_and_on_again(eckart: Eckart, cut: Any, data: str, tmp_path: Path) -> None:
    arguments = [cut(LLAMA), "--data", data, *FEW, "--steps", "150", "--save-every", "7", "--train", "all"]
    assert eckart("recover", *arguments, "-o", "whole").code == 0
    run = subprocess.Popen(
        [sys.executable, "-m", "eckart", "recover", *arguments, "-o", "out"],
        cwd=tmp_path,
        stderr=subprocess.DEVNULL,
    )
    log, wanted = tmp_path / "out.training" / "recovery" / "training.jsonl", random.randint(10, 80)
    deadline = time.monotonic() + 300
    while not log.exists() or log.read_text().count("\n") < wanted:
        assert run.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    run.kill()
    run.wait()
    assert not Path("out").exists()
    at = log.read_text().count("\n")
    eckart("recover", *arguments, "-o", "out").fails(2, "out.training is there already", "--resume")
    other = [*arguments, "--learning-rate", "1e-3", "--seed", "3"]
    eckart("recover", *other, "-o", "out", "--resume").fails(2, "learning-rate, seed changed")
    assert eckart("recover", *arguments, "-o", "out", "--resume").code == 0
    assert not Path("out.training").exists()
    assert at < 150
    assert training("out")["losses"] == training("whole")["losses"]
    one, other_ = (load_file(Path(folder, "model.safetensors")) for folder in ("whole", "out"))
    assert set(one) == set(other_)
    assert all(one[name].equal(other_[name]) for name in one)


def test_an_interruption_says_how_to_go_on(process: Eckart, cut: Any, data: str, tmp_path: Path) -> None:
    arguments = ["recover", cut(LLAMA), "-o", "out", "--data", data, *FEW, "--save-every", "2"]
    moment = "eckart.recovery.learning:cast"
    process(*arguments, interrupt_at=[moment], signal=signal.SIGINT).fails(1, "interrupted", "--resume")
    assert process(*arguments, "--resume").code == 0
    assert sorted(os.listdir(tmp_path)) == ["out"]
    early = ["recover", cut(LLAMA), "-o", "early", "--data", data, *FEW]
    process(*early, interrupt_at=["eckart.recovery.learning:choose"], signal=signal.SIGTERM).fails(
        1, "interrupted"
    )
    assert sorted(os.listdir(tmp_path)) == ["out"]


def test_two_processes_do_as_one(eckart: Eckart, cut: Any, data: str, tmp_path: Path) -> None:
    arguments = ["recover", cut(LLAMA), "--data", data, *FEW, "--accumulate", "2"]
    assert eckart(*arguments, "-o", "one").code == 0
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    run = subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2",
            "--master-addr", "127.0.0.1", "--master-port", str(port),
            "-m", "eckart", *arguments, "-o", "two", "--json",
        ],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)["steps"] == 6  # one object: one process talks
    assert run.stderr.count("trained for") == 1
    pairs = zip(training("one")["losses"], training("two")["losses"], strict=True)
    assert max(abs(one[1] - two[1]) for one, two in pairs) < 1e-4
    assert sorted(os.listdir(tmp_path)) == ["one", "two"]


def test_long_texts_are_cut_and_counted(eckart: Eckart, cut: Any, tmp_path: Path) -> None:
    rows = [{"prompt": "w1 ", "completion": "w2 " * 90}, {"prompt": "w1 w2 ", "completion": "w3"}]
    (tmp_path / "long.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    answer = eckart("recover", cut(LLAMA), "-o", "out", "--data", "long.jsonl", *FEW, "--json")
    few = "2 texts are too little to hold some out: what the training came to was not measured"
    assert answer.json["notes"] == ["1 texts were longer than 64 tokens and lost their end", few]
    assert "note: 1 texts" in answer.err


def test_a_loss_that_is_not_finite(eckart: Eckart, cut: Any, data: str, tmp_path: Path) -> None:
    arguments = ["recover", cut(LLAMA), "-o", "out", "--data", data, "--steps", "20", "--batch", "8"]
    arguments += ["--learning-rate", "1e30", "--warmup", "0.5", "--save-every", "1"]
    answer = eckart(*arguments)
    answer.fails(1, "not finite at step", "--learning-rate")
    assert not (tmp_path / "out").exists()


BAD = {
    "no data": ([], "give --data"),
    "data without fields": (["--data", "odd.jsonl"], "odd.jsonl"),
    "no such data": (["--data", "none.jsonl"], "none.jsonl"),
    "two lengths": (["--data", "pocket", "--steps", "3", "--epochs", "1"], "--steps and --epochs"),
    "no teacher": (["--data", "pocket", "--temperature", "2"], "--teacher"),
    "no method": (["--data", "pocket", "--train", "lorra"], "--train lorra"),
    "no batch": (["--data", "pocket", "--batch", "0"], "--batch 0"),
    "samples": (["--data", "pocket", "--samples", "0"], "--samples 0"),
    "dtype": (["--data", "pocket", "--dtype", "int8"], "int8"),
    "device": (["--data", "pocket", "--device", "cuda:3"], "cuda:3"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_requests(eckart: Eckart, cut: Any, tmp_path: Path, case: str) -> None:
    (tmp_path / "odd.jsonl").write_text('{"a": "b"}\n')
    options, words = BAD[case]
    eckart("recover", cut(LLAMA), "-o", "out", *options).fails(2, words)
    assert os.listdir(tmp_path) == ["odd.jsonl"]


def test_a_teacher_with_another_vocabulary(
    eckart: Eckart, cut: Any, stored: Any, data: str, tmp_path: Path, tmp_path_factory: Any
) -> None:
    arguments = ["recover", cut(LLAMA), "-o", "out", "--data", data, "--teacher"]
    model = LLAMA.build()
    wider = tmp_path_factory.mktemp("wider")
    model.resize_token_embeddings(100)
    model.save_pretrained(wider)
    eckart(*arguments, wider).fails(2, "vocabulary", "100")
    eckart(*arguments, stored(BERT)).fails(2, "encoder")
    other = tmp_path_factory.mktemp("other")
    LLAMA.build().save_pretrained(other)
    tokenizer = tiny_tokenizer()
    words = {word: 95 - index if index > 3 else index for word, index in tokenizer.get_vocab().items()}
    turned = json.loads(tokenizer.backend_tokenizer.to_str())
    turned["model"]["vocab"] = dict.fromkeys(words) | {w: i + 4 * (i > 3) for w, i in words.items()}
    tokenizer.save_pretrained(other)
    (other / "tokenizer.json").write_text(json.dumps(turned))
    eckart(*arguments, other).fails(2, "another vocabulary")


def test_models_that_cannot_be_trained_so(eckart: Eckart, cut: Any, stored: Any, data: str) -> None:
    eckart("recover", stored(LLAMA), "-o", "out", "--data", data).fails(2, "no factors", "--train all")
    eckart("recover", cut(BERT), "-o", "out", "--data", data).fails(2, "BertModel", "--teacher")
    out = Path("taken")
    out.mkdir()
    eckart("recover", cut(LLAMA), "-o", "taken", "--data", data).fails(2, "taken exists")

"""`eckart verify`: a good folder passes; whatever was changed since is named, and no foreign code is run."""

from __future__ import annotations

import importlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from architectures import LLAMA
from outside import Answer, Eckart
from transformers import AutoModelForCausalLM

from eckart import compress

WEIGHTS = "model.safetensors"
CODE = "modeling_eckart.py"
PLANTED = "was_run"


@pytest.fixture(scope="module")
def compressed(stored: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A compressed folder, with pivoted weights and dense ones."""
    folder = tmp_path_factory.mktemp("compressed") / "out"
    compress(stored(LLAMA), folder, keep=0.8, structure="pivoted", targets=["q_proj", "up_proj", "down_proj"])
    return folder


@pytest.fixture
def out(compressed: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(compressed, tmp_path / "out"))


@pytest.fixture
def verify(eckart: Eckart, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Answer]:
    """Without loading the folder in a process that has no Eckart, which takes seconds."""
    module = importlib.import_module("eckart.compression.folder.verification")
    monkeypatch.setattr(
        module, "check_plain_loading", lambda folder, manifest: module.Check("skipped", True, "")
    )
    return lambda: eckart("verify", "out", "--json")


def failed(answer: Answer, *words: str) -> None:
    """Exit code 1, and the words in what people read and in the JSON, or in the one line of an error."""
    assert answer.code == 1
    assert "Traceback" not in answer.err
    for word in words:
        assert word in answer.err
    if answer.out:
        verdict = json.loads(answer.out)
        assert verdict["ok"] is False
        details = " ".join(check["detail"] for check in verdict["checks"] if not check["ok"])
        assert all(word in details for word in words)
    else:
        answer.fails(1, *words)


def change(path: Path, edit: Callable[[Any], None]) -> None:
    """Edit a JSON file."""
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def plant(out: Path) -> str:
    """Code that leaves a trace beside the folder when it is run."""
    return f"open({str(out.parent / PLANTED)!r}, 'w').close()\n"


def was_run(out: Path) -> bool:
    return (out.parent / PLANTED).exists()


def test_a_flipped_bit_in_the_weights_is_found(process: Eckart, out: Path) -> None:
    content = bytearray((out / WEIGHTS).read_bytes())
    content[-1000] ^= 1
    (out / WEIGHTS).write_bytes(content)
    failed(process("verify", "out", "--json"), WEIGHTS, "not the file that was saved")


def test_a_changed_modelling_file_is_found_and_not_run(process: Eckart, out: Path) -> None:
    (out / CODE).write_text((out / CODE).read_text() + plant(out))
    failed(process("verify", "out", "--json"), CODE, "it was not run")
    assert not was_run(out)


def test_the_planted_code_would_have_been_run(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By transformers, that is: so that the tests beside this one can fail."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(out.parent / "modules"))
    (out / CODE).write_text((out / CODE).read_text() + plant(out))
    AutoModelForCausalLM.from_pretrained(out, trust_remote_code=True)
    assert was_run(out)


@pytest.mark.parametrize("auto", ["AutoModelForCausalLM", "AutoConfig"])
def test_a_modelling_file_of_another_name_is_not_run(process: Eckart, out: Path, auto: str) -> None:
    (out / "modeling_other.py").write_text((out / CODE).read_text() + plant(out))

    def edit(config: dict[str, Any]) -> None:
        config["auto_map"][auto] = "modeling_other.LlamaForCausalLM"

    change(out / "config.json", edit)
    failed(process("verify", "out", "--json"), CODE, "it was not run")
    assert not was_run(out)


def test_a_model_type_of_its_own_is_not_run(process: Eckart, out: Path) -> None:
    (out / "modeling_other.py").write_text(plant(out))

    def edit(config: dict[str, Any]) -> None:
        config["model_type"] = "other"
        config["auto_map"] = {"AutoConfig": "modeling_other.Config"}

    change(out / "config.json", edit)
    failed(process("verify", "out", "--json"), "modeling_other.Config", "runs none")
    assert not was_run(out)


@pytest.mark.parametrize("name", [WEIGHTS, CODE, "config.json"])
def test_a_missing_file_is_named(process: Eckart, out: Path, name: str) -> None:
    (out / name).unlink()
    failed(process("verify", "out", "--json"), name)


def test_truncated_weights_are_named(process: Eckart, out: Path) -> None:
    content = (out / WEIGHTS).read_bytes()
    (out / WEIGHTS).write_bytes(content[:-1])
    failed(process("verify", "out", "--json"), WEIGHTS)


def test_a_damaged_manifest_is_named(process: Eckart, out: Path) -> None:
    (out / "eckart.json").write_text("{")
    failed(process("verify", "out", "--json"), "eckart.json", "damaged")


LIES: dict[str, Callable[[dict[str, Any]], None]] = {
    "a lower rank": lambda target: target["option"].update(size=target["option"]["size"] - 1),
    "dense": lambda target: target["option"].update(size=None, structure="dense"),
    "another shape": lambda target: target.update(in_features=target["in_features"] + 1),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_manifest_that_lies_about_a_target_is_found(
    verify: Callable[[], Answer], out: Path, lie: str
) -> None:
    name = ""

    def edit(manifest: dict[str, Any]) -> None:
        nonlocal name
        target = next(target for target in manifest["targets"] if target["option"]["size"])
        name = target["name"]
        LIES[lie](target)

    change(out / "eckart.json", edit)
    failed(verify(), name)


def test_a_manifest_that_lies_about_the_size_is_found(verify: Callable[[], Answer], out: Path) -> None:
    change(out / "eckart.json", lambda manifest: manifest["parameters"].update(after=12345))
    failed(verify(), "12,345")


def test_a_config_that_computes_something_else_is_found(verify: Callable[[], Answer], out: Path) -> None:
    change(out / "config.json", lambda config: config.update(hidden_act="relu"))
    failed(verify(), "values differ")


def test_a_folder_is_good_wherever_it_is_put(process: Eckart, out: Path) -> None:
    moved = out.parent / "elsewhere" / "with a space"
    moved.parent.mkdir()
    shutil.move(out, moved)
    assert process("verify", moved).code == 0


def test_a_good_folder_passes_the_same_checks(verify: Callable[[], Answer], out: Path) -> None:
    answer = verify()
    assert answer.json["ok"] is True
    assert "bit for bit" in answer.err

"""What a user can get wrong: one short line that names the thing, an exit code, and nothing left behind."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import BERT, GPT2, LLAMA, T5, tiny_tokenizer
from outside import Eckart, listing
from safetensors.torch import load_file, save_file

from eckart import structures

WEIGHTS = "model.safetensors"
SHARD = "model-00002-of-00004.safetensors"


@pytest.fixture
def model(stored: Any, tmp_path: Path) -> Path:
    """A tiny Llama's folder that a test may damage."""
    return Path(shutil.copytree(stored(LLAMA), tmp_path / "model"))


def refused(eckart: Eckart, tmp_path: Path, code: int, words: list[str], *arguments: object) -> None:
    """The command fails in one line, and the folder is as it was."""
    before = listing(tmp_path)
    eckart(*arguments).fails(code, *words)
    assert listing(tmp_path) == before


# Models


@pytest.mark.parametrize("name", ["/no/such", "a/b/c", "./nothing", "some-org/some-model", "no-such-model"])
@pytest.mark.parametrize("command", ["compress", "plan", "evaluate"])
def test_a_model_that_is_not_there_is_named(eckart: Eckart, tmp_path: Path, command: str, name: str) -> None:
    more = {
        "compress": ["--keep", "0.8", "-o", "out"],
        "plan": ["--keep", "0.8"],
        "evaluate": ["--task", "pocket"],
    }
    words = [f"no such model: {name}"]
    if re.fullmatch(r"[\w-]+(/[\w-]+)?", name):
        words.append("HF_HUB_OFFLINE")
    refused(eckart, tmp_path, 2, words, command, name, *more[command])


def test_a_file_is_no_model(eckart: Eckart, tmp_path: Path, data: str) -> None:
    refused(eckart, tmp_path, 2, [data, "is not a folder"], "compress", data, "-o", "out", "--keep", "0.8")


def _delete(folder: Path) -> None:
    (folder / WEIGHTS).unlink()


def _only_pickle(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")


def _truncate(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[:-100])


def _empty(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(b"")


def _random(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(torch.randint(256, (5000,), dtype=torch.uint8).numpy().tobytes())


def _broken_header(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    length = int.from_bytes(content[:8], "little")
    (folder / WEIGHTS).write_bytes(content[:8] + b"{" * length + content[8 + length :])


def _shards(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    LLAMA.build().save_pretrained(folder, max_shard_size="60KB")


def _missing_shard(folder: Path) -> None:
    _shards(folder)
    (folder / SHARD).unlink()


def _truncated_shard(folder: Path) -> None:
    _shards(folder)
    content = (folder / SHARD).read_bytes()
    (folder / SHARD).write_bytes(content[:-7])


def _change_weights(change: Callable[[dict[str, torch.Tensor]], None]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        weights = load_file(folder / WEIGHTS)
        change(weights)
        save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})

    return damage


UP = "model.layers.1.mlp.up_proj.weight"
_lacking = _change_weights(lambda weights: weights.pop(UP))
_other_shape = _change_weights(lambda weights: weights.update({UP: torch.zeros(7, 9)}))


def _config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def _no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def _write_config(text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "config.json").write_text(text) and None


READERS = ["plan", "analyze", "bench", "sweep", "compare", "recover", "bases"]
DAMAGES = {
    "no weights": (_delete, ["model", "no weights"]),
    "only a pickle": (_only_pickle, ["pytorch_model.bin", "safetensors alone"]),
    "truncated": (_truncate, [WEIGHTS, "truncated or corrupt"]),
    "empty": (_empty, [WEIGHTS, "truncated or corrupt"]),
    "random bytes": (_random, [WEIGHTS, "truncated or corrupt"]),
    "broken header": (_broken_header, [WEIGHTS, "truncated or corrupt"]),
    "missing shard": (_missing_shard, [SHARD, "missing"]),
    "truncated shard": (_truncated_shard, [SHARD, "truncated or corrupt"]),
    "blocks that the config has not": (
        lambda folder: _config(folder, num_hidden_layers=1),
        ["9 tensors", "model.layers.1.input_layernorm.weight", "--drop-unused"],
    ),
    "scales without a quantization config": (
        _change_weights(lambda weights: weights.update({f"{UP}_scale_inv": torch.ones(1)})),
        [f"{UP}_scale_inv", "no quantization_config"],
    ),
    "lacks a weight": (_lacking, [UP, "random numbers"]),
    "a weight of another shape": (_other_shape, [UP, "(7, 9)", "(80, 48)"]),
    "no config": (_no_config, ["config.json"]),
    "config is no JSON": (_write_config("{"), ["config.json"]),
    "config of nothing": (_write_config("{}"), ["config.json", "model_type"]),
    "unknown model type": (_write_config('{"model_type": "nope"}'), ["config.json", "nope"]),
    "unknown architecture": (
        _write_config('{"model_type": "llama", "architectures": ["NopeForCausalLM"]}'),
        ["NopeForCausalLM"],
    ),
    "architecture that is no class": (
        _write_config('{"model_type": "llama", "architectures": ["pipeline"]}'),
        ["pipeline"],
    ),
    "deep config": (_write_config("[" * 100_000), ["config.json", "nested too deeply"]),
    "config of a list": (_write_config("[]"), ["config.json", "should be an object"]),
    "endless layers": (
        _write_config('{"model_type": "llama", "num_hidden_layers": 1000000000}'),
        ["config.json", "num_hidden_layers is 1,000,000,000"],
    ),
    "endless parts": (
        _write_config('{"model_type": "swin", "depths": [2, 100000000]}'),
        ["config.json", "depths is 100,000,000"],
    ),
    "a dtype that is none": (
        _write_config('{"model_type": "llama", "torch_dtype": "torch.float16"}'),
        ["config.json", "'torch.float16'", "float16"],
    ),
    "config of wrong types": (
        _write_config('{"model_type": "llama", "hidden_size": "wide"}'),
        ["config.json", "hidden_size"],
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("command", ["compress", "evaluate"])
def test_a_damaged_model_is_named(
    eckart: Eckart, tmp_path: Path, model: Path, data: str, command: str, damage: str
) -> None:
    break_it, words = DAMAGES[damage]
    break_it(model)
    more = ["-o", "out", "--keep", "0.8"] if command == "compress" else ["--task", "perplexity"]
    refused(eckart, tmp_path, 1, words, command, "model", *more, "--data", data)


@pytest.mark.parametrize("damage", ["truncated", "broken header", "only a pickle", "outside", "deep config"])
def test_a_damaged_model_is_named_wherever_one_is_read(
    eckart: Eckart, tmp_path: Path, stored: Any, model: Path, data: str, damage: str
) -> None:
    """What a dense model is for beside a compressed one, and what is timed, comes in by the same door."""
    if damage == "outside":
        (tmp_path / "elsewhere").mkdir()
        shutil.copy(model / WEIGHTS, tmp_path / "elsewhere" / WEIGHTS)
        (model / WEIGHTS).unlink()
        index = {"metadata": {}, "weight_map": {UP: f"../elsewhere/{WEIGHTS}"}}
        (model / f"{WEIGHTS}.index.json").write_text(json.dumps(index))
        words = ["outside its folder"]
    else:
        break_it, words = DAMAGES[damage]
        break_it(model)
    small = ["--prompt", "4", "--rounds", "1", "--new", "1"]
    refused(eckart, tmp_path, 1, words, "bench", "model", *small)
    refused(eckart, tmp_path, 1, words, "bench", stored(LLAMA), "model", *small)


def _reading(verb: str, data: str) -> list[str]:
    """The options of a verb that reads a model."""
    found: dict[str, list[str]] = {
        "plan": ["--keep", "0.8"],
        "analyze": ["-o", "out"],
        "bench": ["--prompt", "4", "--rounds", "1", "--new", "1", "--no-memory"],
        "sweep": ["--ratios", "0.5", "--task", "perplexity", "--data", data, "-o", "out"],
        "compare": ["--keep", "0.8", "--methods", "svd", "--data", data, "-o", "out"],
        "recover": ["--train", "all", "--steps", "1", "--data", data, "-o", "out"],
        "bases": ["-o", "out"],
    }
    return found[verb]


@pytest.mark.parametrize("verb", READERS)
def test_what_no_weight_takes_is_refused_by_every_verb(
    eckart: Eckart, tmp_path: Path, model: Path, data: str, verb: str
) -> None:
    _config(model, num_hidden_layers=1)
    more = _reading(verb, data)
    refused(eckart, tmp_path, 1, ["model.layers.1.input_layernorm.weight"], verb, "model", *more)


def test_what_no_weight_takes_is_left_out_where_that_is_asked_for(
    eckart: Eckart, tmp_path: Path, model: Path, data: str
) -> None:
    _config(model, num_hidden_layers=1)
    for more in ([], ["--blocks"]):
        out = f"out{len(more)}"
        arguments = ["compress", "model", "-o", out, "--keep", "0.95", "--method", "svd", "--drop-unused"]
        assert eckart(*arguments, *more).code == 0
        manifest = json.loads((tmp_path / out / "eckart.json").read_text())
        assert len(manifest["left_out"]) == 9
        assert all(name.startswith("model.layers.1.") for name in manifest["left_out"])
        assert eckart("verify", out).code == 0
    assert eckart("evaluate", "model", "--task", "perplexity", "--data", data, "--drop-unused").code == 0


@pytest.mark.parametrize("verb", READERS)
def test_every_verb_that_names_the_option_has_it(
    verb: str, eckart: Eckart, tmp_path: Path, model: Path, data: str
) -> None:
    _config(model, num_hidden_layers=1)
    more = _reading(verb, data)
    answer = eckart(verb, "model", *more, "--drop-unused")
    assert answer.code == 0, answer.err
    if verb == "recover":
        assert len(json.loads((tmp_path / "out" / "eckart.json").read_text())["left_out"]) == 9


@pytest.mark.parametrize("architectures", [None, ["LlamaModel"]])
def test_a_head_is_recognised(
    eckart: Eckart, tmp_path: Path, stored: Any, model: Path, architectures: list[str] | None
) -> None:
    _config(model, architectures=architectures)
    for folder, out in ((stored(LLAMA), "expected"), ("model", "out")):
        assert eckart("compress", folder, "-o", out, "--keep", "0.8", "--method", "svd").code == 0
    for name in (WEIGHTS, "config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "expected" / name).read_bytes()


def test_what_older_checkpoints_stored_and_is_worked_out_today_is_no_trouble(
    eckart: Eckart, tmp_path: Path, stored: Any
) -> None:
    folder = Path(shutil.copytree(stored(GPT2), tmp_path / "gpt2"))
    older = {
        "transformer.h.0.attn.bias": torch.ones(1, 1, 64, 64),
        "transformer.h.1.attn.masked_bias": torch.tensor(-1e4),
    }
    _change_weights(lambda weights: weights.update(older))(folder)
    assert eckart("plan", "gpt2", "--keep", "0.8").code == 0
    assert eckart("compress", "gpt2", "-o", "out", "--keep", "0.8", "--method", "svd").code == 0


def test_the_class_that_takes_more_is_named(eckart: Eckart, tmp_path: Path, model: Path) -> None:
    from transformers import BertForPreTraining

    shutil.rmtree(model)
    BertForPreTraining(BERT.build().config).save_pretrained(model)
    _config(model, architectures=["BertForMaskedLM"])
    words = ["cls.seq_relationship.bias", "BertForPreTraining would take all", "--drop-unused"]
    refused(eckart, tmp_path, 1, words, "plan", "model", "--keep", "0.9")


def test_a_head_that_several_classes_have_is_asked_for(
    eckart: Eckart, tmp_path: Path, stored: Any, model: Path
) -> None:
    from transformers import BertForMaskedLM, BertForTokenClassification, BertModel

    config = BERT.build().config
    for kind in (BertForTokenClassification, BertForMaskedLM):
        shutil.rmtree(model)
        kind(config).save_pretrained(model)
        _config(model, architectures=["BertModel"])
        answer = eckart("plan", "model", "--keep", "0.9")
        assert answer.code == 0 or "architectures" in answer.err
        assert answer.code or kind.__name__ in answer.out
    shutil.rmtree(model)
    BertModel(config).save_pretrained(model)
    assert "BertModel" in eckart("plan", "model", "--keep", "0.9").out


def test_an_index_needs_no_metadata(eckart: Eckart, tmp_path: Path, model: Path) -> None:
    _shards(model)
    path = model / f"{WEIGHTS}.index.json"
    whole = json.loads(path.read_text())
    assert eckart("compress", "model", "-o", "expected", "--keep", "0.8").code == 0
    path.write_text(json.dumps({"weight_map": whole["weight_map"]}))
    assert eckart("compress", "model", "-o", "out", "--keep", "0.8").code == 0
    assert (tmp_path / "out" / WEIGHTS).read_bytes() == (tmp_path / "expected" / WEIGHTS).read_bytes()


@pytest.mark.parametrize("command", ["plan", "compress"])
def test_an_adapter_is_no_model_and_stands_beside_none(
    eckart: Eckart, tmp_path: Path, model: Path, command: str
) -> None:
    """transformers would apply it where it loads the folder, and nobody would know."""
    more = ["--keep", "0.8", *(["-o", "out"] if command == "compress" else [])]
    (model / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2}))
    refused(eckart, tmp_path, 2, ["model has an adapter", "merge"], command, "model", *more)
    (model / "config.json").unlink()
    refused(eckart, tmp_path, 2, ["model is an adapter", "merge"], command, "model", *more)


def test_a_link_out_of_the_folder_is_not_copied(eckart: Eckart, tmp_path: Path, model: Path) -> None:
    (tmp_path / "secret").write_text("the only copy")
    (model / "LICENSE").symlink_to(tmp_path / "secret")
    (model / "NOTICE").write_text("thanks")
    assert eckart("compress", "model", "-o", "out", "--keep", "0.8").code == 0
    assert not (tmp_path / "out" / "LICENSE").exists()
    assert (tmp_path / "out" / "NOTICE").read_text() == "thanks"


def test_a_token_that_the_embedding_has_not_is_named(
    eckart: Eckart, tmp_path: Path, model: Path, data: str
) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["<|im_start|>"])
    tokenizer.save_pretrained(model)
    (tmp_path / "chat.txt").write_text("w1 w2 <|im_start|> w3")
    words = ["'<|im_start|>'", "LlamaForCausalLM has 96"]
    more = ["--data", "chat.txt"]
    refused(eckart, tmp_path, 1, words, "compress", "model", "-o", "out", "--keep", "0.8", *more)
    refused(eckart, tmp_path, 1, words, "evaluate", "model", "--task", "perplexity", *more)
    assert eckart("evaluate", "model", "--task", "perplexity", "--data", data).code == 0


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("keep", ["0.8", "1"])
def test_a_weight_that_is_not_finite_is_named(
    eckart: Eckart, tmp_path: Path, model: Path, keep: str, value: float
) -> None:
    _change_weights(lambda weights: weights[UP].__setitem__((3, 4), value))(model)
    refused(eckart, tmp_path, 1, [UP, "not finite"], "compress", "model", "-o", "out", "--keep", keep)


def test_a_model_that_is_not_finite_has_no_perplexity(
    eckart: Eckart, tmp_path: Path, model: Path, data: str
) -> None:
    _change_weights(lambda weights: weights[UP].__setitem__((3, 4), float("nan")))(model)
    refused(eckart, tmp_path, 1, ["not finite"], "evaluate", "model", "--task", "perplexity", "--data", data)


def test_code_that_comes_with_a_model_is_not_run_nor_asked_about(
    eckart: Eckart, tmp_path: Path, model: Path, data: str
) -> None:
    planted = tmp_path / "was_run"
    (model / "modeling_x.py").write_text(f"open({str(planted)!r}, 'w')\nclass C: pass\n")
    _write_config('{"model_type": "x", "auto_map": {"AutoConfig": "modeling_x.C"}}')(model)
    words = ["modeling_x.C", "runs none"]
    refused(eckart, tmp_path, 1, words, "compress", "model", "-o", "out", "--keep", "0.8")

    shutil.copy(model / "modeling_x.py", model / "tokenization_x.py")
    LLAMA.build().config.save_pretrained(model)
    tokenizer = {"tokenizer_class": "C", "auto_map": {"AutoTokenizer": ["tokenization_x.C", None]}}
    (model / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    refused(
        eckart, tmp_path, 1, ["tokenizer"],
        "compress", "model", "-o", "out", "--keep", "0.8", "--data", data,
    )  # fmt: skip


@pytest.mark.parametrize("damage", ["no tokenizer", "no JSON", "unknown kind"])
def test_text_needs_a_tokenizer_that_loads(
    eckart: Eckart, tmp_path: Path, model: Path, data: str, damage: str
) -> None:
    path = model / "tokenizer.json"
    if damage == "no tokenizer":
        path.unlink()
        (model / "tokenizer_config.json").unlink()
    else:
        broken = {**json.loads(path.read_text()), "model": {"type": "Nope"}}
        path.write_text("nonsense" if damage == "no JSON" else json.dumps(broken))
    for more in (
        ["compress", "model", "-o", "out", "--keep", "0.8"],
        ["evaluate", "model", "--task", "perplexity"],
    ):
        refused(eckart, tmp_path, 1, ["model", "no tokenizer"], *more, "--data", data)


def test_a_quantized_model_is_refused(eckart: Eckart, tmp_path: Path, model: Path, data: str) -> None:
    config = json.loads((model / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    _write_config(json.dumps(config))(model)
    words = ["quantized (bitsandbytes)", "float model"]
    refused(eckart, tmp_path, 2, words, "compress", "model", "-o", "out", "--keep", "0.8")
    refused(eckart, tmp_path, 2, words, "plan", "model", "--keep", "0.8")


def test_a_compressed_model_is_not_compressed_again(eckart: Eckart, tmp_path: Path, model: Path) -> None:
    assert eckart("compress", "model", "-o", "small", "--keep", "0.8").code == 0
    words = ["compressed already", "the model it came from"]
    refused(eckart, tmp_path, 2, words, "compress", "small", "-o", "out", "--keep", "0.8")
    refused(eckart, tmp_path, 2, words, "plan", "small", "--keep", "0.8")


# Choices


DIALS = ["--keep", "--rank", "--ratio"]

BAD_CHOICES: dict[str, tuple[list[str], list[str]]] = {
    "keep 0": (["--keep", "0"], ["keep 0"]),
    "keep 1.5": (["--keep", "1.5"], ["keep 1.5"]),
    "keep -1": (["--keep", "-1"], ["keep -1"]),
    "keep nan": (["--keep", "nan"], ["keep nan"]),
    "rank 0": (["--rank", "0"], ["rank 0"]),
    "ratio 2": (["--ratio", "2"], ["ratio 2"]),
    "no dial": ([], [*DIALS, "none was given"]),
    "two dials": (["--keep", "0.5", "--rank", "3"], ["--keep and --rank were given"]),
    "three dials": (["--keep", "0.5", "--rank", "3", "--ratio", "0.5"], ["--keep and --rank and --ratio"]),
    "method": (["--keep", "0.8", "--method", "svdllm"], ["'svdllm'", "did you mean svd-llm?"]),
    "far method": (["--keep", "0.8", "--method", "xyzzy"], ["'xyzzy'", "there are: svd, "]),
    "metric": (["--keep", "0.8", "--metric", "inputs"], ["'inputs'", "did you mean input?"]),
    "structure": (["--keep", "0.8", "--structure", "low-rank"], ["'low-rank'", "did you mean lowrank?"]),
    "dense": (["--keep", "0.8", "--structure", "dense"], ["'dense'", ", ".join(structures.replacements())]),
    "allocation": (["--keep", "0.8", "--allocate", "unifrm"], ["'unifrm'", "did you mean uniform?"]),
    "of": (["--keep", "0.8", "--of", "layers"], ["--of layers", "model", "targets"]),
    "target": (["--keep", "0.8", "--targets", "q_proj,v_prj"], ["v_prj", "did you mean v_proj?"]),
    "layer past the last": (["--keep", "0.8", "--layers", "9"], ["--layers 9", "0 to 1"]),
    "no such layers": (["--keep", "0.8", "--layers", "most"], ["'most'", "top:4"]),
    "layers the wrong way": (["--keep", "0.8", "--layers", "1-0"], ["1-0"]),
    "empty layers": (["--keep", "0.8", "--layers", ""], ["--layers is empty"]),
    "empty targets": (["--keep", "0.8", "--targets", " "], ["--targets is empty"]),
    "empty data": (["--keep", "0.8", "--data", ""], ["--data is empty"]),
    "samples": (["--keep", "0.8", "--samples", "0"], ["--samples"]),
    "max length": (["--keep", "0.8", "--max-length", "0"], ["--max-length"]),
    "dtype": (["--keep", "0.8", "--dtype", "int4"], ["'int4'", "bfloat16"]),
    "device": (["--keep", "0.8", "--device", "abacus"], ["abacus", "--device cpu"]),
    "device without values": (["--keep", "0.8", "--device", "meta"], ["meta", "--device cpu"]),
    "device that is not here": (["--keep", "0.8", "--device", "cuda:77"], ["cuda:77", "--device cpu"]),
    "svd-llm without data": (["--keep", "0.8", "--method", "svd-llm"], ["svd-llm", "--data FILE"]),
    "asvd without data": (["--keep", "0.8", "--method", "asvd"], ["asvd", "--data FILE"]),
    "metric without data": (["--keep", "0.8", "--metric", "input"], ["input", "--data FILE"]),
}


@pytest.mark.parametrize("choice", BAD_CHOICES)
def test_a_bad_choice_is_named(eckart: Eckart, tmp_path: Path, stored: Any, choice: str) -> None:
    options, words = BAD_CHOICES[choice]
    refused(eckart, tmp_path, 2, words, "compress", stored(LLAMA), "-o", "out", *options)


def test_an_empty_model_is_not_this_folder(eckart: Eckart, tmp_path: Path, stored: Any) -> None:
    shutil.copytree(stored(LLAMA), tmp_path, dirs_exist_ok=True)
    refused(eckart, tmp_path, 2, ["MODEL is empty"], "compress", "", "-o", "out", "--keep", "0.8")
    refused(eckart, tmp_path, 2, ["--out is empty"], "compress", ".", "-o", "", "--keep", "0.8")


@pytest.mark.parametrize("of", ["model", "targets"])
@pytest.mark.parametrize(
    "structure", [name for name in structures.replacements() if structures.find(name).fewer]
)
def test_the_least_keep_that_the_message_offers_works(
    eckart: Eckart, tmp_path: Path, stored: Any, of: str, structure: str
) -> None:
    options = [stored(LLAMA), "--of", of, "--structure", structure, "--keep"]
    refused(eckart, tmp_path, 2, ["keep 0.01", "rank 1"], "compress", *options, "0.01", "-o", "out")
    message = eckart("plan", *options, "0.01").err
    least = re.search(r"ask for keep ([\d.]+)", message)
    assert least is not None
    count = eckart("compress", *options, least[1], "-o", "out", "--json").json["parameters"]
    kept = count["keep"] if of == "model" else count["targets_after"] / count["targets_before"]
    assert kept <= float(least[1])
    below = f"{float(least[1]) - 0.0002:.4f}"
    refused(eckart, tmp_path, 2, [f"keep {below}"], "compress", *options, below, "-o", "other")


def test_plan_refuses_what_compress_refuses(eckart: Eckart, tmp_path: Path, stored: Any) -> None:
    for choice, (options, words) in BAD_CHOICES.items():
        unknown = {"--metric", "--samples", "--max-length", "--dtype", "--device", "--data"}
        # Without a size a plan suggests some.
        if not unknown & set(options) and "without data" not in choice and choice != "no dial":
            refused(eckart, tmp_path, 2, words, "plan", stored(LLAMA), *options)


# Data

BAD_DATA: dict[str, tuple[str, bytes, list[str]]] = {
    "empty jsonl": ("a.jsonl", b"", ["a.jsonl is empty"]),
    "empty txt": ("a.txt", b"", ["a.txt is empty"]),
    "empty csv": ("a.csv", b"", ["a.csv is empty"]),
    "header alone": ("a.csv", b"text\n", ["a.csv is empty"]),
    "white space": ("a.txt", b" \n\t\n  ", ["a.txt is empty"]),
    "blank lines": ("a.jsonl", b"\n  \n\n", ["a.jsonl is empty"]),
    "blank texts": ("a.jsonl", b'{"text": " "}\n{"text": ""}\n', ["a.jsonl is empty"]),
    "broken line": ("a.jsonl", b'{"text": "w1"}\n\n{"text": "w2\n', ["a.jsonl, line 3", "broken JSON"]),
    "no text": ("a.jsonl", b'{"text": "w1"}\n{"txt": "w1"}\n', ["a.jsonl, line 2", "no field text"]),
    "no completion": ("a.jsonl", b'{"prompt": "w1"}\n', ["a.jsonl, line 1", "completion"]),
    "number": ("a.jsonl", b'{"text": 3}\n', ["a.jsonl, line 1", "field text is a number"]),
    "null": ("a.jsonl", b'{"text": "w1"}\n{"text": null}\n', ["a.jsonl, line 2", "field text is null"]),
    "list": ("a.jsonl", b'{"text": ["w1", "w2"]}\n', ["a.jsonl, line 1", "field text is a list"]),
    "list to complete": (
        "a.jsonl",
        b'{"prompt": "w1", "completion": ["w2"]}\n',
        ["a.jsonl, line 1", "field completion is a list"],
    ),
    "steering": ("a.jsonl", b'{"\\u001b[31mred": 1}\n', ["a.jsonl, line 1", "\\x1b[31mred"]),
    "no object": ("a.jsonl", b'{"text": "w1"}\n["w2"]\n', ["a.jsonl, line 2", "expected an object"]),
    "no column text": ("a.csv", b"words\nw1\n", ["a.csv, line 2", "no field text"]),
    "parquet": ("a.parquet", b"PAR1", ["a.parquet", "broken .parquet"]),
    "another kind": ("a.xml", b"<a/>", ["a.xml", ".jsonl", ".xml"]),
    "no suffix": ("a", b"w1 w2", ["a: ", ".jsonl"]),
    "latin-1": ("a.txt", "w1\nw2 caf\xe9".encode("latin-1"), ["a.txt, line 2", "UTF-8"]),
}


@pytest.mark.parametrize("kind", BAD_DATA)
@pytest.mark.parametrize("command", ["compress", "evaluate"])
def test_bad_data_is_named_by_its_line(
    eckart: Eckart, tmp_path: Path, stored: Any, command: str, kind: str
) -> None:
    name, content, words = BAD_DATA[kind]
    (tmp_path / name).write_bytes(content)
    more = ["-o", "out", "--keep", "0.8"] if command == "compress" else ["--task", "perplexity"]
    refused(eckart, tmp_path, 2, words, command, stored(LLAMA), *more, "--data", name)


@pytest.mark.parametrize("name", ["nothing.jsonl", "folder", "pocket-poems"])
def test_data_that_is_not_there_is_named(eckart: Eckart, tmp_path: Path, stored: Any, name: str) -> None:
    (tmp_path / "folder").mkdir()
    refused(
        eckart, tmp_path, 2, [name], "compress", stored(LLAMA), "-o", "out", "--keep", "0.8", "--data", name
    )


ROW = "main\tnews\t2016\t1\t{}\tw1 w2\tw{} w4\n"
BAD_PAIRS = {
    "empty": ("", ["pairs.csv is empty"]),
    "broken row": (ROW.format(1, 1) + "w1 w2\n", ["pairs.csv, line 2", "tabs"]),
    "score that is none": (ROW.format("high", 1), ["pairs.csv, line 1"]),
    "score that is not finite": (ROW.format(1, 1) + ROW.format("nan", 2), ["pairs.csv, line 2"]),
    "one pair": (ROW.format(1, 1), ["two scores that differ"]),
    "equal scores": (ROW.format(2, 1) + ROW.format(2, 3), ["two scores that differ"]),
}


@pytest.mark.parametrize("kind", BAD_PAIRS)
def test_bad_pairs_are_named_by_their_line(eckart: Eckart, tmp_path: Path, stored: Any, kind: str) -> None:
    content, words = BAD_PAIRS[kind]
    (tmp_path / "pairs.csv").write_text(content)
    refused(eckart, tmp_path, 2, words, "evaluate", stored(BERT), "--task", "stsb", "--data", "pairs.csv")


# Tasks


def test_an_unknown_task_is_named_with_the_nearest(eckart: Eckart, tmp_path: Path, stored: Any) -> None:
    words = ["'perplexty'", "did you mean perplexity?", "stsb"]
    refused(eckart, tmp_path, 2, words, "evaluate", stored(LLAMA), "--task", "perplexty")


@pytest.mark.parametrize("task", ["perplexity", "stsb"])
def test_a_task_without_its_data_asks_for_it(eckart: Eckart, tmp_path: Path, stored: Any, task: str) -> None:
    refused(eckart, tmp_path, 2, [task, "--data FILE"], "evaluate", stored(LLAMA), "--task", task)


def test_data_for_a_task_that_brings_its_own_is_not_ignored(
    eckart: Eckart, tmp_path: Path, stored: Any, data: str
) -> None:
    words = ["pocket-math", "its own data", data]
    refused(eckart, tmp_path, 2, words, "evaluate", stored(LLAMA), "--task", "pocket-math", "--data", data)


@pytest.mark.parametrize(("option", "value"), [("--limit", "0"), ("--max-length", "0"), ("--dtype", "int4")])
def test_a_bad_option_of_evaluate_is_named(
    eckart: Eckart, tmp_path: Path, stored: Any, data: str, option: str, value: str
) -> None:
    refused(
        eckart, tmp_path, 2, [option.lstrip("-")],
        "evaluate", stored(LLAMA), "--task", "perplexity", "--data", data, option, value,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("architecture", "task", "words"),
    [
        (BERT, "perplexity", ["BertModel", "no next token"]),
        (BERT, "pocket", ["BertModel", "writes no text"]),
        (LLAMA, "stsb", ["LlamaForCausalLM", "stsb is for encoders"]),
        (GPT2, "stsb", ["GPT2LMHeadModel", "stsb is for encoders"]),
        (T5, "stsb", ["T5ForConditionalGeneration", "stsb is for encoders"]),
    ],
    ids=str,
)
def test_a_model_that_cannot_do_the_task_is_named(
    eckart: Eckart, tmp_path: Path, stored: Any, data: str, architecture: Any, task: str, words: list[str]
) -> None:
    (tmp_path / "pairs.csv").write_text(ROW.format(1, 1) + ROW.format(2, 3))
    given = {"perplexity": ["--data", data], "stsb": ["--data", "pairs.csv"], "pocket": []}[task]
    refused(eckart, tmp_path, 2, words, "evaluate", stored(architecture), "--task", task, *given)


# Outputs


def test_an_output_folder_that_exists_stays_untouched(eckart: Eckart, tmp_path: Path, stored: Any) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("the only copy")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    (tmp_path / "file").write_text("w1")
    for out in ("out", "gone", "file"):
        words = [out, "exists already"]
        refused(eckart, tmp_path, 2, words, "compress", stored(LLAMA), "-o", out, "--keep", "0.8")


def test_an_output_under_a_file_is_refused(eckart: Eckart, tmp_path: Path, stored: Any) -> None:
    (tmp_path / "file").write_text("w1")
    for out in ("file/out", "file/deep/out"):
        words = [out, "file is not a folder"]
        refused(eckart, tmp_path, 2, words, "compress", stored(LLAMA), "-o", out, "--keep", "0.8")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_output_that_may_not_be_written_is_refused(eckart: Eckart, tmp_path: Path, stored: Any) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    words = ["locked", "permission"]
    refused(eckart, tmp_path, 2, words, "compress", stored(LLAMA), "-o", "locked/out", "--keep", "0.8")


def test_verify_needs_a_folder_that_eckart_saved(eckart: Eckart, tmp_path: Path, stored: Any) -> None:
    refused(eckart, tmp_path, 2, ["nothing is not a folder"], "verify", "nothing")
    refused(eckart, tmp_path, 2, ["no eckart.json"], "verify", stored(LLAMA))


@pytest.mark.parametrize(("option", "value"), [("--memory", "0"), ("--memory", "-1"), ("--tokens", "inf")])
def test_a_size_is_above_0_and_finite(
    eckart: Eckart, tmp_path: Path, stored: Any, option: str, value: str
) -> None:
    before = listing(tmp_path)
    answer = eckart("compress", stored(LLAMA), "-o", "out", "--keep", "0.8", option, value)
    assert answer.code == 2
    assert f"{value}: not a" in answer.err
    assert "Traceback" not in answer.err
    assert listing(tmp_path) == before


# The unexpected


def test_a_lack_of_memory_says_what_to_do(
    eckart: Eckart, tmp_path: Path, stored: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eckart.plan", lambda *_, **__: torch.empty(2**60))
    refused(
        eckart, tmp_path, 1, ["out of memory", "--dtype bfloat16"], "plan", stored(LLAMA), "--keep", "0.8"
    )


def test_only_debug_shows_a_traceback(eckart: Eckart, stored: Any) -> None:
    answer = eckart("plan", stored(LLAMA), "--keep", "7", "--debug")
    assert answer.code == 2
    assert "Traceback" in answer.err
    assert "keep 7" in answer.err
    assert answer.out == ""


def test_a_tokenizer_without_a_padding_token_is_good_input(
    eckart: Eckart, tmp_path: Path, model: Path, data: str
) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = None
    tokenizer.save_pretrained(model)
    assert json.loads((model / "tokenizer_config.json").read_text()).get("pad_token") is None
    assert eckart("compress", "model", "-o", "out", "--keep", "0.8", "--data", data).code == 0
    assert eckart("evaluate", "out", "--task", "perplexity", "--data", data, "--json").json["tokens"] > 0

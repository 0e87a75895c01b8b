"""`eckart.export`: what other tools read gives the model's answers, and factors stay factors in a graph."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import torch
from architectures import BERT, LLAMA, T5, VOCABULARY, WIDTH, Architecture, outputs, some_inputs
from onnx import numpy_helper
from transformers import AutoModelForCausalLM

import eckart
from eckart import EckartError, UsageError
from eckart.compression.folder import verification
from eckart.integrations import graphs, parity
from eckart.integrations import onnx as onnx_
from eckart.model import loading
from eckart.pipeline.verify import verify
from eckart.structures import QuantizedLinear


def one_block(architecture: Architecture) -> Any:
    """Its model with a single block, since exporters take as long as there are blocks."""
    config = architecture.make().config
    config.num_hidden_layers = 1
    if hasattr(config, "num_decoder_layers"):
        config.num_decoder_layers = 1
    model = type(architecture.make())(config).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module")
def made(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """An architecture and a structure to the folder of its compressed model; made once."""
    root = tmp_path_factory.mktemp("made")

    def make(architecture: Architecture, structure: str = "lowrank") -> Path:
        folder = root / f"{architecture.name}-{structure}"
        if not folder.exists():
            model = one_block(architecture)
            eckart.compress(model, folder, rank=8, method="svd", structure=structure, tokenizer=tokenizer)
        return folder

    return make


def asked(architecture: Architecture) -> dict[str, torch.Tensor]:
    """Five rows of 23 tokens, two of them padded: no shape that a graph was traced or checked at."""
    inputs = some_inputs(architecture, 5, 23, seed=3)
    mask = torch.ones_like(inputs["input_ids"])
    mask[1, -9:], mask[4, -1:] = 0, 0
    return {**inputs, "attention_mask": mask}


def replaced(folder: Path) -> set[tuple[int, int]]:
    """The shapes `(out, in)` of the weights that have factors, and those of their transposes."""
    targets = json.loads((folder / "eckart.json").read_text())["targets"]
    shapes = {
        (row["out_features"], row["in_features"]) for row in targets if row["option"]["structure"] != "dense"
    }
    assert shapes
    return shapes | {(columns, rows) for rows, columns in shapes}


@pytest.mark.parametrize(("architecture", "structure"), [(LLAMA, "pivoted"), (T5, "lowrank")], ids=str)
def test_an_onnx_graph_answers_as_the_model_does_and_has_no_dense_weight(
    architecture: Architecture, structure: str, made: Any, tmp_path: Path
) -> None:
    folder, out = made(architecture, structure), tmp_path / "onnx"
    answer = eckart.export(folder, out, format="onnx")
    assert [(each.batch, each.length) for each in answer.checks] == [(1, 5), (3, 19)]
    assert all(0 < each.relative < 1e-5 for each in answer.checks)
    assert answer.output == "logits"
    assert {"model.onnx", "config.json", "tokenizer.json"} <= set(answer.files)
    assert "eckart.json" not in answer.files
    assert "quantization_config" not in json.loads((out / "config.json").read_text())

    session = onnxruntime.InferenceSession(out / "model.onnx")
    inputs = asked(architecture)
    (logits,) = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
    expected = outputs(loading.load_model(folder), inputs).numpy()
    assert np.abs(logits - expected).max() < 1e-4

    weights = [numpy_helper.to_array(each) for each in onnx.load(out / "model.onnx").graph.initializer]
    assert not replaced(folder) & {weight.shape for weight in weights}
    floats = sum(weight.size for weight in weights if weight.dtype == np.float32)
    # Beside the parameters there are a few constants, and of a tied weight as small as this one a copy.
    assert floats <= answer.parameters + 200 + architecture.tied * VOCABULARY * WIDTH
    content = (out / "model.onnx").read_bytes()
    assert b".py" not in content


def test_openvinos_model_answers_as_the_model_does_and_multiplies_no_factors(
    made: Any, tmp_path: Path
) -> None:
    folder, out = made(BERT, "pivoted"), tmp_path / "openvino"
    answer = eckart.export(folder, out, format="openvino")
    assert answer.inputs == ["input_ids", "attention_mask", "token_type_ids"]
    assert answer.output == "last_hidden_state"
    assert {"openvino_model.xml", "openvino_model.bin", "config.json"} <= set(answer.files)
    # Nothing of the way there is left, and no float became half of one.
    assert not any(name.endswith(".onnx") for name in answer.files)
    weights = (out / "openvino_model.bin").stat().st_size
    assert 4 * (answer.parameters - WIDTH * (WIDTH + 1)) <= weights  # the pooler's are no part of the output
    assert weights < 4 * answer.parameters + 10_000

    model = openvino.Core().compile_model(
        out / "openvino_model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    inputs = asked(BERT)
    inputs["token_type_ids"] = (torch.arange(23) > 8).long().repeat(5, 1)
    found = model({name: tensor.numpy() for name, tensor in inputs.items()})[0]
    expected = outputs(loading.load_model(folder), inputs).numpy()
    assert np.abs(found - expected).max() < 1e-4

    shapes = {
        tuple(node.get_output_shape(0))
        for node in openvino.Core().read_model(out / "openvino_model.xml").get_ops()
        if node.get_type_name() == "Constant"
    }
    assert not replaced(folder) & shapes


@pytest.mark.parametrize("kind", ["dense", "gguf-ready"])
def test_a_dense_folder_is_the_model_in_plain_layers_and_verifies(
    kind: str, made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = made(LLAMA, "pivoted"), tmp_path / "dense"
    answer = eckart.export(folder, out, format=kind)
    inputs = asked(LLAMA)
    expected = outputs(loading.load_model(folder), inputs)
    found = outputs(AutoModelForCausalLM.from_pretrained(out), inputs)
    assert (found - expected).abs().max() < 1e-4
    assert all(each.relative < 1e-5 for each in answer.checks)
    config = json.loads((out / "config.json").read_text())
    assert not {"quantization_config", "auto_map"} & set(config)
    manifest = json.loads((out / "eckart.json").read_text())
    assert manifest["merged"] is True
    assert manifest["parameters"]["after"] == manifest["parameters"]["before"] == answer.parameters
    assert answer.bytes.before < answer.bytes.after == manifest["bytes"]["before"]
    assert "no size" in answer.notes[0]
    assert "as large as before" in (out / "README.md").read_text()
    assert any(str(answer.bytes.before // 1000) in note for note in manifest["notes"][-1:])
    assert (out / "tokenizer.json").is_file()
    if kind == "dense":  # the other is the same, and a process without Eckart takes seconds
        monkeypatch.setattr(
            verification, "check_plain_loading", lambda *_: verification.Check("skipped", True, "")
        )
    assert verify(out).ok
    commands = " ".join(answer.commands)
    assert (str(out) in commands) == (kind == "gguf-ready")


def test_in_half_precision_what_the_products_rounding_costs_is_said(
    made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = loading.load_model(made(LLAMA)).to(torch.bfloat16)
    model.save_pretrained(tmp_path / "bf16")
    shutil.copyfile(made(LLAMA) / "tokenizer.json", tmp_path / "bf16" / "tokenizer.json")
    answer = eckart.export(tmp_path / "bf16", tmp_path / "dense", format="gguf-ready")
    assert answer.dtype == "bfloat16"
    assert all(1e-4 < each.relative < 5e-2 for each in answer.checks)
    assert any("tokenizer_config.json" in note for note in answer.notes)
    # Nothing told how it was compressed, and the dense folder can be verified all the same.
    monkeypatch.setattr(
        verification, "check_plain_loading", lambda *_: verification.Check("skipped", True, "")
    )
    assert verify(tmp_path / "dense").ok


def test_int4_weights_are_floats_before_a_graph_is_made_and_int8_ones_stay() -> None:
    for kind, stays in (("int8", True), ("int4", False)):
        model = one_block(LLAMA)
        eckart.compress(model, rank=8, method="svd", quantize=kind)
        before = outputs(model, asked(LLAMA))
        onnx_._widen(model)
        assert torch.equal(outputs(model, asked(LLAMA)), before)
        assert any(isinstance(each, QuantizedLinear) for each in model.modules()) == stays


def refused(folder: Path, out: Path, kind: str, *words: str) -> None:
    """As a wrong request, before anything is loaded, in words that name what is wrong."""
    with pytest.raises(UsageError) as error:
        eckart.export(folder, out, format=kind)
    for word in words:
        assert word in str(error.value)


@pytest.fixture
def _nothing_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*arguments: Any, **options: Any) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(loading, "load_model", load)


@pytest.mark.usefixtures("_nothing_loaded")
def test_wrong_requests_are_refused_before_any_work(
    stored: Any, made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = made(LLAMA), tmp_path / "out"
    refused(folder, out, "tflite", "tflite", "gguf-ready", "openvino")
    refused(folder, tmp_path, "dense", str(tmp_path), "exists")
    refused(stored(LLAMA), out, "dense", "dense already")
    refused(stored(LLAMA), out, "gguf-ready", "dense already")

    bare = Path(shutil.copytree(folder, tmp_path / "bare"))
    (bare / "tokenizer.json").unlink()
    refused(bare, out, "gguf-ready", "no tokenizer", "tokenizer.json", "vocab.json + merges.txt")

    other = Path(shutil.copytree(stored(LLAMA), tmp_path / "other"))
    config = json.loads((other / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (other / "config.json").write_text(json.dumps(config))
    refused(other, out, "onnx", "gptq")

    experts = Path(shutil.copytree(folder, tmp_path / "experts"))
    config = json.loads((experts / "config.json").read_text())
    config["quantization_config"] |= {
        "experts": ["model.layers.0.mlp.experts.down_proj"],
        "format_version": 2,
    }
    (experts / "config.json").write_text(json.dumps(config))
    refused(experts, out, "onnx", "experts", "dense first")

    monkeypatch.setattr(graphs, "find_spec", lambda name: None if name == "onnxscript" else name)
    refused(folder, out, "openvino", "onnxscript", 'pip install "eckart[export]"')
    assert not out.exists()


def test_a_graph_that_answers_otherwise_is_not_left_behind(
    made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out"

    def write(model: Any, folder: Path) -> tuple[list[str], str]:
        (folder / "model.onnx").touch()
        return ["input_ids", "attention_mask"], "logits"

    monkeypatch.setattr(onnx_, "write", write)
    for wrong, words in (
        (lambda x: x + 0.5, "differ"),
        (lambda x: x * torch.nan, "nan"),
        (lambda x: x[:1], "shape"),
    ):
        monkeypatch.setattr(
            onnx_,
            "runner",
            lambda path, wrong=wrong: (
                lambda batch: wrong(parity.model_runner(loading.load_model(made(LLAMA)))(batch))
            ),
        )
        with pytest.raises(EckartError, match=words) as error:
            eckart.export(made(LLAMA), path, format="onnx")
        assert not isinstance(error.value, UsageError)
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("report", "reason"),
    [
        (
            "Step 1/3.\n## Exception summary\n\n<class 'ValueError'>: Found the following conflicts:\n"
            "- tracing inferred a static shape of 12 for dimension inputs['args'][0].shape[1].\n",
            "its code computes something else for each length of text",
        ),
        (
            "Step 3/3.\n## Exception summary\n\n<class 'a.DispatchError'>: No ONNX function found for <X>.\n"
            "More.",
            "No ONNX function found for <X>.",
        ),
    ],
)
def test_what_torch_cannot_export_is_told_in_a_line(
    report: str, reason: str, made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch's reports are those that it gives of Mamba, and of experts in its own kernel."""

    def fail(*arguments: Any, **options: Any) -> None:
        raise torch.onnx.OnnxExporterError(report)

    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(EckartError, match=f"LlamaForCausalLM cannot be exported to ONNX: {reason}") as error:
        eckart.export(made(LLAMA), tmp_path / "out", format="onnx")
    assert "\n" not in str(error.value)
    assert "More" not in str(error.value)
    assert list(tmp_path.iterdir()) == []

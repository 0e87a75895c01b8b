"""A process that never imported Eckart loads what Eckart saved, with `trust_remote_code=True`.

One process does it all, for it takes seconds to start.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest
import torch
import transformers
from architectures import BERT, LLAMA, T5, outputs, some_inputs
from safetensors.torch import load_file, save_file

import eckart
from eckart.model import probe

SCRIPT = """
import contextlib, io, json, sys
from pathlib import Path
import torch, transformers
from safetensors.torch import load_file, save_file
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING, AUTO_QUANTIZER_MAPPING
jobs, probes, standalone = json.load(sys.stdin)
root = Path(sys.argv[1])
def forget():
    # Each job starts as the first one does: nothing registered, no travelling file imported.
    for mapping in (AUTO_QUANTIZER_MAPPING, AUTO_QUANTIZATION_CONFIG_MAPPING):
        mapping.pop("eckart", None)
    for name in [name for name in sys.modules if name.startswith("transformers_modules")]:
        del sys.modules[name]
for job in jobs:
    forget()
    model = getattr(transformers, job["auto"]).from_pretrained(job["folder"], trust_remote_code=True).eval()
    part = model.get_submodule(job["part"])
    with torch.no_grad():
        answer = part(**load_file(root / f"{job['inputs']}-inputs.safetensors"))[0].contiguous()
    save_file({"answer": answer}, root / f"{job['name']}.safetensors")
    if job["save"]:
        model.save_pretrained(job["save"])
for name, request in probes.items():
    forget()
    sys.stdin = io.StringIO(json.dumps(request))
    with contextlib.redirect_stdout(io.StringIO()) as said:
        exec(standalone, {})
    (root / f"{name}-probe.json").write_text(said.getvalue().splitlines()[-1])
assert not any(name.partition(".")[0] == "eckart" for name in sys.modules)
"""


def a_job(name, architecture, auto, folder, part="", inputs=None, save=""):
    return {
        "name": name,
        "auto": auto,
        "folder": str(folder),
        "part": part,
        "inputs": inputs or architecture.name,
        "save": str(save),
    }


@pytest.fixture(scope="module")
def fresh(tmp_path_factory, stored, data):
    """Folders by architecture, and what one fresh process answered to each job."""
    root = tmp_path_factory.mktemp("fresh")
    folders = {}
    for architecture, structure in ((LLAMA, "lowrank"), (BERT, "pivoted"), (T5, "pivoted")):
        folders[architecture.name] = root / f"{architecture}-out"
        eckart.compress(
            str(stored(architecture)),
            folders[architecture.name],
            keep=0.8,
            structure=structure,
            data=data,
        )
        save_file(some_inputs(architecture), root / f"{architecture}-inputs.safetensors")
    save_file({"input_ids": some_inputs(T5)["input_ids"]}, root / "encoder-inputs.safetensors")
    llama, bert, t5 = folders["llama"], folders["bert"], folders["t5"]
    again, headed = root / "again", root / "headed"
    jobs = [
        a_job("llama", LLAMA, "AutoModelForCausalLM", llama, save=again),
        a_job("llama-backbone", LLAMA, "AutoModel", llama),
        a_job("llama-classifier", LLAMA, "AutoModelForSequenceClassification", llama, "model"),
        a_job("llama-saved-again", LLAMA, "AutoModelForCausalLM", again),
        a_job("bert", BERT, "AutoModel", bert),
        a_job("bert-classifier", BERT, "AutoModelForSequenceClassification", bert, "bert", save=headed),
        a_job("bert-masked", BERT, "AutoModelForMaskedLM", bert, "bert"),
        a_job("bert-classifier-saved-again", BERT, "AutoModelForSequenceClassification", headed, "bert"),
        a_job("t5", T5, "AutoModelForSeq2SeqLM", t5),
        a_job("t5-encoder", T5, "AutoModelForTextEncoding", t5, inputs="encoder"),
    ]
    manifests = {name: json.loads((out / "eckart.json").read_text()) for name, out in folders.items()}
    probes = {
        architecture.name: {
            "folder": str(folders[architecture.name]),
            "auto": architecture.auto,
            "inputs": manifests[architecture.name]["probe"]["inputs"],
        }
        for architecture in (LLAMA, BERT, T5)
    }
    run = subprocess.run(
        [sys.executable, "-P", "-c", SCRIPT, str(root)],
        input=json.dumps([jobs, probes, probe.STANDALONE]),
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(root / "modules")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    answers = {job["name"]: load_file(root / f"{job['name']}.safetensors")["answer"] for job in jobs}
    for name in probes:
        answers[f"{name}-probe"] = json.loads((root / f"{name}-probe.json").read_text())
    return {**folders, "again": again, "headed": headed}, answers


def here(kind: Any, folder, inputs, part="") -> torch.Tensor:
    """The same with Eckart imported, where the model is loaded by the other way."""
    return outputs(kind.from_pretrained(folder).eval().get_submodule(part), inputs)


@pytest.mark.parametrize(
    ("job", "architecture", "kind", "part"),
    [
        ("llama", LLAMA, transformers.LlamaForCausalLM, ""),
        ("llama-backbone", LLAMA, transformers.LlamaModel, ""),
        ("llama-classifier", LLAMA, transformers.LlamaModel, ""),
        ("llama-saved-again", LLAMA, transformers.LlamaForCausalLM, ""),
        ("bert", BERT, transformers.BertModel, ""),
        ("bert-classifier", BERT, transformers.BertModel, ""),
        ("bert-masked", BERT, transformers.BertModel, ""),
        ("bert-classifier-saved-again", BERT, transformers.BertModel, ""),
        ("t5", T5, transformers.T5ForConditionalGeneration, ""),
        ("t5-encoder", T5, transformers.T5EncoderModel, ""),
    ],
)
def test_without_eckart_the_outputs_are_the_same_bit_for_bit(fresh, job, architecture, kind, part):
    folders, answers = fresh
    inputs = some_inputs(architecture)
    if job == "t5-encoder":
        del inputs["decoder_input_ids"]
    assert torch.equal(answers[job], here(kind, folders[architecture.name], inputs, part))


@pytest.mark.parametrize("architecture", [LLAMA, BERT, T5], ids=str)
def test_without_eckart_the_probe_answers_as_the_manifest_says(fresh, architecture):
    folders, answers = fresh
    manifest = json.loads((folders[architecture.name] / "eckart.json").read_text())
    saved = manifest["probe"]["outputs"]
    # What is summed over a whole vector, as a pooler's output, may be rounded otherwise.
    assert max(probe.differences(answers[f"{architecture}-probe"], saved).values()) < 1e-6
    assert all(len(set(values)) > 20 for values in saved.values())


@pytest.mark.parametrize(
    ("name", "kind"),
    [("again", transformers.LlamaForCausalLM), ("headed", transformers.BertForSequenceClassification)],
)
def test_what_was_saved_without_eckart_carries_the_code_and_loads_with_eckart(fresh, name, kind):
    folder = fresh[0][name]
    assert (folder / "modeling_eckart.py").is_file()
    model = kind.from_pretrained(folder)
    assert type(model) is kind
    assert any(isinstance(module, eckart.LowRankLinear | eckart.PivotedLinear) for module in model.modules())

"""One tiny model of each family that transformers' auto mappings know: cut, saved, and the same outside."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from families import classes, tiny_model

import eckart
from eckart.compression.folder import verification
from eckart.model import probe, saving

FAMILIES = {
    "texts": """
        AutoModelForSequenceClassification: bert roberta albert distilbert deberta-v2 electra xlnet llama gpt2
        AutoModelForTokenClassification: camembert mpnet
        AutoModelForQuestionAnswering: xlm-roberta splinter
        AutoModelForMultipleChoice: ernie
        AutoModelForNextSentencePrediction: mobilebert
        AutoModelForMaskedLM: modernbert roformer
        AutoModelForPreTraining: electra
        AutoModelForTextEncoding: t5
        AutoModel: canine gte nomic_bert jina_embeddings_v3
    """,
    "decoders": """
        AutoModelForCausalLM: qwen2 qwen3 mistral gemma gemma2 phi3 gpt_neox opt bloom olmo2 cohere starcoder2
            stablelm rwkv mamba smollm3 granite
        AutoModelForSeq2SeqLM: bart pegasus marian mbart m2m_100 longt5 mt5
    """,
    "images": """
        AutoModelForImageClassification: vit deit beit dinov2 vit_msn
        AutoModelForSemanticSegmentation: segformer
        AutoModelForObjectDetection: yolos
        AutoModelForDepthEstimation: glpn
        AutoModelForMaskedImageModeling: vit_mae
        AutoModelForVideoClassification: vivit timesformer
        AutoModelForTimeSeriesPrediction: patchtst
    """,
    "sounds and pairs": """
        AutoModelForCTC: wav2vec2 hubert wavlm
        AutoModelForSpeechSeq2Seq: whisper speech_to_text
        AutoModelForAudioClassification: audio-spectrogram-transformer unispeech
        AutoModelForZeroShotImageClassification: clip siglip chinese_clip
        AutoModelForImageTextToText: blip git
        AutoModel: groupvit x-clip qwen3_vl_moe
    """,
}
"""Of each auto class, model types of transformers; over 60 in all."""


def chosen(group: str) -> dict[str, tuple[str, object, object]]:
    """Name of a class to its auto class, its config and itself."""
    wanted = {}
    for entry in FAMILIES[group].split("AutoModel")[1:]:
        auto, _, types = entry.partition(":")
        wanted[f"AutoModel{auto}"] = types.split()
    found = {}
    for auto, config, kind in classes():
        if config.model_type in wanted.get(auto, ()) and kind.__name__ not in found:
            found[kind.__name__] = auto, config, kind
    return found


OUTSIDE = (
    probe.STANDALONE.partition("\nimport json, sys")[0]
    + """
import json, sys, transformers
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
for line in sys.stdin:
    request = json.loads(line)
    auto = getattr(transformers, request["auto"])
    try:
        model = auto.from_pretrained(request["folder"], trust_remote_code=True, dtype="auto")
        print(json.dumps(ask(model, request["inputs"])))
    except Exception as error:
        print(json.dumps(str(error)))
assert "eckart" not in sys.modules
"""
)


@pytest.mark.parametrize("group", FAMILIES)
def test_a_model_of_every_family_is_the_same_outside(group: str, tmp_path: Path) -> None:
    """`svd` cuts it, `verify` counts it, and plain transformers loads it and gives every output again."""
    requests, saved, faults = [], [], {}
    for name, (_, config, kind) in chosen(group).items():
        model = tiny_model(config, kind)
        assert model is not None, name
        out = tmp_path / name
        manifest = eckart.compress(model, out, method="svd", keep=0.8, of="targets").manifest
        assert manifest.probe is not None
        if manifest.probe.unasked or not manifest.parameters.after < manifest.parameters.before:
            faults[name] = manifest.probe.unasked or "not smaller"
        check = verification.check_shapes(out, manifest)
        if not check.ok:
            faults[name] = check.detail
        config_of = json.loads((out / "config.json").read_text())
        autos = saving.read_auto_map(config_of)
        assert autos is not None
        auto = saving.auto_of(autos, config_of["architectures"][0])
        inputs = probe.described(manifest.probe.inputs)
        requests.append(json.dumps({"folder": str(out), "auto": auto, "inputs": inputs}))
        saved.append((name, manifest.probe.outputs))
    assert not faults
    run = subprocess.run(
        [sys.executable, "-P", "-c", OUTSIDE],
        input="\n".join(requests),
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(tmp_path / "modules")},
        check=False,
    )
    assert run.returncode == 0, run.stderr
    for (name, outputs), line in zip(saved, run.stdout.splitlines(), strict=True):
        found = json.loads(line)
        if isinstance(found, str) or max(probe.differences(found, outputs).values()) > 1e-5:
            faults[name] = found if isinstance(found, str) else str(probe.differences(found, outputs))
    assert not faults


def test_the_families_are_many() -> None:
    assert len({name for group in FAMILIES for name in chosen(group)}) >= 60

"""`verify` passes what Eckart saved, finds what was changed since, and runs no code but Eckart's own."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from architectures import LLAMA
from safetensors.torch import load_file, save_file

import eckart
from eckart.compression.folder.manifests import MANIFEST
from eckart.types import EckartError, UsageError


@pytest.fixture(scope="module")
def saved(stored, data, tmp_path_factory):
    out = tmp_path_factory.mktemp("verdict") / "out"
    eckart.compress(str(stored(LLAMA)), out, keep=0.8, method="svd-llm", structure="pivoted", data=data)
    return out


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "copy")


@pytest.fixture
def alone(folder):
    """A folder whose code is not Eckart's any more: so no check starts a process."""
    (folder / "modeling_eckart.py").write_text("raise SystemExit('this must never run')\n")
    return folder


def failed(folder):
    return {check.check.split(",")[0]: check.detail for check in eckart.verify(folder).checks if not check.ok}


def edit(folder, name, change):
    content = json.loads((folder / name).read_text())
    change(content)
    (folder / name).write_text(json.dumps(content))


def test_a_whole_folder_passes_and_runs_no_code_of_anybody_elses(folder, monkeypatch):
    # Both are run by who trusts a folder or works in it.
    run = f"open({str(folder / 'was-run')!r}, 'w')\n"
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text(f"{run}def generate(model): pass\n")
    (folder / "torch.py").write_text(run)
    monkeypatch.chdir(folder)
    before = sorted(path.relative_to(folder) for path in folder.rglob("*"))
    verdict = eckart.verify(folder)
    assert [check.detail for check in verdict.checks if not check.ok] == []
    assert verdict.ok
    assert len(verdict.checks) == 4
    assert [check.detail for check in verdict.checks[2:]] == ["same values, bit for bit (logits)"] * 2
    assert sorted(path.relative_to(folder) for path in folder.rglob("*")) == before


def test_other_code_under_the_files_own_name_is_not_run(alone):
    assert failed(alone) == {
        "files": "modeling_eckart.py is not the file that was saved",
        "loads without eckart": (
            "modeling_eckart.py is not what this version of Eckart writes; it was not run"
        ),
    }


@pytest.mark.parametrize(
    "reference",
    [
        "evil.LlamaForCausalLM",
        "someone/else--modeling_eckart.LlamaForCausalLM",
        "modeling_eckart.evil.LlamaForCausalLM",
        "modeling_eckart.A:\n    pass\nraise SystemExit\nclass B",
        ["modeling_eckart.LlamaForCausalLM"],
        None,
    ],
)
def test_other_code_that_the_config_names_is_not_run(folder, reference):
    def change(config):
        config["auto_map"]["AutoModelForCausalLM"] = reference

    (folder / "evil.py").write_text(f"open({str(folder / 'was-run')!r}, 'w')\n")
    edit(folder, "config.json", change)
    if reference and "\n" in reference:
        # The file that Eckart would write for such a config: the name itself is the code.
        from eckart.model import saving

        names = json.loads((folder / "config.json").read_text())["auto_map"].values()
        source = saving.modeling_source({str(name).rpartition("eckart.")[2] for name in names})
        (folder / "modeling_eckart.py").write_text(source)
    assert "it was not run" in failed(folder)["loads without eckart"]
    assert not (folder / "was-run").exists()


def test_a_changed_weight_is_found_by_its_hash_and_by_its_values(alone):
    tensors = load_file(alone / "model.safetensors")
    tensors["lm_head.weight"] = tensors["lm_head.weight"] * 1.1
    save_file(tensors, alone / "model.safetensors", metadata={"format": "pt"})
    found = failed(alone)
    assert found["files"] == "model.safetensors is not the file that was saved"
    assert "values differ by" in found["loads after import eckart"]


def test_rounding_of_another_machine_passes_and_more_does_not(alone):
    def nudge(share):
        def change(manifest):
            logits = manifest["probe"]["outputs"]["logits"]
            logits[3] += share * max(map(abs, logits))

        return change

    edit(alone, MANIFEST, nudge(5e-4))
    assert "loads after import eckart" not in failed(alone)
    edit(alone, MANIFEST, nudge(1e-2))
    assert "values differ by 1.0e-02" in failed(alone)["loads after import eckart"]


def test_a_missing_file_is_found(alone):
    (alone / "modeling_eckart.py").unlink()
    assert failed(alone)["files"] == "modeling_eckart.py is missing"


def test_a_missing_weight_is_found_before_it_is_random(alone):
    tensors = load_file(alone / "model.safetensors")
    name = next(name for name in tensors if name.endswith("q_proj.U.weight"))
    del tensors[name]
    save_file(tensors, alone / "model.safetensors", metadata={"format": "pt"})
    module = name.removesuffix(".U.weight")
    found = failed(alone)["loads after import eckart"]
    assert f"{module} is compressed, but its U.weight is not among the weights" in found


def test_a_rank_that_is_not_the_stored_one_is_found(alone):
    def change(config):
        config["quantization_config"]["modules"]["model.layers.0.self_attn.q_proj"]["rank"] -= 1

    edit(alone, "config.json", change)
    found = failed(alone)
    assert "q_proj is pivoted of size 23 by the config, pivoted of size 24 by the manifest" in found["shapes"]
    assert "loads after import eckart" in found


def test_a_config_of_another_model_is_found(alone):
    def change(config):
        modules = config["quantization_config"]["modules"]
        modules["model.layers.0.mlp.elsewhere"] = modules.pop("model.layers.0.mlp.up_proj")

    edit(alone, "config.json", change)
    assert "no such module" in failed(alone)["shapes"]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda manifest: manifest["parameters"].update(after=1), "1 by its manifest"),
        (lambda manifest: manifest["targets"][0]["option"].update(size=3), "3 by the manifest"),
        (lambda manifest: manifest["targets"][0].update(name="elsewhere"), "no such module"),
    ],
)
def test_a_manifest_of_another_model_is_found(alone, change, why):
    edit(alone, MANIFEST, change)
    assert why in failed(alone)["shapes"]


@pytest.mark.parametrize("outputs", [{"logits": [1.0]}, {"logits": [0.0] * 32}, {"elsewhere": [1.0]}])
def test_a_manifest_with_other_outputs_is_found(alone, outputs):
    def change(manifest):
        manifest["probe"]["outputs"] = outputs

    edit(alone, MANIFEST, change)
    assert "loads after import eckart" in failed(alone)


def test_a_question_that_is_not_the_models_is_found(alone):
    other = {"position_ids": {"shape": [1, 2], "fill": 1}}
    edit(alone, MANIFEST, lambda manifest: manifest["probe"].update(inputs=other))
    assert "does not take the saved question" in failed(alone)["loads after import eckart"]


@pytest.mark.parametrize("shape", [[10**6, 10**6], [0], [-1, 4], [3]])
def test_a_question_of_no_possible_shape_is_refused(alone, shape):
    edit(alone, MANIFEST, lambda manifest: manifest["probe"]["inputs"]["input_ids"].update(shape=shape))
    with pytest.raises(EckartError, match=r"eckart\.json is damaged"):
        eckart.verify(alone)


def test_a_manifest_may_name_no_file_elsewhere(alone):
    def change(manifest):
        manifest["files"] = {"../../outside": "0" * 64}

    edit(alone, MANIFEST, change)
    assert failed(alone)["files"] == "../../outside is missing"


def test_a_folder_without_a_manifest_or_with_a_broken_one_is_refused(tmp_path, folder):
    with pytest.raises(UsageError, match="not a folder that Eckart wrote"):
        eckart.verify(tmp_path)
    with pytest.raises(UsageError, match="is not a folder"):
        eckart.verify(tmp_path / "nothing")
    for broken in ("{", "[]", '{"eckart": "0.1.0"}', "\udcff"):
        (folder / MANIFEST).write_text(broken, errors="surrogateescape")
        with pytest.raises(EckartError, match="is damaged"):
            eckart.verify(folder)


@pytest.mark.parametrize("probe", [None, {"input_ids": [1], "outputs": []}])
def test_a_manifest_without_a_probe_is_refused(alone, probe):
    edit(alone, MANIFEST, lambda manifest: manifest.update(probe=probe))
    with pytest.raises(EckartError, match=r"eckart\.json is damaged"):
        eckart.verify(alone)


def test_a_half_precision_model_cast_in_memory_passes(tmp_path):
    # `.to(bfloat16)` rounds the rotary frequencies too; they are not saved, so a reload is a little better.
    model = LLAMA.build(torch.bfloat16)
    eckart.compress(model, tmp_path / "out", keep=0.8)
    (tmp_path / "out" / "modeling_eckart.py").unlink()
    assert "loads after import eckart" not in failed(tmp_path / "out")

"""What docs/loaders.md says of loaders, where it is cheap to see and no other test does."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from architectures import BERT, LLAMA, outputs, some_inputs
from fitting import SHARDING
from torch import nn

import eckart
from eckart import structures
from eckart.model import portable
from eckart.types import UsageError

BOTH = pytest.mark.parametrize("structure", SHARDING)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A compressed tiny Llama by structure: in each block dense layers beside factored ones."""
    root = tmp_path_factory.mktemp("made")
    targets = ["q_proj", "v_proj", "o_proj", "up_proj", "down_proj"]
    for structure in SHARDING:
        eckart.compress(LLAMA.build(), root / structure, rank=8, structure=structure, targets=targets)
    return {structure: root / structure for structure in SHARDING}


# Adapters


@BOTH
def test_adapters_go_on_factors_and_on_what_stayed_dense(made: dict[str, Path], structure: str) -> None:
    model = LLAMA.load(made[structure])
    block = "model.layers.1"
    names = eckart.lora_targets(model)
    assert [name for name in names if name.startswith(block)] == [
        f"{block}.{name}"
        for name in (
            "self_attn.q_proj.V", "self_attn.q_proj.U", "self_attn.k_proj",
            "self_attn.v_proj.V", "self_attn.v_proj.U", "self_attn.o_proj.V", "self_attn.o_proj.U",
            "mlp.gate_proj", "mlp.up_proj.V", "mlp.up_proj.U", "mlp.down_proj.V", "mlp.down_proj.U",
        )
    ]  # fmt: skip
    assert len(names) == 24
    assert all(type(model.get_submodule(name)) is nn.Linear for name in names)


def test_of_a_dense_model_they_are_its_targets() -> None:
    names = eckart.lora_targets(LLAMA.build())
    assert len(names) == 14
    assert "lm_head" not in names


def test_a_factored_head_takes_them_too(tmp_path: Path) -> None:
    model = eckart.compress(LLAMA.build(), tmp_path / "out", rank=8, targets=["lm_head", "q_proj"]).model
    assert eckart.lora_targets(model)[-2:] == ["lm_head.V", "lm_head.U"]


def test_what_is_no_model_takes_none() -> None:
    with pytest.raises(UsageError, match="str is no model: load it first"):
        eckart.lora_targets("small")
    with pytest.raises(UsageError, match="no linear layer"):
        eckart.lora_targets(BERT.build().pooler.activation)


@BOTH
def test_adapters_train_and_are_saved_loaded_and_merged(
    made: dict[str, Path], tmp_path: Path, structure: str
) -> None:
    peft = pytest.importorskip("peft")
    model, inputs = LLAMA.load(made[structure]), some_inputs(LLAMA)
    before = outputs(model, inputs)
    names = eckart.lora_targets(model)
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=names))
    assert {name.split(".lora_A")[0] for name, p in adapted.named_parameters() if "lora_A" in name} == {
        f"base_model.model.{name}" for name in names
    }
    optimizer = torch.optim.Adam([p for p in adapted.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(3):
        adapted.train()(**inputs, labels=inputs["input_ids"]).loss.backward()
        optimizer.step()
    trained = outputs(adapted.eval(), inputs)
    assert (trained - before).abs().max() > 0.01
    adapted.save_pretrained(tmp_path / "adapter")
    again = peft.PeftModel.from_pretrained(LLAMA.load(made[structure]), tmp_path / "adapter")
    assert torch.equal(outputs(again, inputs), trained)
    merged = again.merge_and_unload()
    torch.testing.assert_close(outputs(merged, inputs), trained, atol=1e-4, rtol=1e-4)
    merged.save_pretrained(tmp_path / "merged")
    assert torch.equal(outputs(LLAMA.load(tmp_path / "merged"), inputs), outputs(merged, inputs))


# Tensor parallelism

SPLIT = """
import sys
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

def work(rank, store, folders):
    import os, json
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    import transformers, eckart
    from transformers.distributed import DistributedConfig
    ids = torch.arange(4, 28).view(2, 12)
    said = {}
    for folder in folders:
        whole = transformers.AutoModelForCausalLM.from_pretrained(folder)
        split = transformers.AutoModelForCausalLM.from_pretrained(
            folder, distributed_config=DistributedConfig(tp_size=2, tp_plan="auto")
        )
        with torch.no_grad():
            away = (split(ids).logits - whole(ids).logits).abs().max().item()
        # With gradients it goes another way.
        logits = split(ids).logits
        away = max(away, (logits - whole(ids).logits).abs().max().item())
        logits.square().mean().backward()
        whole(ids).logits.square().mean().backward()
        expected = dict(whole.named_parameters())
        for name, parameter in split.named_parameters():
            grad = parameter.grad
            grad = grad.full_tensor() if hasattr(grad, "full_tensor") else grad
            away = max(away, (grad - expected[name].grad).abs().max().item())
        local = lambda name: list(getattr(p := split.get_parameter(name), "_local_tensor", p).shape)
        blocks = "model.layers.0."
        said[folder] = {
            "away": away,
            "shapes": [local(blocks + name + ".weight") for name in (
                "self_attn.q_proj.U", "self_attn.q_proj.V", "self_attn.k_proj", "mlp.down_proj.U",
                "mlp.down_proj.V",
            )],
        }
    if rank == 0:
        print(json.dumps(said), flush=True)
    dist.barrier()
    dist.destroy_process_group()

if __name__ == "__main__":
    mp.spawn(work, (sys.argv[1], sys.argv[2:]), nprocs=2)
"""


@pytest.fixture(scope="module")
def split(made: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What two processes said that hold a half of each model."""
    root = tmp_path_factory.mktemp("split")
    (root / "split.py").write_text(SPLIT)
    command = [sys.executable, str(root / "split.py"), str(root / "store"), *map(str, made.values())]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    said = json.loads(run.stdout.splitlines()[-1])
    return {structure: said[str(folder)] for structure, folder in made.items()}


@BOTH
def test_two_processes_that_share_a_model_say_and_learn_what_one_does(
    split: dict[str, Any], structure: str
) -> None:
    assert split[structure]["away"] < 1e-5


@BOTH
def test_each_process_holds_half_of_what_can_be_split(split: dict[str, Any], structure: str) -> None:
    of_q = 24 if structure == "lowrank" else 20
    of_down = 48 if structure == "lowrank" else 40
    assert split[structure]["shapes"] == [[of_q, 8], [8, 48], [12, 48], [of_down, 8], [8, 40]]


def test_a_plan_without_structures_stays_as_it_is() -> None:
    model = LLAMA.build()
    before = dict(model.tp_plan)
    assert before
    portable.splitting.split_structures(model, model.tp_plan)
    assert model.tp_plan == before


def test_what_cannot_be_split_loads_in_one_process_and_is_refused_in_several() -> None:
    from transformers.distributed.parallel_utils import ALL_PARALLEL_STYLES

    name = "model.layers.0.self_attn.q_proj"
    for structure in structures.replacements():
        form, model = structures.find(structure), LLAMA.build()
        portable.swap_modules(model, {name: {"rank": 4, "structure": structure}})
        plan = dict(model.tp_plan)
        portable.splitting.split_structures(model, plan)
        if form.columns:
            continue
        style = ALL_PARALLEL_STYLES[plan["model.layers.*.self_attn.q_proj"]]
        with pytest.raises(ValueError, match=f"{re.escape(structure)}, which cannot be shared out"):
            style.install_forward(model.get_submodule(name), None)


def test_one_that_is_loaded_by_one_process_can_be_trained_by_the_trainer_again(made: dict[str, Path]) -> None:
    # The plan was changed for it; nothing else may have been.
    model = transformers.AutoModelForCausalLM.from_pretrained(made["lowrank"])
    assert not hasattr(model, "hf_quantizer")
    assert model.tp_plan["model.layers.*.self_attn.q_proj.U"] == "colwise"

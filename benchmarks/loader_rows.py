"""The rows of docs/loaders.md: each loads a folder in one way, and says how far off its logits are.

`python benchmarks/loader_rows.py ROW PLACE …` runs one and prints a line of JSON for each place; all are run
by benchmarks/loaders.py. A place is a folder with `model`, to load, and `asked.safetensors`: tokens, and the
logits of the model in memory.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import traceback
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
PORT = 8731
PROMPT = "Once there was"
NEW_TOKENS = 12


class Place:
    """What a row works on."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.model = folder, str(folder / "model")
        asked = load_file(folder / "asked.safetensors")
        self.ids, self.logits = asked["ids"], asked["logits"]
        self.scratch = Path(tempfile.mkdtemp(prefix="row-", dir=folder))

    def load(self, **options: Any) -> Any:
        """The model by plain transformers."""
        return transformers.AutoModelForCausalLM.from_pretrained(self.model, **options).eval()

    @torch.no_grad()
    def apart(self, model: Any, expected: Tensor | None = None) -> float:
        """Largest difference of a model's logits, as a share of the largest."""
        return difference(model(self.ids).logits, self.logits if expected is None else expected)


def difference(found: Tensor, expected: Tensor) -> float:
    """Largest difference as a share of the largest that was expected."""
    found, expected = found.detach().double(), expected.detach().double()
    if found.shape != expected.shape:
        raise AssertionError(f"the logits have shape {tuple(found.shape)}, not {tuple(expected.shape)}")
    return float((found - expected).abs().max() / expected.abs().max())


def plain(place: Place) -> float:
    """transformers, `import eckart`."""
    return place.apart(place.load())


def alone(place: Place) -> float:
    """transformers, `trust_remote_code=True`, no Eckart."""
    away = place.apart(place.load(trust_remote_code=True))
    assert not any(name.partition(".")[0] == "eckart" for name in sys.modules)
    return away


def device_map(place: Place) -> float:
    """`device_map="auto"` and `"cpu"`."""
    return max(place.apart(place.load(device_map=where)) for where in ("auto", "cpu"))


def disk(place: Place) -> float:
    """Last blocks offloaded to disk."""
    places = dict.fromkeys(("model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head"), "cpu")
    blocks = transformers.AutoConfig.from_pretrained(place.model).num_hidden_layers
    places |= {f"model.layers.{block}": "disk" if block else "cpu" for block in range(blocks)}
    model = place.load(device_map=places, offload_folder=str(place.scratch))
    assert any(parameter.is_meta for parameter in model.parameters())
    return place.apart(model)


def bf16(place: Place) -> float:
    """`dtype=torch.bfloat16`."""
    return place.apart(place.load(dtype=torch.bfloat16))


def sharded(place: Place) -> float:
    """Saved again in many shards, loaded again."""
    place.load().save_pretrained(place.scratch, max_shard_size="200KB")
    assert len(list(place.scratch.glob("*.safetensors"))) > 3
    return place.apart(transformers.AutoModelForCausalLM.from_pretrained(place.scratch))


def _two(place: Place, job: str) -> float:
    """A job in two processes; the larger of what they found."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=0"]
    command += ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", __file__, job, str(place.folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    # Both write into one pipe, and one's end of line may come after the other's line.
    found = [float(number) for number in re.findall(r'{"found": ([^}]+)}', done.stdout)]
    if done.returncode or len(found) != 2:
        said = [line for line in done.stderr.splitlines() if "Error" in line and "ChildFailed" not in line]
        raise RuntimeError(said[0].split("]:")[-1].strip() if said else f"it ended with {done.returncode}")
    return max(found)


def tensor_parallel(place: Place) -> float:
    """Tensor parallel, two processes."""
    return _two(place, "tensor-parallel-job")


def _tensor_parallel_job(place: Place) -> float:
    from transformers.distributed import DistributedConfig

    return place.apart(place.load(distributed_config=DistributedConfig(tp_size=2, tp_plan="auto")))


def fsdp(place: Place) -> float:
    """FSDP2, two processes, a training step."""
    return _two(place, "fsdp-job")


def _fsdp_job(place: Place) -> float:
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (2,))
    whole, split = place.load().train(), place.load().train()
    for block in split.model.layers:
        fully_shard(block, mesh=mesh)
    fully_shard(split, mesh=mesh)
    for model in (whole, split):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        model(place.ids, labels=place.ids).loss.backward()
        optimizer.step()
    with torch.no_grad():
        expected = whole(place.ids).logits
        assert difference(expected, place.logits) > 0
        away = difference(split(place.ids).logits, expected)
    dist.destroy_process_group()
    return away


def peft(place: Place) -> float:
    """peft: train, save, load, merge."""
    from peft import LoraConfig, PeftModel, get_peft_model

    import eckart

    model = place.load()
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules=eckart.lora_targets(model)))
    _steps(adapted, place.ids)
    adapted.eval().save_pretrained(place.scratch)
    expected = adapted(place.ids).logits
    assert difference(expected, place.logits) > 1e-4
    again = PeftModel.from_pretrained(place.load(), place.scratch).eval()
    away = place.apart(again, expected)
    return max(away, place.apart(again.merge_and_unload(), expected))


def _steps(model: Any, ids: Tensor, count: int = 3) -> None:
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    for _ in range(count):
        optimizer.zero_grad()
        model.train()(ids, labels=ids).loss.backward()
        optimizer.step()


def trainer(place: Place) -> float:
    """Trainer: train, save, load."""
    model = place.load()
    arguments = transformers.TrainingArguments(
        output_dir=str(place.scratch),
        max_steps=3,
        learning_rate=1e-3,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
    )
    rows = [{"input_ids": row, "labels": row} for row in place.ids]
    made = transformers.Trainer(model, arguments, train_dataset=rows)
    made.train()
    made.save_model(str(place.scratch / "trained"))
    expected = model.eval()(place.ids).logits
    assert difference(expected, place.logits) > 1e-4
    again = transformers.AutoModelForCausalLM.from_pretrained(place.scratch / "trained")
    return place.apart(again, expected)


def int8(place: Place) -> float:
    """With torchao, int8 weights."""
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    model = place.load()
    quantize_(model, Int8WeightOnlyConfig())
    return place.apart(model)


def int4(place: Place) -> float:
    """With torchao, int4 weights, groups of 32."""
    from torchao.quantization import IntxWeightOnlyConfig, PerGroup, quantize_

    model = place.load()
    # A width that is no multiple of the group stays as it is, of dense models too.
    quantize_(
        model,
        IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=PerGroup(32)),
        lambda module, name: isinstance(module, torch.nn.Linear) and not module.in_features % 32,
    )
    return place.apart(model)


def rounded_int8(place: Place) -> float:
    """`compress --quantize int8`, saved and loaded."""
    return _rounded(place, "int8")


def rounded_int4(place: Place) -> float:
    """`compress --quantize int4`, saved and loaded."""
    return _rounded(place, "int4")


def _rounded(place: Place, kind: str) -> float:
    """What a folder with rounded weights loses against the model in memory that it was saved from."""
    import eckart

    name, _, structure = place.folder.name.partition("-")
    keep: dict[str, Any] = {"keep": 1} if structure == "dense" else {"keep": 0.7, "structure": structure}
    dense = place.folder.with_name(f"{name}-dense") / "model"
    out = place.scratch / kind
    made = eckart.compress(dense, out, method="svd", quantize=kind, **keep).model.eval()
    again = transformers.AutoModelForCausalLM.from_pretrained(out)
    return place.apart(again, made(place.ids).logits)


def onnx(place: Place) -> float:
    """ONNX Runtime."""
    return _exported(place, "onnx", "model.onnx")


def openvino(place: Place) -> float:
    """OpenVINO."""
    return _exported(place, "openvino", "openvino_model.xml")


def _exported(place: Place, form: str, file: str) -> float:
    import eckart

    eckart.export(place.model, place.scratch / form, format=form)
    runtime = importlib.import_module(f"eckart.integrations.{form}")
    batch = {"input_ids": place.ids, "attention_mask": torch.ones_like(place.ids)}
    return difference(runtime.runner(place.scratch / form / file)(batch), place.logits)


def _vllm(place: Place, ways: int) -> float:
    path = ROOT / "tests" / "integrations" / "vllm_check.py"
    spec = importlib.util.spec_from_file_location("vllm_check", path)
    assert spec is not None
    assert spec.loader is not None
    check = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(check)
    expected = check.by_transformers(Path(place.model))
    env = Path(os.environ["ECKART_VLLM_ENV"]).absolute()
    found = check.serve(env, Path(place.model), ways, False, place.scratch / "vllm.log")
    for one, other in zip(found, expected, strict=True):
        if one["tokens"] != other["tokens"]:
            raise AssertionError("greedy tokens differ")
    # Logprobs of the tokens, as a share of the largest: vLLM gives no logits.
    pairs = [
        (mine, theirs)
        for one, other in zip(found, expected, strict=True)
        for mine, theirs in zip(one["logprobs"], other["logprobs"], strict=True)
    ]
    return max(abs(a - b) for a, b in pairs) / max(abs(b) for _, b in pairs)


def vllm_1(place: Place) -> float:
    """vLLM: same greedy tokens, logprobs."""
    return _vllm(place, 1)


def vllm_2(place: Place) -> float:
    """vLLM, two processes."""
    return _vllm(place, 2)


def _greedy(place: Place, **options: Any) -> str:
    tokenizer = transformers.AutoTokenizer.from_pretrained(place.model)
    model = place.load()
    ids = tokenizer(PROMPT, return_tensors="pt", **options)
    out = model.generate(**ids, max_new_tokens=NEW_TOKENS, do_sample=False)
    return str(tokenizer.decode(out[0, ids["input_ids"].shape[1] :], skip_special_tokens=True))


def pipeline(place: Place) -> float:
    """`pipeline("text-generation")`: same text."""
    made = transformers.pipeline("text-generation", model=place.model)
    said = made(PROMPT, max_new_tokens=NEW_TOKENS, do_sample=False, return_full_text=False)
    return _same(said[0]["generated_text"], _greedy(place))


def serve(place: Place) -> float:
    """`transformers serve`, Eckart imported: same text."""
    # The server takes the class that the config names, and runs no code of the folder even where it may.
    start = "import eckart; from transformers.cli.transformers import main; main()"
    command = [sys.executable, "-c", start, "serve", place.model]
    command += ["--device", "cpu", "--port", str(PORT)]
    tokenizer = transformers.AutoTokenizer.from_pretrained(place.model)
    text = tokenizer.apply_chat_template([{"role": "user", "content": PROMPT}], tokenize=False)
    assert text == PROMPT
    with (place.scratch / "log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            said = _chat(place, server)
        except (OSError, RuntimeError) as error:
            lines = (place.scratch / "log").read_text().splitlines()
            raise RuntimeError(next((x for x in reversed(lines) if "Error" in x), str(error))) from error
        finally:
            server.terminate()
            server.wait()
    # What a chat begins with is up to its template, and this one adds nothing.
    return _same(said, _greedy(place, add_special_tokens=False))


def _chat(place: Place, server: Any) -> str:
    asked = {
        "model": place.model,
        "messages": [{"role": "user", "content": PROMPT}],
        "max_tokens": NEW_TOKENS,
        "temperature": 0,
        "stream": False,
    }
    request = urllib.request.Request(
        f"http://localhost:{PORT}/v1/chat/completions",
        json.dumps(asked).encode(),
        {"Content-Type": "application/json"},
    )
    while server.poll() is None:
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return str(json.load(answer)["choices"][0]["message"]["content"])
        except urllib.error.HTTPError as error:
            raise RuntimeError(error.read().decode()[:200]) from error
        except urllib.error.URLError:
            time.sleep(1)
    raise RuntimeError(f"the server ended with {server.returncode}")


def _same(found: str, expected: str) -> float:
    if found.strip() != expected.strip():
        raise AssertionError(f"it says {found!r}, and the model says {expected!r}")
    return 0.0


ROWS: dict[str, Callable[[Place], float]] = {
    row.__name__.replace("_", "-"): row
    for row in (
        plain, alone, device_map, disk, bf16, sharded, tensor_parallel, fsdp, peft, trainer,
        rounded_int8, rounded_int4, int8, int4, onnx, openvino, vllm_1, vllm_2, pipeline, serve,
    )
}  # fmt: skip
JOBS = {"tensor-parallel-job": _tensor_parallel_job, "fsdp-job": _fsdp_job}
"""What a row runs in each of two processes."""
WITHOUT_ECKART = {"alone"}
CHANGES = {"bf16", "int8", "int4"}
"""Rows that round the weights: their difference is held against that of the dense model."""
TEXTS = {"pipeline", "serve"}
"""Rows that compare text."""


def main() -> None:
    """Run one row, on each place."""
    name, *folders = sys.argv[1:]
    if name not in WITHOUT_ECKART:
        import eckart  # noqa: F401
    if name in JOBS:
        print(json.dumps({"found": JOBS[name](Place(Path(folders[0])))}), flush=True)
        return
    for folder in folders:
        torch.manual_seed(0)
        said: dict[str, Any] = {"place": folder}
        try:
            said["difference"] = ROWS[name](Place(Path(folder)))
        except Exception as error:  # whatever a loader raises is what the table says
            traceback.print_exc()
            said["error"] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main()

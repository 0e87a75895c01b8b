"""FWSVD and K-FAC with labels that are right, and shifted twice as peers do: `python benchmarks/labels.py`.

Hugging Face models shift labels inside, so that passing `ids[:-1]` with `labels=ids[1:]` (ASVD, Palu, and
the FWSVD and GFWSVD of LEMS) measures the gradient of predicting the token after the next. Both are done here
to the pocket model, uniform low-rank, at some shares of its targets. Prints a line of JSON for each: the loss
that was differentiated, and that of the compressed model on held-out texts, in nats a token.
"""

from __future__ import annotations

import json
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from eckart import allocate, calibrate, evaluation
from eckart.compression.loaded import Loaded, prepare
from eckart.compression.search import picked
from eckart.data import read_texts
from eckart.model import loading, targets, text
from eckart.recipes.making import make_recipe

KEEPS = (0.9, 0.8)
WINDOWS = 256
HELD_OUT = 150


def shifted_twice(output: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The loss of predicting token t + 2 at token t, summed."""
    labels = batch["input_ids"][:, 2:].masked_fill(batch["attention_mask"][:, 2:] == 0, -100)
    logits = output.logits[:, :-2].float()
    return cross_entropy(logits.reshape(-1, logits.shape[-1]), labels.reshape(-1), reduction="sum")


def main() -> None:
    """Calibrate with either labels, cut, and measure."""
    folder = loading.find_model("pocket")
    model, tokenizer = loading.load_model(folder, "cpu", "auto"), loading.load_tokenizer(folder)
    windows = text.windows(model, tokenizer, read_texts("pocket"), 512, WINDOWS)
    batches = text.batches(model, tokenizer, windows, 2048)
    held_out = read_texts("pocket", split="test")[:HELD_OUT]
    chosen = targets.find_targets(model).targets
    dense = evaluation.perplexity(model, tokenizer, held_out).details["loss"]
    print(json.dumps({"method": "dense", "held_out_loss": dense}), flush=True)
    for method in ("fwsvd", "kfac"):
        recipe = make_recipe(method=method, keep=KEEPS[0], of="targets", data="pocket")
        kinds = frozenset({"second", "gradient", "fisher"})
        for labels, loss in (("right", calibrate.true_labels()), ("shifted twice", shifted_twice)):
            seen: list[float] = []

            def heard(output: Any, batch: Any, loss: Any = loss, seen: list[float] = seen) -> torch.Tensor:
                total = loss(output, batch)
                seen.append(float(total.detach()))
                return total

            names = [target.name for target in chosen]
            observed = calibrate.watch(model, names, batches, kinds, loss=heard)
            course = prepare(Loaded(model, tokenizer, cache=False), recipe, read_texts("pocket"))
            bench = course.bench
            bench.store.observed = observed
            losses = {}
            for keep in KEEPS:
                curves = bench.costs()
                picks = allocate.uniform(curves, int(keep * bench.size))
                with bench.tried(picked(bench, curves, picks)):
                    losses[keep] = evaluation.perplexity(model, tokenizer, held_out).details["loss"]
            row = {"method": method, "labels": labels, "differentiated": sum(seen) / observed.tokens}
            print(json.dumps({**row, "held_out_loss": losses}), flush=True)


if __name__ == "__main__":
    main()

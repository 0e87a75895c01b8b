"""Score a model on the three skills: `python -m eckart.pocket.score MODEL_DIR [--out FILE]`.

Math and code are greedy completions of held-out prompts, graded; stories, and the other two as
well, are the held-out loss of the completion in nats a token. Weights are used as saved, computed
in float32.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from eckart.pocket.generator import samples
from eckart.pocket.grading import grade_code, grade_math
from eckart.pocket.sample import SKILLS, Sample

# Longer than any math or code completion but a few of the longest chains of calculations.
MAX_NEW_TOKENS = 240
BATCH = 100


@torch.inference_mode()
def complete(model: Any, tokenizer: Any, prompts: Sequence[str]) -> list[str]:
    """Greedy completions of prompts, in batches with left padding, without special tokens."""
    completions: list[str] = []
    for start in range(0, len(prompts), BATCH):
        batch = tokenizer(
            list(prompts[start : start + BATCH]),
            return_tensors="pt",
            padding=True,
            padding_side="left",
        )
        output = model.generate(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            max_new_tokens=MAX_NEW_TOKENS,
            do_sample=False,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        new = output[:, batch["input_ids"].shape[1] :]
        completions += tokenizer.batch_decode(new, skip_special_tokens=True)
    return completions


@torch.inference_mode()
def completion_loss(model: Any, tokenizer: Any, batch: Sequence[Sample]) -> float:
    """Mean loss over the tokens of the completions and their end tokens, in nats a token."""
    total, count = 0.0, 0
    for start in range(0, len(batch), 20):
        rows, firsts = [], []
        for sample in batch[start : start + 20]:
            prompt = tokenizer(sample.prompt)["input_ids"]
            rest = tokenizer(sample.completion, add_special_tokens=False)["input_ids"]
            rows.append([*prompt, *rest, tokenizer.eos_token_id])
            firsts.append(len(prompt))
        longest = max(map(len, rows))
        # Right padding needs no attention mask under causal attention: nothing looks at it.
        ids = torch.tensor([row + [tokenizer.pad_token_id] * (longest - len(row)) for row in rows])
        logits = model(input_ids=ids, use_cache=False).logits.float()
        losses = nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="none"
        ).view(len(rows), -1)
        for row, first, loss in zip(rows, firsts, losses, strict=True):
            total += loss[first - 1 : len(row) - 1].sum().item()
            count += len(row) - first
    return total / count


def score(model: Any, tokenizer: Any, count: int = 200, seed: int = 0) -> dict[str, float]:
    """Exact match on math, pass@1 on code, and the completion loss of each skill, held out."""
    model.eval()
    held_out = {skill: list(islice(samples(skill, "test", seed), count)) for skill in SKILLS}
    math = complete(model, tokenizer, [s.prompt for s in held_out["math"]])
    code = complete(model, tokenizer, [s.prompt for s in held_out["code"]])
    right = [grade_math(text, s) for text, s in zip(math, held_out["math"], strict=True)]
    passed = grade_code(code, held_out["code"])
    result = {
        "math_exact_match": sum(right) / count,
        "code_pass_at_1": sum(passed) / count,
    }
    for skill in SKILLS:
        loss = completion_loss(model, tokenizer, held_out[skill])
        result[f"{skill}_loss"] = round(loss, 4)
    return result


def main() -> None:
    """Parse the command line, score, print and perhaps save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="write the scores to this JSON file")
    args = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
    begun = time.monotonic()
    scores = score(model, tokenizer, args.samples, args.seed)
    report = {
        "samples": args.samples,
        "seed": args.seed,
        "split": "test",
        **scores,
        "seconds": round(time.monotonic() - begun, 1),
    }
    text = json.dumps(report, indent=2) + "\n"
    sys.stdout.write(text)
    if args.out is not None:
        args.out.write_text(text)


if __name__ == "__main__":
    main()

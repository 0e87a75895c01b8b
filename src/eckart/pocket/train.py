"""Train the pocket model from nothing: `python -m eckart.pocket.train --out DIR`.

Generated data is fresh throughout (no document is read twice on purpose), the schedule is warm-up,
stable, linear decay to zero, and a checkpoint every few minutes makes a killed run resumable with
`--resume`, also towards a different `--tokens`, as long as the decay has not begun.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from eckart.pocket.packing import Windows, chunk
from eckart.pocket.sample import SKILLS
from eckart.pocket.tokenizer import MAX_LENGTH, build_tokenizer

WINDOW = 256
BATCH = 16
STEPS_PER_CHUNK = 50
# About 2.4 documents fit a window; a little more than needed, the surplus is dropped.
DOCUMENTS_PER_CHUNK = int(BATCH * STEPS_PER_CHUNK * 2.6)
WARMUP_STEPS = 100
DECAY_SHARE = 0.3
MUON_RATE = 0.02
ADAM_RATE = 3e-3


def new_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """The untrained pocket architecture, 2.56 million parameters."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=6,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=MAX_LENGTH,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def optimizers(model: nn.Module, kind: str) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks and AdamW for the rest, or AdamW for all."""
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    rest = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    if kind == "adamw":
        matrices, rest = [], [*matrices, *rest]
    result: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(rest, lr=ADAM_RATE, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    ]
    if matrices:
        result.append(torch.optim.Muon(matrices, lr=MUON_RATE, weight_decay=0.02))
    return result


def rate(step: int, steps: int) -> float:
    """The share of the peak learning rate at a step: warm-up, stable, linear decay to zero."""
    decay = int(steps * DECAY_SHARE)
    return min(1.0, (step + 1) / WARMUP_STEPS, max(0.0, (steps - step) / decay))


def token_losses(model: nn.Module, ids: Tensor) -> Tensor:
    """Loss of every token but the first of each window, in nats: (windows, length - 1)."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(input_ids=ids, use_cache=False).logits
    return nn.functional.cross_entropy(
        logits[:, :-1].float().flatten(0, 1), ids[:, 1:].flatten(), reduction="none"
    ).view(ids.shape[0], -1)


def by_skill(losses: Tensor, skill: Tensor) -> dict[str, float]:
    """Mean loss over the completion tokens of each skill, in nats a token."""
    return {
        name: round(losses[skill[:, 1:] == i].mean().item(), 4) for i, name in enumerate(SKILLS)
    }


@torch.no_grad()
def held_out(model: nn.Module, windows: Windows) -> dict[str, float]:
    """Completion loss by skill on packed windows of the test split."""
    model.eval()
    losses = torch.cat([token_losses(model, ids) for ids in windows.ids.split(32)])
    model.train()
    return by_skill(losses, windows.skill)


def save_model(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Write the ordinary Hugging Face folder, weights in bf16, greedy generation by default."""
    copy = LlamaForCausalLM(model.config).to(torch.bfloat16)
    copy.load_state_dict(model.state_dict())
    copy.generation_config.do_sample = False
    copy.generation_config.max_new_tokens = 200
    copy.save_pretrained(out)
    tokenizer.save_pretrained(out)


def _log(path: Path, **fields: Any) -> None:
    line = json.dumps(fields)
    print(line, flush=True)
    with path.open("a") as file:
        file.write(line + "\n")


def train(args: argparse.Namespace) -> None:
    """Run the whole training and write `model/`, `checkpoint.pt` and `training.log` in `out`."""
    out: Path = args.out
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    log, saved = out / "training.log", out / "checkpoint.pt"
    resuming = args.resume and saved.exists()
    if resuming:
        tokenizer = AutoTokenizer.from_pretrained(out / "tokenizer")
    else:
        tokenizer = build_tokenizer(seed=args.seed)
        tokenizer.save_pretrained(out / "tokenizer")
    model = new_model(tokenizer).train()
    opts = optimizers(model, args.optimizer)
    for opt in opts:
        for group in opt.param_groups:
            group["peak"] = group["lr"]
    first = 0
    spent = 0.0
    if resuming:
        state = torch.load(saved, weights_only=True)
        model.load_state_dict(state["model"])
        for opt, kept in zip(opts, state["optimizers"], strict=True):
            opt.load_state_dict(kept)
        first, spent = state["chunk"], state["seconds"]
    per_step = BATCH * WINDOW
    chunks = max(1, round(args.tokens / (per_step * STEPS_PER_CHUNK)))
    steps = chunks * STEPS_PER_CHUNK
    test = chunk(tokenizer, "test", 300, WINDOW, args.seed)
    forward = torch.compile(model) if args.compile else model
    parameters = sum(p.numel() for p in model.parameters())
    _log(log, event="resume" if resuming else "start", parameters=parameters, steps=steps,
         tokens=steps * per_step, optimizer=args.optimizer, seed=args.seed)  # fmt: skip
    begun = last_save = time.monotonic()
    for index in range(first, chunks):
        data = chunk(tokenizer, "train", DOCUMENTS_PER_CHUNK, WINDOW, args.seed * 10**6 + index + 1)
        if len(data.ids) < BATCH * STEPS_PER_CHUNK:
            raise RuntimeError(f"a chunk has only {len(data.ids)} windows; generate more documents")
        losses_seen: list[Tensor] = []
        for within in range(STEPS_PER_CHUNK):
            here = slice(within * BATCH, (within + 1) * BATCH)
            share = rate(index * STEPS_PER_CHUNK + within, steps)
            losses = token_losses(forward, data.ids[here])
            weight = data.weight[here, 1:]
            (losses * weight).sum().div(weight.sum()).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for opt in opts:
                for group in opt.param_groups:
                    group["lr"] = group["peak"] * share
                opt.step()
                opt.zero_grad(set_to_none=True)
            losses_seen.append(losses.detach())
        done = (index + 1) * STEPS_PER_CHUNK
        seen = data.skill[: BATCH * STEPS_PER_CHUNK]
        _log(log, step=done, tokens=done * per_step, rate=round(share, 3),
             seconds=round(spent + time.monotonic() - begun, 1),
             **by_skill(torch.cat(losses_seen), seen))  # fmt: skip
        final = index + 1 == chunks
        if final or time.monotonic() - last_save > args.save_every:
            last_save = time.monotonic()
            seconds = spent + last_save - begun
            state = {"model": model.state_dict(), "optimizers": [o.state_dict() for o in opts],
                     "chunk": index + 1, "seconds": seconds}  # fmt: skip
            torch.save(state, saved.with_suffix(".new"))
            saved.with_suffix(".new").replace(saved)
            save_model(model, tokenizer, out / "model")
            _log(log, event="held-out", step=done, **held_out(model, test))


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tokens", type=float, default=34e6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--optimizer", choices=("muon", "adamw"), default="muon")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--save-every", type=float, default=240.0, help="seconds")
    train(parser.parse_args())


if __name__ == "__main__":
    main()

"""How fast the structures are beside dense weights: `python benchmarks/speed.py [--device cuda --compile …]`.

Llama shapes of random weights, each compressed in shape alone (the time of a product does not depend on its
values), timed by `eckart.bench` in pairs with the dense model. Prints a line of JSON for each pair, with what
`eckart compress` would warn of; at the end a table in Markdown.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

import eckart
from eckart.estimate.gains import slower
from eckart.model import portable, replacing
from eckart.types import TargetRecord

LAYERS = {1024: 6, 2048: 2, 4096: 2}
INNER = {1024: 2816, 2048: 5632, 4096: 11008}


def main() -> None:
    """Time each width, structure and size."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--widths", default="1024,2048")
    parser.add_argument("--structures", default="lowrank,pivoted")
    parser.add_argument("--keeps", default="0.5")
    parser.add_argument("--batch", default="1")
    parser.add_argument("--prompt", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--fuse", action="store_true")
    parser.add_argument("--compile", action="store_true")
    given = parser.parse_args()
    rows = []
    for width in map(int, given.widths.split(",")):
        with tempfile.TemporaryDirectory() as scratch:
            dense = Path(scratch, "dense")
            model = _llama(width, getattr(torch, given.dtype))
            model.save_pretrained(dense)
            for structure in given.structures.split(","):
                for keep in map(float, given.keeps.split(",")):
                    out = Path(scratch, f"{structure}-{keep}")
                    records = _compress(dense, out, structure, keep)
                    race = eckart.bench(
                        out,
                        dense,
                        batches=[int(batch) for batch in given.batch.split(",")],
                        tokens=given.prompt,
                        rounds=given.rounds,
                        device=given.device,
                        dtype=given.dtype,
                        fuse=given.fuse,
                        compiled=given.compile,
                        memory=False,
                    )
                    warned = slower(records, getattr(torch, given.dtype), given.device)
                    for row in race.rows:
                        told = {"width": width, "structure": structure, "keep": keep, **row.model_dump()}
                        print(json.dumps({**told, "warned": warned}), flush=True)
                        rows.append(told)
    print("\n" + _table(rows))


def _llama(width: int, dtype: torch.dtype) -> Any:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            hidden_size=width,
            intermediate_size=INNER[width],
            num_hidden_layers=LAYERS[width],
            num_attention_heads=width // 64,
            num_key_value_heads=width // 64,
            vocab_size=4096,
            max_position_embeddings=4096,
        )
    ).to(dtype)


def _compress(dense: Path, out: Path, structure: str, keep: float) -> list[TargetRecord]:
    """A model with the ranks of a plan and random factors, in a folder."""
    made = eckart.plan(dense, keep=keep, of="targets", method="svd", structure=structure)
    ranks = {row.site.name: row.option.size for row in made.sites if row.option.size is not None}
    model = LlamaForCausalLM.from_pretrained(dense)
    entries = {name: {"rank": rank, "structure": structure} for name, rank in ranks.items()}
    portable.swap_modules(model, entries)
    for module in model.modules():
        if isinstance(module, eckart.PivotedLinear):
            module.order.copy_(torch.randperm(len(module.order)))
    replacing.describe(model)
    model.save_pretrained(out)
    return [
        TargetRecord(
            name=row.site.name,
            out_features=row.site.targets[0].out_features,
            in_features=row.site.targets[0].in_features,
            option=row.option,
            parameters_before=row.parameters_before,
            parameters_after=row.parameters_after,
        )
        for row in made.sites
    ]


def _table(rows: list[dict[str, Any]]) -> str:
    heads = ["width", "structure", "keep", "of", "phase", "batch", "tokens/s", "dense"]
    lines = [[*heads, "times as fast", "ideal", "of ideal"]]
    lines.append(["---"] * len(lines[0]))
    for row in rows:
        cells = [str(row[name]) for name in ("width", "structure", "keep", "of", "phase", "batch")]
        cells += [f"{row[name]:,.1f}" for name in ("tokens_per_second", "other_tokens_per_second")]
        lines.append([*cells, *(f"{row[name]:.2f}" for name in ("ratio", "ideal", "of_ideal"))])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


if __name__ == "__main__":
    main()

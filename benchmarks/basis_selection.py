"""Basis selection beside its baselines, for two applications: `python benchmarks/basis_selection.py`.

The pocket model is cut for its word problems and for its functions to 1/2, 1/4, … of its size, by each method
with the same tokens of training through the same code, and measured on held-out samples. Then what the
additional bases and the many pruning steps of basis selection are worth. Each model is made and measured by
the command line, in a process of one thread; what is done is kept in OUT, so that the command goes on where
it stopped.

Writes `docs/basis-selection.csv` and `.svg`, and the tables in `docs/basis-selection.md`.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"
SKILLS = {"math": "word problems, exact match", "code": "functions, pass@1"}
RATIOS = (2, 4, 6, 8, 10)
METHODS: dict[str, tuple[str, ...]] = {
    "svd": ("--method", "svd"),
    "fwsvd": ("--method", "fwsvd"),
    "svd-llm": ("--method", "svd-llm"),
    "auto": ("--method", "auto"),
    "basis-selection": ("--method", "basis-selection"),
    "basis-training": ("--method", "basis-training"),
}
ABLATIONS: dict[str, tuple[str, ...]] = {
    "basis-selection, additional 0": ("--method", "basis-selection", "--additional", "0"),
    "basis-selection, 2 prunes": ("--method", "basis-selection", "--prunes", "2"),
}
LAST = 10
"""Points of a training's log that its last loss is the mean of: samples that it saw once."""


@dataclass(frozen=True)
class Row:
    """One model: `ratio` as asked for, `parameters` as counted, `loss` in nats, of training's last steps."""

    skill: str
    variant: str
    ratio: float
    parameters: int
    score: float
    loss: float
    tokens: int
    seconds: float


def main() -> None:
    """Make what is missing, measure it, and write the table and the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("basis-selection"))
    parser.add_argument("--tokens", default="300k")
    parser.add_argument("--limit", type=int, default=200, help="held-out samples")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    cells = [
        (skill, variant, ratio)
        for variants, ratios in ((METHODS, RATIOS), (ABLATIONS, RATIOS[1:]))
        for ratio in ratios
        for skill in SKILLS
        for variant in variants
    ]
    with ThreadPoolExecutor(args.workers) as pool:
        rows = list(pool.map(lambda cell: measure(*cell, args), cells))
    print(f"{len(rows)} models, {(time.perf_counter() - started) / 60:.0f} minutes", flush=True)
    write(rows)


def measure(skill: str, variant: str, ratio: int, args: argparse.Namespace) -> Row:
    """Compress, train and evaluate one model; what was measured before is read."""
    name = re.sub(r"[^a-z0-9]+", "-", f"{skill} {variant} {ratio}")
    kept, folder = args.out / f"{name}.json", args.out / name
    if kept.exists():
        return Row(**json.loads(kept.read_text()))
    shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(f"{folder}.training", ignore_errors=True)
    options = (METHODS | ABLATIONS)[variant]
    made = eckart(
        "compress", "pocket", "-o", str(folder), "--keep", str(1 / ratio), "--data", f"pocket-{skill}",
        *options, "--tokens", args.tokens, "--train", "all", "--learning-rate", "2e-3", "--batch", "8",
    )  # fmt: skip
    said = eckart("evaluate", str(folder), "--task", f"pocket-{skill}", "--limit", str(args.limit))
    manifest = json.loads((folder / "eckart.json").read_text())
    losses = [loss for _, loss in manifest["training"][-1]["losses"][-LAST:]]
    row = Row(
        skill=skill,
        variant=variant,
        ratio=ratio,
        parameters=made["parameters"]["after"],
        score=said["value"],
        loss=sum(losses) / len(losses),
        tokens=sum(run["tokens"] for run in manifest["training"]),
        seconds=made["seconds"],
    )
    kept.write_text(json.dumps(asdict(row)))
    shutil.rmtree(folder)
    print(json.dumps(asdict(row)), flush=True)
    return row


def eckart(*words: str) -> dict:
    """One command of one thread, and the object that it prints."""
    done = subprocess.run(
        [sys.executable, "-m", "eckart", *words, "--json"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"eckart {' '.join(words)}: {done.stderr}")
    return json.loads(done.stdout)


def write(rows: Sequence[Row]) -> None:
    """The rows, the figure, and the tables of the page."""
    with (DOCS / "basis-selection.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, list(asdict(rows[0])), lineterminator="\n")
        table.writeheader()
        table.writerows(asdict(row) for row in rows)
    draw(rows)
    page = DOCS / "basis-selection.md"
    text = page.read_text()
    for name, variants in (("methods", METHODS), ("ablations", ABLATIONS)):
        lines = []
        for skill, title in SKILLS.items():
            shown = [*variants] if name == "methods" else ["basis-selection", *variants]
            lines += ["", f"| {title} (loss) |" + "".join(f" {ratio} |" for ratio in RATIOS)]
            lines += ["|---" * (len(RATIOS) + 1) + "|"]
            for variant in shown:
                found = {row.ratio: row for row in rows if (row.skill, row.variant) == (skill, variant)}
                values = [
                    f" {found[ratio].score:.3f} ({found[ratio].loss:.3f}) |" if ratio in found else " |"
                    for ratio in RATIOS
                ]
                lines.append(f"| {variant} |" + "".join(values))
        begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        text = re.sub(
            f"{begin}.*?{end}", lambda _, b=begin, e=end, t=lines: "\n".join([b, *t, "", e]), text, flags=re.S
        )
    page.write_text(text)


def draw(rows: Sequence[Row]) -> None:
    """Score and loss against the ratio, a panel for each skill."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    matplotlib.rcParams["svg.hashsalt"] = "eckart"
    figure, axes = plt.subplots(2, len(SKILLS), figsize=(11, 7.5), sharex=True)
    colours = ("#0072B2", "#D55E00", "#56B4E9", "#009E73", "#CC79A7", "#222222")
    for column, (skill, title) in enumerate(SKILLS.items()):
        for at, variant in enumerate(METHODS):
            found = sorted(
                (row for row in rows if (row.skill, row.variant) == (skill, variant)), key=lambda r: r.ratio
            )
            ratios = [row.ratio for row in found]
            look = {"color": colours[at], "marker": "osD^vP"[at], "label": variant}
            axes[0][column].plot(ratios, [row.score for row in found], **look)
            axes[1][column].plot(ratios, [row.loss for row in found], **look)
        axes[0][column].set(title=f"{title[0].upper()}{title[1:]}", ylim=(-0.03, 1.03))
        axes[1][column].set(yscale="log", xlabel="compression ratio (parameters before / after)")
    axes[0][0].set_ylabel("held-out score")
    axes[1][0].set_ylabel("loss, nats a token of the answer")
    axes[0][0].legend(frameon=False)
    for axis in axes.flat:
        axis.grid(color="#dddddd")
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(DOCS / "basis-selection.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()

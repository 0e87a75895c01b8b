"""How fast the solvers are and what they miss: `python benchmarks/solvers.py [--large]`.

Prints, for each shape and rank, the time of each solver as a ratio to `exact`, and how much larger its error
is than the smallest possible. Weights are Gaussian. Their error is plain (`flat`: the hardest spectrum for a
random subspace) or weighed by inputs whose energies fall as 1, 1/2, 1/3, … (`falling`: more like a model's).
Solvers take turns, and the ratio is that of their best times, so other work on the machine matters little.
The last table is the time of `decompose_many` with all eigenproblems in one call as a ratio to one by one.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable
from typing import Any

import torch

from eckart.linalg import Side, Solver, decompose, decompose_many

SHAPES = [(384, 384), (1536, 384), (1024, 1024), (2048, 2048)]
LARGE = (4096, 4096)
SHARES = (16, 8, 4, 2)
SOLVERS: tuple[Solver, ...] = ("exact", "randomized", "nystrom")
MANY = [(32, 64), (64, 32), (128, 16), (256, 8), (512, 4)]


def best_times(jobs: dict[Any, Callable[[], object]], rounds: int) -> dict[Any, float]:
    """Seconds that each job takes at best, taking turns."""
    best = dict.fromkeys(jobs, float("inf"))
    for _ in range(rounds):
        for name, job in jobs.items():
            started = time.perf_counter()
            job()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            best[name] = min(best[name], time.perf_counter() - started)
    return best


def right_side(kind: str, size: int) -> Side:
    """The input side of a metric."""
    if kind == "flat":
        return Side()
    basis = torch.linalg.qr(torch.randn(size, size, dtype=torch.float64)).Q
    return Side((basis / torch.arange(1, size + 1)) @ basis.T)


def compare(shape: tuple[int, int], kind: str, rounds: int, device: str) -> None:
    """Print the rows of one shape and metric."""
    W, right = torch.randn(*shape).to(device), right_side(kind, shape[1])
    right = Side(None if right.gram is None else right.gram.to(device))
    for share in SHARES:
        rank = min(shape) // share
        tails = {}

        def solve(solver: Solver, rank: int = rank, tails: dict[str, float] = tails) -> None:
            tails[solver] = decompose(W, Side(), right, rank=rank, solver=solver).spectrum.tail[rank]

        seconds = best_times({solver: lambda solver=solver: solve(solver) for solver in SOLVERS}, rounds)
        row = f"| {shape[0]}x{shape[1]} | {kind} | 1/{share} | {seconds['exact']:.3f} |"
        for solver in SOLVERS[1:]:
            excess = (tails[solver] / tails["exact"]) ** 0.5 - 1
            row += f" {seconds[solver] / seconds['exact']:.2f} | {excess:.2%} |"
        print(row, flush=True)


def compare_many(size: int, count: int, rounds: int, device: str) -> None:
    """Print the row of one size of many small weights."""
    weights = [torch.randn(size, size).to(device) for _ in range(count)]
    rights = [Side(right_side("falling", size).gram.to(device)) for _ in weights]  # type: ignore[union-attr]
    jobs = {
        together: lambda together=together: decompose_many(
            weights, [Side()] * count, rights, together=together
        )
        for together in (False, True)
    }
    seconds = best_times(jobs, rounds)
    print(f"| {count} of {size}x{size} | {seconds[False]:.3f} | {seconds[True] / seconds[False]:.2f} |")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--large", action="store_true", help="4096x4096 too, which takes many minutes")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    print(f"{options.device}, {threads} threads, {platform.machine()}, torch {torch.__version__}\n")
    print("| weight | spectrum | rank / width | exact, s | randomized | excess | nystrom | excess |")
    print("|---|---|---|---|---|---|---|---|")
    for shape in [*SHAPES, *([LARGE] if options.large else [])]:
        for kind in ("flat", "falling"):
            compare(shape, kind, options.rounds, options.device)
    print("\n| weights | one by one, s | together, ratio |\n|---|---|---|")
    for size, count in MANY:
        compare_many(size, count, 5 * options.rounds, options.device)


if __name__ == "__main__":
    main()

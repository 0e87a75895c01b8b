"""Runs that are killed, and runs that are started twice at once: what is left, and what the next run gives.

    python benchmarks/kills.py --kills 40 --twice 20

Each kill is a SIGKILL at a moment drawn from the length of a run of `compress`, whole or block by block;
then the same command goes on (with `--resume` where something was begun) and must give the same bytes, with
nothing beside the result. Of two runs that are started at once to one place one must finish right, and the
other say why it does not.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from multiprocessing.pool import ThreadPool
from pathlib import Path

STORES = ("--whole", "--blocks")


def command(out: Path, store: str, *more: str) -> list[str]:
    """A run of some seconds with data and a search."""
    options = ["--keep", "0.8", "--method", "svd-llm", "--data", "pocket-stories", "--samples", "16"]
    program = [sys.executable, "-m", "eckart", "compress", "pocket", "-o", str(out)]
    return [*program, *options, "--no-cache", store, *more]


def start(arguments: list[str]) -> subprocess.Popen[str]:
    """In a group of its own, with one thread."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    return subprocess.Popen(
        arguments, stdout=pipe, stderr=pipe, text=True, env=environment, start_new_session=True
    )


def digest(folder: Path) -> str:
    """Of every file of a result, and its name."""
    whole = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            whole.update(f"{path.relative_to(folder)}\n".encode() + path.read_bytes())
    return whole.hexdigest()


def killed(store: str, after: float, expected: str) -> str:
    """What came of a run that was killed so many seconds after its start."""
    with tempfile.TemporaryDirectory() as made:
        out = Path(made) / "out"
        first = start(command(out, store))
        time.sleep(after)
        os.killpg(first.pid, signal.SIGKILL)
        first.communicate()
        left = sorted(path.name for path in Path(made).iterdir())
        if out.exists():
            # It had finished, or all but its tidying up.
            shutil.rmtree(Path(made) / "out.work", ignore_errors=True)
        else:
            more = ["--resume"] if (Path(made) / "out.work" / "request.json").exists() else []
            second = start(command(out, store, *more))
            error = second.communicate()[1]
            if second.returncode:
                return f"WRONG: the next run failed: {error.strip().splitlines()[-1]} (left: {left})"
        beside = sorted(path.name for path in Path(made).iterdir() if path.name != "out")
        if beside:
            return f"WRONG: {', '.join(beside)} beside the result"
        return "same bytes" if digest(out) == expected else f"WRONG: other bytes (left: {left})"


def twice(store: str, expected: str) -> str:
    """What came of two runs that were started at once."""
    with tempfile.TemporaryDirectory() as made:
        out = Path(made) / "out"
        runs = [start(command(out, store)) for _ in range(2)]
        errors = [run.communicate()[1] for run in runs]
        codes = sorted(run.returncode for run in runs)
        if codes[0] != 0 or codes[1] not in (1, 2):
            return f"WRONG: exit codes {codes}"
        words = next(error for run, error in zip(runs, errors, strict=True) if run.returncode)
        beside = sorted(path.name for path in Path(made).iterdir() if path.name != "out")
        if beside or digest(out) != expected or "Traceback" in words:
            return f"WRONG: {beside}, {words.strip().splitlines()[-1]}"
        return "one finished, one was told why not"


def main() -> None:
    """Print how often each came."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--twice", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--at-once", type=int, default=2)
    options = parser.parse_args()
    draw = random.Random(options.seed)
    expected, length = {}, {}
    for store in STORES:
        with tempfile.TemporaryDirectory() as made:
            began = time.monotonic()
            run = start(command(Path(made) / "out", store))
            error = run.communicate()[1]
            if run.returncode:
                sys.exit(f"a run that nothing disturbs failed: {error}")
            length[store] = time.monotonic() - began
            expected[store] = digest(Path(made) / "out")
    stores = [STORES[at % 2] for at in range(options.kills)]
    moments = [draw.uniform(0.1, 1.5) * length[store] for store in stores]
    with ThreadPool(options.at_once) as pool:
        found = pool.starmap(killed, [(s, m, expected[s]) for s, m in zip(stores, moments, strict=True)])
        pairs = pool.starmap(twice, [(s, expected[s]) for s in (STORES * options.twice)[: options.twice]])
    for store, moment, what in zip(stores, moments, found, strict=True):
        print(f"{store} killed after {moment:.1f} s: {what}", file=sys.stderr)
    for title, results in (("kills", found), ("started twice", pairs)):
        counted = {each: results.count(each) for each in sorted(set(results))}
        print(f"{title}: " + "; ".join(f"{count} x {what}" for what, count in counted.items()))
    sys.exit(any(each.startswith("WRONG") for each in [*found, *pairs]))


if __name__ == "__main__":
    main()

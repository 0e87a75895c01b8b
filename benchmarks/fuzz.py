"""Broken configs, indexes, headers, manifests and data files: each must be read, or refused in words.

    python benchmarks/fuzz.py --cases 30000 --seed 0

A tiny compressed model and small data files are made, broken at random (bytes, and JSON by value) and read by
what the commands read them with. A failure is an exception that is not Eckart's own, an end by a signal, a
file opened for reading outside of the folder, over `SECONDS` or over `BYTES` of memory. Prints a row for each
kind of input; the seed and the number of a failing case make it again (`--only N`).
"""

from __future__ import annotations

import argparse
import copy
import gzip
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

SECONDS = 60
BYTES = 2 * 10**9
NASTY: list[Any] = [
    *(None, True, 0, -1, 1, 2**31, 2**63, 10**30, 1.5, -1e308, float("nan"), float("inf"), "", "a" * 5000),
    *(
        "../../etc/passwd",
        "/etc/passwd",
        "\x1b[31m",
        "\ud800",
        [],
        {},
        [[]],
        [None],
        {"a": {}},
        "float8",
        "🙂",
    ),
]
WATCHED: dict[str, Any] = {"on": False, "inside": "", "seen": []}
ELSEWHERE = (sys.prefix, sys.base_prefix, "/proc", "/sys", "/dev", "/usr", "/lib", "/etc/ld", "/etc/ssl")


def watch(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook: what is opened outside of the folder and of what Python itself reads."""
    if event == "open" and WATCHED["on"] and isinstance(arguments[0], (str, bytes, os.PathLike)):
        path = os.path.realpath(os.fsdecode(arguments[0]))
        known = (*ELSEWHERE, WATCHED["inside"], WATCHED["source"], WATCHED["home"])
        if not path.startswith(known) and os.path.exists(path):
            WATCHED["seen"].append(path)


def broken_json(draw: random.Random, text: str) -> bytes:
    """JSON with a value, or several, that nobody wrote."""
    whole = json.loads(text)
    for _ in range(draw.choice((1, 1, 2, 5))):
        spots = list(_spots(whole))
        if not spots:
            break
        holder, key = draw.choice(spots)
        what = draw.random()
        if what < 0.6:
            holder[key] = copy.deepcopy(draw.choice(NASTY))
        elif what < 0.8:
            del holder[key]
        elif isinstance(holder, dict):
            holder[draw.choice(("", "__class__", "a/b", str(key) + "x"))] = copy.deepcopy(draw.choice(NASTY))
    return json.dumps(whole).encode("utf-8", "surrogatepass")


def _spots(value: Any) -> Any:
    if isinstance(value, dict):
        for key, each in list(value.items()):
            yield value, key
            yield from _spots(each)
    elif isinstance(value, list):
        for index, each in enumerate(value):
            yield value, index
            yield from _spots(each)


def broken_bytes(draw: random.Random, data: bytes) -> bytes:
    """Flipped, cut, repeated or strange bytes."""
    whole = bytearray(data)
    for _ in range(draw.choice((1, 1, 3, 20))):
        at = draw.randrange(len(whole) + 1) if whole else 0
        what = draw.randrange(5)
        if what == 0 and at < len(whole):
            whole[at] = draw.randrange(256)
        elif what == 1:
            del whole[at:]
        elif what == 2:
            whole[at:at] = draw.randbytes(draw.randrange(1, 40))
        elif what == 3:
            whole[at:at] = whole[: draw.randrange(1, 200)]
        else:
            del whole[at : at + draw.randrange(1, 50)]
    return bytes(whole)


def broken(draw: random.Random, data: bytes, text: bool) -> bytes:
    """One or the other."""
    return broken_json(draw, data.decode()) if text and draw.random() < 0.7 else broken_bytes(draw, data)


def broken_file(draw: random.Random, name: str, data: bytes) -> bytes:
    """By what a file is."""
    if name.endswith(".gz") and draw.random() < 0.5:
        return gzip.compress(broken_file(draw, name.removesuffix(".gz"), gzip.decompress(data)))
    if name.endswith(".jsonl"):
        lines = data.split(b"\n")
        at = draw.randrange(len(lines))
        lines[at] = broken(draw, lines[at], text=True)
        return b"\n".join(lines)
    return broken(draw, data, text=name.endswith(".json"))


def _plan(folder: Path) -> None:
    import eckart

    eckart.plan(str(folder), keep=0.5)


def _verify(folder: Path) -> None:
    from eckart.compression.folder import verification
    from eckart.types import EckartError

    manifest = verification.require_manifest(folder)
    checks = [verification.check_files(folder, manifest), verification.check_shapes(folder, manifest)]
    if wrong := [check.detail for check in checks if not check.ok]:
        raise EckartError(wrong[0])


def _read(path: Path) -> None:
    from eckart.data import read_texts

    read_texts(str(path), lines=True)


DATA = ("jsonl", "json", "csv", "tsv", "txt", "jsonl.gz")
KINDS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "config": ("dense/config.json", _plan),
    "compressed config": ("compressed/config.json", _verify),
    "index": ("sharded/model.safetensors.index.json", _plan),
    "header": ("dense/model.safetensors", _plan),
    "manifest": ("compressed/eckart.json", _verify),
    **{name: (f"data.{name}", _read) for name in DATA},
}


def make(where: Path) -> None:
    """What is broken then."""
    import eckart

    sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
    from architectures import LLAMA, tiny_tokenizer

    model = LLAMA.build()
    for folder, size in (("dense", "1GB"), ("sharded", "40KB")):
        model.save_pretrained(where / folder, max_shard_size=size)
        tiny_tokenizer().save_pretrained(where / folder)
    eckart.compress(where / "dense", where / "compressed", keep=0.8, method="svd")
    rows = [{"text": f"w{at} w{at + 1}", "prompt": "w1", "completion": "w2"} for at in range(6)]
    lines = "\n".join(map(json.dumps, rows))
    (where / "data.jsonl").write_text(lines)
    (where / "data.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    (where / "data.json").write_text(json.dumps(rows))
    (where / "data.txt").write_text("w1 w2 w3\n\nw4\n")
    for name, mark in (("csv", ","), ("tsv", "\t")):
        table = [mark.join(rows[0]), *(mark.join(row.values()) for row in rows)]
        (where / f"data.{name}").write_text("\n".join(table))


def case(source: Path, number: int, seed: int) -> str:
    """What came of one case: `read`, `refused`, or what is wrong."""
    from eckart.types import EckartError

    draw = random.Random(f"{seed}-{number}")
    name = list(KINDS)[number % len(KINDS)]
    path, read = KINDS[name]
    with tempfile.TemporaryDirectory() as made:
        top = Path(made, Path(path).parts[0])
        if (source / top.name).is_dir():
            shutil.copytree(source / top.name, top)
        else:
            shutil.copyfile(source / top.name, top)
        victim = Path(made, path)
        if name == "header":
            data = victim.read_bytes()
            length = 8 + int.from_bytes(data[:8], "little")
            header = broken(draw, data[8:length], text=True)
            size = len(header) if draw.random() < 0.7 else draw.choice((0, 1, 2**31, 2**63 - 1, 7))
            victim.write_bytes(size.to_bytes(8, "little") + header + data[length:])
        else:
            victim.write_bytes(broken_file(draw, victim.name, victim.read_bytes()))
        WATCHED.update(on=True, inside=os.path.realpath(made), seen=[])
        signal.alarm(SECONDS)
        try:
            read(top if top.is_dir() else victim)
            found = "read"
        except EckartError:
            found = "refused"
        except BaseException as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            found = f"WRONG: {type(error).__name__}: {str(error)[:100]} ({where.filename}:{where.lineno})"
        finally:
            signal.alarm(0)
            WATCHED["on"] = False
        return f"WRONG: read {WATCHED['seen'][0]}" if WATCHED["seen"] else found


def work(source: Path, numbers: list[int], seed: int, results: Any) -> None:
    """A process of its own: one that is ended by a signal is noticed, and another goes on after the case."""
    import torch

    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    torch.set_num_threads(1)
    import eckart

    here = os.path.realpath(Path(eckart.__file__).parents[2])
    WATCHED.update(source=here, home=os.path.realpath(Path.home()))
    sys.addaudithook(watch)

    def late(*_: Any) -> None:
        raise TimeoutError(f"over {SECONDS} s")

    signal.signal(signal.SIGALRM, late)
    for number in numbers:
        results.put((number, "began"))
        found = case(source, number, seed)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        results.put((number, f"WRONG: {peak / 1e9:.1f} GB" if peak > BYTES else found))
    results.put((-1, "done"))


def run(source: Path, numbers: list[int], seed: int) -> dict[int, str]:
    """What came of each case, in one process after another."""
    context = multiprocessing.get_context("spawn")
    found: dict[int, str] = {}
    todo = numbers
    while todo:
        results = context.Queue()
        process = context.Process(target=work, args=(source, todo, seed, results))
        process.start()
        while True:
            try:
                number, what = results.get(timeout=2 * SECONDS)
            except Exception:  # the queue is empty: the process hangs, or is gone
                process.kill()
                break
            if number == -1:
                break
            found[number] = f"WRONG: ended in {what}" if what == "began" else what
        process.join()
        todo = [number for number in todo if number not in found]
    return found


def main() -> None:
    """Print a row for each kind, and each case that is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=30000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--only", type=int)
    options = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    with tempfile.TemporaryDirectory() as made:
        source = Path(made)
        make(source)
        numbers = [options.only] if options.only is not None else list(range(options.cases))
        pieces = [numbers[at :: options.processes] for at in range(options.processes)]
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(options.processes) as pool:
            parts = pool.map(lambda piece: run(source, piece, options.seed), pieces)
            found = {number: what for part in parts for number, what in part.items()}
    rows: dict[str, Counter[str]] = {name: Counter() for name in KINDS}
    for number, what in sorted(found.items()):
        rows[list(KINDS)[number % len(KINDS)]][what.partition(":")[0]] += 1
        if what.startswith("WRONG"):
            print(f"case {number}: {what}", file=sys.stderr)
    print("| broken | cases | read all the same | refused in words | wrong |")
    print("|---|---|---|---|---|")
    for name, count in rows.items():
        print(f"| {name} | {count.total()} | {count['read']} | {count['refused']} | {count['WRONG']} |")
    sys.exit(any(row["WRONG"] for row in rows.values()))


if __name__ == "__main__":
    main()

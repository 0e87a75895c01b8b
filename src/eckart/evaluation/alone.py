"""Peak memory of one model, in a process of its own, where nothing else is in it.

`python -m eckart.evaluation.alone` reads one line of JSON, the arguments of `peak`, and answers with one.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from eckart.evaluation import speed
from eckart.evaluation.machine import peak_memory_bytes
from eckart.model import loading
from eckart.types import EckartError


def peak(
    folder: str, dense: bool, device: str, dtype: str, batch: int, tokens: int, drop_unused: bool
) -> int:
    """The most bytes that were taken: resident ones, or of a GPU those that torch had allocated.

    Args:
        folder: of the model.
        dense: whether the model that it was compressed from is meant, with random weights.
        batch, tokens: of the passes that are made: one that reads, and one that writes a token where it can.
        drop_unused: read it without tensors that its class has no weight for.
    """
    with loading.dropping(drop_unused):
        model = (
            loading.build_dense(Path(folder), device, dtype)
            if dense
            else loading.load_model(Path(folder), device, dtype)
        )
    with torch.inference_mode():
        speed.prefill(model, batch, tokens)()
        if speed.decodes(model):
            speed.decode(model, batch, tokens, 1, 0)()
    if model.device.type == "cuda":
        return torch.cuda.max_memory_allocated(model.device)
    return peak_memory_bytes()


def peak_in_subprocess(**request: Any) -> int:
    """`peak` in a process of its own.

    Raises:
        EckartError: it did not come to its end.
    """
    run = subprocess.run(
        [sys.executable, "-P", "-m", "eckart.evaluation.alone"],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode:
        last = run.stderr.strip().splitlines()[-1:] or [f"exit code {run.returncode}"]
        raise EckartError(f"the memory of {request['folder']} could not be measured: {last[0]}")
    return int(run.stdout.splitlines()[-1])


if __name__ == "__main__":
    sys.stdout.write(f"{peak(**json.loads(sys.stdin.readline()))}\n")

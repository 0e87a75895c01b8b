"""A fixed question to a model, and a few numbers of its answer, to recognise it by later."""

from __future__ import annotations

from typing import Any

import torch

from eckart.model.text import is_encoder_decoder
from eckart.types import EckartError, Probe

LENGTH = 16
KEPT = 32
TOLERANCE = {"float32": 1e-3, "float16": 1e-2, "bfloat16": 5e-2}
"""Largest difference of a probed value, relative to the largest of them, that another machine's rounding
explains, by the dtype that is computed in. On the machine that saved the folder it is 0, unless the model
was cast in memory (`.to(bfloat16)` rounds what is not saved too, the frequencies of rotary positions)."""

STANDALONE = """
import inspect, json, sys
import torch, transformers
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
request = json.load(sys.stdin)
assert "eckart" not in sys.modules
auto = getattr(transformers, request["auto"])
model = auto.from_pretrained(request["folder"], trust_remote_code=True, dtype="auto")
batch = {"input_ids": torch.tensor([request["ids"]])}
if "decoder_input_ids" in inspect.signature(model.forward).parameters:
    batch["decoder_input_ids"] = batch["input_ids"]
with torch.no_grad():
    answer = model(**batch)[0][0, -1].float()
stride = max(1, len(answer) // 32)
print(json.dumps(answer[::stride][:32].tolist()))
"""
"""`take_probe` for a process without Eckart: JSON on standard input, the outputs as the last line."""


def tolerance(dtype: str) -> float:
    """What `TOLERANCE` says of a dtype; of any other, what it says of float32."""
    return TOLERANCE.get(dtype, TOLERANCE["float32"])


@torch.no_grad()
def take_probe(model: Any) -> Probe:
    """Ask the model about a fixed input: its first output's last position, every so many entries.

    Raises:
        EckartError: the answer is not finite.
    """
    vocabulary = model.config.get_text_config().vocab_size
    ids = [(7919 * (position + 1)) % vocabulary for position in range(LENGTH)]
    batch = {"input_ids": torch.tensor([ids], device=model.device)}
    if is_encoder_decoder(model):
        batch["decoder_input_ids"] = batch["input_ids"]
    training = model.training
    model.eval()
    answer = model(**batch)[0][0, -1].float().cpu()
    model.train(training)
    if not torch.isfinite(answer).all():
        raise EckartError(
            f"the compressed {type(model).__name__} answers with values that are not finite: "
            f"it overflows in {model.dtype}, as the dense one may; try another dtype"
        )
    stride = max(1, len(answer) // KEPT)
    return Probe(input_ids=ids, outputs=answer[::stride][:KEPT].tolist())

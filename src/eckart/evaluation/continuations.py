"""What a compressed model, and the dense one beside it, write behind prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from eckart.evaluation.generation import generate
from eckart.model import loading
from eckart.types import Sample, Track, UsageError

NEW_TOKENS = 40
"""Of each continuation."""


def continue_prompts(
    folder: Path, dense: str | Path | None, prompts: list[str], device: str, track: Track
) -> list[Sample]:
    """Greedy continuations of the prompts; none without prompts.

    Args:
        folder: of the compressed model.
        dense: the model it came from, to continue them too.

    Raises:
        UsageError: a prompt is empty, or a model writes no text.
    """
    if not prompts:
        if dense is not None:
            raise UsageError("--dense needs something to continue: give --prompt TEXT")
        return []
    if empty := [prompt for prompt in prompts if not prompt.strip()]:
        raise UsageError(f"--prompt {empty[0]!r} is empty")
    loading.require_device(device)
    models = [folder] if dense is None else [loading.find_model(dense), folder]
    for each in models:
        if not loading.generates(loading.load_config(each)):
            raise UsageError(f"{each} writes no text: leave --prompt out")
        if not loading.has_tokenizer(each):
            raise UsageError(f"{each} has no tokenizer, and prompts are text: save one there")
    if dense is not None:
        loading.refuse_compressed(loading.load_config(models[0]), "--dense names")
    written = [_continue(each, prompts, device, track) for each in models]
    before: list[Any] = written[0] if dense is not None else [None] * len(prompts)
    return [Sample(*texts) for texts in zip(prompts, before, written[-1], strict=True)]


def _continue(folder: Path, prompts: list[str], device: str, track: Track) -> list[str]:
    """One model at a time: two need not fit beside each other."""
    model = loading.load_model(folder, device)
    return generate(model, loading.load_tokenizer(folder), prompts, NEW_TOKENS, track)

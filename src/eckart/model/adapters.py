"""An adapter of peft, merged into the model that it was trained on."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from eckart import checkpoint
from eckart.model.configs import said
from eckart.model.finding import ADAPTER
from eckart.types import EckartError, UsageError

WEIGHTS = "adapter_model.safetensors"


def require_adapter(folder: Path) -> None:
    """Raises UsageError where a folder is no adapter that can be read, or peft is not installed."""
    if not (folder / ADAPTER).is_file():
        raise UsageError(f"--adapter {folder}: it has no {ADAPTER}, as peft writes it")
    if not (folder / WEIGHTS).is_file():
        raise UsageError(f"--adapter {folder}: it has no {WEIGHTS}, and Eckart reads safetensors alone")
    if find_spec("peft") is None:
        raise UsageError("--adapter takes peft: pip install 'eckart[recover]'")


def merge(model: Any, folder: Path) -> Any:
    """The model with an adapter's weights added to its own, in float32, and rounded to its dtype again.

    Raises:
        UsageError: as `require_adapter`.
        EckartError: the adapter is not of this model: peft cannot put it there, or leaves some of it out.
    """
    require_adapter(folder)
    from peft import PeftConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

    dtype, misfit = model.dtype, f"the adapter {folder} does not fit {type(model).__name__}"
    # Frequencies of rotary positions stay in float32 in a model of another dtype.
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        stored = checkpoint.Checkpoint(folder, checkpoint.read_file(folder / WEIGHTS))
        weights = {name: stored.read(name) for name in stored.tensors}
        wrapped = get_peft_model(model.float(), PeftConfig.from_pretrained(str(folder)))
        names = set(get_peft_model_state_dict(wrapped)) ^ set(weights)
        set_peft_model_state_dict(wrapped, weights)
    except (ValueError, KeyError, TypeError, RuntimeError, OSError) as error:
        raise EckartError(f"{misfit}: {said(error)}") from error
    if names:
        raise EckartError(f"{misfit}: {len(names)} weights are missing or have no place, as {min(names)}")
    merged: Any = wrapped.merge_and_unload()
    if not all(torch.isfinite(parameter).all() for parameter in merged.parameters()):
        raise EckartError(f"the adapter {folder} has weights that are not finite")
    merged = merged.to(dtype).requires_grad_(True)
    for name, buffer in merged.named_buffers():
        buffer.data = buffers[name]
    return merged


def described(folder: Path) -> str:
    """A note for the manifest."""
    return (
        f"the adapter {folder.name} was merged in float32 ({WEIGHTS} {checkpoint.sha256(folder / WEIGHTS)})"
    )

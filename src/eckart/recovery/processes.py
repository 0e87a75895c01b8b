"""Which of several processes this one is, as `torchrun` and `accelerate launch` say. No torch."""

from __future__ import annotations

import os

from eckart.types import UsageError


def rank() -> int:
    """This process's number, from 0."""
    return int(os.environ.get("RANK", "0"))


def world() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def on_this_machine() -> int:
    """How many of them are on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def leads() -> bool:
    """Whether this is the process that writes files and talks."""
    return rank() == 0


def own_device(device: str) -> str:
    """Where this process computes: of several GPUs, each process has the one of its number.

    Raises:
        UsageError: another GPU than the first by its number, which transformers' Trainer would leave.
    """
    kind, _, number = device.partition(":")
    if number not in ("", "0"):
        raise UsageError(f"--device {device}: training takes the first GPU it sees; set CUDA_VISIBLE_DEVICES")
    if world() > 1 and kind != "cpu":
        return f"{kind}:{os.environ.get('LOCAL_RANK', '0')}"
    return device


def windows_a_pass(batch: int, accumulate: int) -> int:
    """How many windows of a batch one process computes at once.

    Raises:
        UsageError: the batch cannot be shared out.
    """
    parts = world() * accumulate
    if batch % parts:
        raise UsageError(
            f"--batch {batch} is for all processes together, and {world()} processes with --accumulate "
            f"{accumulate} cannot share it: give a multiple of {parts}"
        )
    return batch // parts

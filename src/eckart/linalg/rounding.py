"""Rounding of what has moved by less than the distance between two numbers of a dtype."""

from __future__ import annotations

import torch
from torch import Tensor


def rounded_at_random(tensor: Tensor, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """Numbers rounded up or down with the chances that leave their mean as it is.

    Where a short training moves weights by less than half the distance between two numbers of bfloat16,
    rounding to the nearest gives every weight back as it was. Stochastic rounding (Gupta et al., "Deep
    learning with limited numerical precision", ICML 2015, section 3) keeps what they learned, on average.

    Args:
        tensor: float32.
        dtype: of the result: one with fewer digits, or float32, which is not rounded.
        generator: on the CPU, where the numbers are drawn, so that they are the same on every device.
    """
    exact = tensor.detach().cpu()
    nearest = exact.to(dtype)
    beyond = (exact - nearest).float()
    other = torch.nextafter(nearest, torch.full_like(nearest, torch.inf).copysign(beyond.to(dtype)))
    chance = beyond / (other.float() - nearest.float())
    drawn = torch.rand(exact.shape, generator=generator)
    return torch.where(drawn < chance, other, nearest).to(tensor.device)

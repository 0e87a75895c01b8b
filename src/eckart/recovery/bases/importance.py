"""How much a basis matters: what to rank by when some have to go."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from eckart.recovery.bases.linear import BasisLinear

MEMORY = 0.95
"""Of what was gathered, how much stays when a step is added: about twenty steps are remembered."""

STEP = 0.05
"""Share by which a probe changes every basis's weight, up and down."""


def magnitude(module: BasisLinear) -> Tensor:
    """The size of what each kept basis adds, `|s_i| ‖u_i‖ ‖v_i‖` (Basis Selection, §3): `(kept,)`."""
    size = module.weights.detach().abs() * module.U.detach().norm(dim=0) * module.V.detach().norm(dim=1)
    chosen: Tensor = size[module.kept]
    return chosen


def expected_loss(module: BasisLinear) -> Tensor:
    """How much more loss dropping each kept basis is expected to cost, `−g s + ½ h s²`: `(kept,)`.

    To second order (BSI, arXiv 2605.01627), from what `gather_squares` or a probe left in the module.
    """
    return (module.curvature / 2 - module.slope)[module.kept]


@torch.no_grad()
def gather_squares(modules: Sequence[BasisLinear]) -> None:
    """Add this step's gradients to the curvature: `h s² ≈ E[(g s)²]`, the empirical Fisher information.

    It costs no pass of its own, and its noise does not grow with the number of bases. The slope, whose mean
    training drives to zero, stays out.
    """
    for module in modules:
        if module.weights.grad is not None:
            effect = module.weights.grad * module.weights
            module.curvature.lerp_(effect.square(), 1 - MEMORY)


def probe(modules: Sequence[BasisLinear], loss: Callable[[], Tensor], generator: torch.Generator) -> None:
    """Add one of Hutchinson's probes to slope and curvature: `h = E[z ⊙ (H z)]`, `z` of random signs.

    `H z` is a difference of two gradients rather than a second derivative, which many attention kernels lack.

    Args:
        loss: the mean loss on a batch, computed anew at each call.
    """
    weights = [module.weights for module in modules]
    signs = [
        (torch.randint(0, 2, each.shape, generator=generator) * 2 - 1).to(each) * each.detach()
        for each in weights
    ]
    above, below = (_gradients(weights, signs, step, loss) for step in (STEP, -STEP))
    with torch.no_grad():
        for module, sign, up, down in zip(modules, signs, above, below, strict=True):
            module.curvature.lerp_(sign * (up - down) / (2 * STEP), 1 - MEMORY)
            module.slope.lerp_(module.weights * (up + down) / 2, 1 - MEMORY)


def _gradients(
    weights: Sequence[Tensor], signs: Sequence[Tensor], step: float, loss: Callable[[], Tensor]
) -> list[Tensor]:
    before = [each.detach().clone() for each in weights]
    with torch.no_grad():
        for each, sign in zip(weights, signs, strict=True):
            each.add_(sign, alpha=step)
    try:
        found = torch.autograd.grad(loss(), list(weights), allow_unused=True)
    finally:
        with torch.no_grad():
            for each, old in zip(weights, before, strict=True):
                each.copy_(old)
    return [torch.zeros_like(each) if one is None else one for each, one in zip(weights, found, strict=True)]

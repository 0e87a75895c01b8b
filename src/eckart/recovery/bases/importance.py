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
    """The size of what each basis adds, `|s_i| ‖u_i‖ ‖v_i‖` (Basis Selection, §3), `(k + d,)`."""
    U = torch.cat([module.U * module.weights, module.added_U], 1)
    size: Tensor = U.norm(dim=0) * torch.cat([module.V, module.added_V]).norm(dim=1)
    return size.detach()


def expected_loss(module: BasisLinear) -> Tensor:
    """How much loss dropping each basis is expected to cost, `−g s + ½ h s²`, `(k + d,)`.

    To second order (BSI, arXiv 2605.01627), from what `gather_squares` or a probe left in the module.
    """
    return module.curvature / 2 - module.slope


@torch.no_grad()
def gather_squares(modules: Sequence[BasisLinear]) -> None:
    """Add this step's gradients to the curvature: `h s² ≈ E[(g s)²]`, the empirical Fisher information.

    It costs no pass of its own, and its noise does not grow with the number of bases. The slope, whose mean
    training drives to zero, stays out.
    """
    for module in modules:
        effect = module.per_basis(module.weights.grad, module.added_U.grad)
        module.curvature.lerp_(effect.square(), 1 - MEMORY)


def probe(modules: Sequence[BasisLinear], loss: Callable[[], Tensor], generator: torch.Generator) -> None:
    """Add one of Hutchinson's probes to slope and curvature: `h = E[z ⊙ (H z)]`, `z` of random signs.

    `H z` is a difference of two gradients rather than a second derivative, which many attention kernels lack.

    Args:
        loss: the mean loss on a batch, computed anew at each call.
    """
    signs = [
        (torch.randint(0, 2, module.kept.shape, generator=generator) * 2 - 1).to(module.weights)
        for module in modules
    ]
    above, below = (_slopes(modules, signs, step, loss) for step in (STEP, -STEP))
    for module, sign, up, down in zip(modules, signs, above, below, strict=True):
        module.curvature.lerp_(sign * (up - down) / (2 * STEP), 1 - MEMORY)
        module.slope.lerp_((up + down) / 2, 1 - MEMORY)


def _slopes(
    modules: Sequence[BasisLinear], signs: Sequence[Tensor], step: float, loss: Callable[[], Tensor]
) -> list[Tensor]:
    """The loss's derivative by a factor on each basis, where these are `1 + step · sign`."""
    moved = [parameter for module in modules for parameter in (module.weights, module.added_U)]
    before = [parameter.detach().clone() for parameter in moved]
    try:
        with torch.no_grad():
            for module, sign in zip(modules, signs, strict=True):
                k = module.pretrained
                module.weights.mul_(1 + step * sign[:k])
                module.added_U.mul_(1 + step * sign[k:])
        found = torch.autograd.grad(loss(), moved, allow_unused=True)
        factors = [1 + step * sign for sign in signs]
        return [
            module.per_basis(*found[2 * at : 2 * at + 2]) / factor
            for at, (module, factor) in enumerate(zip(modules, factors, strict=True))
        ]
    finally:
        with torch.no_grad():
            for parameter, old in zip(moved, before, strict=True):
                parameter.copy_(old)

"""A linear layer as a sum of bases: those of the pretrained weight, and a few new ones beside them."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class BasisLinear(nn.Module):
    """`y = W x + b` with `W = Σ_i s_i u_i v_iᵀ + Σ_j a_j b_jᵀ` (Basis Selection, 2024, eq. 6).

    Of the bases `u_i v_iᵀ` only the weights `s` learn, unless they are to be trained themselves; the
    additional ones `a_j b_jᵀ` learn as a whole. A basis that was dropped is no part of `W` any more.

    Args:
        U: `(out, k)`.
        V: `(k, in)`.
        bias: `(out,)` or none; it is left as it is.
        additional: how many new bases, `d`. They start with `W` unchanged: `a` at zero, `b` at random.
        generator: of that randomness.
        trained: whether `u_i` and `v_i` learn too.

    Attributes:
        weights: `s`, `(k,)`, from 1: what is trained of the pretrained bases.
        kept: which are still there, `(k + d,)`: the pretrained ones, then the additional ones.
        slope, curvature: what an importance has gathered of each so far: the loss's first and second
            derivative by a factor on what it adds, at 1.
    """

    U: Tensor
    V: Tensor
    bias: Tensor | None
    kept: Tensor
    curvature: Tensor
    slope: Tensor

    def __init__(
        self,
        U: Tensor,
        V: Tensor,
        bias: Tensor | None,
        additional: int,
        generator: torch.Generator,
        trained: bool = False,
    ) -> None:
        super().__init__()
        (out_features, k), in_features = U.shape, V.shape[1]
        self.in_features, self.out_features = in_features, out_features
        if trained:
            self.U, self.V = nn.Parameter(U), nn.Parameter(V)
        else:
            # Worked out again from the weight when a run is resumed, so no checkpoint carries them.
            self.register_buffer("U", U, persistent=False)
            self.register_buffer("V", V, persistent=False)
        self.register_buffer("bias", bias, persistent=False)
        self.weights = nn.Parameter(torch.ones(k, dtype=U.dtype, device=U.device))
        start = torch.randn(additional, in_features, generator=generator) / in_features**0.5
        self.added_U = nn.Parameter(torch.zeros(out_features, additional, dtype=U.dtype, device=U.device))
        self.added_V = nn.Parameter(start.to(V))
        self.register_buffer("kept", torch.ones(k + additional, dtype=torch.bool, device=U.device))
        self.register_buffer("slope", torch.zeros(k + additional, dtype=U.dtype, device=U.device))
        self.register_buffer("curvature", torch.zeros(k + additional, dtype=U.dtype, device=U.device))
        self._at: tuple[Tensor, Tensor] | None = None

    @property
    def rank(self) -> int:
        """Of `W`: how many bases are left."""
        return int(self.kept.sum())

    @property
    def pretrained(self) -> int:
        """`k`: how many bases the pretrained weight had."""
        return len(self.weights)

    def keep(self, stay: Tensor) -> None:
        """Drop all bases but these, true in a `(k + d,)`; those that are gone stay so."""
        self.kept &= stay
        self.refresh()

    def refresh(self) -> None:
        """Look again at what is kept, after a checkpoint was read into it."""
        self._at = None

    def per_basis(self, weights: Tensor | None, added_U: Tensor | None) -> Tensor:
        """The loss's derivative by a factor on each basis, `(k + d,)`, from its gradients."""
        by_weights = torch.zeros_like(self.weights) if weights is None else weights * self.weights
        by_added = torch.zeros_like(self.added_U) if added_U is None else added_U * self.added_U
        return torch.cat([by_weights, by_added.sum(0)]).detach()

    def _pair(self) -> tuple[Tensor, Tensor]:
        """`W` as `(out, r) (r, in)`, without what was dropped."""
        if self._at is None:
            old, new = self.kept.split([self.pretrained, len(self.added_V)])
            self._at = old.nonzero()[:, 0], new.nonzero()[:, 0]
        old, new = self._at
        left = [self.U[:, old] * self.weights[old], self.added_U[:, new]]
        return torch.cat(left, 1), torch.cat([self.V[old], self.added_V[new]])

    def forward(self, x: Tensor) -> Tensor:
        left, right = self._pair()
        # While there are many bases it is cheaper to add them up first: there are more tokens than bases.
        if len(right) * (self.in_features + self.out_features) > self.in_features * self.out_features:
            return nn.functional.linear(x, left @ right, self.bias)
        return nn.functional.linear(nn.functional.linear(x, right), left, self.bias)

    @torch.no_grad()
    def weight(self) -> Tensor:
        """`W (out, in)` as it is now."""
        left, right = self._pair()
        return left @ right

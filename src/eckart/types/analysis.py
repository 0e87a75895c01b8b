"""What a look at a model's weights finds, before anything is cut."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

from eckart.types.shown import Shown


class Basis(BaseModel):
    """One `σ u vᵀ` of a target.

    Attributes:
        index: from 0, the largest value first.
        value: `σ`.
        share: `σ² / Σσ²`.
        reads, writes: `v` and `u` by their top tokens: `plus` those towards it, `minus` those away from it;
            `None` where the side has another width than the unembedding.
    """

    index: int
    value: float
    share: float
    reads: dict[str, list[str]] | None
    writes: dict[str, list[str]] | None


class BasesOf(BaseModel):
    """A target and its leading bases, as `bases.json` has them.

    Attributes:
        name: of the target.
        shape: `(out, in)`.
        bases: the largest value first.
    """

    name: str
    shape: tuple[int, int]
    bases: list[Basis]


class SavedBases(BaseModel):
    """`bases.json`.

    Attributes:
        model: what was looked at.
        targets: in the model's order.
        notes: what a reader should know.
    """

    model: str
    targets: list[BasesOf]
    notes: list[str] = []


class Cosine(BaseModel):
    """The mean cosine between `W x` and `Ŵ x` at one rank.

    Attributes:
        rank: of `Ŵ`.
        random: for standard normal `x`, `Ŵ` the truncated SVD.
        activations: for what the weight reads on the data, `Ŵ` the truncated SVD.
        weighted: for the same, `Ŵ` the best of that rank for the data (metric `input`).
    """

    rank: int
    random: float
    activations: float | None = None
    weighted: float | None = None


class Matrix(Shown, BaseModel):
    """One weight `W (out, in)` and its spectrum.

    The relative Frobenius error at rank `r` is `sqrt(1 − Σ_{i≤r} σ_i² / norm²)`, and so it is in the metric
    of the data.

    Attributes:
        name: of the module; empty for a matrix that was handed over by itself.
        out_features, in_features: its shape.
        stack, block: which block of which stack it is in, `None` outside of them.
        kind: its name within the block, as `self_attn.q_proj`.
        dtype: as stored.
        values: singular values, descending: all `min(out, in)`, or the leading ones where `exact` is false.
        norm: `‖W‖_F`.
        weighted_values, weighted_norm: of `W E[x xᵀ]^½`, where there were data.
        energy_ranks: the smallest rank that keeps `0.9`, `0.95`, `0.99` and `0.999` of the energy `Σσ²`;
            `None` where more values would be needed than were found.
        weighted_energy_ranks: the same of the weighted values.
        effective_rank: `exp(−Σ p log p)`, `p = σ / Σσ` (Roy & Vetterli 2007); `None` unless all were found.
        stable_rank: `‖W‖²_F / σ₁²` (Rudelson & Vershynin 2007).
        break_even: in each structure the largest rank with fewer parameters than the dense weight.
        cosines: at a few ranks.
        exact: whether every singular value was found.
    """

    name: str
    stack: str | None
    block: int | None
    kind: str
    out_features: int
    in_features: int
    dtype: str
    values: list[float]
    norm: float
    weighted_values: list[float] | None = None
    weighted_norm: float | None = None
    energy_ranks: dict[str, int | None]
    weighted_energy_ranks: dict[str, int | None] | None = None
    effective_rank: float | None
    stable_rank: float
    break_even: dict[str, int]
    cosines: list[Cosine]
    exact: bool = True

    def in_a_line(self) -> str:
        """Its shape, and how many ranks its energy takes."""
        found = self.energy_ranks.items()
        ranks = ", ".join(f"{float(share) * 100:g}% of it in {rank or '?'}" for share, rank in found)
        name = f"{self.name} " if self.name else ""
        return f"{name}{self.out_features} x {self.in_features}, energy: {ranks} ranks"

    def in_a_table(self) -> tuple[Sequence[str], Iterable[Sequence[object]]]:
        """A row for each share of the energy."""
        of_data = self.weighted_energy_ranks or {}
        head = ("energy", "rank", "rank for the data")
        return head, ((share, rank, of_data.get(share)) for share, rank in self.energy_ranks.items())


class Size(BaseModel):
    """What a uniform cut of the targets would come to.

    Attributes:
        keep: parameters of the targets after / before, as asked for.
        structure: what would replace them.
        parameters: of the whole model.
        model_keep: of the whole model, after / before.
        bytes: of the whole model in its own dtype.
        error: `‖W − Ŵ‖_F / ‖W‖_F` over all targets together; `None` where a rank lies beyond the values
            that were found.
        weighted_error: the same in the metric of the data.
    """

    keep: float
    structure: str
    parameters: int
    model_keep: float
    bytes: int
    error: float | None
    weighted_error: float | None = None


class Tied(BaseModel):
    """One weight under several names, counted and stored once.

    Attributes:
        names: of the parameter.
        parameters: of the one weight.
        saved: what the other names do not have again.
    """

    names: list[str]
    parameters: int
    saved: int


class Analysis(Shown, BaseModel):
    """What `eckart analyze` finds, saved as `analysis.json`. It holds no clock and no path.

    Attributes:
        format_version: of this file.
        eckart, torch, transformers: the versions that did it.
        source: the model's name, without its folder.
        architecture: the model's class.
        parameters, targets_parameters: of the whole model and of the targets, tied weights once.
        embedding_parameters: of the input embedding, and of the output's where it is another weight.
        bytes: of the whole model in its own dtype.
        tied: which weights are one weight.
        data, data_sha256: what the weighted figures are of, by name without its folder.
        tokens: of the data that were looked at.
        matrices: each target, in the model's order.
        sizes: what uniform cuts would come to.
        notes: what a reader should know.
    """

    model_config = ConfigDict(extra="forbid")

    format_version: Literal[1] = 1
    eckart: str
    torch: str
    transformers: str
    source: str
    architecture: str
    parameters: int
    targets_parameters: int
    embedding_parameters: int
    bytes: int
    tied: list[Tied]
    data: str | None = None
    data_sha256: str | None = None
    tokens: int | None = None
    matrices: list[Matrix]
    sizes: list[Size]
    notes: list[str] = []

    def in_a_line(self) -> str:
        """What was looked at."""
        looked = f", {self.tokens:,} tokens of {self.data}" if self.data and self.tokens else ""
        return f"{self.source}: {self.architecture}, {len(self.matrices)} weights{looked}"

    def in_a_table(self) -> tuple[Sequence[str], Iterable[Sequence[object]]]:
        """A row for each weight."""
        shares = ("0.9", "0.95", "0.99")
        head = (
            "weight",
            "out",
            "in",
            *(f"rank of {float(share):.0%}" for share in shares),
            "effective",
            "stable",
        )
        rows = (
            (
                each.name,
                each.out_features,
                each.in_features,
                *(each.energy_ranks.get(share) for share in shares),
                each.effective_rank,
                each.stable_rank,
            )
            for each in self.matrices
        )
        return head, rows

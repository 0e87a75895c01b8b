"""Plain data that every room may hold: no behaviour, no I/O, and no import from the rest of Eckart.

One word for one thing: see the glossary in CONTRIBUTING.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

Structure = Literal["dense", "lowrank", "pivoted"]
"""What replaces a matrix: the matrix itself, `U V`, or pivot rows with the other rows in terms of them."""

Track = Callable[[Iterable[Any], str, int], Iterable[Any]]
"""Passes `items` through while telling somebody: `track(items, description, total)`."""


SAMPLES = 512
"""Windows of the data to calibrate on, unless told otherwise or the data has fewer."""

SAMPLE_TOKENS = 32768
"""Where so many windows have fewer tokens than this, more are taken: sentences are short."""

MAX_LENGTH = 512
"""Tokens in a window at most, unless told otherwise."""


class EckartError(Exception):
    """Something a person can act on: names the thing, says why, and what to do."""

    exit_code = 1


class UsageError(EckartError):
    """The request itself is wrong, before any work was started."""

    exit_code = 2


@dataclass(frozen=True)
class Target:
    """A weight that may be replaced. Shapes are those of `torch.nn.Linear`: `W (out, in)`."""

    name: str
    out_features: int
    in_features: int
    bias: bool


@dataclass
class Moment:
    """Sums over calibration tokens: of the inputs `x` of one space, or of the gradients `g` at one target.

    Attributes:
        tokens: how many tokens were added; padding never counts.
        second: `Σ x xᵀ`, `(in, in)`, or `Σ g gᵀ`, `(out, out)`, float64.
        absolute: `Σ |x|`, `(in,)`, float64.
        fisher: `Σ_windows Σ_in (∂loss/∂W_ij)²`, `(out,)`, float64: the row Fisher of FWSVD (Hsu et al.,
            ICLR 2022), of a window's loss as one number, as in the paper.
        windows: how many windows are in `fisher`.
    """

    tokens: int
    second: Tensor | None = None
    absolute: Tensor | None = None
    fisher: Tensor | None = None
    windows: int = 0


@dataclass(frozen=True)
class Spectrum:
    """The weighted singular values of one target and what they leave behind, in the metric's own unit.

    `k` of them were found: `min(out, in)`, or fewer where only some were asked for.

    Attributes:
        values: singular values of `Lᵀ W R`, descending, `(k,)`; where they were found approximately, the
            norms of `Lᵀ W R` along the basis found, which are no larger.
        tail: squared error at each rank from 0 to `k`, `(k + 1,)`. `tail[0]` is the whole energy, and
            `tail[r] = tail[r + 1] + values[r]²`, so `tail[k]` is 0 only where all were found.
    """

    values: np.ndarray
    tail: np.ndarray


@dataclass(frozen=True)
class Factors:
    """What stands for a weight: `Ŵ = U V`, or for `pivoted` its rows in another order.

    Attributes:
        structure: `lowrank` or `pivoted`.
        U: `(out, r)`; for `pivoted` `(out - r, r)`, the rows that are not pivots in terms of those that are.
        V: `(r, in)`; for `pivoted` the pivot rows of `Ŵ` themselves.
        order: for `pivoted`, `(out,)` int32: output `i` is entry `order[i]` of `[V x; U V x]`.
    """

    structure: Structure
    U: Tensor
    V: Tensor
    order: Tensor | None = None


@dataclass(frozen=True)
class Curve:
    """What a target costs and what it loses at each rank: all that an allocator sees.

    Attributes:
        costs: parameters at rank `0, 1, …, R`, where `R` is the largest rank that still saves some.
        dense: parameters of the weight as it is.
        errors: the error left at each of those ranks, `None` where nobody measured.
            Comparable between targets; the dense weight's error is 0.
    """

    costs: np.ndarray
    dense: int
    errors: np.ndarray | None = None


@dataclass(frozen=True)
class Text:
    """One piece of data: running text, or a prompt with its completion."""

    prompt: str
    completion: str

    @property
    def text(self) -> str:
        return self.prompt + self.completion


class Count(BaseModel):
    """Parameters before and after, counted from modules, tied weights once."""

    before: int
    after: int
    keep: float
    targets_before: int
    targets_after: int


class Bytes(BaseModel):
    """Sizes of the saved tensors, buffers included."""

    before: int
    after: int


class Selection(BaseModel):
    """How the bases of an application are found, where recovery is `basis-selection`.

    Attributes:
        bases: whether the bases of the pretrained weights stay as they are (`frozen`), or are `trained` too.
        additional: new bases beside those of each weight, at most. The paper has 32.
        prunes: in how many steps bases are dropped.
        prune_schedule: whether these take less and less (`cubic`) or the same (`linear`).
        importance: what bases are ranked by: the loss that dropping one is expected to cost, its curvature
            from the gradients of training (`fisher`) or from Hutchinson's probes (`bsi`); or `magnitude`, the
            first paper's.
        scope: whether all bases of the model are ranked together (`global`), or those of each target by
            themselves (`target`).
        share: of the training tokens, how many go into this; the rest goes into training what is left.
        weights_rate: learning rate of the bases' weights, which start at 1.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    bases: Literal["frozen", "trained"] = "frozen"
    additional: int = Field(default=32, ge=0)
    prunes: int = Field(default=100, ge=1)
    prune_schedule: Literal["cubic", "linear"] = "cubic"
    importance: Literal["fisher", "bsi", "magnitude"] = "fisher"
    scope: Literal["global", "target"] = "global"
    share: float = Field(default=0.3, gt=0, lt=1)
    weights_rate: float = Field(default=3e-3, gt=0)


class Recipe(BaseModel):
    """One choice on each axis and the data: everything needed to do it again."""

    model_config = ConfigDict(extra="forbid")

    method: str
    metric: str
    structure: Structure
    allocation: str
    recovery: str = "none"
    selection: Selection | None = None
    keep: float | None = None
    max_loss: float | None = None
    energy: float | None = None
    of: Literal["model", "targets"] = "model"
    rank: int | None = None
    ratio: float | None = None
    targets: list[str] | None = None
    layers: str | None = None
    data: str | None = None
    samples: int | None = None
    max_length: int = MAX_LENGTH


class TargetRecord(BaseModel):
    """What became of one target. Errors are relative: `‖Lᵀ(W − Ŵ)R‖ / ‖LᵀWR‖` in the recipe's metric.

    `predicted_error` is the spectral tail; `measured_error` is read off the factors as saved, so the
    two differ by the rounding to the model's dtype.
    """

    name: str
    out_features: int
    in_features: int
    structure: Structure
    rank: int | None
    parameters_before: int
    parameters_after: int
    predicted_error: float | None = None
    measured_error: float | None = None


class Candidate(BaseModel):
    """A choice that was measured on held-out data before one was taken.

    `divergence` is the mean KL from the dense model in nats a token (of an encoder, 1 − the correlation of
    cosines between embeddings with the dense model's), `loss` the mean loss in nats a token.
    """

    name: str
    divergence: float
    loss: float


class HeldOut(BaseModel):
    """What was measured on data that nothing was calibrated on.

    Attributes:
        tokens: how many there were.
        before, after: loss in nats a token, dense and compressed; of an encoder, its divergence.
        divergence: of the compressed model from the dense one.
        candidates: what was tried on the way.
    """

    tokens: int
    before: float
    after: float
    divergence: float
    candidates: list[Candidate] = []


class Probe(BaseModel):
    """A fixed input and a few of the logits (or hidden values) that the model gave when it was saved."""

    input_ids: list[int]
    outputs: list[float]


class TrainingRecord(BaseModel):
    """One training run during or after the cut.

    Attributes:
        purpose: `recovery`, or `basis-selection`: training in which bases are dropped.
        settings: as `eckart.recovery.settings.Training` has them.
        objective: what was made smaller, where a teacher was asked; labels' cross entropy otherwise.
        examples: windows of the data.
        steps, tokens: that were trained for.
        losses: `(step, loss)`, at most a few hundred: each the mean of the steps since the one before.
        notes: what became of texts that are too long.
    """

    purpose: str = "recovery"
    settings: dict[str, Any]
    data: str
    data_sha256: str | None = None
    teacher: str | None = None
    objective: dict[str, Any] | None = None
    examples: int
    steps: int
    tokens: int
    losses: list[tuple[int, float]]
    notes: list[str] = []


class Manifest(BaseModel):
    """What was done, saved as `eckart.json` beside the weights. It holds no clock and no path."""

    format_version: int = 1
    eckart: str
    torch: str
    transformers: str
    source: str
    recipe: Recipe
    data_sha256: str | None = None
    calibration_tokens: int | None = None
    parameters: Count
    bytes: Bytes
    targets: list[TargetRecord]
    held_out: HeldOut | None = None
    training: list[TrainingRecord] = []
    notes: list[str] = []
    probe: Probe | None = None
    files: dict[str, str] = {}


@dataclass
class Result:
    """What `eckart.compress` and `eckart.recover` give back.

    Attributes:
        model: the compressed model, in memory, ready to use, train or `save_pretrained`.
        manifest: what was done to it.
        out: the folder it was saved in, if one was asked for.
        seconds: wall time.
        peak_memory_bytes: the process's largest resident size so far.
    """

    model: Any
    manifest: Manifest
    out: str | None
    seconds: float
    peak_memory_bytes: int


class ComparisonRow(BaseModel):
    """One model of a comparison: what it is, how well it does the task, and what it cost to make.

    Attributes:
        method: `dense`, or a row of the catalogue, with values on the axes after colons where they differ
            from the row's.
        keep: as asked for; counted over the whole model or over the targets, as `of` says.
        parameters, targets_parameters: counted from the modules, of the whole model and of the targets alone.
        metric: what `value` is.
        loss: nats a token, where the task has one.
        seconds: from a loaded dense model to this one: calibrating, decomposing and cutting, and not the
            measurement. What several sizes of a method share counts for each of them: its decompositions too,
            which are made for all ranks that pay, where `compress` may stop at the one it needs.
        peak_memory_bytes: the largest resident size of the method's process (of this machine's memory, not of
            a GPU's) up to the end of this cut, measurements excluded where the system can tell. The dense
            weights and what was decomposed are kept for the next size, so it never falls from one size to the
            next.
        error: why there is no value; what was not reached is `None`.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    method: str
    keep: float
    of: Literal["model", "targets"]
    parameters: int | None = None
    targets_parameters: int | None = None
    task: str
    metric: str | None = None
    value: float | None = None
    loss: float | None = None
    seconds: float | None = None
    peak_memory_bytes: int | None = None
    error: str | None = None


@dataclass
class Comparison:
    """What `eckart.compare` gives back.

    Attributes:
        out: the folder, with `results.csv` and `compare.json` in it.
        rows: all that the folder holds, the dense model first.
        notes: what a reader of the rows should know.
        lower_is_better: which way the task's metric is good.
    """

    out: str
    rows: list[ComparisonRow]
    notes: list[str]
    lower_is_better: bool


class Basis(BaseModel):
    """One `σ u vᵀ` of a target, `index` from 0: `reads` names `v`, and `writes` `u`, by their top tokens.

    Those towards it are `plus` and those away from it `minus`; `None` where the side has another width than
    the unembedding. `value` is σ, and `share` `σ² / Σσ²`.
    """

    index: int
    value: float
    share: float
    reads: dict[str, list[str]] | None
    writes: dict[str, list[str]] | None


def silent(items: Iterable[Any], description: str, total: int) -> Iterable[Any]:
    """A `Track` that tells nobody."""
    return items

"""What was done to a model, and what it came to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import exp, log1p, prod
from typing import Any

from pydantic import BaseModel, computed_field, model_validator

from eckart.types.numbers import Option, Quantize
from eckart.types.recipe import Recipe, RecoveryRecipe
from eckart.types.shown import Shown

MANIFEST = "eckart.json"
"""The name of the manifest's file in a saved folder."""
POOR = 0.1
"""Of the perplexity, or of a divergence that is no loss: what is worth a warning."""
LARGEST_INPUT = 50_000_000
"""Entries of an input of a question."""
LARGEST = 100.0
"""Difference of losses in nats that still has a ratio."""


class Count(BaseModel):
    """Parameters before and after, counted from modules, tied weights once.

    Attributes:
        before, after: of the whole model.
        keep: after / before.
        targets_before, targets_after: of the targets alone.
    """

    before: int
    after: int
    keep: float
    targets_before: int
    targets_after: int


class Bytes(BaseModel):
    """Sizes of the saved tensors, buffers included.

    Attributes:
        before, after: of the whole model.
    """

    before: int
    after: int


class TargetRecord(BaseModel):
    """What became of one target. Errors are relative: `‖Lᵀ(W − Ŵ)R‖ / ‖LᵀWR‖` in the recipe's metric.

    Attributes:
        name: of the module.
        out_features, in_features: its shape, `W (out, in)`.
        option: what stands there now: its structure, `dense` where no other would pay; its size, `None`
            for dense; and the bits that its weights are rounded to, `None` where they are floats.
        site: the name of the group that it was replaced with, where it is not one by itself.
        parameters_before, parameters_after: of the weight alone.
        predicted_error: the spectral tail.
        measured_error: read off the factors as saved, so that it differs from the predicted one by the
            rounding to the model's dtype.
        rounding_error: what rounding to few bits added, relative to what was rounded.
    """

    name: str
    out_features: int
    in_features: int
    option: Option
    site: str | None = None
    parameters_before: int
    parameters_after: int
    predicted_error: float | None = None
    measured_error: float | None = None
    rounding_error: float | None = None

    @model_validator(mode="before")
    @classmethod
    def _first_format(cls, given: Any) -> Any:
        """Manifests of format 1 have the option's three values beside the others."""
        if isinstance(given, dict) and "option" not in given and "structure" in given:
            given = dict(given)
            option = {
                "structure": given.pop("structure"),
                "size": given.pop("rank", None),
                "bits": given.pop("quantize", None),
            }
            given["option"] = option
        return given

    @property
    def structure(self) -> str:
        """The option's structure."""
        return self.option.structure

    @property
    def rank(self) -> int | None:
        """The option's size, as it is called of factors."""
        return self.option.size

    @property
    def quantize(self) -> Quantize | None:
        """The option's bits."""
        return self.option.bits


class Candidate(BaseModel):
    """A choice that was measured on held-out data before one was taken.

    Attributes:
        name: the allocation, as `waterfill, floor 0.5`.
        divergence: the mean KL from the dense model in nats a token; of an encoder, 1 − the correlation of
            cosines between embeddings with the dense model's.
        loss: the mean loss in nats a token.
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

    @computed_field  # type: ignore[prop-decorator]
    @property
    def perplexity_ratio(self) -> float | None:
        """How many times the dense model's perplexity; `None` of a model that predicts no tokens."""
        # Of such a model the loss is the divergence.
        headless = self.after == self.divergence
        return None if headless or self.after - self.before > LARGEST else exp(self.after - self.before)

    def in_words(self) -> str:
        """What was lost, in a line."""
        tokens = f"{self.tokens:,} tokens"
        if self.candidates:
            tokens += f"; the best of {len(self.candidates)} allocations"
        if self.perplexity_ratio is None:
            return f"on held-out data: divergence from the dense model {self.divergence:.4f} ({tokens})"
        return (
            f"on held-out data: loss {self.before:.4f} -> {self.after:.4f}, {self.perplexity_ratio:.2f} "
            f"times the perplexity; divergence from the dense model {self.divergence:.4f} ({tokens})"
        )

    @property
    def poor(self) -> bool:
        """Whether it is more than `POOR` worse than the dense model."""
        if self.after == self.divergence:
            return not self.divergence <= POOR
        return not self.after - self.before <= log1p(POOR)


class Learned(BaseModel):
    """What a training came to on data that it did not learn from.

    Attributes:
        tokens: how many there were.
        before, after: the training, loss in nats a token; of an encoder, its divergence from the teacher.
    """

    tokens: int
    before: float
    after: float

    def in_words(self) -> str:
        """In a line."""
        tokens = f"{self.tokens:,} tokens"
        return f"on held-out data: {self.before:.4f} -> {self.after:.4f} by the training ({tokens})"


class ProbeInput(BaseModel):
    """One input of a question: integers, one integer everywhere, or else a fixed wave in the model's dtype.

    Attributes:
        shape: of the tensor.
        values: its integers, row by row.
        fill: the integer that it is full of.
    """

    shape: tuple[int, ...]
    values: list[int] | None = None
    fill: int | None = None

    @model_validator(mode="after")
    def _possible(self) -> ProbeInput:
        """What a damaged manifest asks for is not made."""
        if any(side < 1 for side in self.shape) or prod(self.shape) > LARGEST_INPUT:
            raise ValueError(f"an input of shape {self.shape} is none")
        if self.values is not None and len(self.values) != prod(self.shape):
            raise ValueError(f"{len(self.values)} values are not {self.shape}")
        return self


class Probe(BaseModel):
    """A fixed question and what the model answered when it was saved; `verify` asks again.

    Attributes:
        inputs: of `forward`, by name.
        outputs: a few numbers of each output tensor, by its place in the answer.
        unasked: why there is no question, where the model's inputs could not be guessed.
    """

    inputs: dict[str, ProbeInput] = {}
    outputs: dict[str, list[float]] = {}
    unasked: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _tokens_alone(cls, given: Any) -> Any:
        """Earlier manifests have token ids, and the last position of the first output."""
        if isinstance(given, dict) and "input_ids" in given:
            given = dict(given)
            ids = given.pop("input_ids")
            given["inputs"] = {"input_ids": {"shape": (1, len(ids)), "values": ids}}
            given["outputs"] = {"last": given["outputs"]} if given.get("outputs") else {}
        return given


class TrainingRecord(BaseModel):
    """One training run during or after the cut.

    Attributes:
        purpose: `recovery`, or `basis-selection`: training in which bases are dropped.
        settings: as `eckart.recovery.settings.Training` has them.
        data: what was learned from: the file's name without its folder, or what was asked for.
        data_sha256: of the file.
        teacher: the model that was imitated.
        objective: what was made smaller, where a teacher was asked; labels' cross entropy otherwise.
        examples: windows of the data.
        steps, tokens: that were trained for.
        losses: `(step, loss)`, at most a few hundred: each the mean of the steps since the one before.
        notes: what became of texts that are too long.
        held_out: what it came to on data that it did not learn from, where it was `recover`.
        recipe: what does it again, with the settings, where it was `recover`: `eckart recover --recipe`.
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
    held_out: Learned | None = None
    recipe: RecoveryRecipe | None = None


class Manifest(BaseModel):
    """What was done, saved as `eckart.json` beside the weights.

    It holds no clock, and no path but what was given for the model and the data, in the recipes.

    Attributes:
        format_version: of this file; before 2 the recipe had neither a model nor a training, and data without
            their folder.
        eckart, torch, transformers: the versions that did it.
        source: the model's name, without its folder.
        recipe: what was asked for, of the cut: `eckart compress --recipe` does it again.
        data_sha256: of the data file; `None` of built-in data and data sets of the hub.
        calibration_tokens: that moments were summed over.
        parameters, bytes: before and after.
        targets: what became of each, in the model's order.
        held_out: what was measured beside the calibration data, if anything was.
        training: each training run, in order.
        left_out: tensors of the checkpoint that no weight of the model takes, dropped by `--drop-unused`.
        notes: what a reader should know.
        probe: a fixed question and what the model answered.
        files: SHA-256 of each file that the weights and the code are in.
        merged: whether the products of the factors were put back in the dense weights' places. A target
            with a rank then has the structure `dense`, as has one whose factors would have been no smaller.
        narrow: whether it is a model of its class like any other, whose config has a smaller number.
    """

    format_version: int = 2
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
    merged: bool = False
    narrow: bool = False
    left_out: list[str] = []
    notes: list[str] = []
    probe: Probe | None = None
    files: dict[str, str] = {}

    @property
    def plain(self) -> bool:
        """Whether it loads with nothing but transformers, and no code of its own."""
        return self.merged or self.narrow


@dataclass(repr=False)
class Result(Shown):
    """What `eckart.compress` and `eckart.recover` give back.

    Attributes:
        model: the compressed model, in memory, ready to use, train or `save_pretrained`; `None` where it was
            cut block by block, as it may not fit: load it from `out`.
        manifest: what was done to it.
        out: the folder it was saved in, if one was asked for.
        seconds: wall time.
        peak_memory_bytes: the process's largest resident size so far.
        phases: seconds of each kind of work, where it was cut block by block.
        warnings: what this machine measured and a user may not expect: layers that are no faster than dense.
    """

    model: Any
    manifest: Manifest
    out: str | None
    seconds: float
    peak_memory_bytes: int
    phases: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def in_a_line(self) -> str:
        """The recipe, the sizes, and what was lost on held-out data."""
        made, count = self.manifest, self.manifest.parameters
        place = f"{self.out}: " if self.out else ""
        lost = f"; {made.held_out.in_words()}" if made.held_out else ""
        return (
            f"{place}{made.recipe.method}, {count.before:,} -> {count.after:,} parameters ({count.keep:.1%})"
            f", {made.bytes.before / 1e6:,.1f} -> {made.bytes.after / 1e6:,.1f} MB{lost}"
        )

    def in_a_table(self) -> tuple[Sequence[str], Iterable[Sequence[object]]]:
        """A row for each target."""
        head = ("weight", "out x in", "structure", "rank", "parameters before", "after")
        rows = (
            (
                *(target.name, f"{target.out_features}x{target.in_features}", target.structure, target.rank),
                *(target.parameters_before, target.parameters_after),
            )
            for target in self.manifest.targets
        )
        return head, rows

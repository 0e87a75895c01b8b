"""What was asked for."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from eckart.types.numbers import Quantize
from eckart.types.texts import MAX_LENGTH, On


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
    """One choice on each axis, the model and the data: everything needed to do it again.

    Model and data stand as they were given. What a machine decides is not here: device, memory, cache.

    Attributes:
        model: the folder, hub id or `pocket` that was cut; `None` where it was in memory.
        method: the row of the catalogue that the axes were filled from.
        metric, structure, allocation, recovery: the axes, as they were used; of structures several by commas
            where each site takes what serves best.
        selection: how bases were selected, where recovery does that.
        keep: parameters after / before, as asked for.
        max_loss: instead of a size: the increase of the held-out loss that was allowed.
        energy: instead of a size: the share of its energy that each target keeps.
        size: instead of a share: bytes of the saved weights, at most.
        effort: how much work went into it; what each is stands in `eckart.recipes.efforts`.
        goal: whether it is to be small, or where it is cut also faster than dense on the machine that cut it.
        of: whether `keep` is counted over the model or over the targets.
        rank, ratio: instead of a size: ranks by hand, the ratio being of the smaller side.
        quantize: what the factors, and the targets that stayed dense, were rounded to; `None` for nothing;
            several by commas, `none` among them, where each site takes what serves best.
        targets, layers: which weights; `None` for all in the blocks.
        data: what was calibrated and trained on: a file, a data set of the hub, or `pocket`.
        fields: which fields of the data were read.
        on: what the loss of a chat in them was of.
        samples, max_length: windows of the data, and tokens in one, at most; `None` for the default.
        training: the settings of the training that followed or was a part of the cut; `None` where there was
            none.
        dtype: that weights were loaded in.
        merge: whether the factors were multiplied out again.
        drop_unused: whether the model was read without tensors that its class has no weight for.
        adapter: that was merged into the model before the cut: a folder of peft's.
        bos: whether the BOS token stood before every text; `None` without data, or of no decoder.
        blocks: whether one block at a time was cut, and has a file of its own; otherwise it is as fits.
    """

    model_config = ConfigDict(extra="forbid")

    model: str | None = None
    method: str
    metric: str
    structure: str
    allocation: str
    recovery: str = "none"
    selection: Selection | None = None
    keep: float | None = None
    max_loss: float | None = None
    energy: float | None = None
    size: int | None = None
    effort: Literal["fast", "normal", "best"] = "normal"
    goal: Literal["size", "speed"] = "size"
    of: Literal["model", "targets"] = "model"
    rank: int | None = None
    ratio: float | None = None
    quantize: str | None = None
    targets: list[str] | None = None
    layers: str | None = None
    data: str | None = None
    fields: str | None = None
    on: On = "answers"
    samples: int | None = None
    max_length: int = MAX_LENGTH
    training: dict[str, Any] | None = None
    dtype: str = "auto"
    merge: bool = False
    drop_unused: bool = False
    adapter: str | None = None
    bos: bool | None = None
    blocks: Literal[True] | None = None

    @property
    def structures(self) -> tuple[str, ...]:
        """The structures that may stand at a site."""
        return tuple(self.structure.split(","))

    @property
    def by_hand(self) -> bool:
        """Whether it says each target's size, and not that of them all."""
        return self.rank is not None or self.ratio is not None

    @property
    def bits(self) -> tuple[Quantize | None, ...]:
        """What matrices may be stored in; `None` for floats."""
        if self.quantize is None:
            return (None,)
        return tuple(None if each == "none" else each for each in self.quantize.split(","))  # type: ignore[misc]


class RecoveryRecipe(BaseModel):
    """What `recover` was asked for, beside the settings of the training.

    Attributes:
        model: the folder, hub id or `pocket` that was trained, as it was given.
        data: what was learned from, as it was given.
        fields: which fields of the data were read.
        on: what the loss of a chat in them was of.
        samples: texts of the data at most.
        teacher: the model that was imitated, as it was given.
        temperature, labels, hidden: how, where that was said.
        dtype: of the weights while they were trained.
        bos: whether the BOS token stood before every text; `None` of no decoder.
        drop_unused: whether models were read without tensors that their classes have no weight for.
    """

    model_config = ConfigDict(extra="forbid")

    model: str
    data: str
    fields: str | None = None
    on: On = "answers"
    samples: int | None = None
    teacher: str | None = None
    temperature: float | None = None
    labels: float | None = None
    hidden: float | None = None
    dtype: str = "float32"
    bos: bool | None = None
    drop_unused: bool = False

"""A model's blocks in their order: their targets, the files they are written to, and what became of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from eckart import checkpoint
from eckart.compression.bench import Ranks
from eckart.compression.blockwise.bench import BlockBench
from eckart.compression.blockwise.clock import Clock
from eckart.compression.blockwise.fitting import Portion
from eckart.compression.blockwise.outline import outline
from eckart.compression.blockwise.together import Together
from eckart.compression.blockwise.units import Units
from eckart.compression.dividing import divide
from eckart.compression.refit import place_plainly
from eckart.compression.rounding import quantize_targets
from eckart.estimate import budget
from eckart.model import portable, replacing
from eckart.model.portable.quantized import BITS
from eckart.model.quantizing import put_quantized
from eckart.model.streaming import Streamed
from eckart.types import CORRECTED, Factors, Recipe, Target, TargetRecord, Text, Track

MODEL, RECORDS, CUT = "model", "records", "cut"
QUANTIZED: dict[str, tuple[str, ...]] = {"dense": ("",), CORRECTED: (".Q",)}
"""Which parts of a structure are rounded, where it is; of the others both factors."""
OUTSIDE = "outside"
"""Stands for what is in no block."""


class Course:
    """One model on its way to a smaller one, in a folder from which it can be gone on with.

    Args:
        work: a folder that exists, for finished pieces; `work / MODEL` becomes the result.
        portion: how much is in memory at a time.

    Attributes:
        order: the blocks, as they run.
        at: the targets of each, and of `OUTSIDE`.
        columns: width of what the model gives.
        records: what became of targets, of blocks that were written.

    Raises:
        NotWalkableError: the model's blocks cannot be run one at a time.
    """

    def __init__(
        self,
        streamed: Streamed,
        tokenizer: Any,
        recipe: Recipe,
        texts: Sequence[Text],
        work: Path,
        portion: Portion,
        together: Together,
        clock: Clock,
        track: Track,
    ) -> None:
        self.streamed, self.model, self.tokenizer = streamed, streamed.model, tokenizer
        self.recipe, self.work, self.portion, self.track = recipe, work, portion, track
        self.together = together
        self.folder = work / MODEL
        self.folder.mkdir(exist_ok=True)
        seen = outline(streamed, recipe)
        self.order, self.columns = seen.order, seen.columns
        self.parts = [OUTSIDE, *self.order]
        self.notes = list(seen.found.notes)
        self.units = Units(work)
        self.bench = BlockBench(self.model, seen.found.targets, recipe, self.units, streamed.device, track)
        self.bench.spaces.update(seen.spaces)
        budget.require_possible(seen.found.targets, recipe, self.bench.prices)
        self.divided = divide(self.model, tokenizer, recipe, texts)
        self.notes += self.divided.notes
        self.at: dict[str, list[Target]] = {block: [] for block in [*self.order, OUTSIDE]}
        for target in self.bench.targets:
            self.at[self.home(target.name)].append(target)
        self.records: dict[str, TargetRecord] = {}
        self.clock = clock

    @property
    def names(self) -> list[str]:
        """Of the targets, in the model's order."""
        return [target.name for target in self.bench.targets]

    @property
    def blocks(self) -> list[nn.Module]:
        """In their order."""
        return [self.model.get_submodule(block) for block in self.order]

    def home(self, name: str) -> str:
        """The block that a target is in."""
        return next((block for block in self.order if name.startswith(f"{block}.")), OUTSIDE)

    def with_targets(self) -> list[str]:
        """The blocks that have some, in their order."""
        return [block for block, targets in self.at.items() if targets]

    def module(self, block: str) -> nn.Module | None:
        """Of a block; `None` for what is in none."""
        return None if block == OUTSIDE else self.model.get_submodule(block)

    @contextmanager
    def resident(self, block: str) -> Iterator[None]:
        """A block in memory, for as long as this lasts."""
        with ExitStack() as stack:
            if (module := self.module(block)) is not None:
                stack.enter_context(self.brought(module))
            yield

    @contextmanager
    def brought(self, module: nn.Module) -> Iterator[None]:
        """The same of its module."""
        with ExitStack() as stack:
            with self.clock.of("read"):
                stack.enter_context(self.streamed.resident(module))
            yield

    def shard(self, block: str) -> Path:
        """The file of a block, or of what is in none."""
        return self.folder / checkpoint.shard_name(self.parts.index(block), len(self.parts))

    def written(self, block: str) -> bool:
        """Whether it was cut and written."""
        return self.units.has(RECORDS, block)

    def cut_together(self, block: str, ranks: Ranks) -> None:
        """Cut the targets of a block that is in memory with its moments, each process its share; write it."""
        wanted = dict(zip(self.names, ranks, strict=True))
        records: dict[str, TargetRecord] = {}
        with self.clock.of("solve"):
            for target in self.together.mine(self.at[block]):
                records[target.name] = place_plainly(
                    self.bench, target, wanted[target.name], keep_dense=False
                )
                self.bench.forget(target)
                if not self.together.leads:
                    self._hand_over(records[target.name])
            # Solved is what all have solved.
            self.together.wait()
        if self.together.leads:
            for target in self.at[block]:
                if target.name not in records:
                    records[target.name] = self._take_over(target.name)
            self.write(block, [records[target.name] for target in self.at[block]])
        self.together.wait()
        self.recall(block)

    def _hand_over(self, record: TargetRecord) -> None:
        tensors = {}
        if record.rank is not None:
            factors = replacing.factors_of(self.model.get_submodule(record.name))
            tensors = {"U": factors.U, "V": factors.V}
            if factors.order is not None:
                tensors["order"] = factors.order
            if record.structure == CORRECTED:
                part = self.model.get_submodule(f"{record.name}.Q")
                tensors |= {"numbers": part.numbers(), "scales": part.scales}
        self.units.put(CUT, record.name, tensors, record.model_dump(mode="json"))

    def _take_over(self, name: str) -> TargetRecord:
        tensors, words = self.units.get(CUT, name)
        record = TargetRecord.model_validate(words)
        if record.rank is not None:
            device = self.streamed.device
            U, V, order = (
                tensors[part].to(device) if part in tensors else None for part in ("U", "V", "order")
            )
            assert U is not None
            assert V is not None
            replacing.replace(self.model, name, Factors(record.structure, U, V, order))
            if record.quantize is not None:
                numbers, scales = tensors["numbers"].to(device), tensors["scales"].to(device)
                put_quantized(self.model, f"{name}.Q", numbers, scales, BITS[record.quantize])
        self.units.drop(CUT, name)
        return record

    def write(self, block: str, records: Sequence[TargetRecord]) -> None:
        """Write a block that is in memory, and what became of its targets.

        Where that is asked for its weights are quantized first, in the metric of its moments.
        """
        recipe = self.recipe
        records = quantize_targets(self.model, records, recipe.quantize, recipe.structure, self.bench.sides)
        module = self.module(block)
        tensors = (
            self.streamed.outside()
            if module is None
            else {f"{block}.{name}": tensor for name, tensor in module.state_dict().items()}
        )
        with self.clock.of("write"):
            checkpoint.write_shard(self.shard(block), tensors)
        said = [record.model_dump(mode="json") for record in records]
        self.units.put(RECORDS, block, {}, {"records": said})

    def write_all(self, ranks: Ranks) -> None:
        """Cut and write every block that is not yet written."""
        todo = [block for block in [*self.order, OUTSIDE] if not self.written(block)]
        # All have looked before one writes.
        self.together.wait()
        for block in self.track(todo, "writing", len(todo)):
            with self.resident(block):
                self.cut_together(block, ranks)

    def recall(self, block: str) -> None:
        """Have a block as it was written: its structures in place, its weights where they are now."""
        _, words = self.units.get(RECORDS, block)
        records = [TargetRecord.model_validate(record) for record in words["records"]]
        self.records |= {record.name: record for record in records}
        portable.swap_modules(
            self.model,
            {
                record.name: {"rank": record.rank, "structure": record.structure}
                for record in records
                if record.rank is not None
            },
        )
        portable.quantize_modules(
            self.model,
            {
                f"{record.name}{part}": record.quantize
                for record in records
                if record.quantize is not None
                for part in QUANTIZED.get(record.structure, (".V", ".U"))
            },
        )
        self.streamed.come_from(self.module(block), checkpoint.read_shard(self.shard(block)))

    def recall_all(self) -> None:
        """All of them: the model that was made."""
        for block in [*self.order, OUTSIDE]:
            self.recall(block)

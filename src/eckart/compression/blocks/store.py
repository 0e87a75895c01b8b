"""A model of which one block at a time is in memory, and all else that is worked out on disk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from eckart import calibrate, checkpoint, linalg, structures
from eckart.compression.blocks import measuring, observing
from eckart.compression.blocks.clock import Clock
from eckart.compression.blocks.outline import outline
from eckart.compression.blocks.portion import Portion
from eckart.compression.blocks.together import Together
from eckart.compression.blocks.units import KeptMoments, Units
from eckart.compression.dividing import divide
from eckart.compression.rounding import quantize_targets
from eckart.compression.store import OUTSIDE, Store
from eckart.evaluation import Moved, Reference
from eckart.model import portable, replacing
from eckart.model.streaming import Streamed
from eckart.structures import Shape, Site
from eckart.types import Moment, Option, Recipe, Spectrum, Target, TargetRecord, Text, Track

if TYPE_CHECKING:
    from eckart.compression.bench import Bench

NOT_IMITATED = "not trained to imitate the dense model: that takes the whole of it in memory"
MODEL = "model"
INPUTS, GRADIENTS, SOLVED, LOST, RECORDS, CUT, CHOSEN = (
    "inputs",
    "gradients",
    "solved",
    "losses",
    "records",
    "cut",
    "chosen",
)
"""Kinds of finished pieces of work."""


class Stored(linalg.Decomposition):
    """A decomposition of which the factors at its largest rank are kept: those of less are parts of them."""

    def __init__(self, units: Units, name: str, device: Any, spectrum: Spectrum) -> None:
        super().__init__(torch.empty(0, 0), linalg.Side(), spectrum)
        object.__setattr__(self, "_at", (units, name, device))

    def factors(self, weight: Tensor, rank: int) -> tuple[Tensor, Tensor]:
        units, name, device = self._at  # type: ignore[attr-defined]
        tensors, _ = units.get(SOLVED, name)
        U, V = (tensors[factor].to(device) for factor in ("U", "V"))
        return linalg.Factors(U, V, self.spectrum).factors(weight, rank)


class BlockStore(Store):
    """A model folder on its way to a smaller one, in a folder from which it can be gone on with.

    Args:
        work: a folder that exists, for finished pieces; `work / MODEL` becomes the result.
        portion: how much is in memory at a time.
        together: the processes that share the work.

    Attributes:
        order: the blocks, as they run.
        columns: width of what the model gives.
        targets: those that may be replaced.

    Raises:
        NotWalkableError: the model's blocks cannot be run one at a time.
    """

    writes = True

    def __init__(
        self,
        streamed: Streamed,
        tokenizer: Any,
        recipe: Recipe,
        texts: Sequence[Text],
        work: Path,
        portion: Portion,
        together: Together,
        track: Track,
    ) -> None:
        self.streamed, self.tokenizer = streamed, tokenizer
        self.recipe, self.work, self.portion, self.track = recipe, work, portion, track
        self.together, self.clock = together, Clock()
        self.device = streamed.device
        self.folder = work / MODEL
        self.folder.mkdir(exist_ok=True)
        seen = outline(streamed, recipe)
        self.order, self.columns, self.targets = seen.order, seen.columns, seen.found.targets
        self.parts = [OUTSIDE, *self.order]
        self.units = Units(work)
        self.inputs = KeptMoments(self.units, INPUTS, self.device)
        self.gradients = KeptMoments(self.units, GRADIENTS, self.device)
        self.spaces = seen.spaces
        self.observed = calibrate.Observed(self.spaces, self.inputs, 0, self.gradients)
        self.divided = divide(self.model, tokenizer, recipe, texts)
        self.notes = [*seen.found.notes, *self.divided.notes]
        self.at = {}
        self._weighed: dict[str, bool] = {}
        self._lost: dict[str, dict[str, np.ndarray]] = {}
        self._records: dict[str, TargetRecord] = {}

    @property
    def model(self) -> Any:
        """As it is now: its blocks have values while they are resident."""
        return self.streamed.model

    @property
    def leads(self) -> bool:  # type: ignore[override]
        """Whether this process does what only one may."""
        return self.together.leads

    @property
    def blocks(self) -> list[nn.Module]:
        """In their order."""
        return [self.model.get_submodule(block) for block in self.order]

    def observe(self, bench: Bench, options: Sequence[Option] | None) -> None:
        self.at = {block: [] for block in [*self.order, OUTSIDE]}
        for site in bench.sites:
            self.at[self.piece_of(site.name)].append(site)
        wanted = None
        if options is not None:
            wanted = {site.name: option for site, option in zip(bench.sites, options, strict=True)}
        observing.Pass(self, bench, wanted).run()
        if options is not None or not self.leads:
            return
        self.together = self.together.alone()
        for target in self.targets:
            self._recall_solution(bench, target)

    def moment(self, space: str, takes: bool) -> tuple[Moment, bool]:
        # It is the side's from here on: a copy of it may be as large as the block.
        own = takes and space in self.inputs.live
        return (self.inputs.live.pop(space) if own else self.inputs[space]), own

    def pieces(self) -> list[str]:
        todo = [block for block in [*self.order, OUTSIDE] if not self.finished(block)]
        # All have looked before one writes.
        self.together.wait()
        return todo

    def piece_of(self, name: str) -> str:
        return next((block for block in self.order if name.startswith(f"{block}.")), OUTSIDE)

    def name_of(self, block: nn.Module) -> str:
        return self.streamed.name_of(block)

    @contextmanager
    def resident(self, piece: str) -> Iterator[None]:
        with ExitStack() as stack:
            if piece != OUTSIDE:
                stack.enter_context(self.resident_block(self.model.get_submodule(piece)))
            yield

    @contextmanager
    def resident_block(self, module: nn.Module) -> Iterator[None]:
        """The same by a block's module."""
        with ExitStack() as stack:
            with self.clock.of("read"):
                stack.enter_context(self.streamed.resident(module))
            yield

    @contextmanager
    def walk(self, batches: Sequence[Any]) -> Iterator[calibrate.Walk]:
        with (
            checkpoint.Spill(self.work, self.portion.waiting) as spill,
            calibrate.Walk(self.model, self.blocks, batches, shelf=spill) as walk,
        ):
            yield walk

    def batches_to_fit(self) -> list[Any]:
        return self.divided.fitting(self.portion.batch_tokens)

    def install(self, bench: Bench, piece: str, options: dict[str, Option], keep_dense: bool) -> None:
        """The same, each process its share of the sites."""
        records: dict[str, list[TargetRecord]] = {}
        with self.clock.of("solve"):
            for site in self.together.mine(self.at[piece]):
                records[site.name] = bench.place(site, options[site.name], keep_dense=False)
                bench.forget(site)
                if not self.together.leads:
                    self._hand_in(site, records[site.name])
            # Solved is what all have solved.
            self.together.wait()
        if self.together.leads:
            for site in self.at[piece]:
                if site.name not in records:
                    records[site.name] = self._collect(site)
            self.finish(bench, piece, [each for site in self.at[piece] for each in records[site.name]])
        self.together.wait()
        self.recall(piece)

    def _hand_in(self, site: Site, records: Sequence[TargetRecord]) -> None:
        """Put what replaced a site on disk, for the process that writes."""
        tensors = {
            f"{record.name}.{name}": tensor
            for record in records
            if record.structure != "dense"
            for name, tensor in self.model.get_submodule(record.name).state_dict().items()
        }
        words = {"records": [record.model_dump(mode="json") for record in records]}
        self.units.put(CUT, site.name, tensors, words)

    def _collect(self, site: Site) -> list[TargetRecord]:
        """Put what another process replaced a site by into the model."""
        tensors, words = self.units.get(CUT, site.name)
        records = [TargetRecord.model_validate(record) for record in words["records"]]
        self._put_structures([r for r in records if structures.find(r.structure).needs_bits], rounded=True)
        self._put_structures(
            [r for r in records if not structures.find(r.structure).needs_bits], rounded=False
        )
        for record in records:
            prefix = f"{record.name}."
            own = {
                name.removeprefix(prefix): each for name, each in tensors.items() if name.startswith(prefix)
            }
            if own:
                self.model.get_submodule(record.name).load_state_dict(own)
        self.units.drop(CUT, site.name)
        return records

    def finish(self, bench: Bench, piece: str, records: Sequence[TargetRecord]) -> None:
        """Write a block that is in memory, and what became of its targets.

        Where that is asked for its weights are quantized first, in the metric of its moments.
        """
        records = quantize_targets(self.model, records, bench.sides)
        if piece == OUTSIDE:
            tensors = self.streamed.outside()
        else:
            block = self.model.get_submodule(piece)
            shared = portable.group_ties(self.model, block)
            tensors = {
                f"{piece}.{name}": tensor for name, tensor in block.state_dict().items() if name not in shared
            }
        with self.clock.of("write"):
            checkpoint.write_shard(self.shard(piece), tensors)
        said = [record.model_dump(mode="json") for record in records]
        self.units.put(RECORDS, piece, {}, {"records": said})

    def shard(self, piece: str) -> Path:
        """The file of a block, or of what is in none."""
        return self.folder / checkpoint.shard_name(self.parts.index(piece), len(self.parts))

    def finished(self, piece: str) -> bool:
        return self.units.has(RECORDS, piece)

    def recall(self, piece: str) -> None:
        """Have a block as it was written: its structures in place, its weights where they are now."""
        _, words = self.units.get(RECORDS, piece)
        records = [TargetRecord.model_validate(record) for record in words["records"]]
        self._records |= {record.name: record for record in records}
        self._put_structures(records, rounded=True)
        module = None if piece == OUTSIDE else self.model.get_submodule(piece)
        self.streamed.come_from(module, checkpoint.read_shard(self.shard(piece)))

    def _put_structures(self, records: Sequence[TargetRecord], rounded: bool) -> None:
        """Empty structures in the places of targets, their matrices in few bits where they have bits."""
        entries = {
            record.name: replacing.entry_of(
                structures.find(record.structure),
                record.option.size or 0,
                record.site if record.site != record.name else None,
            )
            for record in records
            if record.structure != "dense"
        }
        portable.swap_modules(self.model, entries)
        if rounded:
            layers: dict[str, str] = {}
            for record in records:
                bits, structure = record.option.bits, structures.find(record.structure)
                if bits is None or (record.rounding_error is None and not structure.needs_bits):
                    continue
                shape = Shape(record.out_features, record.in_features)
                for name, part in structure.parts(shape, record.option.size or 0).items():
                    if part.role == "matrix" and part.rounded:
                        layer = name.removesuffix("weight").removesuffix(".")
                        layers[f"{record.name}.{layer}" if layer else record.name] = bits
            portable.quantize_modules(self.model, layers)

    def records(self, bench: Bench) -> list[TargetRecord]:
        self.recall_all()
        return [self._records[target.name] for target in bench.targets]

    def recall_all(self) -> None:
        """All pieces as they were finished: the model that was made."""
        for piece in [*self.order, OUTSIDE]:
            self.recall(piece)

    def undo(self, bench: Bench) -> None:
        """Open the model anew: what was written is not what is wanted."""
        self.streamed = Streamed(
            checkpoint.open_checkpoint(self.streamed.folder), str(self.device), self.streamed.given_dtype
        )
        self.divided.model = self.model
        self._records.clear()
        for piece in self.parts:
            self.units.drop(RECORDS, piece)

    def keep_solution(self, bench: Bench, site: Site) -> None:
        """Decompose a site that is in memory with its moments, and keep what comes out."""
        lost = bench.measure_losses(site) if bench.needs_errors or bench.decomposes else {}
        # Copies: what a spectral structure loses is the tail itself, and a file takes no tensor twice.
        kept = {name: torch.tensor(values) for name, values in lost.items()}
        for target in site.targets:
            weighed = bench.weighed(target.name)
            tensors, words = dict(kept), {"weighed": weighed, "lost": list(lost)}
            if (solved := bench.solved.get(target.name)) is not None:
                factors = linalg.Factors.of(solved, bench.weight(target.name))
                self.units.put(SOLVED, target.name, {"U": factors.basis, "V": factors.V}, {})
                tensors |= {
                    "values": torch.from_numpy(solved.spectrum.values),
                    "tail": torch.from_numpy(solved.spectrum.tail),
                }
            self.units.put(LOST, target.name, tensors, words)
        bench.forget(site)

    def has_solution(self, site: Site) -> bool:
        """Whether that was done."""
        return all(self.units.has(LOST, target.name) for target in site.targets)

    def _recall_solution(self, bench: Bench, target: Target) -> None:
        """What was kept of a target; its factors come when they are asked for."""
        tensors, words = self.units.get(LOST, target.name)
        self._weighed[target.name] = words["weighed"]
        self._lost[target.name] = {name: tensors[name].numpy() for name in words["lost"]}
        if "tail" in tensors:
            whole = Spectrum(tensors["values"].numpy(), tensors["tail"].numpy())
            bench.solved[target.name] = Stored(self.units, target.name, self.device, whole)

    def has_gradient(self, name: str) -> bool | None:
        return self._weighed.get(name)

    def keeps_solution(self, name: str) -> bool:
        return name in self._weighed

    def lost(self, site: Site) -> dict[str, np.ndarray] | None:
        return self._lost.get(site.name) or None

    def remember(self, kind: str, words: dict[str, Any]) -> None:
        self.units.put(CHOSEN, kind, {}, words)

    def remembered(self, kind: str) -> dict[str, Any] | None:
        return self.units.get(CHOSEN, kind)[1] if self.units.has(CHOSEN, kind) else None

    def imitation(self) -> None:
        self.notes.append(NOT_IMITATED)

    def reference(self) -> Reference | None:
        with self.clock.of("measure"):
            return measuring.reference(self)

    def measure(self, bench: Bench, reference: Reference, several: Sequence[Sequence[Option]]) -> list[Moved]:
        with self.clock.of("measure"):
            return measuring.measure(self, bench, reference, several)

    def moved(self, reference: Reference) -> Moved:
        self.recall_all()
        with self.clock.of("measure"):
            return reference.moved(measuring.outputs(self, reference.batches, reference.part))

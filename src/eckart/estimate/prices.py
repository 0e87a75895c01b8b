"""What options cost: in parameters, or in bytes of the files that they are saved in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from eckart import structures
from eckart.estimate import gains
from eckart.model import replacing
from eckart.model import targets as targets_
from eckart.structures import Part, Shape, Site, Structure
from eckart.types import Curve, Option, Quantize, Recipe, Target, UsageError

ENTRY = '"":{"dtype":"BF16","shape":[,],"data_offsets":[,]},'
FILE = 64
"""Of a safetensors file beside its tensors and their entries: a length, the format, filling."""


@dataclass(frozen=True)
class SiteErrors:
    """What a site loses, comparable between sites.

    Attributes:
        by_size: for each structure, the error at each size from 0, where nothing is left.
        rounding: what rounding the weights themselves to each number of bits adds.
    """

    by_size: Mapping[str, np.ndarray]
    rounding: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Prices:
    """The options of one model's sites under one recipe, and their costs.

    Attributes:
        structures: that may stand at a site, beside dense.
        bits: that matrices may be stored in; `None` for floats.
        in_bytes: whether the budget is in bytes, entries of the files' headers among them.
        items: bytes of an entry of each target's weight.
        fixed: what is in no target, in the budget's unit.
        tensors: bytes of the tensors that are in no target.
        digits: of the largest offset in a file.
        timed: where each option is to be faster than dense: the dtype and the device.
    """

    structures: tuple[str, ...]
    bits: tuple[Quantize | None, ...]
    in_bytes: bool
    items: dict[str, int]
    fixed: int
    tensors: int
    digits: int
    timed: tuple[torch.dtype, str] | None = None
    _known: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(
        cls,
        model: Any,
        targets: Sequence[Target],
        recipe: Recipe,
        more: int = 0,
        device: torch.device | None = None,
    ) -> Prices:
        """Those of a model, which may be on the meta device.

        Args:
            more: parameters that its checkpoint has beside those of the model.
            device: where it is to be fast; default where the model is, and of one that is nowhere the CPU.
        """
        weights = {target.name: targets_.weight_of(model.get_submodule(target.name)) for target in targets}
        items = {name: weight.element_size() for name, weight in weights.items()}
        held = sum(weight.numel() for weight in weights.values())
        tensors = (
            replacing.count_bytes(model)
            + more * model.dtype.itemsize
            - sum(weight.numel() * weight.element_size() for weight in weights.values())
        )
        digits = len(str(replacing.count_bytes(model)))
        fixed = replacing.count_parameters(model) + more - held
        in_bytes = recipe.size is not None or not any(
            structures.find(name).fewer for name in recipe.structures
        )
        if in_bytes:
            blocks = {targets_.block_of(model, target.name) for target in targets}
            tied = getattr(model, "all_tied_weights_keys", None) or {}
            biases = {f"{target.name}.bias" for target in targets if target.bias}
            others = (
                (name, tuple(tensor.shape))
                for name, tensor in model.state_dict().items()
                if name not in tied and name.removesuffix(".weight") not in items and name not in biases
            )
            fixed = tensors + FILE * (len(blocks) + 1) + _entries(others, digits)
        where = device or model.device
        timed = (
            (model.dtype, "cpu" if where.type == "meta" else str(where)) if recipe.goal == "speed" else None
        )
        return cls(recipe.structures, recipe.bits, in_bytes, items, fixed, tensors, digits, timed)

    @property
    def mixed(self) -> bool:
        """Whether a site's options differ in more than their size."""
        return len(self.structures) * len(self.bits) > 1

    def sites(self, targets: Sequence[Target]) -> list[Site]:
        """The sites of the structures among the targets.

        Raises:
            UsageError: structures that divide the targets differently, or one that refuses some.
        """
        found: list[Site] = []
        places = {target.name: place for place, target in enumerate(targets)}
        for name in self.structures:
            sites, refused = structures.find(name).sites(targets)
            if refused and not (structures.find(name).channels and sites):
                target, why = next(iter(refused.items()))
                raise UsageError(f"{target} cannot be {name}: {why}; leave it out of --targets")
            sites += [Site((target,), dense=True) for target in targets if target.name in refused]
            sites.sort(key=lambda site: places[site.name])
            if found and sites != found:
                raise UsageError(
                    f"{name} replaces other groups of weights than {self.structures[0]}: name one of them"
                )
            found = sites
        return found

    def dense(self) -> Option:
        """The option that the weight stays as it is, rounded where all that is rounded at all is."""
        always = all(structures.find(name).needs_bits for name in self.structures)
        return Option(structure="dense", bits=None if always or None in self.bits else self.bits[-1])

    def options(self, site: Site) -> list[Option]:
        """All options of a site but `dense()`."""
        found = []
        for name in self.structures if not site.dense else ():
            structure = structures.find(name)
            found += [
                Option(structure=name, size=size, bits=bits)
                for bits in self.bits
                if not (structure.needs_bits and bits is None)
                for size in self._sizes(structure, site)
            ]
        dense = self.dense()
        rounded = [Option(structure="dense", bits=bits) for bits in self.bits if bits is not None]
        return found + [option for option in rounded if self.mixed and option != dense]

    def fastest(self, structure: Structure, site: Site) -> int | None:
        """The largest size that is faster than dense, where that is asked; `None` where every one may be."""
        sizes = structure.sizes(site)
        if self.timed is None or structure.channels or not sizes:
            return None
        (target,) = site.targets
        shape = Shape(target.out_features, target.in_features)
        return gains.largest_faster(shape, structure.name, max(sizes), *self.timed)

    def _sizes(self, structure: Structure, site: Site) -> range:
        return structure.sizes(site)[: self.fastest(structure, site)]

    def cost(self, site: Site, option: Option) -> int:
        """Of an option, in the budget's unit."""
        if not self.in_bytes:
            return self.parameters(site, option)
        return self.bytes(site, option) + _entries(self._stored(site, option, biases=True), self.digits)

    def parameters(self, site: Site, option: Option) -> int:
        """Of an option: a rounded weight counts as many as it had floats."""
        return structures.find(option.structure).parameters(site, option.size or 0)

    def bytes(self, site: Site, option: Option) -> int:
        """Of the tensors that a site's weights are saved in, without biases."""
        item = self.items[site.name]
        parts = self._parts(site, option, biases=False)
        return sum(each.nbytes for each in structures.stored_tensors(parts, option.bits, item).values())

    def curves(self, sites: Sequence[Site], errors: Sequence[SiteErrors] | None = None) -> list[Curve]:
        """What each site costs, and with errors what it loses, with each option that pays.

        Args:
            errors: of each site.
        """
        make = self._mixed_curve if self.mixed else self._curve
        return [make(site, None if errors is None else errors[index]) for index, site in enumerate(sites)]

    def picked(self, curves: Sequence[Curve], picks: Sequence[int | None]) -> list[Option]:
        """The options at these positions of curves."""
        dense = self.dense()
        return [
            dense if pick is None else curve.options[pick - 1]
            for curve, pick in zip(curves, picks, strict=True)
        ]

    def _curve(self, site: Site, errors: SiteErrors | None) -> Curve:
        """Of one structure: an option for each size."""
        # A large model has thousands of sizes for each of hundreds of weights, of a few shapes. In bytes a
        # header has the weight's own name.
        key = (
            *(Shape(t.out_features, t.in_features, inner=t.inner) for t in site.targets),
            site.dense,
            site.name if self.in_bytes else "",
        )
        if key not in self._known:
            self._known[key] = self._costs(site)
        costs, dense, options = self._known[key]
        known = None if errors is None else errors.by_size[self.structures[0]][: len(costs)]
        return Curve(costs, dense, known, options)

    def _costs(self, site: Site) -> tuple[np.ndarray, int, tuple[Option, ...]]:
        """Of nothing and of each option that pays; of dense; and the options."""
        options, dense = self.options(site), self.cost(site, self.dense())
        costs = np.array([0, *(self.cost(site, option) for option in options)])
        if self.in_bytes:
            # Whole bytes and scales make steps; allocators want costs that rise at every size.
            steps = np.arange(len(costs))
            costs = np.maximum.accumulate(costs - steps) + steps
        costs = costs[: max(1, int(np.searchsorted(costs, dense)))]
        return costs, dense, tuple(options[: len(costs) - 1])

    def _mixed_curve(self, site: Site, errors: SiteErrors | None) -> Curve:
        """Of several structures or bits: of options that cost and lose more than another none is left."""
        dense = self.cost(site, self.dense())
        points = []
        for option in self.options(site):
            cost = self.cost(site, option)
            if cost < dense:
                points.append((cost, 0.0 if errors is None else _error(option, errors), option))
        points.sort(key=lambda point: point[:2])
        nothing = 0.0 if errors is None else max(float(each[0]) for each in errors.by_size.values())
        costs, losses, options = [0], [nothing], []
        for cost, loss, option in points:
            if cost > costs[-1] and (errors is None or loss < losses[-1]):
                costs.append(cost)
                losses.append(loss)
                options.append(option)
        known = None if errors is None else np.array(losses)
        return Curve(np.array(costs), dense, known, tuple(options), mixed=True)

    def _parts(self, site: Site, option: Option, biases: bool) -> dict[str, Part]:
        parts = structures.find(option.structure).tensors(site, option.size or 0)
        return {name: part for name, part in parts.items() if biases or part.role != "bias"}

    def _stored(self, site: Site, option: Option, biases: bool) -> list[tuple[str, tuple[int, ...]]]:
        parts = self._parts(site, option, biases)
        stored = structures.stored_tensors(parts, option.bits, self.items[site.name])
        return [(name, each.shape) for name, each in stored.items()]


def _error(option: Option, errors: SiteErrors) -> float:
    rounding = 0.0 if option.bits is None else errors.rounding.get(option.bits, 0.0)
    if option.size is None:
        return rounding
    # A structure that rounds as it is made has that in its own error.
    inherent = structures.find(option.structure).needs_bits
    return float(errors.by_size[option.structure][option.size]) + (0.0 if inherent else rounding)


def _entries(tensors: Iterable[tuple[str, tuple[int, ...]]], digits: int) -> int:
    """Bytes of the header that names tensors, at most."""
    return sum(
        len(ENTRY) + len(name) + len(",".join(map(str, shape))) + 2 * digits for name, shape in tensors
    )

"""Narrow MLP: some of the channels between the two matrices of an MLP, and what reads them fitted anew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from eckart.structures.contract import Structure
from eckart.structures.modules import StructuredLinear
from eckart.structures.pieces import Fitted, Part, Problem, Site
from eckart.structures.registry import add

RIDGE = 1e-10
"""Of the metric's mean diagonal: channels that the data never showed cost nothing, and have an inverse."""
AT_ONCE = 64
"""A round drops one in so many of the channels that there were."""
CANDIDATES = 4
"""For each channel that a round drops, so many are looked at."""
OUTPUTS, INPUTS = "outputs", "inputs"
INDEX = {OUTPUTS: "rows", INPUTS: "columns"}
DROPPED = -1


class NarrowLinear(StructuredLinear):
    """A linear layer that writes, or reads, some of the channels alone.

    One that reads channels takes all of them too, and picks its own.

    Args:
        in_features, out_features: of the dense layer.
        size: how many channels are left.
        inner: on which side they are, and how many there were; of a layer that writes several sets of them
            (gate and up in one) `out_features` is a multiple.
        bias, device, dtype: as of `nn.Linear`.
    """

    structure = "narrow-mlp"

    def __init__(
        self,
        in_features: int,
        out_features: int,
        size: int,
        inner: tuple[str, int],
        bias: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(in_features, out_features, size)
        self.inner = inner
        side, width = inner
        writes = (out_features // width) * size if side == OUTPUTS else out_features
        self.linear = nn.Linear(size if side == INPUTS else in_features, writes, bias, **options)
        places = torch.arange(width, dtype=torch.int32, device=options.get("device"))
        self.register_buffer(INDEX[side], torch.where(places < size, places, DROPPED))

    @property
    def bias(self) -> Tensor | None:
        """Of the channels that are left."""
        bias: Tensor | None = self.linear.bias
        return bias

    def forward(self, x: Tensor) -> Tensor:
        columns = self._buffers.get("columns")
        if columns is not None and self.size < len(columns) == x.shape[-1]:
            x = x.index_select(-1, channels_of(columns, self.size))
        y: Tensor = self.linear(x)
        return y


class NarrowMLP(Structure):
    """`k` of an MLP's inner channels; the weights that write them lose rows, the one that reads them columns.

    As in MoDeGPT (Lin et al. 2024, arXiv 2408.09632; ICLR 2025) what reads is fitted to the channels that are
    left, in closed form: `W C[:, S] C[S, S]⁻¹` with `C` the second moment of the channels. Which stay is
    chosen as in structured OBS (Kurtić et al. 2023, ZipLM, arXiv 2302.04089): again and again the channel is
    dropped whose loss, after the others have taken over, is least; several in a round, with all that they do
    to each other. The paper's own choice are the largest ridge leverage scores.

    A site is what writes the channels and, last, what reads them. A weight by itself is one that reads.
    """

    name = "narrow-mlp"
    size_name = "number of channels"
    channels = True
    supports: ClassVar[frozenset[str]] = frozenset({"training"})

    def sites(self, targets: Sequence[Any]) -> tuple[list[Site], dict[str, str]]:
        groups: dict[str, list[Any]] = {}
        for target in targets:
            if target.group is not None:
                groups.setdefault(target.group, []).append(target)
        sites, refused = [], {}
        for reader, members in groups.items():
            members.sort(key=lambda each: each.name == reader)
            sites.append(Site(tuple(members)))
        for target in targets:
            if target.group is None:
                refused[target.name] = "it neither writes nor reads the inner channels of an MLP"
        return sites, refused

    def largest(self, shape: Any) -> int:
        return _inner_of(shape)[1]

    def parts(self, shape: Any, size: int) -> dict[str, Part]:
        side, width = _inner_of(shape)
        writes = (shape.out_features // width) * size if side == OUTPUTS else shape.out_features
        reads = size if side == INPUTS else shape.in_features
        found = {INDEX[side]: Part((width,), "index"), "linear.weight": Part((writes, reads))}
        return found | ({"linear.bias": Part((writes,), "bias")} if shape.bias else {})

    def errors(self, site: Site, problems: Sequence[Problem]) -> Tensor:
        reader = problems[-1]
        whole = reader.norm(reader.weight) ** 2
        _, lost = _dropped(reader, 1)
        errors = torch.cat([torch.tensor([whole], dtype=torch.float64), lost.flip(0), lost.new_zeros(1)])
        return errors.clamp(max=whole).flip(0).cummax(0).values.flip(0)

    def fit(self, problems: Sequence[Problem], size: int) -> list[Fitted]:
        reader = problems[-1]
        kept = _kept(reader, size)
        width, device = reader.weight.shape[1], reader.weight.device
        places = torch.full((width,), DROPPED, dtype=torch.int32, device=device)
        places[kept] = torch.arange(size, dtype=torch.int32, device=device)
        fitted = []
        for problem in problems[:-1]:
            rows = problem.weight.unflatten(0, (-1, width))[:, kept].flatten(0, 1).double()
            fitted.append(Fitted({"rows": places, "linear.weight": rows}, 0.0))
        found = {"columns": places, "linear.weight": _refitted(reader, kept)}
        return [*fitted, Fitted(found, self.relative_error(reader, found, size))]

    def approximate(self, problems: Sequence[Problem], size: int) -> list[Tensor]:
        # What nobody reads may be written.
        written = [problem.weight.double() for problem in problems[:-1]]
        return [*written, self.dense(dict(self.fit(problems[-1:], size)[0].tensors), size)[0]]

    def dense(self, tensors: Mapping[str, Any], size: int) -> tuple[Tensor, Tensor | None]:
        weight, bias = tensors["linear.weight"].double(), tensors.get("linear.bias")
        bias = None if bias is None else bias.double()
        if "columns" in tensors:
            kept = channels_of(tensors["columns"], size)
            whole = weight.new_zeros(len(weight), len(tensors["columns"]))
            whole[:, kept] = weight
            return whole, bias
        return _spread(weight, tensors["rows"], size), None if bias is None else _spread(
            bias, tensors["rows"], size
        )

    def relative_error(self, problem: Problem, tensors: Mapping[str, Tensor], size: int) -> float:
        """Of rows that nobody reads any more nothing is lost: that is lost where they were read."""
        found = self.dense(tensors, size)[0]
        if "rows" in tensors:
            lost = tensors["rows"].eq(DROPPED).repeat(len(found) // len(tensors["rows"]))
            found[lost] = problem.weight[lost].double()
        return problem.relative_error(found)

    def biases(self, tensors: Mapping[str, Tensor], bias: Tensor) -> dict[str, Tensor]:
        if "rows" not in tensors:
            return {"linear.bias": bias}
        rows = tensors["rows"]
        kept = channels_of(rows, int((rows != DROPPED).sum()))
        return {"linear.bias": bias.unflatten(0, (-1, len(rows)))[:, kept].flatten()}

    def layer(
        self,
        shape: Any,
        size: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> nn.Module:
        inner = _inner_of(shape)
        return NarrowLinear(
            shape.in_features, shape.out_features, size, inner, shape.bias, device=device, dtype=dtype
        )


def channels_of(index: Tensor, size: int) -> Tensor:
    """The channels that are left, in their order, by the place of each channel among them, or `DROPPED`."""
    return index.long().argsort(stable=True)[len(index) - size :]


def _inner_of(shape: Any) -> tuple[str, int]:
    return getattr(shape, "inner", None) or (INPUTS, shape.in_features)


def _spread(values: Tensor, rows: Tensor, size: int) -> Tensor:
    """Values of the channels that are left among zeros, set by set."""
    whole = values.new_zeros(len(values) // size, len(rows), *values.shape[1:])
    whole[:, channels_of(rows, size)] = values.unflatten(0, (-1, size))
    return whole.flatten(0, 1)


def _moment(problem: Problem) -> Tensor:
    """`R Rᵀ` with a little of the identity."""
    gram, width = problem.gram, problem.weight.shape[1]
    if gram is None:
        return torch.eye(width, dtype=torch.float64, device=problem.weight.device)
    gram = torch.diag(gram) if gram.ndim == 1 else gram.clone()
    gram.diagonal().add_(RIDGE * gram.diagonal().mean())
    return gram


def _refitted(problem: Problem, kept: Tensor) -> Tensor:
    """The best weights of these channels, their own and what they take over: `W C[:, S] C[S, S]⁻¹`."""
    gram, weight = _moment(problem), problem.weight.double()
    gone = torch.ones(weight.shape[1], dtype=torch.bool, device=weight.device)
    gone[kept] = False
    factor = torch.linalg.cholesky(gram[kept][:, kept])
    return weight[:, kept] + torch.cholesky_solve(gram[kept][:, gone] @ weight[:, gone].T, factor).T


def _kept(problem: Problem, size: int) -> Tensor:
    """The channels that stay, in their order."""
    width = problem.weight.shape[1]
    order = _dropped(problem, size)[0] if size < width else torch.empty(0, dtype=torch.long)
    stays = torch.ones(width, dtype=torch.bool, device=problem.weight.device)
    stays[order.to(stays.device)] = False
    return stays.nonzero().squeeze(1)


def _dropped(problem: Problem, left: int) -> tuple[Tensor, Tensor]:
    """The channels in the order in which they are dropped until so many are left, and what is lost by then.

    Returns:
        Channels, and `‖Lᵀ (W − Ŵ) R‖²` after each, float64.

    Raises:
        ValueError: the weight is not finite.
    """
    weight = problem.weight.double()
    if not torch.isfinite(weight).all():
        raise ValueError("the weight has entries that are not finite")
    width = weight.shape[1]
    inverse = torch.linalg.inv(_moment(problem))
    # Of a column what its loss is made of: `w · L Lᵀ w`.
    columns, heavy = weight.T.clone(), problem.times_left(weight).T.clone()
    names = torch.arange(width, device=weight.device)
    order, losses, lost = [], [], 0.0
    count = max(1, width // AT_ONCE)
    unit = problem.unit
    while len(names) > left:
        count = min(count, len(names) - left)
        scores = (columns * heavy).sum(1) / inverse.diagonal()
        several = min(len(names), CANDIDATES * count)
        looked = scores.topk(several, largest=False).indices
        out, costs = _fewest(inverse[looked][:, looked], columns[looked], heavy[looked], count)
        gone = looked[out]
        for cost in costs:
            lost += cost
            losses.append(lost * unit)
        order.append(names[gone])
        factors = torch.linalg.solve(inverse[gone][:, gone], inverse[gone])
        columns -= factors.T @ columns[gone]
        heavy -= factors.T @ heavy[gone]
        inverse = inverse - inverse[gone].T @ factors
        stays = torch.ones(len(names), dtype=torch.bool, device=weight.device)
        stays[gone] = False
        names, columns, heavy = names[stays], columns[stays], heavy[stays]
        inverse = inverse[stays][:, stays]
    return torch.cat([names[:0], *order]), torch.tensor(losses, dtype=torch.float64)


def _fewest(inverse: Tensor, columns: Tensor, heavy: Tensor, count: int) -> tuple[Tensor, list[float]]:
    """Of a few channels those to drop, one after another, and what each costs more."""
    inverse, columns, heavy = inverse.clone(), columns.clone(), heavy.clone()
    there = torch.ones(len(inverse), dtype=torch.bool, device=inverse.device)
    out, costs = [], []
    for _ in range(count):
        diagonal = inverse.diagonal()
        scores = torch.where(there, (columns * heavy).sum(1) / diagonal.clamp_min(1e-300), torch.inf)
        at = int(scores.argmin())
        out.append(at)
        costs.append(max(float(scores[at]), 0.0))
        there[at] = False
        share = inverse[:, at] / inverse[at, at]
        columns -= share[:, None] * columns[at].clone()
        heavy -= share[:, None] * heavy[at].clone()
        inverse -= share[:, None] * inverse[at].clone()
    return torch.tensor(out, device=inverse.device), costs


add(NarrowMLP())

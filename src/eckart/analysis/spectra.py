"""Spectra of single weights, and the sizes that uniform cuts of all would come to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any, Literal

import torch

from eckart import allocate, linalg, structures
from eckart.estimate.prices import Prices
from eckart.structures import Site
from eckart.types import Cosine, EckartError, Matrix, Size, Spectrum, Target

SHARES = (0.9, 0.95, 0.99, 0.999)
"""Of the energy, that ranks are given for."""
AT = (1 / 8, 1 / 4, 1 / 2, 3 / 4)
"""Of the smaller side: ranks that cosines are given at, unless told otherwise."""
KEEPS = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
"""Of the targets, that sizes are given for."""
FAST = 1 / 16
"""Of the smaller side: as many values are found in a hurry. It takes half the time of all, and of an eighth
most of it (4096 x 4096 and 11008 x 4096, bfloat16, one CPU core)."""
FAST_LEAST = 64


def spectral_structures() -> list[str]:
    """The structures whose error at each rank is the spectral tail."""
    return [name for name in structures.replacements() if structures.find(name).spectral]


@dataclass(frozen=True)
class WeightInputs:
    """What a weight reads on the data: its second moment as a side of the metric, and a few rows."""

    side: linalg.Side
    rows: Any


@dataclass(frozen=True)
class Spectra:
    """The spectra of a weight as they were found, with what they say; `weighted` where there were data."""

    matrix: Matrix
    plain: Spectrum
    weighted: Spectrum | None


def analyze_weight(
    weight: Any,
    name: str = "",
    place: tuple[str, int] | None = None,
    *,
    ranks: Sequence[int] | None = None,
    fast: bool = False,
    inputs: WeightInputs | None = None,
    dtype: str | None = None,
) -> Spectra:
    """Analyse one weight.

    Args:
        weight: `(out, in)`, any float dtype, on any device.
        name: of its module.
        place: its stack and block.
        ranks: that cosines are given at; those that it does not have are left out.
        fast: find the leading values only; then cosines are given at ranks among these.
        inputs: what it reads on the data.
        dtype: as stored, where `weight` is in another.

    Raises:
        EckartError: it has entries that are not finite, or cannot be decomposed.
    """
    out_features, in_features = (int(size) for size in weight.shape)
    if not torch.isfinite(weight).all():
        raise EckartError(
            f"{f'{name}.weight' if name else 'the weight'} has values that are not finite (NaN or infinity)"
            + (": the checkpoint is damaged" if name else "")
        )
    smaller = min(out_features, in_features)
    given = [rank for rank in ranks or () if rank <= smaller]
    count = max([FAST_LEAST, int(FAST * smaller), *given])
    if ranks:
        wanted = sorted(set(given))
    elif fast and not linalg.covers(count, smaller):
        wanted = [count // 4, count // 2, count]
    else:
        wanted = sorted({max(1, int(at * smaller)) for at in AT})
    try:
        found = _decomposed(weight, wanted, count if fast else None, inputs)
    except (ValueError, RuntimeError) as error:
        raise EckartError(f"{name or 'the weight'} could not be decomposed: {error}") from error
    plain, weighted = found.plain, found.weighted
    exact = len(plain.values) == smaller
    kind = name.removeprefix(f"{place[0]}.{place[1]}.") if place else name
    target = Target(name, out_features, in_features, bias=False)
    matrix = Matrix(
        name=name,
        stack=place[0] if place else None,
        block=place[1] if place else None,
        kind=kind,
        out_features=out_features,
        in_features=in_features,
        dtype=dtype or _spelled(weight.dtype),
        values=plain.values.tolist(),
        norm=sqrt(float(plain.tail[0])),
        weighted_values=None if weighted is None else weighted.values.tolist(),
        weighted_norm=None if weighted is None else sqrt(float(weighted.tail[0])),
        energy_ranks=_energy_ranks(plain),
        weighted_energy_ranks=None if weighted is None else _energy_ranks(weighted),
        effective_rank=linalg.effective_rank(plain) if exact else None,
        stable_rank=linalg.stable_rank(plain),
        break_even={
            name: len(structures.find(name).sizes(Site((target,)))) for name in spectral_structures()
        },
        cosines=found.cosines,
        exact=exact,
    )
    return Spectra(matrix, plain, weighted)


@dataclass(frozen=True)
class _Decomposed:
    """Spectra of one weight, and cosines at some ranks."""

    plain: Spectrum
    weighted: Spectrum | None
    cosines: list[Cosine]


def _decomposed(
    weight: Any, wanted: list[int], count: int | None, inputs: WeightInputs | None
) -> _Decomposed:
    if inputs is None:
        plain = linalg.spectrum_of(weight) if count is None else linalg.leading_spectrum(weight, count)
        at = [rank for rank in wanted if rank <= len(plain.values)]
        random = linalg.random_cosines(plain, at)
        cosines = [Cosine(rank=rank, random=each) for rank, each in zip(at, random, strict=True)]
        return _Decomposed(plain, None, cosines)
    solver: Literal["exact", "randomized"] = "exact" if count is None else "randomized"
    rank = count or max(wanted, default=1)
    identity = linalg.Side()
    one = linalg.decompose(weight, identity, identity, rank=rank, solver=solver)
    other = linalg.decompose(weight, identity, inputs.side, rank=rank, solver=solver)
    at = [rank for rank in wanted if rank <= one.basis.shape[1]]
    rows = inputs.rows.to(weight.device)
    cosines = [
        Cosine(rank=rank, random=random, activations=activations, weighted=weighted)
        for rank, random, activations, weighted in zip(
            at,
            linalg.random_cosines(one.spectrum, at),
            linalg.output_cosines(weight, one.basis, rows, at),
            linalg.output_cosines(weight, other.basis, rows, at),
            strict=True,
        )
    ]
    return _Decomposed(one.spectrum, other.spectrum, cosines)


def _energy_ranks(found: Spectrum) -> dict[str, int | None]:
    return {f"{share:g}": linalg.energy_rank(found, share) for share in SHARES}


def _spelled(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def uniform_sizes(
    targets: Sequence[Target], found: Sequence[Spectra], parameters: int, size: int, item: int
) -> list[Size]:
    """What uniform cuts of the targets would come to, in each structure.

    Args:
        found: of each target.
        parameters, size: of the whole model, and its bytes.
        item: bytes of an entry of a target.
    """
    dense = sum(target.out_features * target.in_features for target in targets)
    rows = []
    items = {target.name: item for target in targets}
    for structure in spectral_structures():
        prices = Prices((structure,), (None,), in_bytes=False, items=items, fixed=0, tensors=0, digits=0)
        sites = prices.sites(targets)
        curves = prices.curves(sites)
        for keep in KEEPS:
            allowed = int(keep * dense + 1e-9)
            if allowed < allocate.least(curves):
                continue
            ranks = allocate.uniform(curves, allowed)
            left = allocate.cost(curves, ranks)
            options = [
                prices.dense() if rank is None else curve.options[rank - 1]
                for curve, rank in zip(curves, ranks, strict=True)
            ]
            saved = sum(prices.bytes(site, option) for site, option in zip(sites, options, strict=True))
            weighted = [each.weighted for each in found]
            rows.append(
                Size(
                    keep=keep,
                    structure=structure,
                    parameters=parameters - dense + left,
                    model_keep=(parameters - dense + left) / parameters,
                    bytes=size - dense * item + saved,
                    error=_error([each.plain for each in found], ranks),
                    weighted_error=_error(weighted, ranks) if any(weighted) else None,
                )
            )
    return rows


def _error(spectra: Sequence[Spectrum | None], ranks: Sequence[int | None]) -> float | None:
    """The relative error of all together; `None` where a rank lies beyond what was found.

    A weight without a spectrum, which no token reached, does not count.
    """
    whole = lost = 0.0
    for spectrum, rank in zip(spectra, ranks, strict=True):
        if spectrum is None:
            continue
        whole += float(spectrum.tail[0])
        if rank is not None:
            if rank >= len(spectrum.tail):
                return None
            lost += float(spectrum.tail[rank])
    return sqrt(lost / whole) if whole else 0.0

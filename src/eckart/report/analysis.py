"""The page of an analysis: what is low-rank here, and what a cut would cost."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from itertools import accumulate
from statistics import median
from typing import Any

from eckart.report.page import Page, items
from eckart.report.words import digits, percent, plural, short, size
from eckart.types import Analysis, Matrix, Size

POINTS = 160
"""Of each spectrum on the page at most: half of them at even steps, half at even ratios."""
ENERGY = "0.95"
"""The share of the energy that sentences speak of."""


def analysis_page(analysis: Analysis) -> str:
    """One HTML page with every chart of an analysis; it fetches nothing and shows every name as text.

    The same analysis gives the same page. Spectra are thinned to `POINTS` values each, the first and the last
    among them.

    Args:
        analysis: what `eckart analyze` found.
    """
    matrices = analysis.matrices
    page = Page(
        title=f"Analysis of {analysis.source}",
        kind=f"Eckart, analysis before a cut: {analysis.architecture}",
        heading=analysis.source,
        lede=_lede(analysis),
        facts=_facts(analysis),
        data={
            "matrices": [_matrix(matrix) for matrix in matrices],
            "ranks": {str(count): ranks_shown(count) for count in sorted(_counts(matrices))},
            "sizes": [each.model_dump() for each in analysis.sizes],
            "parameters": analysis.parameters,
            "data": analysis.data,
        },
        script="analysis.js",
        sections=[
            ("whole", "The whole model", '<div id="maps"></div>'),
            (
                "matrix",
                "One matrix",
                "<p>Pick a matrix here, by a click on the map above, or go from one to the next with the "
                'left and right arrow keys.</p><div id="picked"></div><div class="grid" id="one"></div>',
            ),
            ("sizes", "What a cut would come to", '<div id="cuts"></div>'),
            ("tied", "Shared weights", _tied(analysis)),
        ],
        notes=analysis.notes,
        made_with=f"Eckart {analysis.eckart}, torch {analysis.torch}, transformers {analysis.transformers}",
    )
    return page.html()


def energy_share(matrix: Matrix, energy: str = ENERGY, weighted: bool = False) -> float | None:
    """The rank that keeps so much of the energy, as a share of the smaller side; `None` where unknown."""
    ranks = matrix.weighted_energy_ranks if weighted else matrix.energy_ranks
    rank = (ranks or {}).get(energy)
    return None if rank is None else rank / max(1, min(matrix.out_features, matrix.in_features))


def by_kind(matrices: Sequence[Matrix], weighted: bool = False) -> dict[str, float]:
    """The median of `energy_share` of each kind of matrix, the least first."""
    found: dict[str, list[float]] = defaultdict(list)
    for matrix in matrices:
        share = energy_share(matrix, weighted=weighted)
        if share is not None:
            found[matrix.kind].append(share)
    return dict(sorted(((kind, median(shares)) for kind, shares in found.items()), key=lambda pair: pair[1]))


def energy_sentence(matrices: Sequence[Matrix], weighted: bool = False) -> str:
    """What half of the matrices need to keep most of their energy, in one sentence.

    Where too few values of some were found, it says how many need more: a median of the others would be too
    low.
    """
    shares = [share for each in matrices if (share := energy_share(each, weighted=weighted)) is not None]
    what = "the energy that the data see" if weighted else "their energy"
    if len(shares) < len(matrices):
        beyond = [each for each in matrices if energy_share(each, weighted=weighted) is None]
        found = min(len(each.values) / max(1, min(each.out_features, each.in_features)) for each in beyond)
        if len(matrices) == 1:
            return f"The matrix needs more than {percent(found)} of its rank for 95% of {_its(what)}"
        count = f"{len(beyond)} of {len(matrices)} matrices"
        return f"{count} need more than {percent(found)} of their rank for 95% of {what}"
    if len(matrices) == 1:
        return f"The matrix keeps 95% of {_its(what)} in {percent(shares[0])} of its rank"
    return f"Half the matrices keep 95% of {what} in {percent(median(shares))} of their rank"


def _its(what: str) -> str:
    return what.replace("their", "its")


def _lede(analysis: Analysis) -> list[str]:
    matrices = analysis.matrices
    if not matrices:
        return ["There is no matrix in this analysis."]
    weighted = any(each.weighted_energy_ranks for each in matrices)
    first = energy_sentence(matrices) + "."
    kinds = list(by_kind(matrices).items())
    if len(kinds) > 1 and all(energy_share(each) is not None for each in matrices):
        (least, low), (most, high) = kinds[0], kinds[-1]
        first += f" {least} needs the least ({percent(low)}), {most} the most ({percent(high)})."
    if weighted:
        first += f" Weighed by the data: {_lower(energy_sentence(matrices, weighted=True))}."
    lede = [first]
    if said := _cost(analysis.sizes):
        lede.append(said)
    if partly := [each for each in matrices if not each.exact]:
        found = sorted({len(each.values) for each in partly})
        count = str(found[0]) if len(found) == 1 else f"{found[0]} to {found[-1]}"
        some = f"{len(partly)} of {plural(len(matrices), 'matrix', 'matrices')}"
        of_all = "each matrix" if len(partly) == len(matrices) else some
        lede.append(
            f"This is a fast look: of {of_all} the leading {count} singular values were found. Left out is "
            "what needs the others: effective ranks, ranks that keep more energy, and what milder cuts lose. "
            "Without --fast all of it is there."
        )
    return lede


def _lower(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:]


def _cost(sizes: Sequence[Size], keep: float = 0.6) -> str:
    """What the cut nearest to `keep` leaves behind in either structure."""
    known = [each for each in sizes if each.error is not None and each.keep < 1]
    if not known:
        return ""
    nearest = min((each.keep for each in known), key=lambda one: (abs(one - keep), one))
    errors = {each.structure: each for each in known if each.keep == nearest}
    said = []
    for structure, each in errors.items():
        of_data = "" if each.weighted_error is None else f" ({percent(each.weighted_error)} on the data)"
        said.append(f"{structure} {percent(each.error or 0.0)}{of_data}")
    return (
        f"Cut to {percent(nearest)} of the parameters of these matrices, with one rule for all and before "
        f"any recovery, the weights are off by: {', '.join(said)}."
    )


def _facts(analysis: Analysis) -> list[tuple[str, str]]:
    whole = max(1, analysis.parameters)
    blocks = {(each.stack, each.block) for each in analysis.matrices if each.block is not None}
    where = f" of {plural(len(blocks), 'block')}" if blocks else ""
    facts = [
        (short(analysis.parameters), "parameters"),
        (size(analysis.bytes), "in the weights' own dtype"),
        (
            percent(analysis.targets_parameters / whole),
            f"of them in {plural(len(analysis.matrices), 'matrix', 'matrices')}{where}",
        ),
        (percent(analysis.embedding_parameters / whole), "in embeddings"),
    ]
    if analysis.tokens:
        facts.append((short(analysis.tokens), f"tokens of {analysis.data or 'data'}"))
    return facts


def _tied(analysis: Analysis) -> str:
    if not analysis.tied:
        return "<p>No two modules share a weight.</p>"
    return (
        "<p>Counted once, stored once, and left alone by a cut.</p><ul class='notes'>"
        + items(
            f"{' and '.join(each.names)} are one weight of {each.parameters:,} parameters: sharing it saves "
            f"{each.saved:,}, {percent(each.saved / max(1, analysis.parameters + each.saved))} of what the "
            "model would have without."
            for each in analysis.tied
        )
        + "</ul>"
    )


def ranks_shown(count: int) -> list[int]:
    """Ranks from 1 to `count`, `POINTS` at most: half at even steps, half at even ratios."""
    if count <= POINTS:
        return list(range(1, count + 1))
    half = POINTS // 2
    even = {round(1 + step * (count - 1) / (half - 1)) for step in range(half)}
    ratios = {round(count ** (step / (half - 1))) for step in range(half)}
    return sorted(even | ratios)


def _counts(matrices: Sequence[Matrix]) -> set[int]:
    """How many singular values the spectra have."""
    spectra = [values for each in matrices for values in (each.values, each.weighted_values or [])]
    return {len(values) for values in spectra}


def errors_at(values: Sequence[float], norm: float, ranks: Sequence[int], exact: bool) -> list[float]:
    """The relative Frobenius error at each rank, `sqrt(1 − Σ_{i≤r} σ_i² / norm²)`.

    Of all values it is summed from the smallest up, so that small errors are no differences of large numbers.
    """
    whole = norm * norm
    if whole <= 0 or not math.isfinite(whole):
        return [0.0 for _ in ranks]
    if exact:
        tails = list(accumulate((value * value for value in reversed(values)), initial=0.0))
        return [math.sqrt(min(1.0, tails[len(values) - rank] / whole)) for rank in ranks]
    heads = list(accumulate((value * value for value in values), initial=0.0))
    return [math.sqrt(max(0.0, 1.0 - heads[rank] / whole)) for rank in ranks]


def _matrix(matrix: Matrix) -> dict[str, Any]:
    ranks = ranks_shown(len(matrix.values))
    made: dict[str, Any] = {
        "name": matrix.name,
        "stack": matrix.stack,
        "block": matrix.block,
        "kind": matrix.kind or matrix.name,
        "out": matrix.out_features,
        "in": matrix.in_features,
        "dtype": matrix.dtype,
        "found": len(matrix.values),
        "exact": matrix.exact,
        "norm": digits(matrix.norm),
        "energy": matrix.energy_ranks,
        "weightedEnergy": matrix.weighted_energy_ranks,
        "effective": None if matrix.effective_rank is None else digits(matrix.effective_rank),
        "stable": digits(matrix.stable_rank),
        "breakEven": matrix.break_even,
        "cosines": [
            [
                each.rank,
                *(
                    None if c is None else digits(c, 4)
                    for c in (each.random, each.activations, each.weighted)
                ),
            ]
            for each in matrix.cosines
        ],
        "values": [digits(matrix.values[rank - 1], 4) for rank in ranks],
        "errors": [digits(error, 4) for error in errors_at(matrix.values, matrix.norm, ranks, matrix.exact)],
    }
    if matrix.weighted_values is not None and matrix.weighted_norm is not None:
        own = ranks_shown(len(matrix.weighted_values))
        made["weighted"] = {
            "found": len(matrix.weighted_values),
            "norm": digits(matrix.weighted_norm),
            "values": [digits(matrix.weighted_values[rank - 1], 4) for rank in own],
            "errors": [
                digits(error, 4)
                for error in errors_at(matrix.weighted_values, matrix.weighted_norm, own, matrix.exact)
            ],
        }
    return made

"""The page of a model's bases: one file that asks for nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from string import Template

from eckart.report.page import asset, document, items
from eckart.types import Basis, Target

_BODY = Template("""<header>
<p class="kind">Eckart, what weights read and write</p>
<h1>The bases of $model</h1>
<p class="about">Each weight is a sum of bases, <i>σ u vᵀ</i>. A basis <b>reads</b> how far its input lies
along <i>v</i> and <b>writes</b> that much of <i>u</i>, times σ. Here both are named by the tokens whose
unembeddings lie furthest along them (+) and against them (−). The two signs of a basis flip together: what
reads as + writes as +, what reads as − writes as −.</p>
<p class="about">Only a side as wide as the hidden state can be named so. Norms between the hidden state
and a weight are left out.</p>
$notes
</header>
<p><label for="filter">Show weights and bases with</label>
<input id="filter" type="search" placeholder="a name, or a token" autocomplete="off">
<small id="found" role="status"></small></p>
<main class="bases">
$targets
</main>""")

_TARGET = Template("""<details$open>
<summary><h2>$name</h2> <small>$shape</small></summary>
<table role="table">
<caption>Leading bases of $name, $shape (out × in)</caption>
<thead><tr role="row"><th scope="col" class="basis">basis</th><th scope="col">reads</th>\
<th scope="col">writes</th></tr></thead>
<tbody>
$rows
</tbody>
</table>
</details>""")

_ROW = Template("""<tr role="row"><th scope="row" role="rowheader" class="basis"><b>$index</b>\
<small>σ $value</small><small>$share of the energy</small></th>
<td role="cell" data-side="reads">$reads</td>
<td role="cell" data-side="writes">$writes</td></tr>""")


def page(model: str, targets: Sequence[tuple[Target, Sequence[Basis]]], notes: Sequence[str] = ()) -> str:
    """One HTML page, in light and dark, that fetches nothing and shows every token as text.

    The same bases give the same page. The first target is open.

    Args:
        model: its name.
        targets: each with its leading bases.
        notes: what a reader should know.
    """
    body = _BODY.substitute(
        model=escape(model),
        notes=f'<ul class="notes">{items(notes)}</ul>' if notes else "",
        targets="\n".join(
            _TARGET.substitute(
                open="" if place else " open",
                name=escape(target.name),
                shape=f"{target.out_features} × {target.in_features}",
                rows="\n".join(_row(basis) for basis in bases) or _NOTHING,
            )
            for place, (target, bases) in enumerate(targets)
        ),
    )
    style = asset("report.css") + asset("bases.css")
    return document(f"The bases of {model}", style, body, f"<script>\n{asset('bases.js')}</script>")


_NOTHING = '<tr><td class="no" colspan="3">The weight is zero.</td></tr>'


def _row(basis: Basis) -> str:
    return _ROW.substitute(
        index=basis.index,
        value=f"{basis.value:.4g}",
        share=f"{basis.share:.1%}",
        reads=_side(basis.reads),
        writes=_side(basis.writes),
    )


def _side(ends: dict[str, list[str]] | None) -> str:
    if ends is None:
        return '<span class="no">not as wide as the hidden state</span>'
    return "".join(
        f'<ul class="side {end}" aria-label="{sign}">'
        + "".join(f"<li><bdi>{escape(token)}</bdi></li>" for token in ends[end])
        + "</ul>"
        for end, sign in (("plus", "towards"), ("minus", "away from"))
    )

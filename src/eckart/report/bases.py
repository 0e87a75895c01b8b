"""The page of a model's bases: one file that asks for nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from string import Template

from eckart.types import Basis, Target

_PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>The bases of $model</title>
<style>
:root { color-scheme: light dark; --paper: #fff; --ink: #1c1c1c; --soft: #5c5c5c; --line: #d9d9d9;
  --token: #eef1f5; --plus: #00558a; --minus: #a34400; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #16181b; --ink: #e8e8e8; --soft: #a5a9b0; --line: #3a3e44; --token: #262a30;
    --plus: #7cc4f0; --minus: #f0a36a; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 78rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; line-height: 1.25; }
p, ul { max-width: 46rem; }
#filter { display: block; width: 100%; max-width: 30rem; padding: .5rem; font: inherit; color: inherit;
  background: var(--paper); border: 1px solid var(--soft); border-radius: .3rem; }
details { border-top: 1px solid var(--line); }
summary { padding: .5rem 0; cursor: pointer; }
summary h2 { display: inline; margin: 0; font: 600 1rem/1.5 ui-monospace, monospace; }
[hidden] { display: none !important; }
small, .no { color: var(--soft); }
summary small { white-space: nowrap; }
caption { position: absolute; clip-path: inset(50%); width: 1px; height: 1px; overflow: hidden; }
table { width: 100%; margin-bottom: 1rem; border-collapse: collapse; table-layout: fixed; }
th, td { padding: .5rem .75rem .5rem 0; vertical-align: top; text-align: left; font-weight: normal; }
thead th { font-weight: 600; }
tbody tr { border-top: 1px solid var(--line); }
.basis { width: 9rem; }
.basis b { font-size: 1.1rem; }
.basis small { display: block; }
.side { display: flex; flex-wrap: wrap; gap: .25rem; margin: 0 0 .4rem; padding: 0 0 0 1.25rem;
  list-style: none; }
.side::before { width: 1rem; margin-left: -1.25rem; font-weight: 600; }
.plus::before { content: "+"; color: var(--plus); }
.minus::before { content: "−"; color: var(--minus); }
.side li { padding: 0 .35rem; border-radius: .25rem; background: var(--token); white-space: pre-wrap;
  font: .85rem/1.6 ui-monospace, monospace; }
@media (max-width: 44rem) {
  table, tbody, tr, th, td { display: block; width: auto; }
  thead { position: absolute; clip-path: inset(50%); width: 1px; height: 1px; overflow: hidden; }
  th, td { padding: .25rem 0; }
  .basis { width: auto; }
  .basis small { display: inline; margin-left: .5rem; }
  td::before { content: attr(data-side); display: block; font-size: .85rem; color: var(--soft); } }
</style>
</head>
<body>
<h1>The bases of $model</h1>
<p>Each weight is a sum of bases, <i>σ u vᵀ</i>. A basis <b>reads</b> how far its input lies along <i>v</i>
and <b>writes</b> that much of <i>u</i>, times σ. Here both are named by the tokens whose unembeddings lie
furthest along them (+) and against them (−). The two signs of a basis flip together: what reads as + writes
as +, what reads as − writes as −.</p>
<p>Only a side as wide as the hidden state can be named so. Norms between the hidden state and a weight are
left out.</p>
$notes
<p><label for="filter">Show weights and bases with</label>
<input id="filter" type="search" placeholder="a name, or a token" autocomplete="off">
<small id="found" role="status"></small></p>
<main>
$targets
</main>
<script>
const sections = [...document.querySelectorAll("details")];
document.getElementById("filter").addEventListener("input", (event) => {
  const wanted = event.target.value.toLowerCase().replaceAll(" ", "␣");
  const fits = (part) => part.textContent.toLowerCase().includes(wanted);
  let found = 0;
  for (const section of sections) {
    const named = fits(section.querySelector("h2"));
    let shown = named ? 1 : 0;
    for (const row of section.querySelectorAll("tbody tr")) {
      row.hidden = !named && ![...row.querySelectorAll("li")].some(fits);
      shown += !row.hidden;
    }
    section.hidden = !shown;
    section.open = Boolean(wanted && shown && !named);
    found += !section.hidden;
  }
  document.getElementById("found").textContent = wanted ? found + " of " + sections.length + " weights" : "";
});
</script>
</body>
</html>
""")

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
    listed = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return _PAGE.substitute(
        model=escape(model),
        notes=f"<ul>{listed}</ul>" if listed else "",
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

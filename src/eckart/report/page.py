"""What every page has in common: one HTML file that asks for nothing else, in light and dark."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
LIBRARIES = (("d3.min.js", "d3.LICENSE"), ("plot.umd.min.js", "plot.LICENSE"))
"""In the order in which they are needed, each with its licence."""

_SHELL = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="$policy">
<title>$title</title>
<style>
$style</style>
</head>
<body>
$body
$scripts
</body>
</html>
""")


@dataclass
class Page:
    """What a page of charts says before its charts, and the data that they are drawn from.

    Attributes:
        title: of the browser's tab.
        kind: what sort of page it is, above the heading.
        heading: the model's name.
        lede: paragraphs; the first is the point of it all.
        facts: figures with what they are.
        data: plain, for the scripts.
        script: the page's own, in `assets/`.
        sections: `(id, heading, HTML)`; the scripts fill them.
        notes: what a reader should know.
        made_with: versions.
    """

    title: str
    kind: str
    heading: str
    lede: Sequence[str]
    facts: Sequence[tuple[str, str]]
    data: Any
    script: str
    sections: Sequence[tuple[str, str, str]]
    notes: Sequence[str] = field(default_factory=list)
    made_with: str = ""

    def html(self) -> str:
        """The file. The same page gives the same bytes."""
        sections = [(name, head, body) for name, head, body in self.sections]
        if self.notes:
            sections.append(("notes", "Notes", f'<ul class="notes">{items(self.notes)}</ul>'))
        links = "".join(f'<li><a href="#{name}">{escape(head)}</a></li>' for name, head, _ in sections)
        facts = "".join(
            f"<div><dt>{escape(what)}</dt><dd>{escape(figure)}</dd></div>" for figure, what in self.facts
        )
        body = [
            f'<header><p class="kind">{escape(self.kind)}</p><h1><bdi>{escape(self.heading)}</bdi></h1>',
            *(f'<p class="lede">{escape(text)}</p>' for text in self.lede),
            f'<dl class="facts">{facts}</dl></header>',
            f'<nav aria-label="On this page"><ul>{links}</ul></nav>',
            "<main>",
            "<noscript><p>The charts are drawn by a script in this file, and scripts are off.</p></noscript>",
            *(
                f'<section id="{name}" aria-labelledby="{name}-head"><h2 id="{name}-head">{escape(head)}</h2>'
                f"{inside}</section>"
                for name, head, inside in sections
            ),
            "</main>",
            f"<footer>{escape(self.made_with)}</footer>",
        ]
        scripts = [
            *(_library(code, licence) for code, licence in LIBRARIES),
            f'<script type="application/json" id="data">{embedded(self.data)}</script>',
            *(f"<script>\n{asset(name)}</script>" for name in ("core.js", "charts.js", self.script)),
        ]
        return document(self.title, asset("report.css"), "\n".join(body), "\n".join(scripts))


def document(title: str, style: str, body: str, scripts: str) -> str:
    """One HTML file; `title` is text, the rest is code."""
    made = _SHELL.substitute(
        policy=escape(POLICY, quote=False), title=escape(title), style=style, body=body, scripts=scripts
    )
    # A surrogate without its other half has no bytes.
    return made.encode("utf-8", "replace").decode("utf-8")


@cache
def asset(name: str) -> str:
    """A script or style sheet of our own."""
    return (files("eckart.report") / "assets" / name).read_text(encoding="utf-8")


@cache
def vendored(name: str) -> str:
    """A file of somebody else's, as it came."""
    return (files("eckart.report") / "vendor" / name).read_text(encoding="utf-8")


def embedded(data: Any) -> str:
    """JSON that may stand in a script element, whatever its strings hold."""
    made = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for sign in "<>&":
        made = made.replace(sign, f"\\u{ord(sign):04x}")
    return made


def items(texts: Iterable[str]) -> str:
    """List items of plain text."""
    return "".join(f"<li>{escape(text)}</li>" for text in texts)


def table(caption: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of plain text in a box that scrolls by itself; the first cell of a row names it."""
    heads = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    lines = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in rows
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}"><table>'
        f"<caption>{escape(caption)}</caption><thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table></div>"
    )


def _library(code: str, licence: str) -> str:
    return f"<script>\n/*\n{vendored(licence)}*/\n{vendored(code)}</script>"

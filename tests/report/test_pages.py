"""What a page is before a browser sees it: one small file, the same in every process, nothing fetched."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any

import made
import pytest

from eckart import report
from eckart.report.analysis import POINTS, energy_sentence, errors_at, ranks_shown
from eckart.report.page import asset, embedded
from eckart.report.words import figure, percent, short, size
from eckart.types import ComparisonRow

PAGES: dict[str, Callable[[], str]] = {
    "analysis": lambda: report.analysis_page(made.analysis()),
    "bare analysis": lambda: report.analysis_page(made.bare_analysis()),
    "empty analysis": lambda: report.analysis_page(made.analysis([], sizes=[])),
    "fast analysis": lambda: report.analysis_page(made.fast_analysis()),
    "compression": lambda: report.compression_page(made.manifest(), made.samples()),
    "bare compression": lambda: report.compression_page(made.bare_manifest()),
    "comparison": lambda: report.comparison_page(made.comparison(), True, ["a note"], "tiny"),
    "comparison at one size": lambda: report.comparison_page(made.one_size(), True),
    "empty comparison": lambda: report.comparison_page([], True),
    "sweep": lambda: report.sweep_page(made.sweep()),
    "sweep of prompts": lambda: report.sweep_page(made.told_sweep()),
    "begun sweep": lambda: report.sweep_page(made.sweep(cells=[], steps=[], found=None)),
}
PICTURES: dict[str, Callable[[], dict[str, bytes]]] = {
    "analysis": lambda: report.analysis_pictures(made.analysis()),
    "bare analysis": lambda: report.analysis_pictures(made.bare_analysis()),
    "compression": lambda: report.compression_pictures(made.manifest()),
    "bare compression": lambda: report.compression_pictures(made.bare_manifest()),
}
OWN = [path.name for path in (files("eckart.report") / "assets").iterdir()]
VENDOR = files("eckart.report") / "vendor"

every_page = pytest.mark.parametrize("page", PAGES)


class Elements(HTMLParser):
    """Elements with their attributes, as a browser sees them; scripts are text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


@pytest.fixture(scope="module")
def elsewhere(anew: Callable[..., Any]) -> Any:
    """The digests of all pages and pictures that another process makes."""
    script = "import json, test_pages as here; print(json.dumps(here.digests()))"
    return anew(script, Path(__file__).parent, Path(__file__).parents[1])


def digests() -> dict[str, str]:
    """Of every page and every picture."""
    pages = {name: make().encode() for name, make in PAGES.items()}
    pictures = {f"{of} {name}": png for of, make in PICTURES.items() for name, png in make().items()}
    return {name: hashlib.sha256(content).hexdigest() for name, content in {**pages, **pictures}.items()}


def test_the_same_data_give_the_same_pages_and_pictures_in_another_process(elsewhere: Any) -> None:
    assert digests() == elsewhere


@every_page
def test_a_page_names_no_file_and_no_address_that_a_browser_would_fetch(page: str) -> None:
    elements = Elements(PAGES[page]()).found
    for tag, attributes in elements:
        assert tag not in ("link", "img", "iframe", "object", "embed", "base", "form")
        assert not {"src", "srcset", "action", "data", "background"} & set(attributes), tag
        assert (attributes.get("href") or "#").startswith("#")
    (policy,) = (each["content"] for _, each in elements if each.get("http-equiv"))
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


@every_page
def test_the_data_of_a_page_are_its_json(page: str) -> None:
    found = re.findall(r'<script type="application/json" id="data">(.*?)</script>', PAGES[page]())
    assert len(found) == 1
    assert json.loads(found[0])


def test_no_string_gets_out_of_the_data() -> None:
    made_of = {name: [name] for name in made.HOSTILE}
    text = embedded(made_of)
    assert json.loads(text) == made_of
    assert not set("<>&\u2028\u2029") & set(text)


@pytest.mark.parametrize("name", OWN)
def test_our_own_scripts_end_where_they_are_meant_to(name: str) -> None:
    text = asset(name)
    assert "</" not in text.replace("</g>", "")
    assert "<!--" not in text
    assert "innerHTML" not in text, "names go in as text"
    assert "eval(" not in text


def test_vendored_files_are_what_the_table_says() -> None:
    rows = re.findall(
        r"^\| (\S+) \| \S+ \| [\d.]+ \| ISC \| ([0-9a-f]{64}) \|$",
        (VENDOR / "VERSIONS.md").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    assert {name for name, _ in rows} == {path.name for path in VENDOR.iterdir()} - {"VERSIONS.md"}
    for name, digest in rows:
        content = (VENDOR / name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == digest, name
        assert b"</script" not in content, name
        assert b"<!--" not in content, name


@every_page
def test_what_is_drawn_with_comes_with_its_licence(page: str) -> None:
    assert PAGES[page]().count("Permission to use, copy, modify, and/or distribute this software") == 2


def test_a_large_model_makes_a_small_page() -> None:
    kinds = [f"part.kind_{place}" for place in range(7)]
    one = made.matrix("m", "model.layers", 0, "k", 4096)
    matrices = [
        one.model_copy(update={"name": f"model.layers.{block}.{kind}", "block": block, "kind": kind})
        for block in range(32)
        for kind in kinds
    ]
    page = report.analysis_page(made.analysis(matrices))
    assert len(page.encode()) < 5e6


@pytest.mark.parametrize("count", [1, 2, 159, 160, 161, 4096, 32000])
def test_a_thinned_spectrum_has_both_ends(count: int) -> None:
    ranks = ranks_shown(count)
    assert ranks[0] == 1
    assert ranks[-1] == count
    assert ranks == sorted(set(ranks))
    assert len(ranks) <= POINTS
    assert count > POINTS or len(ranks) == count


@pytest.mark.parametrize("exact", [True, False])
def test_errors_are_what_the_values_leave_of_the_norm(exact: bool) -> None:
    values = [3.0, 2.0, 1.0, 1e-6]
    norm = math.hypot(*values)
    for rank, error in zip((1, 2, 3), errors_at(values, norm, (1, 2, 3), exact), strict=True):
        left = math.hypot(*values[rank:]) / norm
        assert error == pytest.approx(left, rel=1e-9 if exact else 1e-2, abs=0 if exact else 1e-6)
    assert errors_at([0.0, 0.0], 0.0, (1, 2), exact) == [0.0, 0.0]


def test_the_first_sentence_is_the_point() -> None:
    matrices = made.analysis().matrices
    shares = sorted((each.energy_ranks["0.95"] or 0) / 24 for each in matrices)
    middle = (shares[8] + shares[9]) / 2
    said = energy_sentence(matrices)
    assert said == f"Half the matrices keep 95% of their energy in {percent(middle)} of their rank"
    assert f">{said}." in report.analysis_page(made.analysis())
    assert "The matrix needs more than 13% of its rank for 95% of its energy" in report.analysis_page(
        made.bare_analysis().model_copy(update={"matrices": [made.bare_analysis().matrices[0]]})
    )


def test_what_is_not_known_of_some_is_not_said_of_half() -> None:
    known, unknown = made.analysis().matrices[0], made.bare_analysis().matrices[0]
    said = energy_sentence([known, known, unknown])
    assert said == "1 of 3 matrices need more than 13% of their rank for 95% of their energy"


def test_a_fast_look_says_what_it_left_out() -> None:
    assert "This is a fast look" not in report.analysis_page(made.analysis())
    page = report.analysis_page(made.fast_analysis())
    assert "This is a fast look: of each matrix the leading 3 singular values were found." in page
    mixed = made.analysis([*made.analysis().matrices[:2], *made.fast_analysis().matrices[:1]])
    assert "fast look: of 1 of 3 matrices the leading 3 singular" in report.analysis_page(mixed)


def test_what_is_yes_or_no_is_said_so() -> None:
    page = report.compression_page(made.manifest())
    assert re.search("merge</th><td[^>]*>no</td>", page)


def test_a_page_of_a_compression_says_what_was_got() -> None:
    page = report.compression_page(made.manifest())
    assert "60% of the parameters are left: 20.0k became 12.0k, and 80.0\u00a0kB became 48.0\u00a0kB." in page
    assert "the loss went from 0.3 to 0.36 (+20%)" in page
    assert "What the model says" not in page


def test_a_page_of_a_comparison_names_who_is_best_and_who_failed() -> None:
    page = report.comparison_page(made.comparison(), True)
    assert "kfac:pivoted is best at every size." in page
    assert "<li>svd at 0.3 failed: out of memory</li>" in page
    worse: list[ComparisonRow] = made.comparison()[:3]
    assert "svd is best" in report.comparison_page(worse, True)


def test_a_page_of_a_sweep_says_what_came_of_it() -> None:
    page = report.sweep_page(made.sweep())
    assert "Each of 18 cuts costs something. The best, ratio 0.5, top:1, comes to perplexity 2.25" in page
    assert "The search took 3 of 9 trials: perplexity 1.95" in page
    assert "ratio 0.1, top:1 failed: the loss is not finite" in page


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (percent(0.4149), "41%"),
        (percent(0.625), "63%"),
        (percent(0.0625), "6.3%"),
        (percent(0.0312), "3.1%"),
        (percent(0.00004), "0.004%"),
        (percent(0.997), "99.7%"),
        (percent(1), "100%"),
        (percent(0), "0%"),
        (short(6_738_415_616), "6.74B"),
        (short(999_999), "1.00M"),
        (short(512), "512"),
        (size(13_476_831_232), "13.5\u00a0GB"),
        (size(100), "100\u00a0bytes"),
        (figure(2.54321), "2.543"),
        (figure(0.0000123), "1.23e-05"),
        (figure(None), "–"),
    ],
)
def test_figures_are_said_as_people_read_them(said: str, words: str) -> None:
    assert said == words


@pytest.mark.parametrize(
    ("of", "names"),
    [
        ("analysis", {"energy.png", "errors.png", "sizes.png"}),
        ("bare analysis", {"energy.png", "errors.png"}),
        ("compression", {"kept.png", "errors.png", "training.png"}),
        ("bare compression", {"kept.png", "errors.png"}),
    ],
)
def test_pictures_are_of_what_is_there(of: str, names: set[str]) -> None:
    pictures = PICTURES[of]()
    assert set(pictures) == names
    assert all(content.startswith(b"\x89PNG") for content in pictures.values())

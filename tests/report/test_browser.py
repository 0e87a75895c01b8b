"""The pages in a real browser: nothing fails, nothing is fetched, all is reachable, and names stay names."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import made
import pytest
from axe_core_python.sync_playwright import Axe

from eckart import report
from eckart.report.bases import page as bases_page
from eckart.types import Basis, Sample, Target, Tied

CHROMIUM = next(
    filter(
        None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"))
    ),
    None,
)
SWITCHES = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
PHONE, TABLET, LAPTOP, DESK = 390, 768, 1280, 1440
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
    "bases": lambda: bases_page("tiny", made.bases(), ["a note"]),
}
every_page = pytest.mark.parametrize("name", PAGES)

PICTURE = """() => [...document.querySelectorAll("h3, .what, .chart")].map((part) => part.outerHTML)
  .join("").replace(/plot-clip-[0-9]+/g, "")"""
"""What is shown, without the numbers that tell one drawing of it from the next."""
NAME = """const name = (part) =>
  [part.tagName, part.type ?? "", part.name || part.id || part.textContent.slice(0, 60)].join(" ");"""
FOCUS = f"""() => {{
  {NAME}
  return document.activeElement === document.body ? null : name(document.activeElement);
}}"""
REACHABLE = f"""() => {{
  {NAME}
  const all = [...document.querySelectorAll("a, select, button, input, summary")];
  return [...new Set(all.filter((part) => part.getClientRects().length).map(name))];
}}"""
NAMELESS = """() => {
  const named = (part) => part.getAttribute("aria-label")
    || [...part.labels ?? []].some((label) => label.textContent.trim())
    || !part.matches("select, input") && part.textContent.trim();
  const all = [...document.querySelectorAll("select, input, button, summary, a, [role=region], svg.plot")];
  return all.filter((part) => !named(part)).map((part) => part.outerHTML.slice(0, 200));
}"""


@dataclass
class Opened:
    """A page and what went wrong on it."""

    page: Any
    trouble: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One headless Chromium. Where there is none the tests are skipped, and fail where that must not pass."""
    try:
        if CHROMIUM is None:
            raise ModuleNotFoundError("no Chromium is installed")
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError as error:
        if os.environ.get("CI"):
            pytest.fail(f"{error}, and CI is set")
        pytest.skip(str(error))
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=SWITCHES)
        yield started
        started.close()


@pytest.fixture
def show(browser: Any, tmp_path: Path) -> Iterator[Callable[..., Opened]]:
    """Open a page's text as a file; at the end nothing may have failed on it or been asked for."""
    shown: list[Opened] = []

    def open_page(text: str, width: int = DESK) -> Opened:
        path = tmp_path / f"page-{len(shown)}.html"
        path.write_text(text, encoding="utf-8")
        context = browser.new_context(viewport={"width": width, "height": 900})
        opened = Opened(context.new_page())
        shown.append(opened)
        opened.page.on("console", lambda message: opened.trouble.append(message.text))
        opened.page.on("pageerror", lambda error: opened.trouble.append(str(error)))
        opened.page.on("dialog", lambda dialog: opened.trouble.append(dialog.message))
        opened.page.on("request", lambda request: opened.requests.append(request.url))
        opened.page.goto(path.as_uri())
        return opened

    yield open_page
    for opened in shown:
        assert opened.trouble == []
        assert len(opened.requests) == 1, opened.requests
        opened.page.context.close()


def settled(page: Any) -> None:
    """Two frames on: what was resized has been drawn again."""
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def tables(part: Any) -> None:
    """Open the tables of a page or of one figure, and wait until each is there: a toggle is told of later."""
    for own in part.locator("details").all():
        own.locator("summary").click()
        own.locator("table").wait_for(state="attached")


@every_page
def test_a_page_fits_phones_and_desks_in_light_and_dark(name: str, show: Any) -> None:
    page = show(PAGES[name](), PHONE).page
    papers = set()
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        for width in (PHONE, TABLET, LAPTOP, DESK):
            page.set_viewport_size({"width": width, "height": 900})
            settled(page)
            assert page.evaluate("document.documentElement.scrollWidth") <= width, (scheme, width)
        papers.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        assert page.evaluate("getComputedStyle(document.body).color") not in papers
    assert len(papers) == 2


@every_page
def test_axe_finds_nothing_that_keeps_a_reader_out(name: str, show: Any) -> None:
    """Contrast, names, roles and order, by the rules of axe-core for WCAG 2.1 AA."""
    page = show(PAGES[name](), PHONE).page
    asked = {"runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]}}
    for scheme, width in (("light", PHONE), ("dark", LAPTOP)):
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size({"width": width, "height": 900})
        settled(page)
        found = Axe().run(page, options=asked)
        assert found["passes"]
        said = [
            f"{each['id']}: {node['target']} {node['failureSummary']}"
            for each in found["violations"]
            for node in each["nodes"]
        ]
        assert not said, "\n".join(said[:20])


@every_page
def test_a_page_has_headings_names_and_a_language(name: str, show: Any) -> None:
    page = show(PAGES[name]()).page
    assert page.evaluate("document.documentElement.lang") == "en"
    assert page.locator("h1").count() == 1
    levels = page.evaluate(
        "[...document.querySelectorAll('h1, h2, h3, h4')].map((head) => Number(head.tagName[1]))"
    )
    assert all(after <= before + 1 for before, after in pairwise(levels)), levels
    assert page.evaluate(
        "[...document.querySelectorAll('h1, h2, h3, h4')].every((head) => head.textContent.trim())"
    )
    assert page.evaluate(NAMELESS) == []
    assert page.evaluate(
        "[...document.querySelectorAll('svg.plot')].every((chart) => chart.getAttribute('role') === 'img')"
    )
    identities = page.evaluate("[...document.querySelectorAll('[id]')].map((part) => part.id)")
    assert len(identities) == len(set(identities))
    for link in page.locator("nav a").all():
        assert page.locator(link.get_attribute("href")).count() == 1


@every_page
def test_every_option_of_every_picker_changes_what_is_shown(name: str, show: Any) -> None:
    page = show(PAGES[name]()).page
    for select in page.locator("select:visible").all():
        was = select.input_value()
        for value in select.evaluate("(select) => [...select.options].map((option) => option.value)"):
            if value not in (was, select.input_value()):
                before = page.evaluate(PICTURE)
                select.select_option(value)
                assert page.evaluate(PICTURE) != before, (select.get_attribute("id"), value)
        select.select_option(was)
    for radio in page.locator("input[type=radio]").all():
        if not radio.is_checked():
            before = page.evaluate(PICTURE)
            radio.check()
            assert page.evaluate(PICTURE) != before, radio.get_attribute("value")


@every_page
def test_every_chart_has_its_data_as_a_table(name: str, show: Any) -> None:
    page = show(PAGES[name]()).page
    for own in page.locator("figure").all():
        assert own.locator(".file code").text_content()
        if own.locator("details").count():
            assert own.locator("details table").count() == 0, "made when it is asked for"
            tables(own)
        if own.locator(".empty").count() == 0:
            assert own.locator("thead th[scope=col]").count() > 1
            assert own.locator("tbody th[scope=row]").count() > 0


@every_page
def test_the_keyboard_reaches_all_there_is_to_choose(name: str, show: Any) -> None:
    page = show(PAGES[name]()).page
    wanted = set(page.evaluate(REACHABLE))
    reached = set()
    for _ in range(3 * len(wanted) + 20):
        page.keyboard.press("Tab")
        at = page.evaluate(FOCUS)
        if at is None:
            break
        reached.add(at)
    assert wanted <= reached


def test_arrow_keys_go_from_matrix_to_matrix(show: Any) -> None:
    page = show(report.analysis_page(made.analysis())).page
    status = page.locator("#picked [role=status]")
    names = [each.name for each in made.analysis().matrices]
    for key, at in (
        ("ArrowRight", 1),
        ("ArrowRight", 2),
        ("ArrowLeft", 1),
        ("ArrowLeft", 0),
        ("ArrowLeft", -1),
    ):
        page.keyboard.press(key)
        assert status.text_content().startswith(f"{names[at]}: 24 × 24")
    page.locator("#picked button").last.click()
    assert status.text_content().startswith(names[0])
    # In a picker the keys are the picker's.
    page.locator("#picked select").last.focus()
    page.keyboard.press("ArrowDown")
    assert status.text_content().startswith(names[1])


def test_a_click_on_the_map_picks_a_matrix(show: Any) -> None:
    page = show(report.analysis_page(made.analysis())).page
    panel = page.locator("#maps svg.plot").nth(1)
    panel.locator("rect").nth(4).click(force=True, position={"x": 4, "y": 4})
    assert page.locator("#picked [role=status]").text_content().startswith("decoder.block.1.self_attn.v_proj")


def test_what_a_chart_shows_is_what_the_analysis_holds(show: Any) -> None:
    page = show(report.analysis_page(made.analysis())).page
    first = made.analysis().matrices[0]
    heads = page.locator("#one h3").all_text_contents()
    rank = first.energy_ranks["0.95"]
    assert heads[0] == f"{first.kind} of block 0 keeps 95% of its energy in {rank} of its 24 ranks"
    assert heads[2].startswith(
        "At rank 12 of 24, W x and Ŵ x have a cosine of 0.8 for random x, 0.88 on the data"
    )
    tables(page.locator("#one figure").first)
    cells = page.locator("#one details tbody tr").nth(11).locator("th, td").all_text_contents()
    left = sum(value**2 for value in first.values[12:]) ** 0.5 / first.norm
    assert [cells[0], cells[2]] == ["12", f"{100 * left:.0f}%"]


def test_methods_at_one_size_stand_below_each_other_the_best_first(show: Any) -> None:
    page = show(report.comparison_page(made.one_size(), True)).page
    figure = page.locator("#against figure")
    order = sorted(made.one_size()[1:], key=lambda row: row.value or 0.0)
    places = figure.evaluate(
        """(figure) => [...figure.querySelectorAll("svg.plot text")]
          .map((text) => [text.textContent, text.getBoundingClientRect().top])"""
    )
    tops = dict(places)
    assert [*sorted((row.method for row in order), key=tops.__getitem__)] == [row.method for row in order]
    assert page.locator("#all thead th", has_text="failed").count() == 0


def test_a_fast_look_shows_no_chart_of_what_it_does_not_know(show: Any) -> None:
    page = show(report.analysis_page(made.fast_analysis())).page
    cuts = page.locator("#cuts")
    assert page.locator(".empty").count() == 0
    assert cuts.locator("svg").count() == 0
    assert cuts.locator("thead th").all_text_contents() == ["kept", "form", "parameters", "share", "size"]
    assert page.locator("#maps h3").text_content() == "Half the matrices have a stable rank of 10 or less"
    assert "Marks" not in page.locator("#one .what").first.text_content()


def test_the_map_shows_first_what_is_known_of_every_matrix(show: Any) -> None:
    known, unknown = made.analysis().matrices[:2], made.fast_analysis().matrices[:1]
    page = show(report.analysis_page(made.analysis([*known, *unknown]))).page
    assert page.locator("#maps select").input_value() == "stable"
    page = show(report.analysis_page(made.analysis())).page
    assert page.locator("#maps select").input_value() == "energy-0.95"


def test_differences_between_texts_are_marked(show: Any) -> None:
    page = show(report.compression_page(made.manifest(), made.samples())).page
    assert page.locator("#samples mark").all_text_contents() == ["cat. It sat."]
    assert page.locator("#samples small").all_text_contents() == ["the same for 3 words", "the same"]


def test_names_prompts_and_tokens_stay_text(show: Any) -> None:
    harm, (one, two, *_) = list(made.HOSTILE), made.HOSTILE
    matrices = [
        made.matrix(f"{word}.0.{word}", word, 0, word, dtype=word, bend=3 + place)
        for place, word in enumerate(harm)
    ]
    analysis = made.analysis(
        matrices,
        source=one,
        architecture=two,
        data=two,
        notes=harm,
        tied=[Tied(names=harm, parameters=1, saved=1)],
    )
    names = [f"{word}.0.{word}" for word in harm]
    recipe = made.manifest().recipe.model_copy(update={"data": one, "targets": harm})
    manifest = made.manifest(names, source=one, recipe=recipe, notes=harm)
    rows = [made.row("dense", 1, 2.0), *(made.row(word, 0.5, 3.0, metric=one, task=two) for word in harm)]
    cells = [
        made.cell(0.1 * (place + 1), "top:1", word).model_copy(update={"layers": word, "continuations": harm})
        for place, word in enumerate(harm)
    ]
    sweep = made.sweep(
        source=one, prompts=harm, cells=cells, metric=two, dense=made.cell(1.0, "", continuations=harm[::-1])
    )
    side = {"plus": harm, "minus": harm}
    basis = Basis(index=0, value=1.0, share=1.0, reads=side, writes=side)
    for text in (
        report.analysis_page(analysis),
        report.compression_page(manifest, [Sample(word, word[::-1], word) for word in harm]),
        report.comparison_page(rows, True, harm, one),
        report.sweep_page(sweep),
        bases_page(one, [(Target(word, 4, 4, False), [basis]) for word in harm], harm),
    ):
        page = show(text).page
        for select in page.locator("select:visible").all():
            for place in range(select.locator("option").count()):
                select.select_option(index=place)
        for own in page.locator("figure").all():
            tables(own)
        said = page.evaluate("document.body.textContent") + page.title()
        for word in harm[:4]:
            assert word in said
        assert page.evaluate("window.harmed === undefined")
        assert page.locator("img").count() == 0
        assert page.locator("body script").count() <= 6


def test_colours_of_charts_follow_the_theme(show: Any) -> None:
    page = show(report.analysis_page(made.analysis())).page
    colour = "() => getComputedStyle(document.querySelector('#one svg [stroke^=\"var(--c1\"]')).stroke"
    page.emulate_media(color_scheme="light")
    light = page.evaluate(colour)
    page.emulate_media(color_scheme="dark")
    assert page.evaluate(colour) != light


@pytest.mark.parametrize("known", [True, False])
def test_an_analysis_begins_with_what_is_known_of_most_matrices(known: bool, show: Any) -> None:
    """Of leading singular values alone the rank for 95% of the energy often is not."""
    matrices = made.analysis().matrices
    if not known:
        matrices = [matrix.model_copy(update={"energy_ranks": {}}) for matrix in matrices[:-1]] + matrices[
            -1:
        ]
    page = show(report.analysis_page(made.analysis(matrices))).page
    chosen = page.eval_on_selector("#maps select", "part => part.selectedOptions[0].textContent")
    assert (chosen == "Rank for 95% of the energy") == known


def test_one_size_has_marks_and_several_have_lines(show: Any) -> None:
    rows = made.comparison()
    one = [row for row in rows if row.method == "dense" or row.keep == 0.9]
    only = show(report.comparison_page(one, True)).page.inner_text("#against")
    assert "of each method, the best first" in only
    assert "a line for each method" in show(report.comparison_page(rows, True)).page.inner_text("#against")

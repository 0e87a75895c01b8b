"""The documentation is true: its blocks run, its links lead somewhere, and what it names is there."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import documented
import pytest
import typer.main
import yaml
from markdown.extensions.toc import slugify
from typer.testing import CliRunner

from eckart.cli import app

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
NAMED = [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
OTHERS = {
    "--no-binary",
    "--nproc-per-node",
    "--multi_gpu",
    "--num_processes",
    "--dev",
    "--strict",
    "--outfile",
    "--model",
    "--output_dir",
    "--no-deps",
    "--tensor-parallel-size",
    "--trust-remote-code",
    "--vllm-env",
    "--enable-lora",
    "--env",
    "--errors",
    "--compile",
    "--keeps",
    "--widths",
}
"""Options of other programs that the pages name."""

every_page = pytest.mark.parametrize("page", NAMED, ids=lambda page: page.name)


@pytest.fixture(scope="module")
def tables() -> object:
    sys.path.insert(0, str(DOCS))
    try:
        import tables
    finally:
        sys.path.remove(str(DOCS))
    return tables


def in_order() -> list[Path]:
    """The pages as the site has them."""

    def names(entries: list[dict[str, object]]) -> list[str]:
        found = []
        for entry in entries:
            for below in entry.values():
                found += names(below) if isinstance(below, list) else [str(below)]
        return found

    return [DOCS / name for name in names(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])]


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^ *```.*?^ *```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    return {slugify(head, "-") for head in re.findall(r"^#+ (.+)$", prose(page), flags=re.MULTILINE)}


def test_every_block_runs_in_the_order_of_the_pages(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, documented.__file__, *map(str, in_order())],
        cwd=tmp_path,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.count("block") >= 10


def test_every_page_is_in_the_site() -> None:
    assert sorted(in_order()) == PAGES


@every_page
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", prose(page)):
        path, _, anchor = link.partition("#")
        to = (page.parent / path).resolve() if path else page
        assert to.exists(), link
        if page in PAGES:
            assert to.is_relative_to(DOCS), f"{link}: not a part of the site"
        if anchor:
            assert anchor in anchors(to), link


@every_page
def test_blocks_stand_at_the_margin_where_the_site_knows_them(page: Path) -> None:
    assert not re.search(r"^ +```", page.read_text(encoding="utf-8"), flags=re.MULTILINE)


def options() -> dict[str, set[str]]:
    """The options of each command."""
    commands = typer.main.get_command(app).commands
    return {
        name: {flag for each in command.params for flag in [*each.opts, *each.secondary_opts]}
        for name, command in commands.items()
    }


def unknown(text: str) -> list[str]:
    """Commands and options in a text that there are not."""
    known = options()
    named = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", text))
    missing = sorted(named - {"--help"}.union(*known.values()) - OTHERS)
    for line in re.findall(r"(?:^|`)eckart (\w[^`\n#|]*)", text.replace("\\\n", " "), flags=re.MULTILINE):
        name, *rest = shlex.split(line)
        if name not in known:
            missing.append(name)
            continue
        given = {word.partition("=")[0] for word in rest if re.match(r"--?[a-z]", word)}
        missing += [f"eckart {name} {option}" for option in sorted(given - known[name])]
    return missing


@every_page
def test_commands_and_options_are_there(page: Path) -> None:
    assert not unknown(page.read_text(encoding="utf-8"))


def test_what_is_not_there_is_seen() -> None:
    assert unknown("`eckart plan pocket --kep 0.8`") == ["--kep", "eckart plan --kep"]
    assert unknown("```bash\neckart plan pocket --data x\n```") == ["eckart plan --data"]
    assert unknown("eckart paint pocket") == ["paint"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tables_that_come_from_the_code_are_up_to_date(page: Path, tables: object) -> None:
    text = page.read_text(encoding="utf-8")
    assert tables.filled(text) == text, "run python docs/tables.py"


def test_every_field_on_the_disk_is_described(tables: object) -> None:
    page = (DOCS / "formats.md").read_text(encoding="utf-8")
    for name, kind in tables.SAVED.items():
        assert f"<!-- {name}: docs/tables.py -->" in page
        for field, _, _, words in tables.described(kind):
            assert words, f"{name}.{field}: its class does not say what it is"
            assert f"`{field}`" in page


@pytest.mark.parametrize(
    "command", ["plan --keep 0.8", "plan --lora", "analyze --layers top:1", "methods"], ids=lambda text: text
)
def test_the_fields_of_json_are_those_on_the_page(command: str) -> None:
    name, *rest = command.split()
    arguments = [name, *([] if name == "methods" else ["pocket"]), *rest, "--json"]
    answer = json.loads(CliRunner().invoke(app, arguments).stdout)
    row = "plan --lora" if "--lora" in rest else name
    table = (DOCS / "formats.md").read_text(encoding="utf-8").partition("## JSON on standard output")[2]
    (said,) = re.findall(rf"^\| `{row}` \| (.*) \|$", table, flags=re.MULTILINE)
    assert re.findall(r"`(\w+)`", re.sub(r"\(.*?\)|:.*", "", said)) == list(answer)


class Fetched(HTMLParser):
    """What a browser fetches to show a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in ("script", "img", "iframe", "source") and given.get("src"):
            self.found.append(str(given["src"]))
        if tag == "link" and given.get("rel") != "canonical" and given.get("href"):
            self.found.append(str(given["href"]))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built strictly: a broken link or a page that is left out is an error."""
    out = tmp_path_factory.mktemp("site")
    run = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return out


def test_the_site_is_built_and_fetches_nothing_from_elsewhere(site: Path) -> None:
    pages = {path.name for path in site.glob("*.html")}
    assert {page.with_suffix(".html").name for page in PAGES} <= pages
    for path in site.glob("*.html"):
        reader = Fetched()
        reader.feed(path.read_text(encoding="utf-8"))
        assert reader.found
        for address in reader.found:
            assert not re.match(r"\w+:|//", address), address
            if path.name != "404.html":
                assert (path.parent / address.partition("?")[0]).exists(), address
    for path in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*['\"]?(https?:)?//", path.read_text(encoding="utf-8")), path


def test_nothing_of_the_workshop_is_in_the_site(site: Path) -> None:
    assert not list(site.rglob("*.py"))

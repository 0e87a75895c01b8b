"""`eckart report`: from a folder to a page with its data beside it, and from a page to the same recipe."""

from __future__ import annotations

import csv
import html
import json
import re
import shlex
from pathlib import Path
from typing import Any

import made
import pytest
from outside import Eckart, listing
from typer.testing import CliRunner

import eckart
from eckart.cli.commands import app
from eckart.recipes import verbs
from eckart.recipes.making import make_recipe
from eckart.report.compression import commands, compression_page, place_of
from eckart.types import EckartError, Manifest, Result, Sample, UsageError


@pytest.fixture(scope="module")
def compressed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("compressed") / "out"
    eckart.compress("pocket", out, keep=0.8)
    return out


@pytest.fixture
def analysed(tmp_path: Path) -> Path:
    folder = tmp_path / "analysis"
    folder.mkdir()
    (folder / "analysis.json").write_text(made.analysis().model_dump_json())
    (folder / "matrices.csv").write_text("name\na\n")
    return folder


def test_a_compressed_folder_gets_a_page_and_its_data(compressed: Path, tmp_path: Path) -> None:
    out = tmp_path / "page"
    found = eckart.describe(
        compressed, out, dense="pocket", prompts=["Once upon a time", "1 + 1 ="], png=True
    )
    assert found.kind == "compression"
    assert found.files == sorted(path.name for path in out.iterdir())
    assert set(found.files) >= {"report.html", "targets.csv", "samples.json", "manifest.json", "kept.png"}
    manifest = Manifest.model_validate_json((compressed / "eckart.json").read_bytes())
    assert Manifest.model_validate_json((out / "manifest.json").read_bytes()) == manifest
    with (out / "targets.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["name"], row["structure"], row["size"]) for row in rows] == [
        (each.name, each.option.structure, "" if each.option.size is None else str(each.option.size))
        for each in manifest.targets
    ]
    samples = [Sample(**each) for each in json.loads((out / "samples.json").read_text())]
    assert samples == found.samples
    assert [each.prompt for each in samples] == ["Once upon a time", "1 + 1 ="]
    assert all(each.before and each.after for each in samples)
    assert samples[0].before != samples[0].after
    assert (out / "report.html").read_bytes().count(b"Once upon a time") == 1


def test_without_the_dense_model_only_the_compressed_one_speaks(compressed: Path, tmp_path: Path) -> None:
    found = eckart.describe(compressed, tmp_path / "page", prompts=["Once upon a time"])
    assert [each.before for each in found.samples] == [None]
    assert found.samples[0].after


def test_the_page_of_an_analysis_is_made_again_in_another_process(
    process: Eckart, analysed: Path, tmp_path: Path
) -> None:
    found = eckart.describe(analysed, tmp_path / "page", png=True)
    assert found.kind == "analysis"
    names = ["analysis.json", "energy.png", "errors.png", "matrices.csv", "report.html", "sizes.png"]
    assert found.files == names
    assert process("report", "page", "-o", "another").code == 0
    # In its own place, by whatever words: made again.
    assert process("report", "another", "-o", "./another").code == 0
    assert listing(tmp_path / "another").keys() == {"analysis.json", "matrices.csv", "report.html"}
    pages = [(tmp_path / name / "report.html").read_bytes() for name in ("page", "another")]
    assert pages[0] == pages[1]


def test_the_page_of_a_sweep_is_made_again(tmp_path: Path) -> None:
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "sweep.json").write_text(made.sweep().model_dump_json())
    found = eckart.describe(tmp_path / "sweep", tmp_path / "page", png=True)
    assert (found.kind, found.files) == ("sweep", ["report.html", "sweep.json"])
    assert found.notes[-1] == "no PNG is drawn of a sweep"


def test_the_page_of_bases_is_made_again(tmp_path: Path) -> None:
    made_first = eckart.bases("pocket", tmp_path / "bases", layers="0", bases=2, top=2)
    page = tmp_path / "bases" / "report.html"
    before = page.read_bytes()
    page.unlink()
    found = eckart.describe(tmp_path / "bases")
    assert (found.kind, found.files, found.notes) == ("bases", ["report.html"], made_first.notes)
    assert page.read_bytes() == before
    assert eckart.describe(tmp_path / "bases", tmp_path / "page").files == ["bases.json", "report.html"]
    assert (tmp_path / "page" / "report.html").read_bytes() == before


def test_without_a_folder_the_page_is_made_where_its_data_are(analysed: Path) -> None:
    (analysed / "report.html").write_text("an old page")
    (analysed / "mine.txt").write_text("mine")
    found = eckart.describe(analysed)
    assert (found.out, found.files) == (str(analysed), ["report.html"])
    page = (analysed / "report.html").read_bytes()
    assert page.startswith(b"<!DOCTYPE html>")
    names = ["analysis.json", "matrices.csv", "mine.txt", "report.html"]
    assert sorted(path.name for path in analysed.iterdir()) == names
    # To name it is to say the same.
    (analysed / "report.html").unlink()
    eckart.describe(analysed, analysed)
    assert (analysed / "report.html").read_bytes() == page


def test_a_page_of_a_compressed_model_is_made_again_without_the_model(
    compressed: Path, tmp_path: Path
) -> None:
    first = eckart.describe(compressed, tmp_path / "page", prompts=["Once upon a time"])
    before = (tmp_path / "page" / "report.html").read_bytes()
    found = eckart.describe(tmp_path / "page", tmp_path / "another")
    assert (found.kind, found.files) == ("compression", first.files)
    assert (tmp_path / "another" / "report.html").read_bytes() == before
    with pytest.raises(UsageError, match="is a page alone, without the model"):
        eckart.describe(tmp_path / "page", prompts=["x"])


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ([], "is empty: a page is made of what compress, recover, analyze"),
        (["notes.txt"], "holds nothing that a page could be made of (notes.txt): a page is made of what"),
        (["config.json", "model.safetensors"], "is a model that is not compressed: eckart analyze THERE -o"),
        (
            ["export.json", "model.onnx", "config.json"],
            "is an export: the page is of the model it was made of",
        ),
        (["adapter_config.json"], "is an adapter of peft: eckart compress MODEL --adapter"),
        (["request.json", "measured.jsonl"], "is a sweep that did not come to its end"),
        (["request.json", "samples.jsonl", "score.json"], "holds the answers of an evaluation"),
        (["request.json", "training.jsonl"], "is a training that did not come to its end"),
    ],
)
def test_what_is_no_result_is_named_with_what_to_do(files: list[str], words: str, tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.mkdir()
    for name in files:
        (there / name).write_text("{}")
    with pytest.raises(UsageError) as caught:
        eckart.describe(there, tmp_path / "page")
    said = str(caught.value).replace(str(there), "THERE")
    assert said.startswith(f"THERE {words}")
    assert "\n" not in said
    assert not (tmp_path / "page").exists()


def test_factors_without_their_manifest_are_named(compressed: Path, tmp_path: Path) -> None:
    (tmp_path / "lost").mkdir()
    (tmp_path / "lost" / "config.json").write_bytes((compressed / "config.json").read_bytes())
    with pytest.raises(UsageError, match=r"is compressed and has no eckart\.json"):
        eckart.describe(tmp_path / "lost")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"path": "nowhere"}, "there is no such folder"),
        ({"path": "empty"}, "is empty"),
        ({"path": "analysis/analysis.json"}, "is a file: give the folder that it is in"),
        ({"out": "empty"}, "exists"),
        ({"prompts": ["x"]}, "is an analysis: --prompt and --dense are for a compressed folder"),
        ({"dense": "pocket"}, "--prompt and --dense are for a compressed folder"),
        ({"path": "out", "dense": "pocket"}, "--dense needs something to continue"),
        ({"path": "out", "prompts": [" "]}, "is empty"),
        ({"path": "out", "prompts": ["x"], "dense": "no/such/model"}, "no such model"),
    ],
)
def test_a_wrong_request_is_refused_before_anything_is_made(
    given: dict[str, Any], message: str, compressed: Path, analysed: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    given = {"path": "analysis", "out": "page", **given}
    given["path"] = compressed if given["path"] == "out" else tmp_path / given["path"]
    given["out"] = tmp_path / given["out"]
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UsageError, match=message):
        eckart.describe(**given)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_compressed_model_and_a_built_in_one_get_no_page_in_them(compressed: Path) -> None:
    before = listing(compressed)
    with pytest.raises(UsageError, match="its page has a folder of its own: give -o DIR"):
        eckart.describe(compressed)
    with pytest.raises(UsageError, match="exists already"):
        eckart.describe(compressed, compressed)
    assert listing(compressed) == before
    with pytest.raises(UsageError, match="pocket is a model that is not compressed: eckart analyze pocket"):
        eckart.describe("pocket")


def test_a_damaged_folder_is_named_and_nothing_is_left(analysed: Path, tmp_path: Path) -> None:
    (analysed / "analysis.json").write_text('{"matrices": 3}')
    with pytest.raises(EckartError, match=r"analysis\.json is damaged"):
        eckart.describe(analysed, tmp_path / "page")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["analysis"]


def test_the_command_says_what_it_wrote(analysed: Path, tmp_path: Path) -> None:
    ran = CliRunner().invoke(app, ["report", str(analysed), "-o", str(tmp_path / "page"), "--json"])
    assert ran.exit_code == 0, ran.output
    told = json.loads(ran.stdout)
    assert told["files"] == ["analysis.json", "matrices.csv", "report.html"]
    assert "report.html" in ran.stderr
    refused = CliRunner().invoke(app, ["report", str(analysed), "-o", str(tmp_path / "page")])
    assert refused.exit_code == 2
    assert "exists" in refused.stderr


@pytest.mark.parametrize(
    "asked",
    [
        {"keep": 0.6},
        {"rank": 8, "targets": ["q_proj", "*.up proj"], "layers": "top:4"},
        {"ratio": 0.25, "method": "svd", "max_length": 128},
        {"keep": 0.5, "of": "targets", "data": "it's mine.jsonl", "samples": 32},
        {"max_loss": 0.02, "data": "pocket", "structure": "lowrank"},
        {"energy": 0.99, "method": "kfac", "data": "pocket", "allocation": "energy"},
        {"size": 2_000_000, "quantize": "none,int8", "data": "pocket", "structure": "lowrank,kronecker"},
        {"keep": 0.1, "method": "basis-training", "data": "pocket"},
    ],
    ids=str,
)
def test_the_command_line_of_a_page_asks_for_the_same(
    asked: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_recipe(**asked)
    manifest = made.manifest(source="tiny", recipe=recipe, training=[])
    (line,) = commands(manifest)
    heard: dict[str, Any] = {}

    def compress(model: str, out: str, recipe: None, track: Any, **options: Any) -> Result:
        heard.update(model=model, **options)
        raise UsageError("enough")

    monkeypatch.setattr("eckart.compress", compress)
    monkeypatch.chdir(tmp_path)
    if asked.get("data", "pocket") != "pocket":
        Path(asked["data"]).write_text('{"text": "a"}\n')
    program, *words = shlex.split(line)
    assert program == "eckart"
    assert CliRunner().invoke(app, words).stderr == "eckart: enough\n"
    assert heard["model"] == "tiny"
    again = {name: heard[name] for name in verbs.fields(verbs.Cut) if name in heard}
    assert make_recipe(**again) == recipe
    shown = html.unescape(re.findall("<pre[^>]*>(.*?)</pre>", compression_page(manifest), re.DOTALL)[0])
    assert shlex.split(shown.replace("\\\n", "")) == [program, *words]


def test_a_merged_model_is_merged_again_and_a_search_has_no_command() -> None:
    (line,) = commands(made.manifest(merged=True, training=[]))
    assert line.endswith(" --merge")
    found = made.manifest(recipe=made.bare_manifest().recipe.model_copy(update={"rank": None}), training=[])
    assert commands(found) == []
    assert "no single command does it again" in compression_page(found)


def test_a_training_is_a_command_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, line = commands(made.manifest())
    heard: dict[str, Any] = {}

    def recover(model: str, out: str, **options: Any) -> Result:
        heard.update(model=model, out=out, **options)
        raise UsageError("enough")

    monkeypatch.setattr("eckart.recover", recover)
    monkeypatch.chdir(tmp_path)
    Path("train.jsonl").write_text('{"text": "a"}\n')
    assert CliRunner().invoke(app, shlex.split(line)[1:]).stderr == "eckart: enough\n"
    wanted = {
        "model": "OUT",
        "out": "OUT2",
        "data": "train.jsonl",
        "teacher": "tiny",
        "steps": 40,
        "batch": 8,
    }
    assert wanted.items() <= heard.items()


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("model.layers.3.self_attn.q_proj", ("model.layers", 3, "self_attn.q_proj")),
        ("encoder.block.0.layer.1.wi", ("encoder.block", 0, "layer.1.wi")),
        ("h.11.attn.c_attn", ("h", 11, "attn.c_attn")),
        ("lm_head", (None, None, "lm_head")),
        ("a.b2.c", (None, None, "a.b2.c")),
    ],
)
def test_a_target_has_its_place_in_its_name(name: str, place: tuple[str | None, int | None, str]) -> None:
    assert place_of(name) == place

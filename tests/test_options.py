"""Options: one definition in Python, on the command line and in recipe files."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path
from types import NoneType
from typing import Any, get_args

import pytest
import typer.main
import yaml

import eckart
from eckart.cli import app
from eckart.recipes import files, making, options, reading, verbs
from eckart.recovery.settings import Training
from eckart.types import Recipe, Selection, UsageError

VERBS = {
    "compress": verbs.Compress,
    "recover": verbs.Recover,
    "compare": verbs.Compare,
    "plan": verbs.PlanOrLora,
    "analyze": verbs.Analyze,
    "evaluate": verbs.EvaluateRun,
    "sweep": verbs.Sweep,
    "bench": verbs.Bench,
    "bases": verbs.Bases,
}
FROM_FILES = ("compress", "recover", "compare")
SAMPLES: dict[Any, Any] = {str: "word", int: 3, float: 0.25, bool: True}

every_verb = pytest.mark.parametrize("verb", VERBS)
every_option = pytest.mark.parametrize(
    ("verb", "name"), [(verb, name) for verb in FROM_FILES for name in verbs.fields(VERBS[verb])]
)


def example(kind: type, name: str) -> Any:
    """A value that an option takes."""
    of = verbs.kind_of(verbs.hints(kind)[name])
    return [SAMPLES[get_args(of)[0]]] if get_args(of) else SAMPLES[of]


def flat(given: reading.Given) -> dict[str, Any]:
    return given.options | (given.training or {})


@every_verb
def test_a_verb_has_the_options_of_its_groups_and_no_others(verb: str) -> None:
    kind = VERBS[verb]
    named = [name for group in verbs.GROUPS[kind].values() for name in verbs.fields(group)]
    assert sorted(named) == sorted(verbs.fields(kind))
    for option in verbs.fields(kind).values():
        assert option.help


@every_verb
def test_names_in_python_and_flags_are_the_same(verb: str) -> None:
    kind = VERBS[verb]
    command = typer.main.get_command(app).commands[verb]  # type: ignore[attr-defined]
    flags = {each.name: [*each.opts, *each.secondary_opts] for each in command.params}
    for name in verbs.fields(kind):
        assert flags[name] == verbs.flag(kind, name).split("/")
        assert inspect.signature(getattr(eckart, verb)).parameters.get(name) or verb in ("plan", "analyze")


def test_a_flag_is_the_name_with_dashes_but_where_it_says_so() -> None:
    own = {
        name: option.flag
        for kind in VERBS.values()
        for name, option in verbs.fields(kind).items()
        if option.flag
    }
    assert own == {
        "allocation": "--allocate",
        "goal": "--for",
        "blocks": "--blocks/--whole",
        "bos": "--bos/--no-bos",
        "prompts": "--prompt",
        "batches": "--batch",
        "tokens": "--prompt",
        "compiled": "--compile",
    }


@every_option
@pytest.mark.parametrize("spelling", ["name", "dashes", "flag", "group"])
def test_a_recipe_file_reads_every_option_back(verb: str, name: str, spelling: str, tmp_path: Path) -> None:
    kind = VERBS[verb]
    value = example(kind, name)
    group = next(title for title, group in verbs.GROUPS[kind].items() if name in verbs.fields(group))
    key = {
        "name": name,
        "dashes": name.replace("_", "-"),
        "flag": verbs.flag(kind, name).partition("/")[0].removeprefix("--"),
        "group": name,
    }[spelling]
    document: dict[str, Any] = {"model": "pocket", key: value}
    if spelling == "group":
        document = {"model": "pocket", group: {name: value}}
    for suffix, dump in ((".yaml", yaml.safe_dump), (".json", json.dumps)):
        path = tmp_path / f"recipe{suffix}"
        path.write_text(dump(document))
        model, found = files.asked(kind, None, {}, path)
        assert model == "pocket"
        assert flat(found) == {name: value}


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        ("size: 3GB", "size", 3 * 10**9),
        ("max_loss: 2%", "max_loss", 0.02),
        ("tokens: 1M", "tokens", 10**6),
        ("learning-rate: 2e-4", "learning_rate", 2e-4),
        ("targets: q_proj, v_proj", "targets", ["q_proj", "v_proj"]),
        ("keep: 1", "keep", 1.0),
        ("allocate: uniform", "allocation", "uniform"),
        ("training: {max_length: 64}", "max_length", 64),
    ],
)
def test_values_are_written_as_on_the_command_line(words: str, name: str, value: Any, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(f"model: pocket\n{words}\n")
    assert flat(files.asked(verbs.Compress, None, {}, tmp_path / "r.yaml")[1]) == {name: value}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("kep: 0.8", ["r.yaml: unknown option 'kep'; did you mean keep?"]),
        ("size: {kepe: 0.8}", ["r.yaml: unknown size option 'kepe'; did you mean keep?"]),
        ("keep: much", ["r.yaml: keep much: not a share, as 0.8 or 80%"]),
        ("rank: 2.5", ["r.yaml: rank 2.5: not a whole number"]),
        ("size: large", ["r.yaml: size large: not a size above 0"]),
        ("merge: 1", ["r.yaml: merge 1: not true or false"]),
        ("data: 3", ["r.yaml: data is of type int: give a file"]),
        ("data: ''", ["r.yaml: data is empty"]),
        ("- keep", ["r.yaml", "no options in it"]),
        ("keep: [", ["r.yaml", "neither YAML nor JSON"]),
    ],
)
def test_what_is_wrong_in_a_file_is_named(words: str, said: list[str], tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(f"{words}\n")
    with pytest.raises(UsageError) as caught:
        files.asked(verbs.Compress, "pocket", {}, tmp_path / "r.yaml")
    assert all(each in str(caught.value) for each in said)


def test_a_file_that_is_not_there_and_one_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no such file"):
        files.asked(verbs.Compress, "pocket", {}, tmp_path / "no.yaml")
    (tmp_path / "r.yaml").write_text("keep: 0.8\n")
    with pytest.raises(UsageError, match="name a model"):
        files.asked(verbs.Compress, None, {}, tmp_path / "r.yaml")


def test_wrong_names_and_types_in_python_are_named() -> None:
    with pytest.raises(UsageError, match="unknown option 'kep'; did you mean keep"):
        eckart.compress("pocket", kep=0.8)
    with pytest.raises(UsageError, match=r"--keep much: not a share, as 0\.8 or 80%"):
        eckart.compress("pocket", keep="much")
    with pytest.raises(UsageError, match="unknown training option 'tokns'; did you mean tokens"):
        eckart.compress("pocket", keep=0.8, training={"tokns": 3})


def test_what_is_given_wins_over_the_file_and_of_alternatives_alone_counts() -> None:
    recipe = {"model": "a", "keep": 0.8, "tokens": 100, "batch": 4, "merge": True, "method": "svd"}
    model, found = files.asked(verbs.Compress, "b", {"size": 10, "epochs": 2, "merge": False}, recipe)
    assert model == "b"
    assert found.options == {"size": 10, "method": "svd", "merge": False}
    assert found.training == {"epochs": 2.0, "batch": 4}


def test_mappings_and_flat_names_are_the_same_in_python() -> None:
    mapped = {"training": {"steps": 3, "seed": 1}, "selection": {"share": 0.5}}
    one = reading.given(verbs.Compress, mapped)
    other = reading.given(verbs.Compress, {"steps": 3, "seed": 1, "share": 0.5})
    assert one == other
    assert reading.given(verbs.Compress, {"training": {}}).training == {}
    assert reading.given(verbs.Compress, {"training": None}).training is None


@pytest.mark.parametrize(
    "asked",
    [
        {"keep": 0.8},
        {"keep": 0.8, "data": "pocket", "samples": 8, "fields": "text"},
        {"rank": 4, "targets": ["q_proj"], "layers": "top:2", "quantize": "int8"},
        {"size": 4000, "method": "caldera", "data": "pocket"},
        {"energy": 0.99, "method": "kfac", "data": "pocket", "allocation": "energy"},
        {"keep": 0.1, "method": "basis-training", "data": "pocket", "share": 0.5},
        {"keep": 0.8, "method": "lplr", "data": "pocket", "max_length": 64, "of": "targets"},
    ],
    ids=str,
)
def test_the_recipe_of_a_manifest_makes_the_same_recipe(asked: dict[str, Any], tmp_path: Path) -> None:
    made = making.make_recipe(**asked)
    whole = made.model_copy(update={"model": "m", "merge": True, "dtype": "float32"})
    path = tmp_path / "eckart.json"
    path.write_text(json.dumps({"format_version": 2, "recipe": json.loads(whole.model_dump_json())}))
    model, found = files.asked(verbs.Compress, None, {}, path)
    every = reading.completed(verbs.Compress, found)
    assert (model, every["merge"], every["dtype"]) == ("m", True, "float32")
    assert making.make_recipe(**{name: every[name] for name in verbs.fields(verbs.Cut)}) == made


def test_another_method_over_a_manifest_brings_its_own_row(tmp_path: Path) -> None:
    made = making.make_recipe(method="auto", keep=0.8, data="pocket").model_copy(update={"model": "m"})
    path = tmp_path / "eckart.json"
    path.write_text(json.dumps({"format_version": 2, "recipe": json.loads(made.model_dump_json())}))
    _, found = files.asked(verbs.Compress, None, {"method": "svd-llm"}, path)
    again = making.make_recipe(
        **{name: each for name, each in found.options.items() if name in verbs.fields(verbs.Cut)}
    )
    assert (again.metric, again.structure, again.recovery) == ("input", "lowrank", "none")


def old(tmp_path: Path, **more: Any) -> Path:
    """A manifest of format 1."""
    known = {"method": "svd-llm", "metric": "input", "structure": "lowrank", "allocation": "uniform"}
    recipe = {**known, "keep": 0.8, "data": "mine.jsonl", **more.pop("recipe", {})}
    path = tmp_path / "eckart.json"
    path.write_text(json.dumps({"format_version": 1, "source": "tiny", "recipe": recipe, **more}))
    return path


def test_an_older_manifest_says_what_it_lacks(tmp_path: Path) -> None:
    path = old(tmp_path)
    with pytest.raises(UsageError, match=r"names no model: give MODEL \(there tiny\)"):
        files.asked(verbs.Compress, None, {}, path)
    _, found = files.asked(verbs.Compress, "m", {}, path)
    with pytest.raises(UsageError, match=r"give --data \(mine.jsonl\)"):
        reading.completed(verbs.Compress, found)
    _, found = files.asked(verbs.Compress, "m", {"data": "d/mine.jsonl"}, path)
    assert reading.completed(verbs.Compress, found)["keep"] == 0.8
    path = old(tmp_path, training=[{"settings": {"epochs": 1.0}, "data": "mine.jsonl"}], merged=True)
    _, found = files.asked(verbs.Compress, "m", {"data": "d/mine.jsonl"}, path)
    with pytest.raises(UsageError, match="how the cut was trained"):
        reading.completed(verbs.Compress, found)
    with pytest.raises(UsageError, match="give --data"):
        reading.completed(verbs.Recover, files.asked(verbs.Recover, "m", {}, path)[1])


def test_a_model_that_was_in_memory_is_asked_for(tmp_path: Path) -> None:
    made = making.make_recipe(keep=0.8)
    path = tmp_path / "eckart.json"
    path.write_text(json.dumps({"format_version": 2, "recipe": json.loads(made.model_dump_json())}))
    with pytest.raises(UsageError, match="it was one in memory: give MODEL"):
        files.asked(verbs.Compress, None, {}, path)
    with pytest.raises(UsageError, match="was not recovered"):
        files.asked(verbs.Recover, None, {}, path)
    with pytest.raises(UsageError, match="is of one model"):
        files.asked(verbs.Compare, None, {}, path)


def test_settings_are_typed_once() -> None:
    """Names and types of the groups are those of the settings that they become."""
    for groups, model, beside in (
        ((options.Training, options.Adapters), Training, {"max_length"}),
        ((options.Selection,), Selection, set()),
    ):
        fields = {name: hint for group in groups for name, hint in verbs.hints(group).items()}
        assert set(fields) == set(model.model_fields) - beside
        for name, hint in fields.items():
            annotation = model.model_fields[name].annotation
            wanted = {each for each in get_args(annotation) if each is not NoneType} or {annotation}
            wanted = {str if isinstance(each, str) else each for each in wanted}
            assert verbs.kind_of(hint) in wanted
    assert set(Recipe.model_fields) >= set(verbs.fields(verbs.Cut)) - set(verbs.fields(options.Selection))


@pytest.mark.parametrize("verb", ["compress", "recover", "compare", "plan"])
def test_help_in_python_lists_every_option(verb: str) -> None:
    called = getattr(eckart, verb)
    words, signature = inspect.getdoc(called), inspect.signature(called)
    kind = verbs.Plan if verb == "plan" else VERBS[verb]
    assert words
    for name, option in verbs.fields(kind).items():
        assert signature.parameters[name].default == option.default
        assert f"    {name}: {option.help.split()[0]}" in words
    assert "Raises:" in words


@pytest.mark.parametrize("verb", VERBS)
def test_help_shows_first_what_most_need_and_imports_nothing_heavy(verb: str) -> None:
    code = (
        "import sys\nfrom eckart.cli import app\n"
        f"try:\n    app(['{verb}', '--help'])\nfinally:\n"
        "    assert not {'torch', 'transformers'} & set(sys.modules)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "100"},
    )
    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    assert all(len(line) <= 100 for line in lines)
    titles = [line.removesuffix(":") for line in lines if line.endswith(":") and not line.startswith(" ")]
    known = [title.capitalize() for title in verbs.GROUPS[VERBS[verb]]]
    assert titles[:3] == ["Example", "Arguments", "Options"]
    assert titles[-1] == "Output"
    assert set(titles[3:-1]) <= set(known)
    after = next((index for index, line in enumerate(lines) if line == f"{titles[3]}:"), len(lines))
    assert after <= 40
    if verb == "compress":
        first = "\n".join(lines[:after])
        for flag in (
            *("--out", "--keep", "--size", "--max-loss", "--data", "--method", "--targets", "--layers"),
            *("--quantize", "--tokens", "--recipe", "--resume"),
        ):
            assert f"{flag} " in first

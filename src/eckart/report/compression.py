"""The page of a compressed model: what was asked, what came of it, and how to do it again."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from html import escape
from typing import Any

from eckart.report.page import Page, table
from eckart.report.words import digits, figure, percent, plural, short, size
from eckart.types import MAX_LENGTH, Manifest, Recipe, Sample, TargetRecord, TrainingRecord

_NUMBER = re.compile(r"^(?P<stack>(?:[^.]*\.)*?[^.]*)\.(?P<block>\d+)\.(?P<kind>.+)$")
SELECTION = ("additional", "prunes", "prune_schedule", "importance", "scope", "share", "weights_rate")
TRAINED = ("batch", "accumulate", "learning_rate", "train", "precision", "seed")
"""Settings of a training that `eckart compress` has options for."""
RECOVERED = (
    *TRAINED,
    "schedule",
    "warmup",
    "weight_decay",
    "clip",
    "max_length",
    "adapter_rank",
    "adapter_alpha",
)
OBJECTIVE = ("temperature", "labels", "hidden")


def compression_page(manifest: Manifest, samples: Sequence[Sample] = ()) -> str:
    """One HTML page of what a compression came to; it fetches nothing and shows every text as text.

    The same manifest and samples give the same page.

    Args:
        manifest: `eckart.json` of the compressed folder.
        samples: what the models wrote behind the same prompts.
    """
    sections = [
        (
            "ranks",
            "Where the parameters went, and what it cost",
            '<div id="maps"></div><div class="grid" id="pair"></div>',
        )
    ]
    if manifest.held_out or manifest.training:
        sections.append(("loss", "On data", '<div class="grid" id="losses"></div>'))
    if samples:
        sections.append(("said", "What the model says", '<div id="samples"></div>'))
    sections.append(("again", "Do it again", _again(manifest)))
    return Page(
        title=f"{manifest.source}, compressed",
        kind="Eckart, a compressed model",
        heading=manifest.source,
        lede=_lede(manifest),
        facts=_facts(manifest),
        data={
            "targets": [_target(record) for record in manifest.targets],
            "heldOut": manifest.held_out and manifest.held_out.model_dump(),
            "training": [
                {"purpose": run.purpose, "losses": run.losses, "steps": run.steps, "tokens": run.tokens}
                for run in manifest.training
            ],
            "samples": [asdict(sample) for sample in samples],
        },
        script="compression.js",
        sections=sections,
        notes=[*manifest.notes, *(note for run in manifest.training for note in run.notes)],
        made_with=f"Eckart {manifest.eckart}, torch {manifest.torch}, transformers {manifest.transformers}",
    ).html()


def place_of(name: str) -> tuple[str | None, int | None, str]:
    """Stack, block and kind of a target by its name: the first number in it is the block."""
    found = _NUMBER.match(name)
    return (found["stack"], int(found["block"]), found["kind"]) if found else (None, None, name)


def commands(manifest: Manifest) -> list[str]:
    """The command lines that make such a model again, one line a job; none where a search found the ranks.

    Every axis is named, so that they mean the same where a method's row has changed since.
    """
    recipe, runs = manifest.recipe, list(manifest.training)
    if not _dial(recipe):
        return []
    words = [
        "eckart",
        "compress",
        recipe.model or manifest.source,
        "-o",
        "OUT",
        *_dial(recipe),
        "--method",
        recipe.method,
    ]
    words += ["--metric", recipe.metric, "--structure", recipe.structure, "--allocate", recipe.allocation]
    words += ["--recovery", recipe.recovery]
    if recipe.goal != "size":
        words += ["--for", recipe.goal]
    if recipe.on != "answers":
        words += ["--on", recipe.on]
    if recipe.of != "model":
        words += ["--of", recipe.of]
    if recipe.targets:
        words += ["--targets", ",".join(recipe.targets)]
    words += _options(recipe.model_dump(), ("layers", "quantize", "data", "fields", "samples"))
    if recipe.max_length != MAX_LENGTH:
        words += ["--max-length", str(recipe.max_length)]
    if recipe.selection is not None:
        words += _options(recipe.selection.model_dump(), SELECTION)
        own = _selecting(runs)
        if own:
            words += ["--tokens", str(sum(run.tokens for run in own)), *_options(own[0].settings, TRAINED)]
            runs = runs[len(own) :]
    if manifest.merged:
        words.append("--merge")
    lines, last = [shlex.join(words)], "OUT"
    for number, run in enumerate(runs, 2):
        out = f"OUT{number}"
        lines.append(shlex.join(["eckart", "recover", last, "-o", out, *_recovering(run)]))
        last = out
    return lines


def _dial(recipe: Recipe) -> list[str]:
    for name in ("keep", "size", "max_loss", "energy", "rank", "ratio"):
        value = getattr(recipe, name)
        if value is not None:
            return [f"--{name.replace('_', '-')}", f"{value:.10g}"]
    return []


def _options(values: dict[str, Any], names: Sequence[str]) -> list[str]:
    words: list[str] = []
    for name in names:
        value = values.get(name)
        if value is not None:
            said = f"{value:.10g}" if isinstance(value, (int, float)) else str(value)
            words += [f"--{name.replace('_', '-')}", said]
    return words


def _selecting(runs: Sequence[TrainingRecord]) -> list[TrainingRecord]:
    """The runs that were parts of the selection: in which bases were dropped, and what followed at once."""
    count = next((place for place, run in enumerate(runs) if run.purpose == "recovery"), len(runs))
    return list(runs[: count + 1]) if count else []


def _recovering(run: TrainingRecord) -> list[str]:
    words = ["--data", run.data, *(["--teacher", run.teacher] if run.teacher else [])]
    words += ["--steps", str(run.steps), *_options(run.settings, RECOVERED)]
    if run.settings.get("gradient_checkpointing"):
        words.append("--gradient-checkpointing")
    if run.settings.get("end") is False:
        words.append("--no-end")
    return words + _options(run.objective or {}, OBJECTIVE)


def _lede(manifest: Manifest) -> list[str]:
    count, held = manifest.parameters, manifest.held_out
    first = (
        f"{percent(count.keep)} of the parameters are left: {short(count.before)} became "
        f"{short(count.after)}, and {size(manifest.bytes.before)} became {size(manifest.bytes.after)}."
    )
    if held is not None:
        first += f" On {short(held.tokens)} held-out tokens "
        # Of an encoder there is no loss but how far it has moved.
        first += (
            f"the loss went from {figure(held.before)} to {figure(held.after)}"
            f"{_change(held.before, held.after)}."
            if held.before > 0
            else f"its divergence from the dense model is {figure(held.divergence)}."
        )
    recipe = manifest.recipe
    asked = _asked(recipe)
    how = f"Asked for {asked} by {recipe.method}" if asked else f"Made by {recipe.method}"
    data = (
        f", calibrated on {short(manifest.calibration_tokens)} tokens" if manifest.calibration_tokens else ""
    )
    dense = sum(record.rank is None for record in manifest.targets)
    left = f"; {plural(dense, 'weight')} stayed dense" if dense else ""
    what = "truncated and put back as dense ones" if manifest.merged else "replaced"
    return [first, f"{how}{data}; {plural(len(manifest.targets) - dense, 'weight')} {what}{left}."]


def _change(before: float, after: float) -> str:
    change = after / before - 1
    return f" ({'+' if change >= 0 else '−'}{percent(abs(change))})"


def _asked(recipe: Recipe) -> str:
    if recipe.keep is not None:
        return f"{percent(recipe.keep)} of the {'parameters' if recipe.of == 'model' else 'targets'}"
    if recipe.size is not None:
        return f"{recipe.size:,} bytes at most"
    if recipe.max_loss is not None:
        return f"at most {percent(recipe.max_loss)} more loss"
    if recipe.energy is not None:
        return f"{percent(recipe.energy)} of the energy of each weight"
    if recipe.rank is not None:
        return f"rank {recipe.rank}"
    return "" if recipe.ratio is None else f"a rank of {percent(recipe.ratio)} of the smaller side"


def _facts(manifest: Manifest) -> list[tuple[str, str]]:
    count, held = manifest.parameters, manifest.held_out
    facts = [
        (percent(count.keep), f"of {short(count.before)} parameters left"),
        (size(manifest.bytes.after), f"on disk, from {size(manifest.bytes.before)}"),
        (percent(count.targets_after / max(1, count.targets_before)), "of the replaced weights left"),
        (manifest.recipe.method, f"{manifest.recipe.structure}, {manifest.recipe.allocation}"),
    ]
    if held is not None:
        facts.append((figure(held.divergence), "divergence from the dense model, held out"))
    if manifest.training:
        facts.append((short(sum(run.tokens for run in manifest.training)), "tokens trained on"))
    return facts


def _target(record: TargetRecord) -> dict[str, Any]:
    stack, block, kind = place_of(record.name)
    errors = {
        "predicted": None if record.predicted_error is None else digits(record.predicted_error),
        "measured": None if record.measured_error is None else digits(record.measured_error),
    }
    return {
        "name": record.name,
        "stack": stack,
        "block": block,
        "kind": kind,
        "out": record.out_features,
        "in": record.in_features,
        "structure": record.structure,
        "rank": record.rank,
        "before": record.parameters_before,
        "after": record.parameters_after,
        **errors,
    }


def _again(manifest: Manifest) -> str:
    lines = "\n".join(_folded(line) for line in commands(manifest))
    shown = f'<pre tabindex="0">{escape(lines)}</pre>'
    hint = (
        "<p>Paths are as they were given. <code>eckart compress --recipe eckart.json -o AGAIN</code>, with "
        "the manifest, gives the same bytes.</p>"
        if manifest.recipe.model is not None
        else "<p>A model that was a folder, or data that were a file, may be named without the path.</p>"
    )
    if not lines:
        shown, hint = (
            "<p>A search found the ranks, and no single command does it again: targets.csv has them.</p>",
            "",
        )
    rows = [
        (name.replace("_", " "), ", ".join(value) if isinstance(value, list) else _plain(value))
        for name, value in manifest.recipe.model_dump(exclude={"selection", "training"}).items()
        if value is not None
    ]
    if manifest.recipe.selection is not None:
        rows += [
            (f"selection: {name.replace('_', ' ')}", _plain(value))
            for name, value in manifest.recipe.selection.model_dump().items()
        ]
    rows += [
        (f"training: {name.replace('_', ' ')}", _plain(value))
        for name, value in (manifest.recipe.training or {}).items()
    ]
    if manifest.data_sha256:
        rows.append(("data sha256", manifest.data_sha256))
    return (
        f'<div class="card"><h3>Command</h3>{shown}{hint}'
        f"<h3>Recipe</h3>{table('The recipe', ('choice', 'value'), rows)}</div>"
    )


def _folded(line: str) -> str:
    """An option a line, as a shell reads it."""
    folded: list[list[str]] = [[]]
    for word in shlex.split(line):
        if word.startswith("--"):
            folded.append([])
        folded[-1].append(word)
    return " \\\n    ".join(shlex.join(words) for words in folded)


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.10g}" if isinstance(value, (int, float)) else str(value)

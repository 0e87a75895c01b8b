"""Pages of what is in a folder already: a compressed model, an analysis, a comparison or a sweep."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from time import perf_counter
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from eckart import checkpoint, report
from eckart.comparison.protocol import PROTOCOL, RESULTS, Kept, read_rows
from eckart.compression.manifests import MANIFEST
from eckart.evaluation import lower_is_better
from eckart.evaluation.generation import generate
from eckart.model import loading
from eckart.types import (
    Analysis,
    ComparisonRow,
    EckartError,
    Manifest,
    Sample,
    Sweep,
    TargetRecord,
    Track,
    UsageError,
    silent,
)

PAGE = "report.html"
NEW_TOKENS = 40
"""Of each continuation."""

Plain = TypeVar("Plain", bound=BaseModel)


@dataclass(frozen=True)
class Described:
    """What `eckart.describe` gives back.

    Attributes:
        out: the folder with the page.
        kind: what the page is of: `compression`, `analysis`, `comparison` or `sweep`.
        files: all that is in `out`, by name.
        samples: what the models wrote.
        notes: what a reader should know.
        seconds: wall time.
    """

    out: str
    kind: str
    files: list[str]
    samples: list[Sample] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0


def describe(
    path: str | Path,
    out: str | Path,
    *,
    dense: str | Path | None = None,
    prompts: Sequence[str] = (),
    png: bool = False,
    device: str = "cpu",
    track: Track = silent,
) -> Described:
    """Write a page of what a folder holds, with the data of its figures beside it.

    Args:
        path: a compressed folder, or one that `analyze`, `compare` or `sweep` wrote: its page is made again.
        out: folder for `report.html` and the data; it must not exist.
        dense: of a compressed folder, the model it came from, to continue the prompts too.
        prompts: of a compressed folder, what to continue, greedily, by 40 tokens.
        png: draw the main figures as PNG files too.
        device: where to run what continues the prompts.
        track: shows progress.

    Raises:
        UsageError: the request is wrong; nothing was started.
        EckartError: the folder is damaged, or the work failed; nothing was written.
    """
    started = perf_counter()
    folder, destination = Path(path), Path(out)
    if not folder.is_dir():
        raise UsageError(f"{path} is not a folder")
    checkpoint.refuse_existing(destination)
    if png and find_spec("matplotlib") is None:
        raise UsageError('--png needs matplotlib: pip install "eckart[report]"')
    marker = next((name for name in _KINDS if (folder / name).is_file()), None)
    if marker is None:
        raise UsageError(
            f"{path} holds nothing that a page could be made of: no {', '.join(list(_KINDS)[:-1])} or "
            f"{list(_KINDS)[-1]}"
        )
    kind, make = _KINDS[marker]
    samples: list[Sample] = []
    if kind == "compression":
        samples = _samples(folder, dense, list(prompts), device, track)
    elif prompts or dense is not None:
        raise UsageError(f"{path} is {_ARTICLES[kind]}: --prompt and --dense are for a compressed folder")
    files, notes = make(folder, samples, png)
    with checkpoint.appearing(destination) as temporary:
        for name, content in files.items():
            (temporary / name).write_bytes(content)
        if kind != "compression":
            for beside in _data_of(folder):
                shutil.copyfile(beside, temporary / beside.name)
        names = sorted(each.name for each in temporary.iterdir())
    return Described(str(out), kind, names, samples, notes, perf_counter() - started)


Made = tuple[dict[str, bytes], list[str]]


def _compression(folder: Path, samples: list[Sample], png: bool) -> Made:
    manifest = _read(folder / MANIFEST, Manifest)
    files = {
        PAGE: report.compression_page(manifest, samples).encode(),
        "targets.csv": _targets(manifest.targets),
        # Not under its own name: a folder with that is a model.
        "manifest.json": (manifest.model_dump_json(indent=1) + "\n").encode(),
    }
    if samples:
        told = json.dumps([asdict(sample) for sample in samples], indent=1)
        files["samples.json"] = (told + "\n").encode()
    return files | (report.compression_pictures(manifest) if png else {}), list(manifest.notes)


def _analysis(folder: Path, samples: list[Sample], png: bool) -> Made:
    analysis = _read(folder / "analysis.json", Analysis)
    files = {PAGE: report.analysis_page(analysis).encode()}
    return files | (report.analysis_pictures(analysis) if png else {}), list(analysis.notes)


def _comparison(folder: Path, samples: list[Sample], png: bool) -> Made:
    kept, rows = _read(folder / PROTOCOL, Kept), read_rows(folder / RESULTS)
    files = {PAGE: comparison_page(kept, rows)}
    smaller = lower_is_better(next((row.metric for row in rows if row.metric), ""))
    return files | (report.draw(rows, smaller) if png else {}), list(kept.notes)


def _sweep(folder: Path, samples: list[Sample], png: bool) -> Made:
    found = _read(folder / "sweep.json", Sweep)
    notes = [*found.notes, *(["no PNG is drawn of a sweep"] if png else [])]
    return {PAGE: report.sweep_page(found).encode()}, notes


_KINDS: dict[str, tuple[str, Callable[[Path, list[Sample], bool], Made]]] = {
    MANIFEST: ("compression", _compression),
    "analysis.json": ("analysis", _analysis),
    PROTOCOL: ("comparison", _comparison),
    "sweep.json": ("sweep", _sweep),
}
"""By the file that says what a folder is."""

_ARTICLES = {"analysis": "an analysis", "comparison": "a comparison", "sweep": "a sweep"}


def comparison_page(kept: Kept, rows: Sequence[ComparisonRow]) -> bytes:
    """The page of a comparison as it is kept."""
    metric = next((row.metric for row in rows if row.metric), "")
    protocol = kept.protocol
    return report.comparison_page(
        rows,
        lower_is_better(metric),
        kept.notes,
        kept.source,
        f"Eckart {protocol.eckart}, torch {protocol.torch}, transformers {protocol.transformers}",
    ).encode()


def _read(path: Path, kind: type[Plain]) -> Plain:
    try:
        return kind.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise EckartError(f"{path} is damaged: {where + ': ' if where else ''}{first['msg']}") from None


def _data_of(folder: Path) -> Iterator[Path]:
    """What a page's figures are drawn from."""
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.suffix in (".json", ".csv") and not path.name.startswith("."):
            yield path


def _targets(records: Sequence[TargetRecord]) -> bytes:
    text = StringIO()
    option = ("structure", "rank", "quantize")
    columns = [
        column for name in TargetRecord.model_fields for column in (option if name == "option" else (name,))
    ]
    table = csv.DictWriter(text, columns, lineterminator="\n")
    table.writeheader()
    for record in records:
        values = {each: getattr(record, each) for each in option}
        table.writerow(record.model_dump(exclude={"option"}) | values)
    return text.getvalue().encode()


def _samples(
    folder: Path, dense: str | Path | None, prompts: list[str], device: str, track: Track
) -> list[Sample]:
    """What the compressed model, and the dense one where it is named, write behind the prompts."""
    if not prompts:
        if dense is not None:
            raise UsageError("--dense needs something to continue: give --prompt TEXT")
        return []
    if empty := [prompt for prompt in prompts if not prompt.strip()]:
        raise UsageError(f"--prompt {empty[0]!r} is empty")
    loading.require_device(device)
    models = [folder] if dense is None else [loading.find_model(dense), folder]
    for each in models:
        if not loading.generates(loading.load_config(each)):
            raise UsageError(f"{each} writes no text: leave --prompt out")
        if not loading.has_tokenizer(each):
            raise UsageError(f"{each} has no tokenizer, and prompts are text: save one there")
    if dense is not None:
        loading.refuse_compressed(loading.load_config(models[0]), "--dense names")
    written = [_continued(each, prompts, device, track) for each in models]
    before: list[Any] = written[0] if dense is not None else [None] * len(prompts)
    return [Sample(*texts) for texts in zip(prompts, before, written[-1], strict=True)]


def _continued(folder: Path, prompts: list[str], device: str, track: Track) -> list[str]:
    """One model at a time: two need not fit beside each other."""
    model = loading.load_model(folder, device)
    return generate(model, loading.load_tokenizer(folder), prompts, NEW_TOKENS, track)

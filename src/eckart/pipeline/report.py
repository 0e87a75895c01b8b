"""Pages of what is in a folder already: a compressed model, an analysis, a comparison or a sweep."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from eckart import checkpoint, report
from eckart.comparison.page import comparison_page
from eckart.comparison.protocol import PROTOCOL, RESULTS, Kept, read_rows
from eckart.evaluation import lower_is_better
from eckart.evaluation.continuations import continue_prompts
from eckart.evaluation.machine import Stopwatch
from eckart.evaluation.progress import shown
from eckart.recipes.calling import checked
from eckart.report.files import PAGE, Files, analysis_files, compression_files, sweep_files
from eckart.types import (
    MANIFEST,
    Analysis,
    Described,
    EckartError,
    Manifest,
    Sample,
    Sweep,
    Track,
    UsageError,
)

Plain = TypeVar("Plain", bound=BaseModel)


@checked()
def describe(
    path: str | Path,
    out: str | Path,
    *,
    dense: str | Path | None = None,
    prompts: Sequence[str] = (),
    png: bool = False,
    device: str = "cpu",
    track: Track = shown,
) -> Described:
    """Write a page of what a folder holds, with the data of its figures beside it.

    Args:
        path: a compressed folder, or one that `analyze`, `compare` or `sweep` wrote: its page is made again.
        out: folder for `report.html` and the data; it must not exist.
        dense: of a compressed folder, the model it came from, to continue the prompts too.
        prompts: of a compressed folder, what to continue, greedily, by 40 tokens.
        png: draw the main figures as PNG files too.
        device: where to run what continues the prompts.
        track: shows progress; default a bar in a notebook or on a terminal, and lines in the log `eckart`.

    Raises:
        UsageError: the request is wrong; nothing was started.
        EckartError: the folder is damaged, or the work failed; nothing was written.
    """
    watch = Stopwatch()
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
        samples = continue_prompts(folder, dense, list(prompts), device, track)
    elif prompts or dense is not None:
        raise UsageError(f"{path} is {_ARTICLES[kind]}: --prompt and --dense are for a compressed folder")
    files, notes = make(folder, samples, png)
    with checkpoint.appearing(destination) as temporary:
        for name, content in files.items():
            (temporary / name).write_bytes(content)
        if kind != "compression":
            # What the page's figures are drawn from.
            for beside in sorted(folder.iterdir()):
                if beside.is_file() and beside.suffix in (".json", ".csv") and beside.name[0] != ".":
                    shutil.copyfile(beside, temporary / beside.name)
        names = sorted(each.name for each in temporary.iterdir())
    return Described(str(out), kind, names, samples, notes, watch.seconds())


def _compression(folder: Path, samples: list[Sample], png: bool) -> tuple[Files, list[str]]:
    manifest = _read(folder / MANIFEST, Manifest)
    return compression_files(manifest, samples, png), list(manifest.notes)


def _analysis(folder: Path, samples: list[Sample], png: bool) -> tuple[Files, list[str]]:
    analysis = _read(folder / "analysis.json", Analysis)
    return analysis_files(analysis, png), list(analysis.notes)


def _comparison(folder: Path, samples: list[Sample], png: bool) -> tuple[Files, list[str]]:
    kept, rows = _read(folder / PROTOCOL, Kept), read_rows(folder / RESULTS)
    files = {PAGE: comparison_page(kept, rows)}
    smaller = lower_is_better(next((row.metric for row in rows if row.metric), ""))
    return files | (report.draw(rows, smaller) if png else {}), list(kept.notes)


def _sweep(folder: Path, samples: list[Sample], png: bool) -> tuple[Files, list[str]]:
    sweep = _read(folder / "sweep.json", Sweep)
    return sweep_files(sweep), [*sweep.notes, *(["no PNG is drawn of a sweep"] if png else [])]


_KINDS: dict[str, tuple[str, Callable[[Path, list[Sample], bool], tuple[Files, list[str]]]]] = {
    MANIFEST: ("compression", _compression),
    "analysis.json": ("analysis", _analysis),
    PROTOCOL: ("comparison", _comparison),
    "sweep.json": ("sweep", _sweep),
}
"""By the file that says what a folder is."""

_ARTICLES = {"analysis": "an analysis", "comparison": "a comparison", "sweep": "a sweep"}


def _read(path: Path, kind: type[Plain]) -> Plain:
    try:
        return kind.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise EckartError(f"{path} is damaged: {where + ': ' if where else ''}{first['msg']}") from None

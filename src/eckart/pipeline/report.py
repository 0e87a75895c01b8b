"""Pages of what is in a folder already: a compressed model, or what another verb wrote."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from eckart import checkpoint, folders
from eckart.analysis import bases
from eckart.comparison.page import comparison_pages
from eckart.comparison.protocol import PROTOCOL
from eckart.compression.folder.strangers import said_of
from eckart.evaluation.continuations import continue_prompts
from eckart.evaluation.machine import Stopwatch
from eckart.evaluation.progress import shown
from eckart.recipes.calling import checked
from eckart.report.files import SAMPLES, Files, analysis_files, compression_files, sweep_files
from eckart.types import (
    MANIFEST,
    Analysis,
    Described,
    Manifest,
    Sample,
    Sweep,
    Track,
    UsageError,
)


@checked()
def describe(
    path: str | Path,
    out: str | Path | None = None,
    *,
    dense: str | Path | None = None,
    prompts: Sequence[str] = (),
    png: bool = False,
    device: str = "cpu",
    track: Track = shown,
) -> Described:
    """Write a page of what a folder holds, with the data of its figures beside it.

    Args:
        path: a compressed folder, or one that `analyze`, `bases`, `compare`, `sweep` or this wrote: its page
            is made again.
        out: folder for `report.html` and the data; it must not exist. Default beside what the page is made
            of, in the place of the one that is there; a compressed model has no page in its own folder.
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
    folder = Path(path)
    kind = next((kind for kind in _KINDS if all((folder / name).is_file() for name in kind.files)), None)
    if kind is None:
        raise UsageError(said_of(path))
    compressed = kind.files == (MANIFEST,)
    destination = folder if out is None else Path(out)
    in_place = not compressed and destination.resolve() == folder.resolve()
    if out is None and compressed:
        raise UsageError(f"{path} is a compressed model, and its page has a folder of its own: give -o DIR")
    if not in_place:
        folders.refuse_existing(destination)
    if png and find_spec("matplotlib") is None:
        raise UsageError('--png needs matplotlib: pip install "eckart[report]"')
    samples: list[Sample] = []
    if compressed:
        samples = continue_prompts(folder, dense, list(prompts), device, track)
    elif prompts or dense is not None:
        raise UsageError(f"{path} is {kind.article}: --prompt and --dense are for a compressed folder")
    files, notes = kind.make(folder, samples, png)
    if in_place:
        for name, content in files.items():
            folders.replace_file(folder / name, content)
        return Described(str(destination), kind.name, sorted(files), samples, notes, watch.seconds())
    with folders.appearing(destination) as temporary:
        if not compressed:
            # What the page's figures are drawn from.
            for beside in sorted(folder.iterdir()):
                if beside.is_file() and beside.suffix in (".json", ".csv") and beside.name[0] != ".":
                    shutil.copyfile(beside, temporary / beside.name)
        for name, content in files.items():
            (temporary / name).write_bytes(content)
        names = sorted(each.name for each in temporary.iterdir())
    return Described(str(destination), kind.name, names, samples, notes, watch.seconds())


@dataclass(frozen=True)
class _Kind:
    """What a folder may hold: its name, with an article, the files that tell, and what makes its page."""

    name: str
    article: str
    files: tuple[str, ...]
    make: Callable[[Path, list[Sample], bool], tuple[Files, list[str]]]


def _compression(folder: Path, samples: list[Sample], png: bool) -> tuple[Files, list[str]]:
    manifest = checkpoint.read_plain(folder / MANIFEST, Manifest)
    return compression_files(manifest, samples, png), list(manifest.notes)


def _page(folder: Path, samples: list[Sample], png: bool) -> tuple[Files, list[str]]:
    manifest = checkpoint.read_plain(folder / "manifest.json", Manifest)
    if (folder / SAMPLES).is_file():
        samples = checkpoint.read_plain(folder / SAMPLES, list[Sample])
    return compression_files(manifest, samples, png), list(manifest.notes)


def _analysis(folder: Path, samples: list[Sample], png: bool) -> tuple[Files, list[str]]:
    analysis = checkpoint.read_plain(folder / "analysis.json", Analysis)
    return analysis_files(analysis, png), list(analysis.notes)


def _sweep(folder: Path, samples: list[Sample], png: bool) -> tuple[Files, list[str]]:
    sweep = checkpoint.read_plain(folder / "sweep.json", Sweep)
    return sweep_files(sweep), [*sweep.notes, *(["no PNG is drawn of a sweep"] if png else [])]


_KINDS = (
    _Kind("compression", "a compressed model", (MANIFEST,), _compression),
    _Kind("analysis", "an analysis", ("analysis.json",), _analysis),
    _Kind("comparison", "a comparison", (PROTOCOL,), comparison_pages),
    _Kind("sweep", "a sweep", ("sweep.json",), _sweep),
    _Kind("bases", "of bases", ("bases.json",), bases.pages),
    _Kind("compression", "a page alone, without the model", ("manifest.json", "targets.csv"), _page),
)

"""The files of a page: the page itself, tables of its data, and pictures."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from io import StringIO

from eckart.report.analysis import analysis_page
from eckart.report.compression import compression_page
from eckart.report.pictures import analysis_pictures, compression_pictures
from eckart.report.sweep import sweep_page
from eckart.types import Analysis, Manifest, Sample, Sweep, TargetRecord

PAGE, SAMPLES = "report.html", "samples.json"
Files = dict[str, bytes]
"""A name to a content."""


def compression_files(manifest: Manifest, samples: Sequence[Sample], png: bool = False) -> Files:
    """The page of a compressed model, its targets as a table, its manifest and what was written."""
    files = {
        PAGE: compression_page(manifest, samples).encode(),
        "targets.csv": table(_COLUMNS, map(_target_row, manifest.targets)),
        # Not under its own name: a folder with that is a model.
        "manifest.json": (manifest.model_dump_json(indent=1) + "\n").encode(),
    }
    if samples:
        written = json.dumps([asdict(sample) for sample in samples], indent=1)
        files[SAMPLES] = (written + "\n").encode()
    return files | (compression_pictures(manifest) if png else {})


_COLUMNS = [
    column
    for name in TargetRecord.model_fields
    for column in (("structure", "size", "bits") if name == "option" else (name,))
]
"""Of a table of targets: an option is three of them."""


def _target_row(record: TargetRecord) -> dict[str, object]:
    return record.model_dump(exclude={"option"}) | record.option.model_dump()


def analysis_files(analysis: Analysis, png: bool = False) -> Files:
    """The page of an analysis, and its pictures."""
    return {PAGE: analysis_page(analysis).encode()} | (analysis_pictures(analysis) if png else {})


def sweep_files(sweep: Sweep) -> Files:
    """The page of a sweep, of which no picture is drawn."""
    return {PAGE: sweep_page(sweep).encode()}


def table(columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> bytes:
    """A CSV file with a header. What UTF-8 has no bytes for, as half of a pair of surrogates, is escaped."""
    text = StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode("utf-8", errors="backslashreplace")

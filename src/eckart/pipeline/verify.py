"""Is a compressed folder what its manifest says, and does it load both ways?"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from eckart import checkpoint
from eckart.model import loading, probe, replacing, saving
from eckart.pipeline.compress import MANIFEST
from eckart.types import EckartError, Manifest, Track, UsageError, silent

TOLERANCE = 1e-3
"""Largest difference of a probed value, relative to the largest of them, that another machine's rounding
explains. On the machine that saved the folder it is 0."""


@dataclass(frozen=True)
class Check:
    """One question, its answer, and what was found."""

    check: str
    ok: bool
    detail: str


@dataclass(frozen=True)
class Verdict:
    """All the checks of one folder."""

    out: str
    checks: list[Check]

    @property
    def ok(self) -> bool:
        return all(check.ok for check in self.checks)


def verify(out: str | Path, track: Track = silent) -> Verdict:
    """Check a compressed folder: files against their hashes, modules and counts against the manifest, and
    that plain transformers gives the same values with Eckart imported and without it.

    Raises:
        UsageError: not a folder that Eckart wrote.
        EckartError: its manifest or its weights cannot be read.
    """
    folder = Path(out)
    if not folder.is_dir():
        raise UsageError(f"{out} is not a folder")
    manifest = _manifest(folder)
    steps = [_files, _shapes, _loads_with_eckart, _loads_without]
    checks = [step(folder, manifest) for step in track(steps, "verifying", len(steps))]
    return Verdict(str(out), checks)


def _manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST
    if not path.is_file():
        raise UsageError(f"{folder} has no {MANIFEST}: it is not a folder that Eckart wrote")
    try:
        return Manifest.model_validate_json(path.read_text())
    except (ValidationError, UnicodeDecodeError) as error:
        first = str(error).splitlines()[0]
        raise EckartError(f"{path} is damaged: {first}") from error


def _files(folder: Path, manifest: Manifest) -> Check:
    for name, digest in manifest.files.items():
        path = folder / name
        if Path(name).name != name or not path.is_file():
            return Check("files", False, f"{name} is missing")
        if checkpoint.sha256(path) != digest:
            return Check("files", False, f"{name} is not the file that was saved")
    return Check("files", True, f"{len(manifest.files)} files as saved")


def _shapes(folder: Path, manifest: Manifest) -> Check:
    model = loading.build_empty(loading.load_config(folder))
    count = replacing.count_parameters(model)
    stored = checkpoint.open_checkpoint(folder)
    if manifest.parameters.after not in (count, stored.parameters):
        return Check(
            "shapes",
            False,
            f"{count:,} parameters by its config, {manifest.parameters.after:,} by its manifest",
        )
    for record in manifest.targets:
        if record.rank is None:
            continue
        shape = stored.tensors.get(f"{record.name}.V.weight")
        if shape is None or shape.shape != (record.rank, record.in_features):
            return Check("shapes", False, f"{record.name} is not stored at rank {record.rank}")
    return Check("shapes", True, f"{manifest.parameters.after:,} parameters, {len(manifest.targets)} targets")


def _loads_with_eckart(folder: Path, manifest: Manifest) -> Check:
    name = "loads after import eckart"
    try:
        found = probe.take_probe(loading.load_model(folder)).outputs
    except EckartError as error:
        return Check(name, False, str(error))
    return _compared(name, found, manifest)


def _loads_without(folder: Path, manifest: Manifest) -> Check:
    """In a process that has transformers only. The file in the folder is run only if it is Eckart's own."""
    name = "loads without eckart, trust_remote_code"
    file = folder / f"{saving.MODELING_FILE}.py"
    config = loading.raw_config(folder)
    references = sorted({value.rpartition(".")[2] for value in config.get("auto_map", {}).values()})
    if not file.is_file() or file.read_text() != saving.modeling_source(set(references)):
        return Check(name, False, f"{file.name} is not what this version of Eckart writes; it was not run")
    assert manifest.probe is not None
    auto = next((auto for auto in config["auto_map"] if auto != "AutoModel"), "AutoModel")
    request = {"folder": str(folder.resolve()), "auto": auto, "ids": manifest.probe.input_ids}
    run = subprocess.run(
        [sys.executable, "-c", probe.STANDALONE],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        check=False,
    )
    if run.returncode:
        return Check(name, False, run.stderr.strip().splitlines()[-1] if run.stderr.strip() else "it failed")
    return _compared(name, json.loads(run.stdout.splitlines()[-1]), manifest)


def _compared(name: str, found: list[float], manifest: Manifest) -> Check:
    assert manifest.probe is not None
    saved = manifest.probe.outputs
    largest = max(map(abs, saved)) or 1.0
    difference = max(abs(one - other) for one, other in zip(found, saved, strict=True)) / largest
    said = (
        "same values, bit for bit" if found == saved else f"values differ by {difference:.1e} of the largest"
    )
    return Check(name, difference <= TOLERANCE, said)

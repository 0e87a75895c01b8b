"""Checks of a compressed folder: its files, its counts, and that it loads with Eckart and without."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from eckart import checkpoint, structures
from eckart.compression.folder.manifests import read_manifest
from eckart.model import building, configs, loading, probe, reading, replacing, saving
from eckart.types import MANIFEST, EckartError, Manifest, Shown, TargetRecord, Track, UsageError

CONFIGS = ("config.json", "generation_config.json", "model.safetensors.index.json")


@dataclass(frozen=True)
class Check:
    """One check: its name, whether it passed, and what was found."""

    check: str
    ok: bool
    detail: str


@dataclass(frozen=True, repr=False)
class Verdict(Shown):
    """All the checks of one folder."""

    out: str
    checks: list[Check]

    @property
    def ok(self) -> bool:
        """Whether every check passed."""
        return all(check.ok for check in self.checks)

    def in_a_line(self) -> str:
        """Whether it is whole, or what is not."""
        failed = [check.check for check in self.checks if not check.ok]
        found = f"{', '.join(failed)} FAILED" if failed else f"{len(self.checks)} checks, all ok"
        return f"{self.out}: {found}"

    def in_a_table(self) -> tuple[Sequence[str], Iterable[Sequence[object]]]:
        """A row for each check."""
        head = ("check", "", "")
        return head, [(check.check, "ok" if check.ok else "FAILED", check.detail) for check in self.checks]


def require_manifest(folder: Path) -> Manifest:
    """The manifest of a folder that Eckart wrote, with outputs to compare with.

    Raises:
        UsageError: there is none.
        EckartError: it is damaged.
    """
    path = folder / MANIFEST
    manifest = read_manifest(folder)
    if manifest is None:
        raise UsageError(f"{folder} has no {MANIFEST}: it is not a folder that Eckart wrote")
    probed = manifest.probe
    if probed is None or not (probed.outputs or probed.unasked):
        raise EckartError(f"{path} is damaged: it holds no outputs to compare with")
    return manifest


def check_folder(folder: Path, manifest: Manifest, track: Track) -> list[Check]:
    """All checks, in the order that they are made in."""
    checks = [check_files, check_shapes, check_loading, check_plain_loading]
    return [check(folder, manifest) for check in track(checks, "verifying", len(checks))]


def check_files(folder: Path, manifest: Manifest) -> Check:
    """The weights and the code against the hashes in the manifest."""
    for name, digest in manifest.files.items():
        path = folder / name
        if Path(name).name != name or not path.is_file():
            return Check("files", False, f"{name} is missing")
        if checkpoint.sha256(path) != digest:
            return Check("files", False, f"{name} is not the file that was saved")
    return Check("files", True, f"{len(manifest.files)} files as saved")


def check_shapes(folder: Path, manifest: Manifest) -> Check:
    """Counts, ranks and stored shapes against the manifest."""
    try:
        model = building.build_empty(loading.load_config(folder))
    except (ValueError, EckartError) as error:
        return Check("shapes", False, str(error))
    count = replacing.count_parameters(model)
    stored = checkpoint.open_checkpoint(folder)
    if manifest.parameters.after not in (count, stored.parameters):
        return Check(
            "shapes",
            False,
            f"{count:,} parameters by its config, {manifest.parameters.after:,} by its manifest",
        )
    names = reading.stored_names(model, stored.tensors)
    tensors = {name: stored.tensors[key] for name, key in names.items()}
    for record in manifest.targets:
        if fault := _record_fault(model, record, tensors):
            return Check("shapes", False, fault)
    return Check("shapes", True, f"{manifest.parameters.after:,} parameters, {len(manifest.targets)} targets")


def _record_fault(model: Any, record: TargetRecord, tensors: Mapping[str, checkpoint.Stored]) -> str | None:
    """What of a target is not as its record says; `None` where all is.

    Args:
        tensors: as they are stored, by the names that transformers loads them by.
    """
    module = dict(model.named_modules()).get(record.name)
    experts = dict(model.named_parameters()).get(record.name.rpartition(".")[0])
    if module is None and experts is not None:
        return _narrow_fault(experts[0], record)
    if module is None:
        return f"{record.name} is a target of the manifest: the model has no such module"
    built, option = structures.structure_of(module), record.option
    if built is None and option.structure != "dense" and structures.find(option.structure).channels:
        return _narrow_fault(module.weight, record)
    name, size = (built.name, getattr(module, "size", None)) if built else ("dense", None)
    # What was multiplied out has the size that it had, and nothing to show it by.
    expected = None if option.structure == "dense" else option.size
    if (name, size) != (option.structure, expected):
        said = [f"{n} of size {s}" if s else n for n, s in ((name, size), (option.structure, expected))]
        return f"{record.name} is {said[0]} by the config, {said[1]} by the manifest"
    return None if built is None else _stored_fault(model, record, built, tensors)


def _stored_fault(
    model: Any, record: TargetRecord, built: structures.Structure, tensors: Mapping[str, checkpoint.Stored]
) -> str | None:
    """The same of the tensors that a structure is stored in."""
    module, option = model.get_submodule(record.name), record.option
    held = module.state_dict()
    biased = any(key.rpartition(".")[2] == "bias" for key in held)
    shape = structures.Shape(record.out_features, record.in_features, biased, getattr(module, "inner", None))
    parts = built.parts(shape, option.size or 0)
    for key, part in structures.stored_tensors(parts, option.bits, 1).items():
        full = f"{record.name}.{key}"
        # A head that is tied is stored as the embedding, whose indices it has without saving them.
        found = tensors.get(full) or tensors.get(model.all_tied_weights_keys.get(full, full))
        if key in held and (found is None or found.shape != part.shape):
            return f"{record.name} is not stored at {built.size_name} {option.size}"
    return None


def _narrow_fault(weight: Tensor, record: TargetRecord) -> str | None:
    """The same of a plain layer, or one expert of a tensor, that is narrower than it was."""
    there, said = weight.numel(), record.parameters_after
    if there == said:
        return None
    return f"{record.name} has {there:,} parameters by the config, {said:,} by the manifest"


def check_loading(folder: Path, manifest: Manifest) -> Check:
    """Outputs of the model that plain transformers loads after `import eckart`."""
    name = "loads after import eckart"
    assert manifest.probe is not None
    try:
        found = probe.answers(loading.load_model(folder), manifest.probe)
    except EckartError as error:
        return Check(name, False, str(error))
    return _compare_outputs(name, found, folder, manifest)


def check_plain_loading(folder: Path, manifest: Manifest) -> Check:
    """Outputs of the model in a process that has transformers only, and sees no code but Eckart's own."""
    if manifest.plain:
        return _check_stock_loading(folder, manifest)
    name = "loads without eckart, trust_remote_code"
    file = folder / f"{saving.MODELING_FILE}.py"
    config = configs.raw_config(folder)
    autos = saving.read_auto_map(config)
    if autos is None or not file.is_file() or not saving.is_own_source(file.read_text(), set(autos.values())):
        return Check(name, False, f"{file.name} is not what this version of Eckart writes; it was not run")
    return _check_isolated(name, folder, manifest, saving.auto_of(autos, config["architectures"][0]), [file])


def _check_stock_loading(folder: Path, manifest: Manifest) -> Check:
    """A model of plain layers names no code."""
    name = "loads without eckart"
    config = configs.raw_config(folder)
    if strange := next((entry for entry in ("quantization_config", "auto_map") if entry in config), None):
        return Check(name, False, f"it is a plain model, and its config.json has {strange}")
    autos = saving.auto_classes(building.build_empty(loading.load_config(folder)))
    return _check_isolated(name, folder, manifest, saving.auto_of(autos, config["architectures"][0]), [])


def _check_isolated(name: str, folder: Path, manifest: Manifest, auto: str, code: list[Path]) -> Check:
    """Load weights, configs and this code by `auto` in another process, and compare its values."""
    assert manifest.probe is not None
    with tempfile.TemporaryDirectory() as temporary:
        # Anything else in the folder could bring code along: an adapter's base, a generation loop.
        isolated = Path(temporary, "model")
        isolated.mkdir()
        needed = [*code, *checkpoint.open_checkpoint(folder).files, *map(folder.joinpath, CONFIGS)]
        for path in needed:
            if path.is_file():
                (isolated / path.name).symlink_to(path.resolve())
        asked = probe.described(manifest.probe.inputs)
        request = {"folder": str(isolated), "auto": auto, "inputs": asked}
        run = subprocess.run(
            [sys.executable, "-P", "-c", probe.STANDALONE],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(Path(temporary, "modules"))},
            check=False,
        )
    if run.returncode:
        return Check(name, False, run.stderr.strip().splitlines()[-1] if run.stderr.strip() else "it failed")
    return _compare_outputs(name, json.loads(run.stdout.splitlines()[-1]), folder, manifest)


def _compare_outputs(name: str, found: dict[str, list[float]], folder: Path, manifest: Manifest) -> Check:
    """The outputs of a loaded model against those that were saved."""
    assert manifest.probe is not None
    if manifest.probe.unasked is not None:
        return Check(name, True, f"it loads; its outputs are not compared: {manifest.probe.unasked}")
    saved = manifest.probe.outputs
    differ = probe.differences(found, saved)
    worst = max(differ, key=differ.__getitem__)
    if not differ[worst]:
        return Check(name, True, f"same values, bit for bit ({', '.join(saved)})")
    if differ[worst] == float("inf"):
        return Check(name, False, f"it does not give the output {worst} as it was saved")
    tolerance = probe.tolerance(configs.raw_config(folder).get("dtype", "float32"))
    ok = differ[worst] <= tolerance
    return Check(name, ok, f"values differ by {differ[worst]:.1e} of the largest, in {worst}")

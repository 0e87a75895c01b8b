"""Is a compressed folder what its manifest says, and does it load both ways?"""

from __future__ import annotations

from pathlib import Path

from eckart.compression.folder.verification import Verdict, check_folder, require_manifest
from eckart.evaluation.progress import shown
from eckart.model import finding
from eckart.recipes.calling import checked
from eckart.types import Track


@checked()
def verify(out: str | Path, track: Track = shown) -> Verdict:
    """Check a compressed folder: files against their hashes, modules and counts against the manifest, and
    that plain transformers gives the same values with Eckart imported and without it.

    Raises:
        UsageError: not a folder that Eckart wrote.
        EckartError: its manifest or its weights cannot be read.
    """
    folder = Path(out)
    finding.require_folder(folder)
    manifest = require_manifest(folder)
    return Verdict(str(out), check_folder(folder, manifest, track))

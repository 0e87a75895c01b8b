"""A finished model into a folder that appears whole or not at all."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from eckart import folders
from eckart.compression.folder.manifests import seal, summary_of
from eckart.model import probe, saving, sentences
from eckart.types import Manifest


def save_folder(model: Any, tokenizer: Any, manifest: Manifest, folder: Path | None, out: Path) -> None:
    """Write a model and its manifest, whose probe and files are filled in, into a new folder.

    Args:
        tokenizer: saved beside it, unless `folder`, that the model was loaded from, brings its own.
    """
    save = partial(saving.save_plain, narrow=manifest.narrow) if manifest.plain else saving.save_model
    with folders.appearing(out) as temporary:
        save(model, temporary, manifest.source, summary_of(manifest), origin=folder)
        if tokenizer is not None and folder is None:
            tokenizer.save_pretrained(temporary)
        if folder is not None:
            folders.copy_companions(folder, temporary, sentences.companions(folder))
        manifest.probe = probe.answered(model, manifest.probe or probe.question_of(model))
        seal(manifest, temporary)

"""What a path leads to that no page can be made of, and what to do instead, in a line."""

from __future__ import annotations

import json
from pathlib import Path

from eckart import folders
from eckart.model import finding

RESULTS = "compress, recover, analyze, sweep, compare or bases"
"""The commands whose results have pages."""


def said_of(path: str | Path) -> str:
    """What is there, and what to do.

    Args:
        path: as it was given; it holds no result.
    """
    folder = Path(path)
    if not folder.exists():
        if str(path) == "pocket":
            return f"pocket is {_plain('pocket')}"
        return f"{path}: there is no such folder; a page is made of what {RESULTS} wrote"
    if not folder.is_dir():
        return f"{path} is a file: give the folder that it is in, {folder.parent}"
    return f"{path} {_of_folder(folder, {each.name for each in folder.iterdir()})}"


def _of_folder(folder: Path, there: set[str]) -> str:
    for names, words in _KNOWN:
        if names <= there:
            return words
    if "config.json" in there:
        return _of_model(folder)
    what = f"holds nothing that a page could be made of ({min(there)})" if there else "is empty"
    return f"{what}: a page is made of what {RESULTS} wrote"


_KNOWN: tuple[tuple[set[str], str], ...] = (
    (
        {folders.EXPORTED},
        "is an export: the page is of the model it was made of; eckart report that folder",
    ),
    (
        {finding.ADAPTER},
        "is an adapter of peft: eckart compress MODEL --adapter merges it; report what comes out",
    ),
    (
        {"request.json", "measured.jsonl"},
        "is a sweep that did not come to its end: the same eckart sweep goes on with it",
    ),
    (
        {"request.json", "samples.jsonl"},
        "holds the answers of an evaluation, which have no page: read samples.jsonl and score.json",
    ),
    (
        {"request.json", "training.jsonl"},
        "is a training that did not come to its end: the same command with --resume goes on with it",
    ),
)
"""Files that tell what a folder is, and what to say of it."""


def _plain(name: str) -> str:
    return f"a model that is not compressed: eckart analyze {name} -o DIR shows what is low-rank in it"


def _of_model(folder: Path) -> str:
    # With torch behind it: that there is no folder is said without.
    from eckart.model.portable import QUANT_METHOD

    try:
        config = json.loads((folder / "config.json").read_bytes())
        compressed = config["quantization_config"]["quant_method"] == QUANT_METHOD
    except (OSError, ValueError, KeyError, TypeError):
        compressed = False
    if compressed:
        return (
            "is compressed and has no eckart.json, which says what was done: copy it there from the folder "
            "that it was made of"
        )
    return f"is {_plain(str(folder))}"

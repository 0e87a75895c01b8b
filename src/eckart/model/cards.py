"""The card of a saved model: what it is, where it comes from, how to load it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData, metadata_load

COMPRESSED = """\
# {source}, compressed

{summary}

This is an ordinary Hugging Face folder of safetensors. Load it with transformers, either with Eckart
installed (`pip install eckart`):

```python
import eckart
from transformers import {auto}

model = {auto}.from_pretrained("this folder")
```

or without, by letting transformers run the file `{file}.py` that is in this folder:

```python
from transformers import {auto}

model = {auto}.from_pretrained("this folder", trust_remote_code=True)
```

Without either, transformers does not know the factors: it warns and fills the replaced weights with random
numbers. What was done, to which weights and at what error, is in `eckart.json`; `eckart verify` checks it.
"""

MERGED = """\
# {source}, truncated

{summary}

The factors were multiplied out: this is an ordinary dense model, as large as before, and loads as such:

```python
from transformers import {auto}

model = {auto}.from_pretrained("this folder")
```

What was done, to which weights and at what error, is in `eckart.json`; `eckart verify` checks it.
"""

NARROW = """\
# {source}, narrower

{summary}

Some of the channels inside its MLPs were dropped: this is an ordinary model of its class, with a smaller
number in its config, and loads as such:

```python
from transformers import {auto}

model = {auto}.from_pretrained("this folder")
```

What was done, to which weights and at what error, is in `eckart.json`; `eckart verify` checks it.
"""

KEPT = ("license", "license_name", "license_link", "language", "datasets", "pipeline_tag")
"""Of the front matter of the original's card: these hold for what was made of it too."""
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def write(folder: Path, card: str, source: str, origin: Path | None, **words: str) -> None:
    """Write `README.md`, with front matter as the hub reads it.

    Args:
        card: `COMPRESSED`, `MERGED`, `NARROW`, or another text with a place for the source.
        source: the original's name; one of the hub is the base model.
        origin: the folder of the original; of its card licence, language and tags are kept.
    """
    text = card.format(source=in_markdown(source), **words)
    kind = "pruning" if card is NARROW else "low-rank"
    whole = f"---\n{_front_matter(source, origin, kind)}\n---\n\n{text}"
    (folder / "README.md").write_text(whole, encoding="utf-8")


def _front_matter(source: str, origin: Path | None, kind: str) -> str:
    before = {} if origin is None else _of_card(origin / "README.md")
    kept = {name: before[name] for name in KEPT if _is_plain(before.get(name))}
    tags = [*before["tags"]] if isinstance(before.get("tags"), list) and _is_plain(before["tags"]) else []
    return ModelCardData(
        base_model=source if HUB_NAME.fullmatch(source) else None,
        library_name=before["library_name"] if _is_plain(before.get("library_name")) else "transformers",
        tags=list(dict.fromkeys([*tags, "eckart", kind])),
        **kept,
    ).to_yaml()


def _of_card(path: Path) -> dict[str, Any]:
    """The front matter of a card; nothing where there is none that can be read."""
    try:
        found = metadata_load(path)
    except Exception:  # of YAML that anybody wrote: what is wrong with it is no matter here
        return {}
    return found if isinstance(found, dict) else {}


def _is_plain(value: object) -> bool:
    """A text, or texts, with nothing in them that a card could not have."""
    every = value if isinstance(value, list) else [value]
    return bool(every) and all(isinstance(each, str) and each.isprintable() for each in every)


def in_markdown(name: str) -> str:
    """A name that shows as it is, whatever is in it: no markup, no control character, one line."""
    shown = "".join(each if each.isprintable() else " " for each in name)
    return re.sub(r"([\\`*{}\[\]<>#|!&~])", r"\\\1", shown)

"""What sentence-transformers makes of hidden states: pooling, dense layers, normalization, prompts."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import Tensor

from eckart import checkpoint
from eckart.types import EckartError, UsageError

MODULES = "modules.json"
LIBRARY = "sentence_transformers."
PICKLE = "pytorch_model.bin"
MEAN = {"pooling_mode": "mean", "pooling_mode_mean_tokens": True, "include_prompt": True}
"""What plain pooling says in its config, of one version or another; all else there is false or a size."""


@dataclass(frozen=True)
class Head:
    """The modules behind a model, and how its texts are put to it.

    Attributes:
        modules: of sentence-transformers, from the hidden states on.
        prompt: before every text.
        prompt_tokens: that the prompt has, as pooling may leave them out.
        lower: whether texts are read in lower case.
    """

    modules: Sequence[Any]
    prompt: str = ""
    prompt_tokens: int = 0
    lower: bool = False

    def text(self, sentence: str) -> str:
        """As the model reads it."""
        whole = f"{self.prompt}{sentence}".strip()
        return whole.lower() if self.lower else whole

    def __call__(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Embeddings `(texts, width)` of hidden states `(texts, tokens, width)` and their mask."""
        features: dict[str, Any] = {"token_embeddings": hidden, "attention_mask": mask}
        if self.prompt_tokens:
            features["prompt_length"] = self.prompt_tokens
        for module in self.modules:
            features = module(features)
        found: Tensor = features["sentence_embedding"]
        return found


def folder_of(model: Any) -> Path | None:
    """The folder of sentence-transformers that a model was loaded from."""
    folder = Path(getattr(model, "name_or_path", "") or "")
    return folder if (folder / MODULES).is_file() else None


def longest(model: Any) -> int | None:
    """Tokens that its user's texts are cut at."""
    folder = folder_of(model)
    found = None if folder is None else _read(folder / "sentence_bert_config.json").get("max_seq_length")
    return found if isinstance(found, int) and found > 0 else None


def head_of(model: Any, tokenizer: Any = None) -> Head | None:
    """What stands behind a model; `None` where it is the mean over real tokens, or it has no such folder.

    Raises:
        UsageError: sentence-transformers is needed and not installed.
        EckartError: a module is none of its own, or does not load.
    """
    folder = folder_of(model)
    if folder is None:
        return None
    behind = require_usable(folder)
    words = _read(folder / "config_sentence_transformers.json")
    prompt = (words.get("prompts") or {}).get(words.get("default_prompt_name") or "", "")
    lower = bool(_read(folder / "sentence_bert_config.json").get("do_lower_case"))
    if not prompt and not lower and all(_plain(folder, each) for each in behind):
        return None
    if find_spec("sentence_transformers") is None:
        raise UsageError(
            f"{folder} is a folder of sentence-transformers, and what it does behind the model takes that "
            "package: pip install 'eckart[sentences]'"
        )
    modules = [_load(folder, each).to(model.device, model.dtype).eval() for each in behind]
    tokens = 0
    if prompt and tokenizer is not None:
        ids = tokenizer(prompt)["input_ids"]
        tokens = len(ids) - (bool(ids) and ids[-1] in tokenizer.all_special_ids)
    return Head(modules, prompt, tokens, lower)


def require_usable(folder: Path) -> list[dict[str, str]]:
    """The entries of `modules.json` behind the model.

    Raises:
        EckartError: there is something that Eckart does not run or read.
    """
    path = folder / MODULES
    try:
        entries = sorted(json.loads(path.read_text()), key=lambda each: each["idx"])
        behind = [{"type": str(each["type"]), "path": str(each["path"])} for each in entries]
    except (ValueError, TypeError, KeyError, OSError, RecursionError) as error:
        raise EckartError(f"{path} is not what sentence-transformers writes: {error}") from error
    for each in behind:
        inside = os.path.normpath(each["path"] or ".")
        if not each["type"].startswith(LIBRARY):
            raise EckartError(
                f"{path} names {each['type']}, which is not of sentence-transformers: Eckart runs no "
                "code that comes with a model"
            )
        if inside.startswith("..") or os.path.isabs(inside):
            raise EckartError(f"{path} names {each['path']!r}, which is outside of the folder")
        pickled = inside != "." and (folder / inside / PICKLE).exists()
        if pickled and not (folder / inside / "model.safetensors").is_file():
            raise EckartError(
                f"{folder / inside / PICKLE} is a pickle, and Eckart reads safetensors alone: load the "
                "folder with SentenceTransformer and save it with safe_serialization=True"
            )
    if not behind or behind[0]["path"]:
        raise EckartError(f"{path} has the model itself in a folder of its own: give that folder")
    return behind[1:]


def left_dense(model: Any) -> list[str]:
    """A note on the weights behind a model: they are copied as they are."""
    folder = folder_of(model)
    if folder is None:
        return []
    names = [each["path"] for each in require_usable(folder) if each["type"].endswith(".Dense")]
    return (
        [
            f"{' and '.join(names)} {'stays' if len(names) == 1 else 'stay'} dense, and "
            f"{'is' if len(names) == 1 else 'are'} copied: a Dense of sentence-transformers has one weight"
        ]
        if names
        else []
    )


def fingerprint(model: Any) -> list[str]:
    """What tells one head from another: digests of all that it is made of."""
    folder = folder_of(model)
    assert folder is not None
    files = [MODULES, "config_sentence_transformers.json", "sentence_bert_config.json"]
    files += [f"{each['path']}/config.json" for each in require_usable(folder) if each["path"]]
    found = [folder / name for name in files if (folder / name).is_file()]
    return [checkpoint.sha256(path) for path in [*found, *companions(folder)]]


def companions(folder: Path) -> list[Path]:
    """Weights of the modules behind a model, which are saved beside it."""
    if not (folder / MODULES).is_file():
        return []
    return [
        weights
        for each in require_usable(folder)
        if each["path"] and (weights := folder / each["path"] / "model.safetensors").is_file()
    ]


def _plain(folder: Path, entry: dict[str, str]) -> bool:
    """Whether a module is the mean over tokens, or changes no cosine."""
    kind = entry["type"].rpartition(".")[2]
    if kind == "Normalize":
        return True
    config = _read(folder / entry["path"] / "config.json")
    return kind == "Pooling" and all(
        MEAN.get(name) == value for name, value in config.items() if value and not name.endswith("dimension")
    )


def _load(folder: Path, entry: dict[str, str]) -> Any:
    module, _, name = entry["type"].rpartition(".")
    try:
        kind = getattr(importlib.import_module(module), name)
        return kind.load(str(folder), subfolder=entry["path"], local_files_only=True)
    except Exception as error:  # of any module's own code, on any config
        raise EckartError(f"{folder / entry['path']} does not load as {name}: {error}") from error


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise EckartError(f"{path} is not JSON: {error}") from error
    return found if isinstance(found, dict) else {}

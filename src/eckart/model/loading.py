"""Models and tokenizers, from a folder or the hub, with errors that a person can act on."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedModel

from eckart import checkpoint
from eckart.model import accounting, building, finding, gguf_files, portable, sentences, text
from eckart.model.configs import require_usable, said
from eckart.model.quietness import quiet
from eckart.pocket import MODEL_DIR
from eckart.types import EckartError, UsageError

LEFT_OUT = "_eckart_left_out"
"""Attribute of a model for what its checkpoint stores beside it."""
_DROPS = ContextVar("_DROPS", default=False)
DTYPES = ("auto", "float32", "bfloat16", "float16")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "tokenizer.model")


def find_model(name: str | Path, weights: bool = True) -> Path:
    """The local folder of a model: itself, that of a GGUF file, `pocket`, or the hub's snapshot.

    That is fetched if need be: configs, tokenizers and, unless `weights` is false, safetensors.

    Raises:
        UsageError: there is no such model.
    """
    folder, name = Path(name), str(name)
    finding.require_there(name)
    if folder.is_dir():
        _refuse_gguf_alone(folder)
        return folder
    if finding.is_gguf(folder):
        return gguf_files.unpacked(folder, weights)
    if name == "pocket":
        return MODEL_DIR
    from huggingface_hub import snapshot_download
    from huggingface_hub.constants import is_offline_mode
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    wanted = ["*.json", "*.txt", "*.model", "*.jinja", "LICENSE*"]
    if weights:
        wanted.append("model*.safetensors")
    try:
        return Path(snapshot_download(name, allow_patterns=wanted))
    except HFValidationError:
        raise UsageError(f"no such model: {name} is neither a folder nor a hub id") from None
    except GatedRepoError:
        raise UsageError(
            f"{name} is behind a gate: ask for access on its page at the hub, then `hf auth login`"
        ) from None
    except RepositoryNotFoundError:
        raise UsageError(f"no such model: {name} is not a folder, and the hub has no such model") from None
    except OSError as error:
        why = "HF_HUB_OFFLINE is set" if is_offline_mode() else said(error)
        raise UsageError(
            f"no such model: {name} is not a folder, and the hub cannot be reached ({why})"
        ) from None


def _refuse_gguf_alone(folder: Path) -> None:
    files = sorted(folder.glob(f"*{finding.GGUF}"))
    if files and not (folder / "config.json").is_file():
        raise UsageError(f"{folder} holds GGUF files and no config.json: name one of them, as {files[0]}")


def name_of(model: str | Path, folder: Path) -> str:
    """A model's name without a path: that of a folder that was given, else what it was asked for by."""
    return folder.resolve().name if Path(model).exists() else str(model)


def name_of_loaded(model: Any) -> str:
    """The name of a model in memory: that of the folder it is from, else its class."""
    return Path(getattr(model.config, "name_or_path", "")).name or type(model).__name__


def load_config(folder: Path) -> Any:
    """The config of a model folder, with the class that its weights are of where they are there.

    Raises:
        UsageError: the folder holds an adapter.
        EckartError: no config, one that this transformers does not know, or weights that are not those of
            its model.
    """
    return opened(folder)[0]


def opened(folder: Path) -> tuple[Any, list[str]]:
    """A folder's config, and what it stores and its model leaves out, as `dropping` allows."""
    from huggingface_hub.errors import StrictDataclassError

    path = folder / "config.json"
    require_usable(folder)
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (
        *(ValueError, LookupError, ArithmeticError, OSError, TypeError, AttributeError),
        StrictDataclassError,
    ) as error:
        raise EckartError(f"{path} cannot be used: {said(error)}") from error
    if (folder / sentences.MODULES).is_file():
        sentences.require_usable(folder)
    whole = (folder / checkpoint.SINGLE).is_file()
    # A hub's model is planned from its config and index alone; what is quantized is not stored as it loads.
    if getattr(config, "quantization_config", None) is None and (
        whole or ((folder / checkpoint.INDEX).is_file() and any(folder.glob("*.safetensors")))
    ):
        stored = checkpoint.open_checkpoint(folder)
        shapes = {name: each.shape for name, each in stored.tensors.items()}
        return config, accounting.resolve(folder, config, shapes, _DROPS.get())
    return config, []


@contextmanager
def dropping(wanted: bool) -> Iterator[None]:
    """While this lasts models are read without tensors that no weight of theirs takes, if that is wanted."""
    token = _DROPS.set(wanted)
    try:
        yield
    finally:
        _DROPS.reset(token)


def left_out(model: Any) -> list[str]:
    """The tensors of its checkpoint that a model was read without."""
    return list(getattr(model, LEFT_OUT, []))


def build_dense(folder: Path, device: str = "cpu", dtype: str = "auto") -> Any:
    """The model that a compressed one was made from, with random weights: as fast, and of no other use."""
    require_dtype(dtype)
    require_device(device)
    config = load_config(folder)
    kind = building.model_class(config)
    del config.quantization_config
    wanted = dtype_of(config, dtype)
    with torch.device(device):
        model = (
            AutoModel.from_config(config, dtype=wanted)
            if kind is AutoModel
            else kind._from_config(config, dtype=wanted)
        )
    return model.eval()


def dtype_of(config: Any, dtype: str = "auto") -> torch.dtype:
    """What a model of this config is loaded in, by its name or as the config has it."""
    found: torch.dtype = getattr(torch, dtype) if dtype != "auto" else config.dtype or torch.float32
    return found


def require_dtype(dtype: str) -> None:
    """Raises UsageError where weights cannot be loaded in `dtype`."""
    if dtype not in DTYPES:
        raise UsageError(f"dtype {dtype!r} is none of {', '.join(DTYPES)}")


def require_device(device: str) -> None:
    """Raises UsageError where there is no such device here."""
    try:
        found = torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        first = str(error).splitlines()[0]
        raise UsageError(f"device {device} is not to be had here ({first}); give --device cpu") from None
    if found.is_meta:
        raise UsageError(f"device {device} holds no values; give --device cpu")


def load_model(folder: Path, device: str = "cpu", dtype: str = "auto") -> Any:
    """Load weights, in evaluation mode, in the checkpoint's dtype unless told otherwise.

    Raises:
        UsageError: no such dtype, or no such device here.
        EckartError: what is there does not make this model.
    """
    require_dtype(dtype)
    require_device(device)
    config, unused = opened(folder)
    kind = building.model_class(config)
    # What transformers would read without a look: files outside the folder, or of another kind.
    checkpoint.open_checkpoint(folder)
    wanted = dtype if dtype == "auto" else getattr(torch, dtype)
    try:
        with quiet(), _with_metadata(folder) as readable:
            model, info = kind.from_pretrained(
                readable,
                config=config,
                dtype=wanted,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
    except (OSError, ValueError, RuntimeError, LookupError, ArithmeticError, TypeError, ImportError) as error:
        raise EckartError(f"{folder} cannot be loaded: {said(error)}") from error
    model.name_or_path = model.config._name_or_path = str(folder)
    setattr(model, LEFT_OUT, unused)
    for name, stored, expected in sorted(info["mismatched_keys"]):
        raise EckartError(
            f"{folder} does not fit its config: {name} is stored as {tuple(stored)}, "
            f"and the config makes it {tuple(expected)}"
        )
    missing = sorted(info["missing_keys"])
    if missing:
        raise EckartError(
            f"{folder} lacks {len(missing)} weights of {type(model).__name__}, {missing[0]} among them; "
            "transformers would fill them with random numbers"
        )
    return model.to(device)


@contextmanager
def _with_metadata(folder: Path) -> Iterator[Path]:
    """A folder as transformers can read it, which wants metadata in an index; it needs none of them."""
    path = folder / checkpoint.INDEX
    if (folder / checkpoint.SINGLE).is_file() or not path.is_file():
        yield folder
        return
    index = json.loads(path.read_bytes())
    if "metadata" in index:
        yield folder
        return
    with tempfile.TemporaryDirectory() as made:
        for each in folder.iterdir():
            if each.name != path.name:
                (Path(made) / each.name).symlink_to(each.resolve())
        (Path(made) / path.name).write_text(json.dumps({"metadata": {}, **index}))
        yield Path(made)


def refuse_compressed(config: Any, job: str = "compress") -> None:
    """Raises UsageError where the weights are not plain floats any more; `job` is what was to be done."""
    quantization = getattr(config, "quantization_config", None)
    if quantization is None:
        return
    method = dict(quantization).get("quant_method")
    if method == portable.QUANT_METHOD:
        raise UsageError(f"this model is compressed already; {job} the model it came from")
    raise UsageError(f"this model is quantized ({method}); {job} the float model it came from")


def require_transformers(model: Any) -> None:
    """Raises UsageError where what was given in the place of a model is none of transformers."""
    if not isinstance(model, PreTrainedModel):
        raise UsageError(
            f"{type(model).__name__} is not a transformers model: give a folder, a hub id or a "
            "PreTrainedModel (what wraps one, as peft and torch.compile do, comes off first: "
            "merge_and_unload())"
        )


def require_loaded(model: Any) -> None:
    """Raises UsageError where a model given in memory is none that can be replaced in and saved."""
    require_transformers(model)
    kind = type(model).__name__
    if getattr(model, "_hf_peft_config_loaded", False):
        raise UsageError(f"this {kind} has adapters: merge them into its weights first, with peft")
    refuse_compressed(model.config)
    if absent := next((name for name, weight in model.named_parameters() if weight.is_meta), None):
        raise UsageError(f"{absent} is not in memory: load the model without offloading, or give its folder")


def generates(config: Any) -> bool:
    """Whether the model writes text, rather than reads it only."""
    kind = building.model_class(config)
    return kind is not AutoModel and bool(kind.can_generate())


def require_generation(model: Any) -> None:
    """Raises UsageError where a model cannot write text."""
    if not (hasattr(model, "can_generate") and model.can_generate()):
        raise UsageError(f"{type(model).__name__} writes no text, and this task needs a model that does")


def has_tokenizer(folder: Path) -> bool:
    """Whether a model folder brings a tokenizer."""
    return any((folder / name).is_file() for name in TOKENIZER_FILES)


def load_tokenizer(folder: Path, bos: bool | None = None) -> Any:
    """The tokenizer of a model folder.

    Args:
        bos: whether a decoder's texts begin with the BOS token; default as the tokenizer does by itself.

    Raises:
        EckartError: there is none.
        UsageError: `bos` was said of a model that is no decoder, or whose tokenizer has no such token.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # the tokenizers library raises that class itself
        raise EckartError(f"{folder} has no tokenizer that loads, and text needs one") from error
    if bos is not None:
        config = load_config(folder)
        if not generates(config) or config.is_encoder_decoder:
            raise UsageError("--bos, --no-bos: they are of decoders, and this model is none")
        if tokenizer.bos_token_id is None:
            raise UsageError(f"--bos: the tokenizer of {folder} has no BOS token")
        text.begin(tokenizer, bos)
    return tokenizer

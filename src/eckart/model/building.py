"""From a config to the class of its model, and to the model without weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import transformers
from transformers import AutoModel, PreTrainedModel
from transformers.initialization import no_init_weights
from transformers.models.auto import modeling_auto

from eckart.model import portable
from eckart.model.configs import said
from eckart.types import EckartError

portable.register()


def model_class(config: Any) -> Any:
    """The class that a config names in `architectures`, or the bare backbone of its type.

    Raises:
        EckartError: the class is not in this transformers: it would need code that came with the model.
    """
    names = config.architectures or []
    if not names:
        return AutoModel
    kind = getattr(transformers, names[0], None)
    if isinstance(kind, type) and issubclass(kind, PreTrainedModel):
        return kind
    raise EckartError(
        f"the architecture {names[0]} is not in transformers {transformers.__version__}; "
        "Eckart runs no code that comes with a model"
    )


def auto_choices(config: Any) -> Iterator[tuple[str, list[Any]]]:
    """Each `AutoModel…` that takes a config, with the classes that it chooses from."""
    for attribute in dir(modeling_auto):
        mapping = getattr(getattr(modeling_auto, attribute), "_model_mapping", None)
        if mapping is None or not attribute.startswith("AutoModel") or type(config) not in mapping:
            continue
        chosen = mapping[type(config)]
        yield attribute, list(chosen) if isinstance(chosen, (list, tuple)) else [chosen]


def build_empty(config: Any) -> Any:
    """The model of a config on the meta device: shapes and names, no weights.

    A compressed model's structures are in place.

    Raises:
        EckartError: its config says what cannot be, of the model or of its structures.
    """
    kind = model_class(config)
    dtype = getattr(config, "dtype", None) or torch.float32
    try:
        with torch.device("meta"), no_init_weights():
            model = kind.from_config(config) if kind is AutoModel else kind(config)
        model.tie_weights()
    except Exception as error:  # code of any architecture, on numbers of any kind
        raise EckartError(f"{kind.__name__} cannot be built from its config: {said(error)}") from error
    if quantization := _quantization(config):
        try:
            entry = portable.EckartConfig(**quantization)
            portable.unroll(model, getattr(entry, "experts", []))
            portable.swap_modules(model, entry.modules)
            portable.quantize_modules(model, getattr(entry, "inner", {}).get("modules", {}))
        except (ValueError, TypeError) as error:
            raise EckartError(f"the model cannot be built: {said(error)}") from error
    return model.to(dtype)


def is_compressed(config: Any) -> bool:
    """Whether a config is that of a model with Eckart's structures."""
    return _quantization(config) is not None


def _quantization(config: Any) -> dict[str, Any] | None:
    entry = getattr(config, "quantization_config", None)
    if entry is None or dict(entry).get("quant_method") != portable.QUANT_METHOD:
        return None
    return dict(entry)

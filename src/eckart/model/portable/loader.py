"""The loader that puts a compressed model's modules in place.

It is a `HfQuantizer` because that is the one place where transformers lets somebody change modules before
weights are read. Once loaded, the model is an ordinary one, of floats but for what its `inner` names.
"""

from __future__ import annotations

from typing import Any

from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING, AUTO_QUANTIZER_MAPPING
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from eckart.model.portable.embeddings import share_indices
from eckart.model.portable.entries import require_entries
from eckart.model.portable.experts import save_by_own_names, unroll
from eckart.model.portable.quantized import quantize_modules, require_inner
from eckart.model.portable.splitting import split_structures
from eckart.model.portable.stored import require_numbers, require_stored, stored_shapes
from eckart.model.portable.swapping import swap_modules

QUANT_METHOD = "eckart"
FORMAT_VERSION = 2
"""The first format knew no quantized weights and no experts, and models without are still saved in it."""


class EckartConfig(QuantizationConfigMixin):
    """The entry `quantization_config` of a compressed model's `config.json`.

    Args:
        modules: what `swap_modules` reads.
        inner: which linear layers are quantized, parts of structures among them, and to what:
            `{"quant_method": "torchao", "modules": {name: "int8" or "int4"}}`.
        experts: names of the expert tensors that became layers of their own.
        format_version: refused when newer than this file knows; default the least that has all this.

    Raises:
        ValueError: it describes no compressed model, or one of a newer format.
    """

    def __init__(
        self,
        modules: dict[str, Any] | None = None,
        format_version: int | None = None,
        inner: dict[str, Any] | None = None,
        experts: list[str] | None = None,
        **_: Any,
    ) -> None:
        if format_version is None:
            shared = any(
                isinstance(entry, dict) and ("tied" in entry or "site" in entry)
                for entry in (modules or {}).values()
            )
            format_version = FORMAT_VERSION if inner or experts or shared else 1
        if not isinstance(format_version, int) or format_version > FORMAT_VERSION:
            raise ValueError(
                f"this model was saved in Eckart's format {format_version}, and this Eckart knows them up to "
                f"format {FORMAT_VERSION}: update eckart"
            )
        require_entries({} if modules is None else modules)
        require_inner(inner)
        self.quant_method = QUANT_METHOD  # type: ignore[assignment]
        self.format_version = format_version
        self.modules = modules or {}
        if inner:
            self.inner = inner
        if experts:
            self.experts = experts


class EckartLoader(HfQuantizer):
    """Puts the structures in place before the weights are read, then steps back."""

    requires_calibration = True

    def _process_model_before_weight_loading(self, model: Any, **kwargs: Any) -> Any:
        modules = self.quantization_config.modules  # type: ignore[attr-defined]
        unroll(model, getattr(self.quantization_config, "experts", []))
        swap_modules(model, modules)
        inner = require_inner(getattr(self.quantization_config, "inner", None))
        quantize_modules(model, inner)
        stored = stored_shapes(kwargs.get("checkpoint_files") or ["a state dict"])
        if stored is not None:
            require_numbers(model, inner, stored)
            require_stored(model, modules, stored)
        return model

    def update_parallel_plan(self, model: Any, plan: dict[str, str]) -> None:
        split_structures(model, plan)

    def _process_model_after_weight_loading(self, model: Any, **kwargs: Any) -> Any:
        save_by_own_names(model)
        share_indices(model)
        # A float model again: so that Trainer, PEFT, `.to(dtype)` and `save_pretrained` treat it as one.
        del model.hf_quantizer
        del model.quantization_method
        model.is_quantized = False
        for module in model.modules():
            if hasattr(module, "config") and hasattr(module.config, "_is_quantized"):
                del module.config._is_quantized
        return model

    def is_serializable(self) -> bool:
        return True

    @property
    def is_trainable(self) -> bool:
        return True

    @property
    def is_compileable(self) -> bool:
        return True


def register() -> None:
    """Teach transformers the entry; again changes nothing."""
    AUTO_QUANTIZATION_CONFIG_MAPPING.setdefault(QUANT_METHOD, EckartConfig)
    AUTO_QUANTIZER_MAPPING.setdefault(QUANT_METHOD, EckartLoader)

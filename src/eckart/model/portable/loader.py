"""The loader that puts a compressed model's modules in place.

It is a `HfQuantizer` because that is the one place where transformers lets somebody change modules before
weights are read. Nothing is quantized: once loaded, the model is an ordinary float model.
"""

from __future__ import annotations

from typing import Any

from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING, AUTO_QUANTIZER_MAPPING
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from eckart.model.portable.swapping import swap_modules

QUANT_METHOD = "eckart"
FORMAT_VERSION = 1


class EckartConfig(QuantizationConfigMixin):
    """The entry `quantization_config` of a compressed model's `config.json`.

    Args:
        modules: what `swap_modules` reads.
        format_version: refused when newer than this file knows.
    """

    def __init__(
        self, modules: dict[str, Any] | None = None, format_version: int = FORMAT_VERSION, **_: Any
    ) -> None:
        if format_version > FORMAT_VERSION:
            raise ValueError(
                f"this model was saved in Eckart's format {format_version}, and this is format "
                f"{FORMAT_VERSION}: update eckart"
            )
        self.quant_method = QUANT_METHOD  # type: ignore[assignment]
        self.format_version = format_version
        self.modules = modules or {}


class EckartLoader(HfQuantizer):
    """Puts the structures in place before the weights are read, then steps back."""

    requires_calibration = True

    def _process_model_before_weight_loading(self, model: Any, **kwargs: Any) -> Any:
        swap_modules(model, self.quantization_config.modules)  # type: ignore[attr-defined]
        return model

    def _process_model_after_weight_loading(self, model: Any, **kwargs: Any) -> Any:
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

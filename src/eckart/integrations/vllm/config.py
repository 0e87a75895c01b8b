"""The entry `quantization_config` of a compressed folder, as vLLM reads it.

vLLM's quantization methods are the one place where it lets somebody say what a linear layer holds and
computes. Nothing is quantized.
"""

from __future__ import annotations

from typing import Any

import torch
from vllm.distributed import get_pp_group
from vllm.model_executor.layers.linear import LinearBase, UnquantizedLinearMethod
from vllm.model_executor.layers.quantization.base_config import QuantizationConfig, QuantizeMethodBase

from eckart.integrations.vllm.linear import FactoredLinearMethod
from eckart.integrations.vllm.parts import INSTEAD, require_shareable
from eckart.model.portable import FORMAT_VERSION, QUANT_METHOD
from eckart.model.portable.entries import read_entry, require_entries
from eckart.types import UsageError

KEYS = {"quant_method", "format_version", "modules"}


class EckartQuantizationConfig(QuantizationConfig):  # type: ignore[misc]
    """Which modules are factored, how, and at which rank.

    Args:
        modules: module name to structure and rank.
    """

    def __init__(self, modules: dict[str, tuple[str, int]]) -> None:
        super().__init__()
        self.modules = modules
        self.found: set[str] = set()

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> EckartQuantizationConfig:
        """Read the entry of `config.json`.

        Raises:
            UsageError: a newer format, or something in it that this plugin does not know.
        """
        version = config.get("format_version", FORMAT_VERSION)
        if version > FORMAT_VERSION:
            raise UsageError(
                f"this model was saved in Eckart's format {version}, and this Eckart knows them up to format "
                f"{FORMAT_VERSION}: update eckart"
            )
        if unknown := sorted(key for key in set(config) - KEYS if config[key]):
            raise UsageError(
                f"quantization_config has {', '.join(map(repr, unknown))}, and the vLLM plugin serves plain "
                f"factors, no quantized ones and no experts of one tensor: {INSTEAD}"
            )
        modules = config.get("modules", {})
        try:
            require_entries(modules)
        except ValueError as error:
            raise UsageError(str(error)) from error
        entries = {name: read_entry(name, value) for name, value in modules.items()}
        require_shareable(entries)
        return cls(entries)

    def get_quant_method(self, layer: torch.nn.Module, prefix: str) -> QuantizeMethodBase | None:
        """How a layer holds and computes its weights; `None` leaves it to vLLM.

        Raises:
            UsageError: a factored layer of a kind that is not linear.
        """
        if isinstance(layer, LinearBase):
            names = self._names(prefix)
            entries = [self.modules.get(name) for name in names]
            if not any(entries):
                return UnquantizedLinearMethod()
            self.found.update(name for name in names if name in self.modules)
            return FactoredLinearMethod(self, names, [entry or ("dense", 0) for entry in entries])
        experts = f"{prefix}." if prefix.endswith("experts") else None
        inside = [name for name in self.modules if name == prefix or (experts and name.startswith(experts))]
        if inside:
            raise UsageError(
                f"{inside[0]} is factored, and the vLLM plugin does not know factors in a "
                f"{type(layer).__name__}: compress without it, or {INSTEAD}"
            )
        return None

    def check_names(self) -> None:
        """Hold the config to the model, all of whose layers are there.

        Raises:
            UsageError: a module that the model lacks.
        """
        lost = sorted(set(self.modules) - self.found)
        # A process of a pipeline has some of the layers; vLLM skips the weights of the others.
        if lost and get_pp_group().world_size == 1:
            more = f" (and {len(lost) - 1} more)" if len(lost) > 1 else ""
            raise UsageError(
                f"the config says that {lost[0]!r}{more} is compressed, but vLLM's model has no such linear "
                f"layer: {INSTEAD}"
            )

    def get_cache_scale_mapper(self) -> Any:
        # What vLLM asks first when it starts to load: a module that it lacks is named before its tensors are.
        self.check_names()
        return super().get_cache_scale_mapper()

    def apply_vllm_mapper(self, hf_to_vllm_mapper: Any) -> None:
        self.modules = hf_to_vllm_mapper.apply_dict(self.modules)

    def _names(self, prefix: str) -> list[str]:
        """The modules of the checkpoint that a layer of vLLM is made of, in order."""
        if (own := self._known(prefix)) in self.modules:
            return [own]
        parent, _, leaf = prefix.rpartition(".")
        parts = self.packed_modules_mapping.get(leaf, [leaf])
        return [self._known(f"{parent}.{part}" if parent else part) for part in parts]

    def _known(self, name: str) -> str:
        """The name a module was saved under: a bare backbone lacks the prefix that it has in a head model."""
        bare = name.removeprefix("model.")
        return bare if name not in self.modules and bare in self.modules else name

    def get_name(self) -> str:
        return QUANT_METHOD

    def get_supported_act_dtypes(self) -> list[torch.dtype]:
        return [torch.float32, torch.bfloat16, torch.float16]

    @classmethod
    def get_min_capability(cls) -> int:
        return 0

    @staticmethod
    def get_config_filenames() -> list[str]:
        return []

"""The modules of a compressed model and the loader that puts them in place.

This file travels: a copy is saved with every compressed model as `modeling_eckart.py`, so that
`trust_remote_code=True` loads it where Eckart is not installed. It therefore imports torch and
transformers only.

The loader is a `HfQuantizer` because that is the one place where transformers lets somebody change
modules before weights are read. Nothing is quantized: once loaded, the model is an ordinary float model.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING, AUTO_QUANTIZER_MAPPING
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

QUANT_METHOD = "eckart"
FORMAT_VERSION = 1


class FactoredLinear(nn.Module):
    """What the structures share: they take the place of a linear layer without holding its weight."""

    U: nn.Linear
    V: nn.Linear
    in_features: int
    out_features: int
    rank: int

    @property
    def weight(self) -> Tensor:
        """A stand-in with the dense weight's shape and dtype and no values.

        Some models ask their layers for `weight.dtype` (T5's feed-forward). Computing with it fails:
        the dense weight exists nowhere.
        """
        return torch.empty(self.out_features, self.in_features, dtype=self.V.weight.dtype, device="meta")

    @property
    def bias(self) -> Tensor | None:
        """The bias of the last step, if any: for the models that ask whether there is one."""
        bias: Tensor | None = self.U.bias
        return bias

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, rank={self.rank}"


class LowRankLinear(FactoredLinear):
    """`y = U (V x) + b`, with `V (rank, in)` and `U (out, rank)` two ordinary linear layers.

    It holds `rank · (in + out)` parameters and the bias.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        rank: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features, self.rank = in_features, out_features, rank
        self.V = nn.Linear(in_features, rank, bias=False, device=device, dtype=dtype)
        self.U = nn.Linear(rank, out_features, bias=bias, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.U(self.V(x))
        return y

    @classmethod
    def from_linear(cls, linear: nn.Linear, rank: int) -> LowRankLinear:
        """The closest layer of this rank to a dense one: truncated SVD (Eckart-Young 1936).

        Args:
            linear: the layer to replace, of any float dtype, on any device. It is left as it is.
            rank: from 1 to `min(in, out)`. Below `in·out / (in + out)` it saves parameters.

        Raises:
            ValueError: a rank out of range, or weights that are not finite.
        """
        largest = min(linear.in_features, linear.out_features)
        if not 1 <= rank <= largest:
            raise ValueError(f"rank {rank} is not between 1 and {largest}, the smaller side of the layer")
        if not torch.isfinite(linear.weight).all():
            raise ValueError("the layer's weight has entries that are not finite")
        weight = linear.weight.detach()
        layer = cls(
            linear.in_features,
            linear.out_features,
            rank,
            bias=linear.bias is not None,
            device=weight.device,
            dtype=weight.dtype,
        )
        left, values, right = torch.linalg.svd(weight.double(), full_matrices=False)
        # A singular vector is known up to its sign: the largest entry of each left one is positive.
        signs = left.gather(0, left.abs().argmax(0, keepdim=True)).sign()[0, :rank]
        root = values[:rank].sqrt()
        with torch.no_grad():
            layer.U.weight.copy_(left[:, :rank] * (signs * root))
            layer.V.weight.copy_((signs * root)[:, None] * right[:rank])
            if linear.bias is not None:
                layer.U.bias.copy_(linear.bias)
        return layer


class PivotedLinear(FactoredLinear):
    """`V x` gives `rank` of the outputs themselves, `U (V x)` the others; `order` puts them in place.

    It holds `rank · (in + out − rank)` parameters: the degrees of freedom of a rank-`rank` matrix. A
    bias sits in both layers: what `U` adds to `V`'s is already taken off in its own.
    """

    order: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        rank: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features, self.rank = in_features, out_features, rank
        self.V = nn.Linear(in_features, rank, bias=bias, device=device, dtype=dtype)
        self.U = nn.Linear(rank, out_features - rank, bias=bias, device=device, dtype=dtype)
        self.register_buffer("order", torch.arange(out_features, dtype=torch.int32, device=device))

    def forward(self, x: Tensor) -> Tensor:
        pivots = self.V(x)
        return torch.cat([pivots, self.U(pivots)], dim=-1).index_select(-1, self.order)


STRUCTURES: dict[str, type[LowRankLinear] | type[PivotedLinear]] = {
    "lowrank": LowRankLinear,
    "pivoted": PivotedLinear,
}


def _shape_of(module: nn.Module) -> tuple[int, int]:
    """`(in, out)` of a linear layer, also of GPT-2's `Conv1D`, whose weight is stored `(in, out)`."""
    if hasattr(module, "in_features"):
        return int(module.in_features), int(module.out_features)  # type: ignore[arg-type]
    rows, columns = module.weight.shape  # type: ignore[misc]
    return int(rows), int(columns)


def _find(model: nn.Module, name: str) -> str | None:
    """The name under which `model` knows a module that was saved as `name`; `None` where it lacks it.

    A head model's backbone is saved with a prefix that the bare backbone lacks, and the other way round.
    """
    prefix = getattr(model, "base_model_prefix", "")
    for candidate in (name, name.removeprefix(f"{prefix}."), f"{prefix}.{name}"):
        try:
            model.get_submodule(candidate)
        except AttributeError:
            continue
        return candidate
    return None


def _find_all(model: nn.Module, saved_names: Collection[str]) -> dict[str, str]:
    """Saved names to the model's own, without those of parts that its class does not have.

    A bare backbone has no head, and T5's encoder alone no decoder. But a block that lacks some of its
    modules, or a model that has none of the blocks, goes by other names than the one that was saved:
    its weights would be random.
    """
    found = {saved: name for saved in saved_names if (name := _find(model, saved)) is not None}
    in_blocks = {saved: block[0] for saved in saved_names if (block := re.match(r".+?\.\d+(?=\.)", saved))}
    lost = [saved for saved in in_blocks if saved not in found]
    renamed = [saved for saved in lost if _find(model, in_blocks[saved]) is not None]
    if renamed or (lost and len(lost) == len(in_blocks)):
        raise ValueError(
            f"the config says that {(renamed or lost)[0]!r} is compressed, "
            f"but this {type(model).__name__} has no such module"
        )
    return found


def swap_modules(model: nn.Module, modules: dict[str, Any]) -> None:
    """Replace the named linear layers by empty structures of the given ranks, in place.

    Args:
        modules: module name to rank (`lowrank`), or to `{"rank": …, "structure": …}`.

    Raises:
        ValueError: a name or a structure that is not known.
    """
    for saved_name, name in _find_all(model, modules).items():
        value = modules[saved_name]
        entry = value if isinstance(value, dict) else {"rank": value, "structure": "lowrank"}
        if entry["structure"] not in STRUCTURES:
            raise ValueError(f"{saved_name}: unknown structure {entry['structure']!r}; update eckart")
        old = model.get_submodule(name)
        if isinstance(old, FactoredLinear):
            continue
        in_features, out_features = _shape_of(old)
        new = STRUCTURES[entry["structure"]](
            in_features,
            out_features,
            entry["rank"],
            bias=old.bias is not None,
            device=old.weight.device,  # type: ignore[arg-type]
            dtype=old.weight.dtype,  # type: ignore[arg-type]
        )
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, new)


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


register()

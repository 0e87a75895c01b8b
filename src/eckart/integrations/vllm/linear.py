"""A linear layer of vLLM whose modules are factored, or some of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from vllm.config import get_current_vllm_config
from vllm.distributed import tensor_model_parallel_all_reduce
from vllm.model_executor.layers.linear import (
    ColumnParallelLinear,
    LinearMethodBase,
    MergedColumnParallelLinear,
    QKVParallelLinear,
    ReplicatedLinear,
    RowParallelLinear,
)
from vllm.model_executor.utils import set_weight_attrs

from eckart import structures
from eckart.integrations.vllm.parts import Part
from eckart.integrations.vllm.splitting import Joined
from eckart.structures import Shape
from eckart.types import EckartError, UsageError

if TYPE_CHECKING:
    from eckart.integrations.vllm.config import EckartQuantizationConfig

LOADERS = tuple(
    kind.weight_loader
    for kind in (
        ColumnParallelLinear,
        MergedColumnParallelLinear,
        QKVParallelLinear,
        ReplicatedLinear,
        RowParallelLinear,
    )
)
"""A layer that loads in a way of its own is also split in a way of its own."""

Layer = Any
"""One of vLLM's, which mypy does not see."""

SHARDS = {"q": 0, "k": 1, "v": 2}


class FactoredLinearMethod(LinearMethodBase):  # type: ignore[misc]
    """Loads the factors of the modules that a layer is made of, and computes with them.

    A layer is one module, or several that read one input: query, key and value; gate and up. Each has its
    own structure and rank, or is dense.

    Args:
        config: what is asked whether the model has all that is factored.
        names: of the modules, in the layer's order.
        entries: their structures and ranks.
    """

    def __init__(
        self, config: EckartQuantizationConfig, names: Sequence[str], entries: Sequence[tuple[str, int]]
    ) -> None:
        self.config, self.names, self.entries = config, names, entries

    def create_weights(
        self,
        layer: Layer,
        input_size_per_partition: int,
        output_partition_sizes: list[int],
        input_size: int,
        output_size: int,
        params_dtype: torch.dtype,
        **attributes: Any,
    ) -> None:
        """Put empty parameters where vLLM's loaders look for the tensors of the checkpoint.

        What a process holds of a pivoted module depends on its `order`, so the weights are made when all of
        a module has arrived.

        Raises:
            UsageError: a layer that the plugin cannot split, or adapters beside it.
        """
        if get_current_vllm_config().lora_config is not None:
            raise UsageError(
                f"{self.names[0]} is factored, and vLLM's --enable-lora adds adapters to dense layers: merge "
                "the adapter before compressing, or serve without it"
            )
        layer.params_dtype = params_dtype
        layer.eckart_parts = self._parts(layer, input_size_per_partition, output_partition_sizes, input_size)
        layer.eckart_reduces = False
        if isinstance(layer, RowParallelLinear) and layer.tp_size > 1 and layer.reduce_results:
            # What is added up over processes is `V x`, which is narrower than the outputs.
            layer.eckart_reduces, layer.reduce_results = True, False
        parts: dict[str, structures.Part] = {}
        for structure, size in self.entries:
            biased = Shape(2, 2, structure != "dense")
            parts |= structures.find(structure).parts(biased, min(size, 1))
        layer.eckart_holders = set()
        for key in sorted(parts):
            owner, leaf = layer, key
            if "." in key:
                child, leaf = key.split(".")
                if child not in dict(layer.named_children()):
                    layer.add_module(child, nn.Module())
                owner = layer.get_submodule(child)
            dtype = torch.int32 if parts[key].role == "index" else params_dtype
            empty = nn.Parameter(torch.empty(0, dtype=dtype), requires_grad=False)
            owner.register_parameter(leaf, empty)
            layer.eckart_holders.add(key.split(".")[0])
            set_weight_attrs(empty, {"weight_loader": self._loader(layer, key)})

    def process_weights_after_loading(self, layer: Layer) -> None:
        """Put the factors in place of what waited for them.

        Raises:
            EckartError: tensors that the checkpoint does not have.
        """
        parts: list[Part] | None = getattr(layer, "eckart_parts", None)
        if parts is None:
            return
        self.config.check_names()
        biased = layer.bias is not None
        if missing := [name for part in parts for name in part.missing(biased)]:
            raise EckartError(f"the checkpoint lacks {', '.join(missing)}: the folder is not complete")
        for name in layer.eckart_holders:
            delattr(layer, name)
        del layer.eckart_parts
        shards = [part.shard for part in parts if part.shard is not None]
        start = 0
        for part, shard in zip(parts, shards, strict=True):
            if shard.bias is not None:
                layer.bias.data[start : start + len(part.rows)] = shard.bias
            start += len(part.rows)
        layer.eckart = Joined(shards)
        # Multi-head latent attention asks what device a weight is on, then multiplies it out by `apply`.
        layer.register_buffer("weight", layer.eckart.first.new_empty(0), persistent=False)

    def apply(self, layer: Layer, x: Tensor, bias: Tensor | None = None) -> Tensor:
        joined: Joined = layer.eckart
        hidden = joined.read(x)
        if layer.eckart_reduces:
            hidden = tensor_model_parallel_all_reduce(hidden)
            # vLLM hands the bias to the first process alone, which is right for partial outputs.
            bias = None if layer.skip_bias_add else layer.bias
        return joined.write(hidden, bias)

    def _parts(self, layer: Layer, inputs_held: int, outputs_held: list[int], inputs: int) -> list[Part]:
        whole, ranks = _division(layer, outputs_held)
        ranges = [
            torch.arange(rank * held, (rank + 1) * held, device="cpu")
            for rank, held in zip(ranks, outputs_held, strict=True)
        ]
        if len(self.names) == 1:
            starts = [sum(whole[:index]) for index in range(len(whole))]
            ranges = [torch.cat([start + rows for start, rows in zip(starts, ranges, strict=True)])]
            whole = [sum(whole)]
        if len(self.names) != len(ranges):
            raise UsageError(
                f"{layer.prefix} has {len(ranges)} blocks of outputs in vLLM and is made of "
                f"{len(self.names)} modules ({', '.join(self.names)}): the plugin cannot tell which is which"
            )
        first = layer.tp_rank * inputs_held if inputs_held != inputs else 0
        columns = slice(first, first + inputs_held)
        return [
            Part(name, structure, rank, inputs, size, rows, columns)
            for name, (structure, rank), size, rows in zip(
                self.names, self.entries, whole, ranges, strict=True
            )
        ]

    def _loader(self, layer: Layer, key: str) -> Callable[..., None]:
        def load(parameter: nn.Parameter, loaded: Tensor, shard: str | int | None = None) -> None:
            self.config.check_names()
            parts: list[Part] = layer.eckart_parts
            index = SHARDS.get(shard, shard) if isinstance(shard, str) else shard or 0
            if not isinstance(index, int) or index >= len(parts) or (shard is None and len(parts) > 1):
                raise EckartError(f"{layer.prefix}: {key} came as its block {shard!r} of {len(parts)}")
            device = parameter.device
            parts[index].offer(key, loaded, layer.bias is not None, device, layer.params_dtype)

        return load


def _division(layer: Layer, held: list[int]) -> tuple[list[int], list[int]]:
    """How many outputs each block of a layer has in all, and which piece of it this process holds."""
    ways = layer.tp_size
    if ways > 1 and type(layer).weight_loader not in LOADERS:
        raise UsageError(
            f"{layer.prefix}: the vLLM plugin cannot split a {type(layer).__name__} over {ways} processes: "
            "serve with --tensor-parallel-size 1"
        )
    if isinstance(layer, QKVParallelLinear):
        copies = layer.num_kv_head_replicas
        return (
            [held[0] * ways, *(size * ways // copies for size in held[1:])],
            [layer.tp_rank, *(layer.tp_rank // copies for _ in held[1:])],
        )
    if isinstance(layer, ColumnParallelLinear):
        return [size * ways for size in held], [layer.tp_rank for _ in held]
    if isinstance(layer, (RowParallelLinear, ReplicatedLinear)):
        return held, [0 for _ in held]
    raise UsageError(f"{layer.prefix}: the vLLM plugin does not know a {type(layer).__name__}")

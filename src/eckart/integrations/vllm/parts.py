"""The modules of a checkpoint that make up one layer of vLLM, collected as their tensors arrive.

Torch only: nothing here knows vLLM.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from eckart.integrations.vllm.splitting import Shard, dense_shard, lowrank_shard, pivoted_shard
from eckart.types import EckartError

TENSORS = {
    "dense": ("weight",),
    "lowrank": ("V.weight", "U.weight"),
    "pivoted": ("V.weight", "U.weight", "order"),
}
"""Structure to what a checkpoint holds of it, besides the biases."""

BIASES = {"dense": (), "lowrank": ("U.bias",), "pivoted": ("V.bias", "U.bias")}
"""Structure to where its bias is. A dense one is left to vLLM."""


@dataclass
class Part:
    """One module of the checkpoint, and what this process holds of it.

    Attributes:
        name: as the checkpoint has it.
        structure: `dense`, `lowrank` or `pivoted`.
        rank: the inner width; 0 where dense.
        inputs: of the whole module.
        outputs: of the whole module.
        rows: indices of the outputs that this process holds.
        columns: the inputs that this process holds.
        tensors: what has arrived, until all has.
        shard: what this process holds, once all has arrived.
    """

    name: str
    structure: str
    rank: int
    inputs: int
    outputs: int
    rows: Tensor
    columns: slice
    tensors: dict[str, Tensor] = field(default_factory=dict)
    shard: Shard | None = None

    def offer(self, key: str, tensor: Tensor, biased: bool, device: torch.device, dtype: torch.dtype) -> None:
        """Take a tensor of the checkpoint; with the last one make the shard, and let go of the whole ones.

        Args:
            key: the tensor's name after the module's: `U.weight`.
            tensor: as it is on disk.
            biased: whether vLLM's layer has a bias.
            device: where the shard is to be.
            dtype: of the shard.

        Raises:
            EckartError: a tensor that this structure does not have, or of another shape than the config says.
        """
        expected = self._shapes(biased)
        if key not in expected:
            raise EckartError(
                f"the checkpoint has {self.name}.{key}, and the config ({self._described(biased)}) has no "
                "place for it: the folder is damaged, or from a newer eckart"
            )
        if tuple(tensor.shape) != expected[key]:
            raise EckartError(
                f"{self.name}.{key} has shape {tuple(tensor.shape)}, and the config says {expected[key]} "
                f"({self._described(biased)}): config.json and the weights are not of the same model"
            )
        # A copy: some of vLLM's readers use their memory again for the next tensor.
        self.tensors[key] = tensor.detach().clone()
        if not self.missing(biased):
            self.shard = self._cut(biased, device, dtype)
            self.tensors.clear()

    def missing(self, biased: bool) -> list[str]:
        """The names of the tensors that have not arrived."""
        if self.shard is not None:
            return []
        return [f"{self.name}.{key}" for key in self._shapes(biased) if key not in self.tensors]

    def _shapes(self, biased: bool) -> dict[str, tuple[int, ...]]:
        rest = self.outputs - (self.rank if self.structure == "pivoted" else 0)
        shapes: dict[str, tuple[int, ...]] = {
            "weight": (self.outputs, self.inputs),
            "V.weight": (self.rank, self.inputs),
            "U.weight": (rest, self.rank),
            "order": (self.outputs,),
            "V.bias": (self.rank,),
            "U.bias": (rest,),
        }
        wanted = TENSORS[self.structure] + (BIASES[self.structure] if biased else ())
        return {key: shapes[key] for key in wanted}

    def _described(self, biased: bool) -> str:
        inner = f", rank {self.rank}" if self.rank else ""
        return f"{self.structure}{inner}, {'with' if biased else 'without'} a bias"

    def _cut(self, biased: bool, device: torch.device, dtype: torch.dtype) -> Shard:
        held = self.tensors
        if self.structure == "dense":
            shard = dense_shard(held["weight"], self.rows, self.columns)
        elif self.structure == "lowrank":
            V, U, bias = held["V.weight"], held["U.weight"], held.get("U.bias")
            shard = lowrank_shard(V, U, bias, self.rows, self.columns)
        else:
            order = held["order"].long()
            if not torch.equal(order.sort().values, torch.arange(self.outputs, device=order.device)):
                raise EckartError(f"{self.name}.order is not a permutation: the checkpoint is damaged")
            V, U = held["V.weight"], held["U.weight"]
            biases = (held["V.bias"], held["U.bias"]) if biased else None
            shard = pivoted_shard(V, U, order, biases, self.rows, self.columns)
        return Shard(
            shard.first.to(device, dtype),
            None if shard.second is None else shard.second.to(device, dtype),
            None if shard.order is None else shard.order.to(device),
            None if shard.bias is None else shard.bias.to(device, dtype),
        )

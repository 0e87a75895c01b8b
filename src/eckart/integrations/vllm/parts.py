"""The modules of a checkpoint that make up one layer of vLLM, collected as their tensors arrive.

Torch only: nothing here knows vLLM.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from eckart import structures
from eckart.structures import Shape, Shard
from eckart.types import EckartError, UsageError

INSTEAD = "`eckart export --format dense` makes a folder that every tool reads"


def require_shareable(entries: Mapping[str, tuple[str, int]]) -> None:
    """Raises UsageError where a module is of a structure that cannot be shared out over processes."""
    for name, (structure, _) in entries.items():
        if "sharding" not in structures.find(structure).supports:
            raise UsageError(f"{name}: the vLLM plugin cannot serve the structure {structure!r}: {INSTEAD}")


@dataclass
class Part:
    """One module of the checkpoint, and what this process holds of it.

    Attributes:
        name: as the checkpoint has it.
        structure: its name.
        size: of the structure; 0 where dense.
        inputs: of the whole module.
        outputs: of the whole module.
        rows: indices of the outputs that this process holds.
        columns: the inputs that this process holds.
        tensors: what has arrived, until all has.
        shard: what this process holds, once all has arrived.
    """

    name: str
    structure: str
    size: int
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
            self.shard = self._cut(device, dtype)
            self.tensors.clear()

    def missing(self, biased: bool) -> list[str]:
        """The names of the tensors that have not arrived."""
        if self.shard is not None:
            return []
        return [f"{self.name}.{key}" for key in self._shapes(biased) if key not in self.tensors]

    def _shapes(self, biased: bool) -> dict[str, tuple[int, ...]]:
        # The bias of a dense module is left to vLLM.
        shape = Shape(self.outputs, self.inputs, biased and self.structure != "dense")
        parts = structures.find(self.structure).parts(shape, self.size)
        return {key: part.shape for key, part in parts.items()}

    def _described(self, biased: bool) -> str:
        inner = f", {structures.find(self.structure).size_name} {self.size}" if self.size else ""
        return f"{self.structure}{inner}, {'with' if biased else 'without'} a bias"

    def _cut(self, device: torch.device, dtype: torch.dtype) -> Shard:
        try:
            shard = structures.find(self.structure).shard(self.tensors, self.rows, self.columns)
        except ValueError as error:
            raise EckartError(f"{self.name}.{error}: the checkpoint is damaged") from error
        return Shard(
            shard.first.to(device, dtype),
            None if shard.second is None else shard.second.to(device, dtype),
            None if shard.order is None else shard.order.to(device),
            None if shard.bias is None else shard.bias.to(device, dtype),
        )

"""What the modules of all structures have in common: they take a linear layer's or an embedding's place."""

from __future__ import annotations

import itertools
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from eckart.structures.pieces import Part, Shape
from eckart.structures.registry import structure_of


def put(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module in the place of the one of that name."""
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, module)


def rows_of(x: Tensor) -> int:
    """How many vectors there are in `(…, features)`."""
    return x.shape[:-1].numel()


def dtype_of(module: nn.Module) -> torch.dtype:
    """The dtype that a module's floats are in."""
    tensors = itertools.chain(module.parameters(), module.buffers())
    return next(tensor.dtype for tensor in tensors if tensor.is_floating_point())


class StructuredLinear(nn.Module):
    """A module in the place of a linear layer, without its weight.

    Attributes:
        structure: the name of what stands for the weight.
        size: its size; of factors the rank.
        leader: the name in the model of the first module of its site, which holds what they share; `None` of
            that one itself, and of a site of one.
        inner: as of a `Shape`.
    """

    structure: ClassVar[str]
    leader: str | None = None
    inner: tuple[str, int] | None = None

    def __init__(self, in_features: int, out_features: int, size: int) -> None:
        super().__init__()
        self.in_features, self.out_features, self.size = in_features, out_features, size

    @property
    def weight(self) -> Tensor:
        """A stand-in with the dense weight's shape and dtype and no values.

        Some models ask their layers for `weight.dtype` (T5's feed-forward). Computing with it fails:
        the dense weight exists nowhere.
        """
        return torch.empty(self.out_features, self.in_features, dtype=dtype_of(self), device="meta")

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, size={self.size}"


class StructuredEmbedding(nn.Module):
    """A module in the place of an embedding of tokens, without its weight.

    It holds the same tensors as the structure's linear layer `(out, in) = (tokens, width)`, so that a head
    which is tied to the embedding is that layer, with these very tensors.

    Args:
        num_embeddings, embedding_dim: tokens and width.
        size: of the structure.
        scale: what the embedding's class multiplies by; 1 where it does not.
    """

    structure: ClassVar[str]

    def __init__(self, num_embeddings: int, embedding_dim: int, size: int, scale: float) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim, self.size, self.scale = (
            num_embeddings,
            embedding_dim,
            size,
            scale,
        )

    @property
    def weight(self) -> Tensor:
        """A stand-in with the dense weight's shape and dtype and no values: it exists nowhere."""
        return torch.empty(self.num_embeddings, self.embedding_dim, dtype=dtype_of(self), device="meta")

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}, size={self.size}"

    def scaled(self, rows: Tensor) -> Tensor:
        """Rows as the embedding's class gives them."""
        return rows if self.scale == 1 else rows * self.scale


def parts_of(module: Any) -> dict[str, Part]:
    """The parts of a structure's module, biases too."""
    structure = structure_of(module)
    assert structure is not None
    if isinstance(module, StructuredEmbedding):
        return structure.parts(Shape(module.num_embeddings, module.embedding_dim), module.size)
    has_bias = any(name.rpartition(".")[2] == "bias" for name, _ in module.named_parameters())
    shape = Shape(module.out_features, module.in_features, has_bias, module.inner)
    return structure.parts(shape, module.size)

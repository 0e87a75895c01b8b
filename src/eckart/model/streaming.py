"""A model of which one block is in memory at a time, the others on disk as they are stored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn

from eckart.model import building, loading, portable, targets
from eckart.model.quietness import quiet
from eckart.model.reading import stored_names
from eckart.structures import QuantizedLinear
from eckart.types import EckartError


class NotStoredByBlockError(EckartError):
    """A checkpoint does not hold the model's weights one by one, so that its blocks cannot be read alone."""


class Weights(Protocol):
    """What is stored in a folder: named tensors, read one by one."""

    @property
    def folder(self) -> Path: ...

    @property
    def tensors(self) -> Mapping[str, Any]: ...

    def read(self, name: str) -> Tensor: ...


class Streamed:
    """A model from a folder: what is outside its blocks is in memory, blocks are brought when asked for.

    It is what `loading.load_model` gives, in evaluation mode, without gradients.

    Args:
        stored: the weights of a model folder.
        device, dtype: as for `loading.load_model`.

    Attributes:
        model: its blocks have no values but while they are brought.
        blocks: names of the blocks of all stacks.

    Raises:
        UsageError: no such dtype, or no such device here.
        NotStoredByBlockError: the folder stores weights otherwise than the model has them, so that only
            loading it whole puts them together.
        EckartError: weights do not fit the config.
    """

    def __init__(self, stored: Weights, device: str = "cpu", dtype: str = "auto") -> None:
        loading.require_dtype(dtype)
        loading.require_device(device)
        folder = stored.folder
        config, unused = loading.opened(folder)
        kind = building.model_class(config)
        self.dtype = _dtype_of(config, stored) if dtype == "auto" else getattr(torch, dtype)
        # What buffers hold is worked out from the config, and not stored: they are made for real.
        with init_empty_weights(include_buffers=False), quiet(), _by_default(self.dtype):
            self.model = kind.from_config(config) if hasattr(kind, "from_config") else kind(config)
        self.model.eval().requires_grad_(False)
        setattr(self.model, loading.LEFT_OUT, unused)
        self.device, self.folder, self.given_dtype = torch.device(device), folder, dtype
        names = stored_names(self.model, stored.tensors)
        self.model.config.dtype = self.dtype
        self._wide = _kept_wide(self.model, self.dtype)
        self._source = {name: (stored, key) for name, key in names.items()}
        self.blocks = [
            name
            for name, module in self.model.named_modules()
            if (block := targets.block_of(self.model, name)) and name == f"{block[0]}.{block[1]}"
        ]
        self._of: dict[int, str] = {id(self.model.get_submodule(name)): name for name in self.blocks}
        self._bring_what_is_outside()

    def name_of(self, block: nn.Module) -> str:
        """A block's name."""
        return self._of[id(block)]

    @contextmanager
    def resident(self, block: nn.Module) -> Iterator[None]:
        """A block in memory, for as long as this lasts; what is put into it meanwhile goes with it."""
        name = self.name_of(block)
        self._bring(f"{name}.", block)
        try:
            yield
        finally:
            _empty(block)

    @contextmanager
    def on_demand(self) -> Iterator[None]:
        """The model runs by itself: each block is brought when it is called, and goes when it is done."""
        with ExitStack() as hooks:
            for name in self.blocks:
                block = self.model.get_submodule(name)

                def bring(module: nn.Module, *_: Any, name: str = name) -> None:
                    self._bring(f"{name}.", module)

                hooks.callback(block.register_forward_pre_hook(bring).remove)
                hooks.callback(block.register_forward_hook(lambda module, *_: _empty(module)).remove)
                hooks.callback(_empty, block)
            yield

    def come_from(self, block: nn.Module | None, stored: Weights) -> None:
        """From now on a block's weights are those of another checkpoint, under the model's own names.

        Without a block, what is outside of all: it is in memory at once.
        """
        if block is None:
            for name, tensor in list(self.outside().items()):
                self._put(self.model, name, self._to(name, stored.read(name), tensor, stored.folder))
            self._tie({name for name in self.model.all_tied_weights_keys if name not in stored.tensors})
            return
        name = self.name_of(block)
        for key in [key for key in self._source if key.startswith(f"{name}.")]:
            del self._source[key]
        self._source.update({key: (stored, key) for key in stored.tensors if key.startswith(f"{name}.")})

    def outside(self) -> dict[str, Tensor]:
        """What is outside of all blocks, by name; of weights that are tied the one that is saved."""
        inside = tuple(f"{name}." for name in self.blocks)
        saved: dict[int, str] = {}
        found = {}
        tied = self.model.all_tied_weights_keys
        state = self.model.state_dict(keep_vars=True)
        for name in sorted(state, key=lambda name: name in tied):
            if not name.startswith(inside) and saved.setdefault(id(state[name]), name) == name:
                found[name] = state[name].detach()
        return {name: found[name] for name in state if name in found}

    def _bring_what_is_outside(self) -> None:
        inside = tuple(f"{name}." for name in self.blocks)
        tied = dict(self.model.all_tied_weights_keys)
        if shared := next((name for pair in tied.items() for name in pair if name.startswith(inside)), None):
            raise NotStoredByBlockError(
                f"{shared} is tied to another weight, so its block cannot be read by itself"
            )
        missing = [
            name
            for name in self.model.state_dict()
            if name not in self._source and name not in tied and name not in tied.values()
        ]
        if missing:
            raise NotStoredByBlockError(
                f"{self.folder} does not store {missing[0]} as the model has it: it cannot be read block by "
                "block"
            )
        for name, tensor in list(self.model.state_dict().items()):
            if not name.startswith(inside) and name in self._source:
                self._put(self.model, name, self._read(name, tensor))
        self._tie({name for pair in tied.items() for name in pair if name not in self._source})
        for name, tensor in self.model.state_dict().items():
            if tensor.is_meta and not name.startswith(inside):
                raise EckartError(f"{self.folder} lacks {name}")
        for name, buffer in list(self.model.named_buffers()):
            self._put(self.model, name, buffer.to(self.device))

    def _tie(self, absent: set[str]) -> None:
        with quiet():
            self.model.tie_weights(missing_keys=absent, recompute_mapping=False)

    def _bring(self, prefix: str, block: nn.Module) -> None:
        shared = portable.group_ties(self.model, block)
        for name, tensor in block.state_dict().items():
            if name not in shared:
                self._put(block, name, self._read(prefix + name, tensor))
        portable.share_groups(self.model, block)

    def _read(self, name: str, like: Tensor) -> Tensor:
        stored, key = self._source[name]
        return self._to(name, stored.read(key), like, stored.folder / stored.tensors[key].file)

    def _to(self, name: str, tensor: Tensor, like: Tensor, file: Path) -> Tensor:
        if tensor.shape != like.shape:
            raise EckartError(
                f"{file} does not fit the config: {name} is stored as {tuple(tensor.shape)}, "
                f"and the config makes it {tuple(like.shape)}"
            )
        return tensor.to(device=self.device, dtype=self._dtype_of(name, tensor))

    def _dtype_of(self, name: str, tensor: Tensor) -> torch.dtype:
        if not tensor.is_floating_point():
            return tensor.dtype
        return torch.float32 if any(part in name.split(".") for part in self._wide) else self.dtype

    @staticmethod
    def _put(model: nn.Module, name: str, tensor: Tensor) -> None:
        parent, _, leaf = name.rpartition(".")
        module = model.get_submodule(parent)
        if leaf in module._buffers:
            module._buffers[leaf] = tensor
        else:
            module._parameters[leaf] = nn.Parameter(tensor, requires_grad=False)


@contextmanager
def _by_default(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _dtype_of(config: Any, stored: Weights) -> torch.dtype:
    """What transformers loads a checkpoint in: what the config says, or else its first weight."""
    if config.dtype is not None:
        return config.dtype  # type: ignore[no-any-return]
    dtypes: Iterator[torch.dtype] = (each.torch_dtype for each in stored.tensors.values())
    return next(dtype for dtype in dtypes if dtype.is_floating_point)


def _kept_wide(model: Any, dtype: torch.dtype) -> set[str]:
    """Modules that stay in float32 where a model is loaded in fewer bits, as its class asks for."""
    kept = (
        set(model._keep_in_fp32_modules_strict or ()) if dtype in (torch.float16, torch.bfloat16) else set()
    )
    return kept | (set(model._keep_in_fp32_modules or ()) if dtype == torch.float16 else set())


def _empty(block: nn.Module) -> None:
    """Let go of the values of all weights; what modules hold as one stays one."""
    # With what each was: a weight that is gone may leave its id to another.
    made: dict[int, tuple[nn.Parameter, nn.Parameter]] = {}
    for module in block.modules():
        if isinstance(module, QuantizedLinear):
            module.codes, module.scales = (
                torch.empty_like(tensor, device="meta") for tensor in (module.codes, module.scales)
            )
        for name, weight in module._parameters.items():
            if weight is not None:
                if id(weight) not in made:
                    shape = torch.empty_like(weight, device="meta")
                    made[id(weight)] = weight, nn.Parameter(shape, requires_grad=False)
                module._parameters[name] = made[id(weight)][1]

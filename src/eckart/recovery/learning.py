"""Which parameters learn: the factors, all of them, or adapters that peft adds and merges afterwards."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import fields
from difflib import get_close_matches
from typing import Any

import torch

from eckart.model import lora
from eckart.model.portable import QUANT_METHOD
from eckart.recovery.settings import FACTORS, Training
from eckart.structures import StructuredEmbedding, StructuredLinear, structure_of
from eckart.types import EckartError, UsageError

VARIANTS = {"dora": ("lora", {"use_dora": True}), "rslora": ("lora", {"use_rslora": True})}
"""Methods that peft has as an option of another one."""

RANKS = {"ADALORA": ("init_r", "target_r"), "OFT": ()}
"""Where a method's rank is not its field `r`, or `r` is no rank.

AdaLoRA moves rank between layers to spend little on adapters. Here they are merged, and it spends nothing:
all of them stay at one rank.
"""


def has_factors(config: Any) -> bool:
    """Whether a model's config says that Eckart cut it."""
    entry = getattr(config, "quantization_config", None)
    return entry is not None and dict(entry).get("quant_method") == QUANT_METHOD


def require_method(name: str) -> None:
    """Raises UsageError where a word is no method of peft that is put on linear layers by their names."""
    _config_class(name)


def choose(model: Any, training: Training) -> Callable[[], Any]:
    """Let the parameters that are to be trained learn, and no others.

    Returns:
        What to call after training: it merges adapters, if there are any, and gives the model back.

    Raises:
        UsageError: the model has nothing of what should be trained, or peft refuses it.
    """
    if training.by_peft:
        return _adapt(model, training)
    only = training.train == FACTORS
    learning = [
        parameter
        for module in model.modules()
        if isinstance(module, (StructuredLinear, StructuredEmbedding)) or not only
        for parameter in module.parameters()
    ]
    if not learning:
        raise UsageError(
            "this model has no factors to train: train all of it (--train all), or adapters (lora)"
        )
    model.requires_grad_(False)
    for parameter in learning:
        parameter.requires_grad_(True)

    def done() -> Any:
        return model.requires_grad_(True)

    return done


def choose_outputs(model: Any) -> None:
    """Let the weights of `output_weights` learn, and no others.

    A short training gets as far with them: the fewer weights move at once, the longer a step they bear.
    """
    model.requires_grad_(False)
    for parameter in output_weights(model).values():
        parameter.requires_grad_(True)


def output_weights(model: Any) -> dict[str, torch.nn.Parameter]:
    """What makes the outputs of replaced layers, `U` of `U V`, by name; of a layer without one, all of it."""
    found: dict[str, torch.nn.Parameter] = {}
    for name, module in model.named_modules():
        if isinstance(module, (StructuredLinear, StructuredEmbedding)):
            structure = structure_of(module)
            factor = structure.output_factor if structure and isinstance(module, StructuredLinear) else None
            within = f"{name}.{factor}" if factor else name
            found |= {f"{within}.{key}": each for key, each in model.get_submodule(within).named_parameters()}
    return found


def cast(model: Any, config: Any) -> None:
    """Round to the dtype of the folder that a model came from, in place.

    Buffers that are not saved stay as loading makes them.
    """
    dtype = getattr(config, "dtype", None) or torch.float32
    saved = set(model.state_dict())
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if name in saved and tensor.is_floating_point():
            tensor.data = tensor.data.to(dtype)


def _config_class(name: str) -> tuple[str, Any, dict[str, Any]]:
    """A method's name in peft's registry, its config class and what to set there."""
    try:
        from peft import PEFT_TYPE_TO_CONFIG_MAPPING
    except ImportError:
        raise UsageError(f'--train {name} needs peft: pip install "eckart[recover]"') from None
    plain, options = VARIANTS.get(name.lower(), (name, {}))
    configs = {kind.value: config for kind, config in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    fitting = {
        kind
        for kind, config in configs.items()
        if "target_modules" in {field.name for field in fields(config)}
    }
    kind = plain.upper()
    if kind not in fitting:
        why = "it is not put on linear layers" if kind in configs else "there is no such way to train"
        near = get_close_matches(kind, fitting, 1, 0.75) if kind not in configs else []
        meant = f"did you mean {near[0].lower()}? " if near else ""
        raise UsageError(
            f"--train {name}: {why}; {meant}Say factors, all, or a method of peft for linear layers, as "
            "lora, dora, ia3, vera"
        )
    return kind, configs[kind], options


def _adapt(model: Any, training: Training) -> Callable[[], Any]:
    from peft import get_peft_model

    config = _config(training, _adapted(model))
    torch.manual_seed(training.seed)
    try:
        wrapped = get_peft_model(model, config)
        _require_merging(model)
    except (ValueError, TypeError, NotImplementedError, RuntimeError, AttributeError, KeyError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UsageError(f"--train {training.train}: peft refuses this model ({first})") from error

    def done() -> Any:
        try:
            merged = wrapped.merge_and_unload(safe_merge=True)
        except (ValueError, NotImplementedError, AttributeError) as error:
            raise EckartError(f"the adapters of {training.train} could not be merged: {error}") from error
        return merged.requires_grad_(True)

    return done


def _adapted(model: Any) -> list[str]:
    """The linear layers that adapters are put on, by whole names: factors, or a dense model's targets."""
    return lora.factor_names(model) or lora.lora_targets(model)


def _config(training: Training, names: list[str]) -> Any:
    kind, config, options = _config_class(training.train)
    known = {field.name for field in fields(config)}
    rank = training.adapter_rank
    wanted = {
        **dict.fromkeys(RANKS.get(kind, ("r",)), rank),
        "lora_alpha": training.adapter_alpha,
        "alpha": training.adapter_alpha,
        "feedforward_modules": [],
        "total_step": 1,
    }
    chosen = {name: value for name, value in wanted.items() if name in known}
    return config(target_modules=names, **chosen, **options)


def _require_merging(model: Any) -> None:
    """Raises NotImplementedError where adapters cannot be merged: better now than after the training."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    if not layers:
        raise NotImplementedError("it adds nothing to its linear layers")
    copy.deepcopy(layers[0]).merge()

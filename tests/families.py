"""Tiny random models of any class that transformers' auto mappings know."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from transformers.models.auto import modeling_auto

SMALL: dict[str, int] = {
    **dict.fromkeys(("hidden_size", "d_model", "dim", "n_embd", "embed_dim", "embedding_size"), 32),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_decoder_layers"), 2),
    **dict.fromkeys(("encoder_layers", "decoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), 4),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads", "num_local_experts"), 4),
    **dict.fromkeys(("intermediate_size", "hidden_dim", "d_ff", "encoder_ffn_dim", "decoder_ffn_dim"), 48),
    **dict.fromkeys(("d_kv", "head_dim", "patch_size", "rotary_dim", "qk_rope_head_dim"), 8),
    **dict.fromkeys(("max_position_embeddings", "n_positions"), 64),
    "num_experts": 8,
    "num_key_value_heads": 2,
    "vocab_size": 128,
    "image_size": 32,
    "projection_dim": 16,
    "bos_token_id": 0,
    "pad_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 0,
}
"""What a config has of these is made so small."""


def classes() -> Iterator[tuple[str, Any, Any]]:
    """Each `AutoModel…`, with the configs and the classes that it knows."""
    for auto in sorted(dir(modeling_auto)):
        mapping = getattr(getattr(modeling_auto, auto), "_model_mapping", None)
        if mapping is None or not auto.startswith("AutoModel"):
            continue
        for config in list(mapping.keys()):
            try:
                chosen = mapping[config]
            except ValueError:  # the mapping names a class that this transformers does not have
                continue
            for kind in chosen if isinstance(chosen, (list, tuple)) else [chosen]:
                if kind is not None:
                    yield auto, config, kind


def tiny_config(kind: Any) -> Any:
    """A config of this class with small numbers, in its parts too."""
    usual = kind()
    small = {
        name: value
        for name, value in SMALL.items()
        if not isinstance(getattr(kind, name, None), property)
        and isinstance(getattr(usual, name, None), int)
        and not isinstance(getattr(usual, name), bool)
    }
    parts = {}
    for name, part in getattr(kind, "sub_configs", {}).items():
        try:
            parts[name] = tiny_config(part).to_dict()
        except Exception:  # an `AutoConfig`, or one that wants what is not small
            continue
    return kind(**small, **parts)


def tiny_model(config: Any, kind: Any, largest: int = 20_000_000) -> Any | None:
    """A random model; `None` where the class has no small one."""
    with torch.device("meta"):
        if sum(each.numel() for each in kind(tiny_config(config)).parameters()) > largest:
            return None
    torch.manual_seed(0)
    return kind(tiny_config(config)).eval()

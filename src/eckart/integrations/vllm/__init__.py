"""Compressed models in vLLM: a plugin that vLLM finds by itself once Eckart is installed beside it.

`splitting.py` and `parts.py` know tensors and ranks of processes; `config.py` and `linear.py` know vLLM.
"""

from __future__ import annotations


def register() -> None:
    """Teach vLLM the entry `quantization_config` of a compressed folder; again changes nothing.

    vLLM calls it in each of its processes (entry point `vllm.general_plugins`).
    """
    from vllm.model_executor.layers.quantization import register_quantization_config

    from eckart.integrations.vllm.config import EckartQuantizationConfig
    from eckart.model.portable import QUANT_METHOD

    register_quantization_config(QUANT_METHOD)(EckartQuantizationConfig)

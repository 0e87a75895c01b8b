"""GGUF files, as llama.cpp writes them: the same model as its safetensors, or a refusal."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from outside import Eckart
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

import eckart
from eckart.model.loading import find_model, load_model, load_tokenizer
from eckart.types import EckartError, UsageError

TEXT = "once upon a time there was a little model that was as small as it could be "
NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama with a tokenizer of bytes, as a plain folder."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    made.train_from_iterator([TEXT] * 4, trainer)
    folder = tmp_path_factory.mktemp("gguf") / "plain"
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>")
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=16, max_position_embeddings=64,
        bos_token_id=0, eos_token_id=1, tie_word_embeddings=False,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def written(plain: Path, out: Path, **more: np.ndarray) -> Path:
    """The folder's model as a GGUF file, by the package of llama.cpp's makers.

    Args:
        more: tensors beside its own.
    """
    model = AutoModelForCausalLM.from_pretrained(plain)
    tokenizer = AutoTokenizer.from_pretrained(plain)
    config = model.config
    writer = gguf.GGUFWriter(out, "llama")
    writer.add_name("tiny")
    writer.add_license("apache-2.0")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    words = sorted(tokenizer.get_vocab().items(), key=lambda pair: pair[1])
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([word for word, _ in words])
    writer.add_token_types([3 if word in ("<s>", "</s>") else 1 for word, _ in words])
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    for name, weight in model.state_dict().items():
        writer.add_tensor(_name(name), _permuted(name, weight, config).numpy())
    for name, array in more.items():
        writer.add_tensor(name.replace("__", "."), array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out


def _name(name: str) -> str:
    if name in NAMES:
        return NAMES[name]
    block, rest = re.fullmatch(r"model\.layers\.(\d+)\.(.*)\.weight", name).groups()  # type: ignore[union-attr]
    return f"blk.{block}.{NAMES[rest]}.weight"


def _permuted(name: str, weight: torch.Tensor, config: Any) -> torch.Tensor:
    """Rows of queries and keys in llama.cpp's order: both halves of a rotation side by side."""
    kind = re.search(r"(q|k)_proj", name)
    if kind is None:
        return weight
    heads = config.num_attention_heads if kind[1] == "q" else config.num_key_value_heads
    return weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape).contiguous()


@pytest.fixture(scope="module")
def file(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(plain, tmp_path_factory.mktemp("file") / "tiny.gguf")


def test_it_is_the_same_model(plain: Path, file: Path) -> None:
    folder = find_model(file)
    ids = load_tokenizer(plain)(TEXT, return_tensors="pt")["input_ids"][:, :40]
    assert load_tokenizer(folder)(TEXT)["input_ids"][:40] == ids[0].tolist()
    with torch.no_grad():
        one, other = (load_model(each)(ids).logits for each in (plain, folder))
    assert (one - other).abs().max() < 1e-6


def test_it_comes_to_the_same_compressed_folder(plain: Path, file: Path, tmp_path: Path) -> None:
    data = [TEXT * 3] * 40
    made = {}
    for name, model in (("plain", plain), ("file", file)):
        made[name] = eckart.compress(model, tmp_path / name, keep=0.8, method="svd-llm", data=data)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in made]
    assert weights[0] == weights[1]
    assert made["file"].manifest.source == "tiny.gguf"
    assert "license: apache-2.0" in (tmp_path / "file" / "README.md").read_text()


def test_every_verb_takes_it(process: Eckart, file: Path, tmp_path: Path) -> None:
    (tmp_path / "data.txt").write_text("<|endoftext|>".join([TEXT * 3] * 40))
    small = ["--keep", "0.8", "--data", "data.txt"]
    assert "LlamaForCausalLM" in process("plan", file, "--keep", "0.8").out
    for line in (
        ["analyze", file, "-o", "looked", "--fast"],
        ["evaluate", file, "--task", "perplexity", "--data", "data.txt"],
        ["compare", file, "-o", "compared", "--methods", "svd", *small],
    ):
        answer = process(*line)
        assert answer.code == 0, answer.err
        assert "%|" not in answer.err


def test_what_no_weight_takes_is_refused(plain: Path, tmp_path: Path) -> None:
    more = {"rope_freqs__weight": np.ones(8, np.float32)}
    with pytest.raises(EckartError, match="rotary positions by rope_freqs"):
        find_model(written(plain, tmp_path / "scaled.gguf", **more))
    more = {"blk__0__strange__weight": np.ones((4, 4), np.float32)}
    with pytest.raises(EckartError, match="transformers would read something else"):
        find_model(written(plain, tmp_path / "strange.gguf", **more))


def test_damaged_files_and_other_names_are_refused(file: Path, tmp_path: Path) -> None:
    whole = file.read_bytes()
    (tmp_path / "cut.gguf").write_bytes(whole[:2000])
    (tmp_path / "weights.gguf").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "other.gguf").write_bytes(b"PK" + whole)
    for name in ("cut", "weights", "other"):
        with pytest.raises(EckartError, match=f"{name}.gguf"):
            find_model(tmp_path / f"{name}.gguf")
    with pytest.raises(UsageError, match="name one of them"):
        find_model(tmp_path)
    assert not list(tmp_path.glob(".*"))

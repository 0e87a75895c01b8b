"""One table of tiny random models, a row for each architecture, for every test that needs some.

A row says what a model of that architecture must show: which weights are targets, and which of them
read one input. `tiny_tokenizer` and `write_data` make what calibration needs, with no download.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from eckart.model.text import begin

WIDTH, INNER, LAYERS, HEADS, VOCABULARY, POSITIONS = 48, 80, 2, 4, 96, 64
SPECIAL = ["<pad>", "<s>", "</s>", "<unk>"]
WORDS = [f"w{index}" for index in range(VOCABULARY - len(SPECIAL))]

Group = tuple[str, ...]


@dataclass(frozen=True)
class Architecture:
    """A tiny model and what is true of it.

    Attributes:
        name: for the test's name.
        auto: the `Auto` class that loads it by plain transformers.
        kind: `decoder`, `encoder` or `encoder-decoder`.
        make: config to model, randomly initialised.
        targets: endings of the default targets to how many there are of each.
        spaces: endings that read one input, within one block.
        shared: endings that read one input in all blocks together.
        dense: words of the notes on what is left dense, empty where nothing is.
        head: its output head, and whether its weight is tied.
    """

    name: str
    auto: str
    kind: str
    make: Callable[[], Any]
    targets: dict[str, int]
    spaces: tuple[Group, ...]
    shared: Group = ()
    dense: Group = ()
    head: str = "lm_head"
    tied: bool = False
    keep: float = field(default=0.8)

    def __str__(self) -> str:
        return self.name

    def build(self, dtype: torch.dtype = torch.float32, seed: int = 0) -> Any:
        """The model with random weights, biases and norms too, in evaluation mode."""
        generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)
        model = self.make()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                # A bias of zeros, as transformers makes it, would hide a bias that is lost.
                if name.endswith("bias") or parameter.ndim == 2:
                    noise = torch.randn(parameter.shape, generator=generator)
                    parameter.add_(0.1 * noise)
        return model.to(dtype).eval()

    def load(self, folder: Path | str, **options: Any) -> Any:
        """Plain `from_pretrained` of the `Auto` class."""
        return getattr(transformers, self.auto).from_pretrained(folder, **options)


def _common(**more: Any) -> dict[str, Any]:
    return {
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "max_position_embeddings": POSITIONS,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        **more,
    }


def _make(config: str, model: str, **options: Any) -> Callable[[], Any]:
    def make() -> Any:
        return getattr(transformers, model)(getattr(transformers, config)(**options))

    return make


_GATED = dict.fromkeys(("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"), LAYERS)
_GATED_SPACES = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))

LLAMA = Architecture(
    "llama",
    "AutoModelForCausalLM",
    "decoder",
    _make("LlamaConfig", "LlamaForCausalLM", **_common(num_key_value_heads=2)),
    _GATED,
    _GATED_SPACES,
)
MISTRAL = Architecture(
    "mistral",
    "AutoModelForCausalLM",
    "decoder",
    _make("MistralConfig", "MistralForCausalLM", **_common(num_key_value_heads=2, sliding_window=8)),
    _GATED,
    _GATED_SPACES,
)
QWEN3 = Architecture(
    "qwen3",
    "AutoModelForCausalLM",
    "decoder",
    _make(
        "Qwen3Config",
        "Qwen3ForCausalLM",
        **_common(num_key_value_heads=2, head_dim=16, tie_word_embeddings=True),
    ),
    _GATED,
    _GATED_SPACES,
    tied=True,
)
GEMMA3 = Architecture(
    "gemma3",
    "AutoModelForCausalLM",
    "decoder",
    _make(
        "Gemma3TextConfig",
        "Gemma3ForCausalLM",
        **_common(
            num_key_value_heads=2,
            head_dim=16,
            sliding_window=8,
            layer_types=["sliding_attention", "full_attention"],
        ),
    ),
    _GATED,
    _GATED_SPACES,
    tied=True,
)
GPT2 = Architecture(
    "gpt2",
    "AutoModelForCausalLM",
    "decoder",
    _make(
        "GPT2Config",
        "GPT2LMHeadModel",
        vocab_size=VOCABULARY,
        n_embd=WIDTH,
        n_layer=LAYERS,
        n_head=HEADS,
        n_positions=POSITIONS,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    ),
    {"c_attn": LAYERS, "c_proj": 2 * LAYERS, "c_fc": LAYERS},
    (),
    tied=True,
)
OPT = Architecture(
    "opt",
    "AutoModelForCausalLM",
    "decoder",
    _make(
        "OPTConfig",
        "OPTForCausalLM",
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        ffn_dim=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        max_position_embeddings=POSITIONS,
        word_embed_proj_dim=WIDTH,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    ),
    dict.fromkeys(("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"), LAYERS),
    (("q_proj", "k_proj", "v_proj"),),
    tied=True,
)
PHI3 = Architecture(
    "phi3",
    "AutoModelForCausalLM",
    "decoder",
    _make("Phi3Config", "Phi3ForCausalLM", **_common(num_key_value_heads=2)),
    dict.fromkeys(("qkv_proj", "o_proj", "gate_up_proj", "down_proj"), LAYERS),
    (),
)
T5 = Architecture(
    "t5",
    "AutoModelForSeq2SeqLM",
    "encoder-decoder",
    _make(
        "T5Config",
        "T5ForConditionalGeneration",
        vocab_size=VOCABULARY,
        d_model=WIDTH,
        d_kv=12,
        d_ff=INNER,
        num_layers=LAYERS,
        num_decoder_layers=LAYERS,
        num_heads=HEADS,
        feed_forward_proj="gated-gelu",
        decoder_start_token_id=0,
        pad_token_id=0,
        eos_token_id=2,
    ),
    {
        **{f"SelfAttention.{name}": 2 * LAYERS for name in "qkvo"},
        **{f"EncDecAttention.{name}": LAYERS for name in "qkvo"},
        **dict.fromkeys(("wi_0", "wi_1", "wo"), 2 * LAYERS),
    },
    (("SelfAttention.q", "SelfAttention.k", "SelfAttention.v"), ("wi_0", "wi_1")),
    shared=("EncDecAttention.k", "EncDecAttention.v"),
    tied=True,
)
BERT = Architecture(
    "bert",
    "AutoModel",
    "encoder",
    _make("BertConfig", "BertModel", **_common(type_vocab_size=2)),
    {
        "query": LAYERS,
        "key": LAYERS,
        "value": LAYERS,
        "output.dense": 2 * LAYERS,
        "intermediate.dense": LAYERS,
    },
    (("query", "key", "value"),),
    head="",
)
MAMBA = Architecture(
    "mamba",
    "AutoModelForCausalLM",
    "decoder",
    _make(
        "MambaConfig",
        "MambaForCausalLM",
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        state_size=8,
        num_hidden_layers=LAYERS,
        time_step_rank=6,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    ),
    dict.fromkeys(("in_proj", "x_proj", "out_proj"), LAYERS),
    (),
    dense=("dt_proj",),
    tied=True,
)
MIXTRAL = Architecture(
    "mixtral",
    "AutoModelForCausalLM",
    "decoder",
    _make(
        "MixtralConfig",
        "MixtralForCausalLM",
        **_common(num_key_value_heads=2, num_local_experts=2, num_experts_per_tok=1),
    ),
    dict.fromkeys(
        (
            *("q_proj", "k_proj", "v_proj", "o_proj"),
            *("gate_up_proj.0", "gate_up_proj.1", "down_proj.0", "down_proj.1"),
        ),
        LAYERS,
    ),
    (("q_proj", "k_proj", "v_proj"),),
)

ARCHITECTURES = [LLAMA, MISTRAL, QWEN3, GEMMA3, GPT2, OPT, PHI3, T5, BERT, MAMBA, MIXTRAL]


def tiny_tokenizer(bos: bool | None = None) -> PreTrainedTokenizerFast:
    """A word a token: `w0 … w91`, after `<pad> <s> </s> <unk>`; with `bos` a decoder reads `<s>` first."""
    ids = {word: index for index, word in enumerate([*SPECIAL, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=POSITIONS,
    )
    begin(made, bos)
    return made


def write_data(path: Path, rows: int = 24, seed: int = 0) -> Path:
    """A `.jsonl` of prompts and completions of many different lengths."""
    chosen = random.Random(seed)

    def words(least: int, most: int) -> str:
        return " ".join(chosen.choices(WORDS, k=chosen.randint(least, most)))

    lines = [json.dumps({"prompt": words(3, 20) + " ", "completion": words(2, 12)}) for _ in range(rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


def some_inputs(
    architecture: Architecture, batch: int = 2, length: int = 12, seed: int = 0
) -> dict[str, Any]:
    """Token ids for one forward pass, none of them padding."""
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, length)
    inputs = {"input_ids": torch.randint(len(SPECIAL), VOCABULARY, shape, generator=generator)}
    if architecture.kind == "encoder-decoder":
        inputs["decoder_input_ids"] = torch.randint(len(SPECIAL), VOCABULARY, (batch, 7), generator=generator)
    return inputs


@torch.no_grad()
def outputs(model: Any, inputs: dict[str, Any]) -> torch.Tensor:
    """The model's first output: logits, or the last hidden state of an encoder."""
    answer: torch.Tensor = model(**inputs)[0]
    return answer

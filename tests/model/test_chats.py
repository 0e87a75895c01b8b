"""Chats of many makers' shapes, in the words of many templates: what the assistant says, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import LLAMA, T5, tiny_tokenizer
from outside import Eckart
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import eckart
from eckart.data import read_texts
from eckart.model import chats
from eckart.recovery import windows
from eckart.recovery.windows import Collator
from eckart.types import Message, Text, UsageError

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
INST = (
    "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% elif m.role == 'assistant' %} {{ m.content }}</s>{% else %}{{ raise_exception('no system here') }}"
    "{% endif %}{% endfor %}"
)
ZEPHYR = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
MARKS = (
    "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
    "{% endgeneration %}{% else %}{{ m.content }}{% endif %}</>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
FORGETS = (
    "{% for m in messages %}{{ m.role }}: {% if m.role != 'assistant' or loop.last %}{{ m.content }}"
    "{% endif %}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)
THINKS = (
    "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' and loop.last %}<think></think>"
    "{% endif %}{{ m.content }}</>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


def tokenizer_of(template: str | None) -> Any:
    """A token a byte, so that tokens are counted by hand as characters are."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: at for at, letter in enumerate(["<pad>", *letters])}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    made.decoder = decoders.ByteLevel()
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    found = PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>")
    found.chat_template = template
    return found


def said(template: str, text: Text) -> str:
    """What is learned of a chat, answers apart by |."""
    found = chats.rendered(tokenizer_of(template), text)
    assert found.answers is not None
    return "|".join(found.text[start:end] for start, end in found.answers)


TURNS = [("user", "one"), ("assistant", "two"), ("user", "three"), ("assistant", "four")]
CHAT = Text("", "", tuple(Message(role, content) for role, content in TURNS))


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (CHATML, "two<|im_end|>\n|four<|im_end|>\n"),
        (INST, " two</s>| four</s>"),
        (ZEPHYR, "two</s>\n|four</s>\n"),
        (MARKS, "two|four"),
        (THINKS, "two|<think></think>four</>"),
    ],
)
def test_what_the_assistant_says_is_found_in_every_template(template: str, expected: str) -> None:
    assert said(template, CHAT) == expected


def test_tokens_that_are_learned_are_those_of_the_answers() -> None:
    tokenizer = tokenizer_of(CHATML)
    ids, mask = chats.coded(tokenizer, chats.rendered(tokenizer, CHAT))
    answers = "two<|im_end|>\nfour<|im_end|>\n"
    asked = "<|im_start|>user\none<|im_end|>\n<|im_start|>assistant\n<|im_start|>user\nthree<|im_end|>\n"
    assert len(ids) == len(answers) + len(asked) + len("<|im_start|>assistant\n")
    assert sum(mask) == len(answers)
    assert tokenizer.decode([one for one, yes in zip(ids, mask, strict=True) if yes]) == answers


MAKERS: dict[str, tuple[dict[str, Any], str]] = {
    "OpenAI": ({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}, "a"),
    "OpenAI, weights": (
        {"messages": [
            {"role": "user", "content": "q"}, {"role": "assistant", "content": "no", "weight": 0},
            {"role": "user", "content": "r"}, {"role": "assistant", "content": "yes", "weight": 1},
        ]},
        "yes",
    ),
    "OpenAI, parts": (
        {"messages": [
            {"role": "developer", "content": [{"type": "text", "text": "be "}, "kind"]},
            {"role": "user", "content": [{"type": "text", "text": "q"}]},
            {"role": "assistant", "content": "a"},
        ]},
        "a",
    ),
    "ultrachat": (
        {"prompt": "q", "prompt_id": "7", "messages": [
            {"content": "q", "role": "user"}, {"content": "a", "role": "assistant"},
            {"content": "r", "role": "user"}, {"content": "b", "role": "assistant"},
        ]},
        "a|b",
    ),
    "ShareGPT": (
        {"id": "x", "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}, "a"
    ),
    "ShareGPT, system": (
        {"conversations": [
            {"from": "system", "value": "s"}, {"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}
        ]},
        "a",
    ),
    "LMSYS": (
        {"conversation": [{"content": "q", "role": "user"}, {"content": "a", "role": "assistant"}]}, "a"
    ),
    "TRL": (
        {"prompt": [{"role": "user", "content": "q"}], "completion": [{"role": "assistant", "content": "a"}]},
        "a",
    ),
    "TRL, an answer in the prompt": (
        {
            "prompt": [
                {"role": "user", "content": "q"}, {"role": "assistant", "content": "old"},
                {"role": "user", "content": "r"},
            ],
            "completion": [{"role": "assistant", "content": "new"}],
        },
        "new",
    ),
    "names in capitals": (
        {"Messages": [{"role": "USER", "content": "q"}, {"role": "Assistant", "content": "a"}]}, "a"
    ),
    "Gemini's words": ({"messages": [{"role": "user", "text": "q"}, {"role": "model", "text": "a"}]}, "a"),
    "tools": (
        {"messages": [
            {"role": "user", "content": "q"}, {"role": "assistant", "content": "asks"},
            {"role": "tool", "content": "7"}, {"role": "assistant", "content": "a"},
        ]},
        "asks|a",
    ),
    "text beside it": (
        {"text": "a", "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
        "a",
    ),
}  # fmt: skip


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
def test_chats_come_as_their_makers_write_them(maker: str, suffix: str, tmp_path: Path) -> None:
    row, expected = MAKERS[maker]
    path = tmp_path / f"chats{suffix}"
    if suffix == ".parquet":
        pyarrow = pytest.importorskip("pyarrow")
        if any(
            isinstance(each, dict) and isinstance(each.get("content"), list)
            for each in next(iter(row.values()))
        ):
            pytest.skip("a column has one type")
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist([row]), path)
    else:
        path.write_text(json.dumps(row if suffix == ".jsonl" else [row]))
    (text,) = read_texts(str(path))
    assert said(CHATML, text).replace("<|im_end|>\n", "") == expected


def test_alpaca_is_a_prompt_and_a_completion(tmp_path: Path) -> None:
    (tmp_path / "alpaca.json").write_text(json.dumps([{"instruction": "add", "input": "1 2", "output": "3"}]))
    (text,) = read_texts(str(tmp_path / "alpaca.json"))
    assert text == Text("Instruction: add\nInput: 1 2\nResponse:", " 3")


BROKEN = {
    "no role": ({"messages": [{"content": "q"}]}, "message 1 has no role"),
    "an image": (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        "message 1 has no text alone",
    ),
    "a call": (
        {"messages": [{"role": "assistant", "content": None, "tool_calls": []}]}, "message 1 has no text"
    ),
    "no answer": ({"messages": [{"role": "user", "content": "q"}]}, "no answer of an assistant"),
    "nothing learned": (
        {"messages": [{"role": "assistant", "content": "a", "weight": 0}]}, "no answer of an assistant"
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_no_chat_of_text_is_refused_by_its_place(what: str, tmp_path: Path) -> None:
    row, words = BROKEN[what]
    (tmp_path / "chats.jsonl").write_text(json.dumps(MAKERS["OpenAI"][0]) + "\n" + json.dumps(row) + "\n")
    with pytest.raises(UsageError, match=f"line 2.*{words}"):
        read_texts(str(tmp_path / "chats.jsonl"))


def test_what_a_template_does_not_take_is_refused() -> None:
    system = Text("", "", (Message("system", "s"), *CHAT.messages))
    with pytest.raises(UsageError, match=r"does not take system, user.*no system here"):
        chats.rendered(tokenizer_of(INST), system)
    with pytest.raises(UsageError, match="leaves out what the assistant says in message 2"):
        chats.rendered(tokenizer_of(FORGETS), CHAT)
    assert said(FORGETS, Text("", "", CHAT.messages[:2])) == "two"
    with pytest.raises(UsageError, match="has no chat template"):
        chats.rendered(tokenizer_of(None), CHAT)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama that reads a byte a token, with ChatML's template."""
    folder = tmp_path_factory.mktemp("chats") / "model"
    tokenizer_of(CHATML).save_pretrained(folder)
    torch.manual_seed(0)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=257, hidden_size=48, intermediate_size=80, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=256, tie_word_embeddings=False,
        )
    ).save_pretrained(folder)  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("data") / "chats.jsonl"
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"say {at}"},
                {"role": "assistant", "content": f"it is {at}."},
            ]
        }
        for at in range(48)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_the_loss_of_a_training_is_on_the_answers(model: Path, data: str) -> None:
    tokenizer = tokenizer_of(CHATML)
    loaded = LlamaForCausalLM.from_pretrained(model)
    examples = windows.read(loaded, tokenizer, read_texts(data)[:3], 256)
    batch = Collator(loaded, 0)(examples.rows)
    for at, row in enumerate(batch["labels"]):
        kept = batch["input_ids"][at][row >= 0]
        assert tokenizer.decode(kept) == f"it is {at}.<|im_end|>\n"


def test_a_long_chat_is_cut_into_windows_in_which_the_assistant_speaks(model: Path) -> None:
    loaded = LlamaForCausalLM.from_pretrained(model)
    turns = tuple(Message(role, "x" * 90) for _ in range(4) for role in ("user", "assistant"))
    rows = windows.read(loaded, tokenizer_of(CHATML), [Text("", "", turns)], 100).rows
    assert len(rows) > 4
    assert all(row.said is not None and any(row.said[1:]) for row in rows)
    assert sum(sum(row.said or ()) for row in rows) <= 4 * (90 + len("<|im_end|>\n"))


def test_perplexity_is_of_the_answers(model: Path, data: str) -> None:
    tokenizer = tokenizer_of(CHATML)
    loaded = LlamaForCausalLM.from_pretrained(model).eval()
    total, count = 0.0, 0
    for text in read_texts(data):
        ids, mask = chats.coded(tokenizer, chats.rendered(tokenizer, text))
        with torch.no_grad():
            logits = loaded(torch.tensor([ids])).logits[0, :-1]
        losses = functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="none")
        kept = losses[torch.tensor(mask[1:], dtype=torch.bool)]
        total, count = total + float(kept.sum()), count + len(kept)
    score = eckart.evaluate(model, "perplexity", data=data)
    assert score.details["tokens"] == count
    assert score.details["loss"] == pytest.approx(total / count, rel=1e-5)
    beside = eckart.evaluate(model, "perplexity", data=data, against=model).details
    assert beside["tokens"] == count


def test_on_all_counts_what_every_side_says(model: Path, data: str, process: Eckart, tmp_path: Path) -> None:
    tokenizer = tokenizer_of(CHATML)
    lengths = [len(chats.rendered(tokenizer, text).text) for text in read_texts(data)]
    answers = [len(f"it is {at}.<|im_end|>\n") for at in range(48)]
    score = eckart.evaluate(model, "perplexity", data=data, on="all")
    assert score.details["tokens"] == sum(lengths) - len(lengths)
    for on, asked in (("all", sum(lengths)), ("answers", sum(answers))):
        cut = eckart.compress(model, keep=0.8, method="svd-llm", data=data, on=on)
        assert cut.manifest.recipe.on == on
        held = cut.manifest.held_out
        assert held is not None
        # What is held out is a share of the same texts.
        assert asked / 12 < held.tokens < asked / 4
    learned = eckart.recover(model, tmp_path / "all", data=data, on="all", steps=1, train="all")
    assert learned.manifest.training[0].recipe.on == "all"
    asked = process("compress", model, "-o", "small", "--keep", "0.8", "--data", data, "--on", "answer")
    assert (asked.code, asked.out) == (2, "")
    assert "--on answer: of a chat its answers count, or all of it" in asked.err
    with pytest.raises(UsageError, match="--on every"):
        eckart.evaluate(model, "perplexity", data=data, on="every")


def test_the_main_job_on_chats(process: Eckart, model: Path, data: str, tmp_path: Path) -> None:
    made = process("compress", model, "-o", "small", "--keep", "0.8", "--method", "svd-llm", "--data", data)
    assert made.code == 0, made.err
    learned = process("recover", "small", "-o", "better", "--data", data, "--steps", "4", "--json").json
    assert learned["learned"]["tokens"] > 0
    answer = process("evaluate", "better", "--task", "perplexity", "--data", data)
    assert answer.code == 0, answer.err


@pytest.mark.parametrize("architecture", [LLAMA, T5])
def test_a_model_without_a_template_says_so(
    architecture: Any, process: Eckart, stored: Any, data: str
) -> None:
    assert tiny_tokenizer().chat_template is None
    line = [
        "compress",
        stored(architecture),
        "-o",
        "x",
        "--keep",
        "0.8",
        "--method",
        "svd-llm",
        "--data",
        data,
    ]
    process(*line).fails(2, "no chat template")

"""A chat as the text that its model reads, by the tokenizer's template, and where the assistant speaks."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from eckart.types import Message, Text, UsageError

ASSISTANT = "assistant"
MARKED = re.compile(r"\{%-?\s*generation\b")
"""In a template that says itself what the assistant speaks."""


def rendered(tokenizer: Any, text: Text) -> Text:
    """A chat as text, with the spans of what the assistant says; any other text as it is.

    A span begins behind what the template puts before an answer, and ends with what it puts behind it: the
    end of the turn is learned too. A template that marks what the assistant says is taken at its word. Of a
    chat that counts as a whole all is one span.

    Raises:
        UsageError: the tokenizer has no template, or its template does not take this chat.
    """
    if not text.messages or text.answers is not None:
        return text
    if not getattr(tokenizer, "chat_template", None):
        raise UsageError(
            "the data are chats, and this model's tokenizer has no chat template: give a chat model, or "
            "prompts and completions"
        )
    whole = _made(tokenizer, text.messages)
    if text.whole:
        return replace(text, prompt="", completion=whole, answers=((0, len(whole)),))
    marked = _marked(tokenizer, text.messages, whole) if MARKED.search(str(tokenizer.chat_template)) else None
    spans = _by_prefixes(tokenizer, text.messages, whole) if marked is None else marked
    weighed = [each.learned for each in text.messages if each.role == ASSISTANT]
    if len(weighed) == len(spans):
        spans = [span for span, learned in zip(spans, weighed, strict=True) if learned]
    return replace(text, prompt="", completion=whole, answers=tuple(spans))


def _made(tokenizer: Any, messages: tuple[Message, ...], asks: bool = False, **more: Any) -> Any:
    """The template's text of some messages; with `asks` up to where an answer begins."""
    rows = [{"role": each.role, "content": each.content} for each in messages]
    try:
        return tokenizer.apply_chat_template(rows, tokenize=bool(more), add_generation_prompt=asks, **more)
    except Exception as error:  # of any template, on roles in any order
        reason = " ".join(str(error).split())
        raise UsageError(
            f"the chat template does not take {_roles(messages)}: {reason}; leave such chats out"
        ) from None


def _by_prefixes(tokenizer: Any, messages: tuple[Message, ...], whole: str) -> list[tuple[int, int]]:
    """Spans between what a template makes of the chat before an answer, and with it.

    A template may write an answer otherwise once the chat goes on, as those do that drop earlier thoughts:
    such a one is looked for by its words, and the end of its turn is not learned.
    """
    spans, end = [], 0
    for at, message in enumerate(messages):
        words = message.content.strip()
        found = whole.find(words, end)
        if message.role == ASSISTANT:
            before = _made(tokenizer, messages[:at], asks=True) if at else ""
            through = _made(tokenizer, messages[: at + 1]) if at + 1 < len(messages) else whole
            if whole.startswith(before) and whole.startswith(through):
                spans.append((len(before), len(through)))
            elif found >= 0 and words:
                spans.append((found, found + len(words)))
            else:
                raise UsageError(
                    f"the chat template leaves out what the assistant says in message {at + 1} of "
                    f"{_roles(messages)}: give one answer a chat"
                )
            end = spans[-1][1]
        elif found >= 0:
            end = found + len(words)
    return spans


def _marked(tokenizer: Any, messages: tuple[Message, ...], whole: str) -> list[tuple[int, int]] | None:
    """Runs of characters whose tokens the template marks; `None` where the tokenizer cannot say."""
    try:
        found = tokenizer.apply_chat_template(
            [{"role": each.role, "content": each.content} for each in messages],
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=True,
        )
        offsets = tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    except Exception:  # of a slow tokenizer, or of a template that marks nothing after all
        return None
    mask = found.get("assistant_masks")
    if mask is None or len(mask) != len(offsets) or not any(mask):
        return None
    spans: list[tuple[int, int]] = []
    for (start, end), inside, before in zip(offsets, mask, [0, *mask], strict=False):
        if inside and before:
            spans[-1] = (spans[-1][0], end)
        elif inside:
            spans.append((start, end))
    return spans


def coded(tokenizer: Any, text: Text) -> tuple[list[int], list[int]]:
    """Token ids of a chat that is text by now, and 1 for each that the assistant says.

    A token that reaches over the border of an answer is the answer's.

    Raises:
        UsageError: the tokenizer does not say where its tokens are.
    """
    try:
        found = tokenizer(text.text, add_special_tokens=False, return_offsets_mapping=True)
    except NotImplementedError:
        raise UsageError(
            "the data are chats, and this model's tokenizer (a slow one) does not say where its tokens are"
        ) from None
    spans = text.answers or ()
    said = [
        int(any(start < last and end > first for first, last in spans))
        for start, end in found["offset_mapping"]
    ]
    return found["input_ids"], said


def _roles(messages: tuple[Message, ...]) -> str:
    return ", ".join(each.role for each in messages[:6]) + (", …" if len(messages) > 6 else "")

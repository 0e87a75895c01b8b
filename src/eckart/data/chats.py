"""Chats in rows of data, as different makers write them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from eckart.types import Message, Text, UsageError

FIELDS = ("messages", "conversations", "conversation")
"""Of a whole chat: OpenAI's and ultrachat's name for it, and ShareGPT's."""
ROLES = {
    "human": "user",
    "prompter": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "ai": "assistant",
    "developer": "system",
    "function": "tool",
    "observation": "tool",
}
"""What others call the sides of a chat, in the words that templates know."""
ASSISTANT = "assistant"


def chat_of(row: dict[str, Any], where: str) -> Text | None:
    """The chat of a row; `None` where it has none.

    - `messages` or `conversations`: messages with `role` and `content` (text, or parts that are text), or
      with `from` and `value`. OpenAI's `weight` 0 says that an answer is not to be learned.
    - `prompt` and `completion` as lists of messages: what is asked is not learned.

    Raises:
        UsageError: a message without a role or text, or no answer in it.
    """
    field = next((name for name in FIELDS if is_chat(row.get(name))), None)
    if field is not None:
        return text_of(row[field], f"{where}, {field}")
    if is_chat(row.get("prompt")) and is_chat(row.get("completion")):
        asked = messages_of(row["prompt"], f"{where}, prompt")
        said = messages_of(row["completion"], f"{where}, completion")
        return _text([*(replace(each, learned=False) for each in asked), *said], where)
    return None


def is_chat(value: object) -> bool:
    """Whether a value is a list of messages."""
    return isinstance(value, Sequence) and bool(value) and all(isinstance(each, dict) for each in value)


def text_of(value: Sequence[Any], where: str) -> Text:
    """The chat that a list of messages is.

    Raises:
        UsageError: as `chat_of`.
    """
    return _text(messages_of(value, where), where)


def messages_of(value: Sequence[Any], where: str) -> list[Message]:
    """The messages of a list.

    Raises:
        UsageError: one has no role, or no text.
    """
    return [_message(each, f"{where}, message {number}") for number, each in enumerate(value, 1)]


def _text(messages: Sequence[Message], where: str) -> Text:
    if not any(each.role == ASSISTANT and each.learned for each in messages):
        raise UsageError(f"{where}: the chat has no answer of an assistant: leave it out")
    return Text("", "", tuple(messages))


def _message(value: dict[str, Any], where: str) -> Message:
    role = value.get("role", value.get("from"))
    if not isinstance(role, str) or not role.strip():
        raise UsageError(f'{where} has no role, as "role" or "from" names one')
    said = value.get("content", value.get("value", value.get("text")))
    every = [_part(each) for each in said] if isinstance(said, list) else [said]
    parts = [part for part in every if isinstance(part, str)]
    if not parts or len(parts) < len(every):
        raise UsageError(f"{where} has no text alone: leave such chats out (images, calls of tools)")
    name = role.strip().lower()
    weight = value.get("weight")
    return Message(ROLES.get(name, name), "".join(parts), weight is None or bool(weight))


def _part(value: object) -> Any:
    """The text of a part of a message; nothing where it is none."""
    if isinstance(value, dict):
        return value.get("text") if value.get("type", "text") == "text" else None
    return value

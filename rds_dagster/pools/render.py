r"""From messages to the exact text that is embedded: the one place where the template is decided.

The template is that of RDS+ (arXiv 2503.01807), whose turns are system, user and assistant. Of ours: a tool's turn is
"<|tool|>\n{stripped}\n", and an assistant's tool calls follow its content on a line of their own, as their JSON text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

from rds_dagster.errors import unknown_choice
from rds_dagster.schema import Message

TEMPLATE = 1
"""Number of the template's definition; part of every fingerprint that hangs on rendered text."""

What = Literal["full", "prompt", "label", "first_two"]


def render(messages: Sequence[Message], *, what: What, eos: str) -> str:
    """The text of a conversation, or of the part of it that ``what`` names; outer white space stripped.

    full: every turn. prompt: the first user turn, the system turn before it if any, and ``eos``. label: the first assistant turn.
    first_two: the first user and the first assistant turn. ``eos`` ends each assistant turn: the tokenizer's eos_token, else its sep_token.
    Raises ValueError where the conversation lacks a turn that ``what`` needs, SettingsError where ``what`` is unknown.
    """
    if what == "full":
        if not messages:
            raise ValueError("a conversation without messages has no text; drop it in cleaning first")
        return _concatenated(messages, eos)
    if what == "prompt":
        first = _first(messages, "user", what)
        system = [message for message in messages[:first] if message["role"] == "system"][:1]
        return _concatenated([*system, messages[first]], eos) + eos
    if what == "label":
        return _concatenated([messages[_first(messages, "assistant", what)]], eos)
    if what == "first_two":
        return _concatenated([messages[_first(messages, role, what)] for role in ("user", "assistant")], eos)
    raise unknown_choice("what is embedded", what, get_args(What))


def _concatenated(messages: Sequence[Message], eos: str) -> str:
    return "".join(_turn(message, eos) for message in messages).strip()


def _turn(message: Message, eos: str) -> str:
    text = message["content"].strip()
    if "tool_calls" in message:
        text = f"{text}\n{message['tool_calls']}".strip()
    return f"<|{message['role']}|>\n{text}{eos if message['role'] == 'assistant' else ''}\n"


def _first(messages: Sequence[Message], role: str, what: str) -> int:
    place = next((number for number, message in enumerate(messages) if message["role"] == role), None)
    if place is None:
        raise ValueError(
            f"the {what} of a conversation needs a turn of the {role}, and this one has none; drop such conversations in cleaning, or embed `full`"
        )
    return place

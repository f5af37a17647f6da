"""One conversation -> keep, or drop with a reason. Pure; the order of the rules decides which reason a row gets."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from rds_dagster.cleaning.settings import CleaningSettings
from rds_dagster.schema import Message

CONTROL = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f-\x84\x86-\x9f]")
"""C0 and C1 controls but tab, line feed, form feed, carriage return and next line (U+0085), which are white space."""
BROKEN = re.compile("[\ud800-\udfff\ufffd]")
"""Lone surrogates, and U+FFFD, which a lossy decoder wrote in place of what it could not read."""


@dataclass(frozen=True)
class Drop:
    """Why a conversation leaves the flow."""

    reason: str
    detail: str


Filter = Callable[[list[Message], CleaningSettings], Drop | None]


def first_drop(messages: list[Message], settings: CleaningSettings) -> Drop | None:
    """The first rule that drops the conversation; None to keep it."""
    for rule in RULES:
        if drop := rule(messages, settings):
            return drop
    return None


def too_long(messages: list[Message], settings: CleaningSettings) -> Drop | None:
    """More characters in all than ``max_chars``."""
    num_chars = sum(len(message["content"]) for message in messages)
    return (
        Drop("too_long", f"{num_chars:,} characters, at most {settings.max_chars:,} are kept (cleaning.max_chars)") if num_chars > settings.max_chars else None
    )


def broken_unicode(messages: list[Message], _: CleaningSettings) -> Drop | None:
    """A lone surrogate or U+FFFD anywhere."""
    if all(message["content"].isascii() and len(message) == 2 for message in messages):  # a flag of the text, so nothing is searched
        return None
    return _found(BROKEN, "broken_unicode", messages)


def control_characters(messages: list[Message], _: CleaningSettings) -> Drop | None:
    """A control character anywhere in a content."""
    return _found(CONTROL, "control_characters", messages)


def bad_structure(messages: list[Message], _: CleaningSettings) -> Drop | None:
    """No user turn, or a system turn after the first user turn."""
    roles = [message["role"] for message in messages]
    if "user" not in roles:
        return Drop("bad_structure", f"no user turn among roles {roles[:10]}")
    if "system" in roles[roles.index("user") :]:
        return Drop("bad_structure", "a system turn stands after a user turn")
    return None


def no_answer(messages: list[Message], _: CleaningSettings) -> Drop | None:
    """The last turn is not the assistant's."""
    return None if messages[-1]["role"] == "assistant" else Drop("no_answer", f"the last turn is the {messages[-1]['role']}'s")


def empty_answer(messages: list[Message], _: CleaningSettings) -> Drop | None:
    """An assistant turn of white space alone that calls no tool."""
    for number, message in enumerate(messages, 1):
        if message["role"] == "assistant" and not message["content"].strip() and not message.get("tool_calls"):
            return Drop("empty_answer", f"turn {number} is the assistant's and holds nothing")
    return None


def empty_question(messages: list[Message], _: CleaningSettings) -> Drop | None:
    """All user turns are white space alone."""
    asked = any(message["role"] == "user" and message["content"].strip() for message in messages)
    return None if asked else Drop("empty_question", "no user turn holds anything")


RULES: tuple[Filter, ...] = (broken_unicode, bad_structure, no_answer, empty_answer, empty_question, control_characters, too_long)


def _found(pattern: re.Pattern[str], reason: str, messages: list[Message]) -> Drop | None:
    for number, message in enumerate(messages, 1):
        for value in message.values():
            if isinstance(value, str) and (match := pattern.search(value)):
                return Drop(reason, f"U+{ord(match.group()):04X} at character {match.start() + 1} of turn {number}")
    return None

"""From a record, whatever its shape, to messages; contents verbatim.

    messages         messages: [{role, content, name?, tool_calls?, tool_call_id?}, ...]
    sharegpt         conversations: [{from, value}, ...]
    alpaca           instruction, input?, output; history?: [[prompt, reply], ...]
    prompt_response  prompt | instruction | question, context?, with response | completion | answer

Decided here, where usage differs: the keys of a turn may be role/content or from/value under either list. A top-level ``system``
or ``system_prompt`` becomes the first turn unless the list begins with a system turn; Alpaca's ``history`` becomes the turns
before the instruction; both were part of what the model was shown. ``developer`` is today's name for the system role.
``function_call`` is a role (an assistant's call as text) in ShareGPT, and an older form of ``tool_calls`` in a message. Lists of
tools on offer, weights and other keys are not part of a conversation.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from rds_dagster.pools.settings import Shape
from rds_dagster.schema import ROLES, Message

ALIASES: dict[str, str] = {
    "human": "user", "prompter": "user",
    "gpt": "assistant", "bot": "assistant", "model": "assistant", "chatgpt": "assistant", "ai": "assistant", "function_call": "assistant",
    "developer": "system",
    "function": "tool", "observation": "tool",
}  # fmt: skip
_ROLE_OF: dict[str, str] = {role: role for role in ROLES} | ALIASES

PROMPT_KEYS = ("prompt", "instruction", "question")
REPLY_KEYS = ("response", "completion", "answer")
SYSTEM_KEYS = ("system", "system_prompt")
SOURCE_KEYS = ("source", "dataset")
ID_KEYS = ("id", "uuid", "idx")
KNOWN_COLUMNS = frozenset(
    ("messages", "conversations", "instruction", "input", "output", "history", "context", *PROMPT_KEYS, *REPLY_KEYS, *SYSTEM_KEYS, *SOURCE_KEYS, *ID_KEYS)
)
KNOWN_SHAPES = "messages; conversations; instruction, input, output; prompt, response (or completion, question, answer)"


class Conversation(NamedTuple):
    """A record's messages, and what it says of its source and id (None where it does not)."""

    messages: list[Message]
    source: str | None
    original_id: str | None


@dataclass(frozen=True, slots=True)
class Rejected:
    """Why a record is no conversation: unknown_shape, unknown_role, not_text or bad_structure; ``detail`` names the turn and what was expected."""

    reason: Literal["unknown_shape", "unknown_role", "not_text", "bad_structure"]
    detail: str


class _Misfit(Exception):
    def __init__(self, reason: Literal["unknown_shape", "unknown_role", "not_text", "bad_structure"], detail: str) -> None:
        self.rejected = Rejected(reason, detail)


def fits_a_shape(keys: Collection[str]) -> bool:
    """Whether a record with these keys can have a shape."""
    return _shape_of(frozenset(keys)) is not None


def detect_shape(value: Mapping[str, object]) -> Shape | None:
    """The shape of one record by its keys: those that are not null if they suffice, else all; None if no shape has them."""
    if value.get("messages") is not None:  # the first that is looked for
        return "messages"
    return _shape_of({key for key, item in value.items() if item is not None}) or _shape_of(value.keys())


def _shape_of(keys: Collection[str]) -> Shape | None:
    if "messages" in keys:
        return "messages"
    if "conversations" in keys:
        return "sharegpt"
    if "instruction" in keys and "output" in keys:
        return "alpaca"
    if any(key in keys for key in PROMPT_KEYS) and any(key in keys for key in REPLY_KEYS):
        return "prompt_response"
    return None


def to_messages(value: Mapping[str, object], shape: Literal["auto"] | Shape) -> Conversation | Rejected:
    """The conversation in a record, or why there is none; ``shape`` auto decides for this record alone, so a file may mix shapes."""
    found = detect_shape(value) if shape == "auto" else shape
    try:
        if found is None:
            keys = ", ".join(sorted(map(repr, value))[:12]) or "none"
            raise _Misfit("unknown_shape", f"the keys are {keys}; expected {KNOWN_SHAPES}")
        if found == "messages":
            messages = _turns(value.get("messages"), "messages")
        elif found == "sharegpt":
            messages = _turns(value.get("conversations"), "conversations")
        elif found == "alpaca":
            messages = _alpaca(value)
        else:
            messages = _prompt_response(value)
        system = _optional_text(value, *SYSTEM_KEYS)
        if system and messages[0]["role"] != "system":
            messages.insert(0, {"role": "system", "content": system})
    except _Misfit as misfit:
        return misfit.rejected
    return Conversation(messages, _source(value), _original_id(value))


def _turns(turns: object, key: str) -> list[Message]:
    if not isinstance(turns, list):
        raise _Misfit("bad_structure", f"{key} is {_kind(turns)}; expected a list of turns")
    if not turns:
        raise _Misfit("bad_structure", f"{key} is an empty list")
    return [_plain_turn(turn) or _turn(turn, f"{key}[{number}]") for number, turn in enumerate(turns)]


def _plain_turn(turn: object) -> Message | None:
    """The message of a turn that holds a known role and a text and nothing else, as nearly all do; None of any other."""
    if type(turn) is dict and len(turn) == 2:
        said, content = turn.get("role"), turn.get("content")
        if type(said) is str and type(content) is str and (role := _ROLE_OF.get(said)) is not None:
            return {"role": role, "content": content}
    return None


def _turn(turn: object, where: str) -> Message:
    """One message; ``where`` names the turn, counted from 0."""
    if not isinstance(turn, dict):
        raise _Misfit("bad_structure", f"{where} is {_kind(turn)}; expected an object with role and content")
    said = turn.get("role")
    if said is None:
        said = turn.get("from")
    role = _ROLE_OF.get(said) or _ROLE_OF.get(said.strip().lower()) if isinstance(said, str) else None
    if role is None:
        if said is None:
            raise _Misfit("bad_structure", f"{where} has no role")
        raise _Misfit("unknown_role", f"the role of {where} is {_short(said)}; known are {', '.join(sorted(_ROLE_OF))}")
    content = turn.get("content")
    if content is None:
        content = turn.get("value")
    calls = _tool_calls(turn, where)
    if type(content) is not str:
        content = _content(content, where, has_calls=calls is not None)
    message: Message = {"role": role, "content": content}
    if (name := _label(turn, "name", where)) is not None:
        message["name"] = name
    if calls is not None:
        message["tool_calls"] = calls
    if (call_id := _label(turn, "tool_call_id", where)) is not None:
        message["tool_call_id"] = call_id
    return message


def _content(content: object, where: str, *, has_calls: bool) -> str:
    if isinstance(content, list):
        return "".join(_part(part, f"{where}.content[{number}]") for number, part in enumerate(content))
    if content is None and has_calls:
        return ""
    raise _Misfit("bad_structure", f"the content of {where} is {'missing' if content is None else _kind(content)}; expected text")


def _part(part: object, where: str) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, dict):
        raise _Misfit("bad_structure", f"{where} is {_kind(part)}; expected a part with type and text")
    kind, text = part.get("type"), part.get("text")
    if kind not in (None, "text", "input_text", "output_text"):
        raise _Misfit("not_text", f"{where} is a part of type {_short(kind)}; only text is read")
    if not isinstance(text, str):
        raise _Misfit("bad_structure", f"the text of {where} is {_kind(text)}; expected text")
    return text


def _tool_calls(turn: Mapping[str, object], where: str) -> str | None:
    """The calls as JSON text with sorted keys, or None; nulls that a table's columns put into a call or its function are left out."""
    calls = turn.get("tool_calls")
    if not calls and turn.get("function_call"):
        calls = [turn["function_call"]]
    if not calls:
        return None
    try:
        if isinstance(calls, str):
            calls = json.loads(calls)
        if isinstance(calls, list):
            calls = [_without_nulls(call) for call in calls]
        return json.dumps(calls, sort_keys=True, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise _Misfit("bad_structure", f"the tool_calls of {where} are not JSON: {_short(str(error))}") from error


def _without_nulls(call: object) -> object:
    if not isinstance(call, dict):
        return call
    return {key: _without_nulls(item) if key == "function" else item for key, item in call.items() if item is not None}


def _label(turn: Mapping[str, object], key: str, where: str) -> str | None:
    value = turn.get(key)
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise _Misfit("bad_structure", f"the {key} of {where} is {_kind(value)}; expected text")


def _alpaca(value: Mapping[str, object]) -> list[Message]:
    messages: list[Message] = []
    history = value.get("history") or []
    if not isinstance(history, list):
        raise _Misfit("bad_structure", f"history is {_kind(history)}; expected a list of pairs")
    for number, pair in enumerate(history):
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise _Misfit("bad_structure", f"history[{number}] is {_kind(pair)}; expected a pair of texts")
        messages += _exchange(*pair)
    return messages + _exchange(_joined(_text(value, "instruction"), _optional_text(value, "input")), _text(value, "output"))


def _prompt_response(value: Mapping[str, object]) -> list[Message]:
    prompt = _text(value, *PROMPT_KEYS)
    return _exchange(_joined(prompt, _optional_text(value, "context")), _text(value, *REPLY_KEYS))


def _exchange(prompt: str, reply: str) -> list[Message]:
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": reply}]


def _joined(instruction: str, more: str) -> str:
    return f"{instruction}\n\n{more}" if more.strip() else instruction


def _text(value: Mapping[str, object], *keys: str) -> str:
    """The first of the keys that is not null, which must be text."""
    key = next((key for key in keys if value.get(key) is not None), None)
    if key is None:
        raise _Misfit("bad_structure", f"{' / '.join(keys)} is missing or null; expected text")
    text = value[key]
    if not isinstance(text, str):
        raise _Misfit("bad_structure", f"{key} is {_kind(text)}; expected text")
    return text


def _optional_text(value: Mapping[str, object], *keys: str) -> str:
    for key in keys:
        if value.get(key) is not None:
            return _text(value, key)
    return ""


def _source(value: Mapping[str, object]) -> str | None:
    for key in SOURCE_KEYS:
        if isinstance(said := value.get(key), str) and said:
            return _writable(said)
    return None


def _original_id(value: Mapping[str, object]) -> str | None:
    for key in ID_KEYS:
        if isinstance(said := value.get(key), (str, int, float)):
            return _writable(str(said))
    return None


def _writable(text: str) -> str:
    """The text, with halves of surrogate pairs spelt out: it goes into tables, which hold UTF-8."""
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()


def _kind(value: object) -> str:
    return "missing or null" if value is None else f"of type {type(value).__name__}"


def _short(value: object) -> str:
    if not isinstance(value, str):
        return _kind(value)
    text = repr(value[:60])  # spells out halves of surrogate pairs, so that it fits in a table
    return text if len(text) <= 60 else text[:57] + "..."

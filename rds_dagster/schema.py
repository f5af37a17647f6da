"""The contracts between stages: what an example is, and one Arrow schema per table.

An *example* is one conversation. Its id is BLAKE2b-128 of the UTF-8 JSON list of its messages, contents verbatim as
read: the same text is the same example wherever it came from. Ids are 16 raw bytes everywhere; hex only where people read.
"""

from __future__ import annotations

from json.encoder import encode_basestring
from typing import Literal, NotRequired, TypedDict

import pyarrow as pa

from rds_dagster.fingerprint import content_digest

ID_SCHEME = 1
"""Number of the id's definition; part of every code version, so that a change of it makes everything anew."""

Role = Literal["system", "user", "assistant", "tool"]
ROLES: tuple[Role, ...] = ("system", "user", "assistant", "tool")


class Message(TypedDict):
    """One turn; the fields after ``content`` are left out when absent. ``tool_calls`` is JSON text with sorted keys."""

    role: str
    content: str
    name: NotRequired[str]
    tool_calls: NotRequired[str]
    tool_call_id: NotRequired[str]


MESSAGE_FIELDS = ("role", "content", "name", "tool_calls", "tool_call_id")


def example_id(messages: list[Message]) -> bytes:
    """The 16-byte id of a conversation (scheme 1); raises UnicodeEncodeError where a content holds a lone surrogate."""
    return content_digest(_canonical(messages))


def duplicate_key(messages: list[Message]) -> bytes:
    """16 bytes that are equal for conversations alike but for white space: every run of it counts as one blank, none at the ends.

    Letter case, punctuation and roles count. Used to find exact duplicates; never an id.
    """
    return content_digest(_canonical([{**message, "content": " ".join(message["content"].split())} for message in messages]))


def id_and_duplicate_key(messages: list[Message]) -> tuple[bytes, bytes]:
    """``example_id`` and ``duplicate_key`` in one go: the same digest where no white space tells them apart."""
    example = example_id(messages)
    normalised = [" ".join(message["content"].split()) for message in messages]
    if all(text == message["content"] for text, message in zip(normalised, messages, strict=True)):
        return example, example
    return example, content_digest(_canonical([{**message, "content": text} for text, message in zip(normalised, messages, strict=True)]))


def _canonical(messages: list[Message]) -> bytes:
    """The JSON list of the messages: no blanks, nothing but quotes, backslashes and controls escaped, fields in the order of MESSAGE_FIELDS.

    Put together here, from json's own way with a text: ``json.dumps`` makes an encoder for every call, which was half of the time.
    """
    turns = []
    for message in messages:
        turn = f'{{"role":{encode_basestring(message["role"])},"content":{encode_basestring(message["content"])}'
        if len(message) > 2:
            for field in MESSAGE_FIELDS[2:]:
                if (value := message.get(field)) is not None:
                    turn += f',"{field}":{encode_basestring(value)}'  # type: ignore[arg-type]  # text, as all fields are
        turns.append(turn + "}")
    return f"[{','.join(turns)}]".encode()


ID = pa.binary(16)
MESSAGES = pa.list_(pa.struct([pa.field(name, pa.string()) for name in MESSAGE_FIELDS]))


def _schema(**fields: pa.DataType) -> pa.Schema:
    return pa.schema([pa.field(name, kind) for name, kind in fields.items()])


RAW_FILE = _schema(file=pa.string(), size=pa.int64(), digest=pa.string())
"""One file of a pool: path relative to the pool's root, bytes, BLAKE2b-128 in hex."""

SHARD = _schema(
    id=ID, duplicate_key=ID, messages=MESSAGES, source=pa.string(), original_id=pa.string(), line=pa.int64(), num_messages=pa.int32(), num_chars=pa.int32()
)
"""One valid conversation as it stands in one file of a pool; ``line`` counts from 1 (the row for Parquet, the element for a JSON array)."""

CLEAN = _schema(id=ID, duplicate_key=ID, source=pa.string(), num_messages=pa.int32(), num_chars=pa.int32(), shard=pa.int32(), row=pa.int32())
"""One valid conversation of a pool, in id order; its text is row ``row`` (from 0) of shard number ``shard``."""

PROVENANCE = _schema(id=ID, pool=pa.string(), file=pa.string(), line=pa.int64(), original_id=pa.string(), source=pa.string())
"""One place where an example stands, in order of id, file, line."""

QUARANTINE = _schema(stage=pa.string(), reason=pa.string(), pool=pa.string(), file=pa.string(), line=pa.int64(), id=ID, detail=pa.string(), excerpt=pa.string())
"""One row that left the flow: where it stood, why it left; id only where one could be computed, excerpt at most 200 characters."""

UNIQUE = _schema(id=ID, source=pa.string())
"""One example kept after deduplication over all pools, in id order."""

LOSER = _schema(id=ID, reason=pa.string(), keeper_id=ID, keeper_pool=pa.string())
"""One example that lost to another: the keeper's id and the pool that owns it."""

QUERY = _schema(query=pa.string(), id=ID, messages=MESSAGES, text=pa.string(), num_tokens=pa.int32())
"""One query of a target task, in the file's order; the encoder's table adds ``vector``, a list of D float32."""

TEST_ITEM = _schema(item=pa.string(), id=ID, messages=MESSAGES)
"""One held-out item of a target task: for decontamination and evaluation, never for selection."""

SCORE = _schema(id=ID, score=pa.float32(), best_query=pa.int32())
"""One example's score for one task: the largest cosine to a query, and that query's number (from 0) in the query set."""

TOP = _schema(query=pa.int32(), rank=pa.int32(), id=ID, score=pa.float32())
"""One place in a query's top list: rank from 1, higher scores first, ties to the smaller id."""

SELECTED = _schema(
    position=pa.int32(), id=ID, pool=pa.string(), source=pa.string(), task=pa.string(), query=pa.string(),
    rank=pa.int64(), score=pa.float32(), method=pa.string(), messages=MESSAGES,
)  # fmt: skip
"""One selected example in the order of picking (position from 1): the query of the task that chose it, at which rank and score."""


def vectors(dims: int) -> pa.Schema:
    """One embedded example: D float16, its length in tokens, and the device kind and versions that made it."""
    return _schema(id=ID, vector=pa.list_(pa.float16(), dims), num_tokens=pa.int32(), made_on=pa.string())

"""How each demo pool is written: its record shape, its container, and the rows that are broken in ways this container can hold."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from rds_dagster.demo.phrases import Conversation

Container = Literal["jsonl", "jsonl.gz", "jsonl.zst", "json_array", "parquet"]
Value = dict[str, object] | list[object] | str | int | None
Row = bytes | Value
"""A record as the container holds it; bytes are a line of JSON Lines written as they are."""


@dataclass(frozen=True, eq=False)
class Draft:
    """A record before it has a place. Exactly one of ``conversation`` (valid) and ``broken`` (reason and row) is given; compared by identity."""

    conversation: Conversation | None = None
    source: str | None = None
    broken: tuple[str, Row] | None = None


def messages_record(identity: str, draft: Draft) -> dict[str, object]:
    """Shape messages: a list of role and content."""
    assert draft.conversation is not None
    return {"id": identity, **_source(draft), "messages": list(draft.conversation)}


def sharegpt_record(identity: str, draft: Draft) -> dict[str, object]:
    """Shape ShareGPT: a list of from and value, with human and gpt."""
    assert draft.conversation is not None
    names = {"user": "human", "assistant": "gpt", "system": "system"}
    return {"id": identity, "conversations": [{"from": names[message["role"]], "value": message["content"]} for message in draft.conversation]}


def alpaca_record(identity: str, draft: Draft) -> dict[str, object]:
    """Shape Alpaca: the user turn's first paragraph is the instruction and the rest, if any, the input."""
    question, answer = _pair(draft)
    instruction, _, more = question.partition("\n\n")
    return {"id": identity, "instruction": instruction, "input": more, "output": answer}


def prompt_record(identity: str, draft: Draft) -> dict[str, object]:
    """Shape prompt/response."""
    question, answer = _pair(draft)
    return {"id": identity, **_source(draft), "prompt": question, "response": answer}


Shape = Callable[[str, Draft], dict[str, object]]


def encode(container: Container, rows: Sequence[Row]) -> bytes:
    """The whole file; the same rows give the same bytes (gzip without time, zstd at a fixed level, Parquet has no time)."""
    if container == "parquet":
        return _parquet([row for row in rows if isinstance(row, dict)])
    if container == "json_array":
        return b"[\n" + b",\n".join(_line(row) for row in rows) + b"\n]\n"
    text = b"".join(_line(row) + b"\n" for row in rows)
    if container == "jsonl.gz":
        packed = io.BytesIO()
        with gzip.GzipFile(filename="", mode="wb", fileobj=packed, mtime=0) as stream:
            stream.write(text)
        return packed.getvalue()
    return zstandard.ZstdCompressor(level=10).compress(text) if container == "jsonl.zst" else text


def _line(row: Row) -> bytes:
    if isinstance(row, bytes):
        return row
    text = json.dumps(row, ensure_ascii=False)
    try:
        return text.encode()
    except UnicodeEncodeError:  # a lone surrogate, which JSON can only hold as an escape
        return json.dumps(row).encode()


def _parquet(rows: Sequence[dict[str, object]]) -> bytes:
    """Columns id, prompt, response; texts given as bytes go in as they are, even where they are not UTF-8."""

    def column(name: str) -> pa.Array:
        values = [value.encode() if isinstance(value := row.get(name), str) else value for row in rows]
        return pa.array(values, pa.binary()).view(pa.string())

    packed = io.BytesIO()
    names = ("id", "prompt", "response")
    pq.write_table(pa.table({name: column(name) for name in names}), packed, compression="zstd", row_group_size=128)
    return packed.getvalue()


def _pair(draft: Draft) -> tuple[str, str]:
    assert draft.conversation is not None
    question, answer = draft.conversation  # a pool of this shape holds single exchanges only
    return question["content"], answer["content"]


def _source(draft: Draft) -> dict[str, str]:
    return {"source": draft.source} if draft.source else {}

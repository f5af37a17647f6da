"""One file of a pool as records, one at a time and in bounded memory.

A bad row comes out as a record with a reason, and the reader goes on; a broken file raises InputError. JSON is read strictly
(RFC 8259): NaN, Infinity, numbers beyond float64, and objects in which a key stands twice (which text was meant?) are malformed.
"""

from __future__ import annotations

import codecs
import io
import json
import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from rds_dagster.errors import InputError
from rds_dagster.pools.addresses import readable
from rds_dagster.pools.compression import DamagedError
from rds_dagster.pools.files import PoolFile, open_bytes, open_text_bytes
from rds_dagster.pools.settings import Format
from rds_dagster.pools.shapes import KNOWN_COLUMNS, KNOWN_SHAPES, PROMPT_KEYS, fits_a_shape

MAX_LINE_BYTES = 64 << 20  # one conversation; the largest in public instruction pools are a few MB
EXCERPT_CHARS = 200  # schema.QUARANTINE
PARQUET_ROWS = 256  # rows held as Python objects at once
PARQUET_BUFFER = 1 << 20  # bytes read at once of a column, so that a row group of any size streams
EDGE_CHARS = 16  # a sound JSON text cut off at any place fails within its last 12 characters (a pair of \uXXXX), or as an open string
_BOM = b"\xef\xbb\xbf"
_TEXT_KEYS = ("messages", "conversations", *PROMPT_KEYS, "content", "value", "text")
_BLANK = re.compile(r"[ \t\r\n]*")


class Record(NamedTuple):
    """One row of a file: its value, or the reason why it has none.

    ``line`` counts from 1: the line of JSON Lines, the element of a JSON array, the row of Parquet. ``reason`` is None, malformed_json,
    invalid_utf8, not_an_object or line_too_long. ``excerpt`` is how the row begins (of a Parquet row, its first text), at most 200 characters.
    """

    line: int
    value: dict[str, object] | None
    reason: str | None
    detail: str
    excerpt: str


def read_records(pool_file: PoolFile, *, format: Literal["auto"] | Format = "auto") -> Iterator[Record]:
    """All rows of a file in order; blank lines are none, an empty file has none.

    ``format`` auto goes by the ending; a .json file whose first line is a whole object is read as JSON Lines. Raises InputError where the file
    is gone, cut off or damaged, where its format is another, and where a Parquet file's columns fit no shape (before the first row).
    """
    kind = _format_of(pool_file, format)
    with readable(pool_file.address):
        if kind == "parquet":
            yield from _read_parquet(pool_file)
        elif kind == "json":
            yield from _read_array(pool_file)
        else:
            yield from _read_lines(pool_file)


def _format_of(pool_file: PoolFile, format: Literal["auto"] | Format) -> Format:
    name = pool_file.address.lower()
    if name.endswith(".parquet") != (format == "parquet") and format != "auto":
        raise InputError(f"{pool_file.address} is to be read as {format}, which its ending contradicts; leave `format` out, or narrow `source`")
    if format != "auto":
        return format
    if name.endswith(".parquet"):
        return "parquet"
    if name.endswith((".json", ".json.gz", ".json.zst")):
        with readable(pool_file.address), open_text_bytes(pool_file.address) as stream:
            return "jsonl" if _is_lines(stream) else "json"
    return "jsonl"


def _is_lines(stream: io.BufferedReader) -> bool:
    """Whether a .json file looks like JSON Lines: an object begins it, and more than the brace stands in the first line."""
    start = stream.read1(1 << 16).removeprefix(_BOM).lstrip()
    return start.startswith(b"{") and start.partition(b"\n")[0].strip() != b"{"


class _StrictJson:
    """json's decoder, with ``flaw`` saying what strict JSON does not have; reset by the caller before each text."""

    def __init__(self) -> None:
        self.flaw = ""
        self._decoder = json.JSONDecoder(
            parse_constant=self._constant, parse_float=self._float, parse_int=self._int, object_pairs_hook=self._object
        )  # fmt: skip
        self.raw_decode = self._decoder.raw_decode

    def whole(self, text: str) -> object:
        self.flaw = ""
        return self._decoder.decode(text)

    def _constant(self, name: str) -> None:
        self.flaw = f"{name} is not JSON"

    def _float(self, digits: str) -> float:
        number = float(digits)
        if number in (float("inf"), float("-inf")):
            self.flaw = f"the number {digits[:40]} is too large"
        return number

    def _int(self, digits: str) -> int:
        if len(digits) > 4000:  # Python refuses to convert more than 4,300
            self.flaw = f"the number {digits[:40]}... has {len(digits):,} digits"
            return 0
        return int(digits)

    def _object(self, pairs: list[tuple[str, object]]) -> dict[str, object]:
        made = dict(pairs)
        if len(made) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            self.flaw = f"the key {twice[:40]!r} stands twice in one object"
        return made


def _read_lines(pool_file: PoolFile) -> Iterator[Record]:
    parser = _StrictJson()
    number = 0
    with open_text_bytes(pool_file.address) as stream:
        try:
            while line := stream.readline(MAX_LINE_BYTES + 1):
                number += 1
                if number == 1:
                    line = line.removeprefix(_BOM)
                if len(line) > MAX_LINE_BYTES and not line.endswith(b"\n"):
                    _skip_line(stream)
                    yield _bad(number, "line_too_long", f"more than {MAX_LINE_BYTES:,} bytes", line[: 4 * EXCERPT_CHARS].decode(errors="replace"))
                elif (record := _line_record(parser, number, line)) is not None:
                    yield record
        except DamagedError as error:
            raise InputError(f"{pool_file.file}, after line {number:,}: {error}") from error


def _skip_line(stream: io.BufferedReader) -> None:
    while (rest := stream.readline(1 << 20)) and not rest.endswith(b"\n"):
        pass


def _line_record(parser: _StrictJson, number: int, line: bytes) -> Record | None:
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        detail = f"byte {error.start + 1} of the line (0x{line[error.start]:02x}): {error.reason}"
        return _bad(number, "invalid_utf8", detail, line[: 4 * EXCERPT_CHARS].decode(errors="replace"))
    try:
        value = parser.whole(text)
    except json.JSONDecodeError as error:
        if not line.strip():
            return None
        return _bad(number, "malformed_json", f"{error.msg} at character {error.pos + 1}", text)
    except RecursionError:
        return _bad(number, "malformed_json", "nested too deeply", text)
    return _record(number, value, parser.flaw, text)


def _record(number: int, value: object, flaw: str, text: str) -> Record:
    if flaw:
        return _bad(number, "malformed_json", flaw, text)
    if not isinstance(value, dict):
        return _bad(number, "not_an_object", f"expected an object with a conversation, found {_json_kind(value)}", text)
    return Record(number, value, None, "", text[:EXCERPT_CHARS].rstrip())


def _bad(number: int, reason: str, detail: str, text: str) -> Record:
    return Record(number, None, reason, detail, text[:EXCERPT_CHARS].rstrip())


def _json_kind(value: object) -> str:
    names = {list: "an array", str: "text", bool: "true or false", int: "a number", float: "a number", type(None): "null"}
    return names[type(value)]


class _Window:
    """The part of a JSON text under the eye: blocks come in at the end as needed, what was used falls off the front."""

    def __init__(self, stream: io.BufferedReader) -> None:
        self.text, self.at, self.is_ended = "", 0, False
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")  # invalid bytes are found again in the element that holds them

    def grow(self, num_bytes: int) -> None:
        block = self._stream.read1(num_bytes)  # what is sound before a damaged place comes out first
        self.is_ended = not block
        self.text = self.text[self.at :] + self._decoder.decode(block, final=not block)
        self.at = 0

    def next_char(self) -> str:
        """The next character that is not blank, without taking it; empty at the end."""
        while True:
            blank = _BLANK.match(self.text, self.at)
            assert blank is not None
            self.at = blank.end()
            if self.at < len(self.text) or self.is_ended:
                return self.text[self.at : self.at + 1]
            self.grow(1 << 20)

    def take_element(self, parser: _StrictJson) -> tuple[object, str]:
        """The value that begins here, and its text; raises JSONDecodeError where it is malformed, ends early, or is longer than MAX_LINE_BYTES."""
        num_bytes = 1 << 20
        while True:
            parser.flaw = ""
            try:
                value, end = parser.raw_decode(self.text, self.at)
            except json.JSONDecodeError as error:
                is_open = error.msg.startswith("Unterminated string") or error.pos > len(self.text) - EDGE_CHARS
                if self.is_ended or not is_open:
                    raise
                if len(self.text) - self.at > MAX_LINE_BYTES:
                    raise json.JSONDecodeError(f"more than {MAX_LINE_BYTES:,} characters", "", 0) from error
            else:
                if end < len(self.text) or self.is_ended:  # at the edge, a number may go on
                    text = self.text[self.at : end]
                    self.at = end
                    return value, text
            self.grow(num_bytes)
            num_bytes *= 2  # so that a long element is parsed anew a few times only


def _read_array(pool_file: PoolFile) -> Iterator[Record]:
    parser = _StrictJson()
    number = 0
    with open_text_bytes(pool_file.address) as stream:
        window = _Window(stream)
        try:
            if not _enter_array(window, pool_file):
                return
            while True:
                number += 1
                yield _element_record(parser, number, window, pool_file)
                separator = window.next_char()
                window.at += 1
                if separator == "]":
                    break
                if separator != ",":
                    raise _broken_array(pool_file, number, f"expected , or ] after it, found {separator!r}" if separator else "the file ends after it")
                window.next_char()
            if trailing := window.next_char():
                raise _broken_array(pool_file, number, f"{trailing!r} stands after the end of the array")
        except DamagedError as error:
            raise InputError(f"{pool_file.file}, after element {number:,}: {error}") from error


def _enter_array(window: _Window, pool_file: PoolFile) -> bool:
    """Go to the first element; False if there is none."""
    first = window.next_char()
    if first == "\ufeff":
        window.at += 1
        first = window.next_char()
    if not first:
        return False
    if first != "[":
        raise InputError(f"{pool_file.address} begins with {first!r}, expected a JSON array; write the records as one array, or one to a line as .jsonl")
    window.at += 1
    if window.next_char() != "]":
        return True
    window.at += 1
    if trailing := window.next_char():
        raise _broken_array(pool_file, 0, f"{trailing!r} stands after the end of the array")
    return False


def _element_record(parser: _StrictJson, number: int, window: _Window, pool_file: PoolFile) -> Record:
    try:
        value, text = window.take_element(parser)
    except json.JSONDecodeError as error:
        rest = error.doc[error.pos : error.pos + EDGE_CHARS].strip()
        is_cut = window.is_ended and (error.msg.startswith("Unterminated string") or any(word.startswith(rest) for word in ("true", "false", "null", "-")))
        raise _broken_array(pool_file, number, "the file ends within it" if is_cut else f"{error.msg}") from error
    except RecursionError as error:
        raise _broken_array(pool_file, number, "it is nested too deeply") from error
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            shown = text[: 4 * EXCERPT_CHARS].encode(errors="surrogateescape").decode(errors="replace")
            return _bad(number, "invalid_utf8", f"character {error.start + 1} of the element (0x{ord(text[error.start]) - 0xDC00:02x}): not UTF-8", shown)
    return _record(number, value, parser.flaw, text)


def _broken_array(pool_file: PoolFile, number: int, what: str) -> InputError:
    return InputError(
        f"{pool_file.address}: the JSON array breaks at element {number:,}: {what}; nothing after that place can be trusted: "
        "write the file again, or as JSON Lines (.jsonl), where a bad line costs one record"
    )


def _read_parquet(pool_file: PoolFile) -> Iterator[Record]:
    number = 0
    with open_bytes(pool_file.address) as stream:
        if stream.seek(0, 2) == 0:
            return
        stream.seek(0)
        try:
            table = pq.ParquetFile(stream, pre_buffer=False, buffer_size=PARQUET_BUFFER)
            found = table.schema_arrow.names
            if not fits_a_shape(found):
                raise InputError(f"{pool_file.address} has the columns {', '.join(found)}, which fit no known shape ({KNOWN_SHAPES}); rename its columns")
            columns = [name for name in found if name in KNOWN_COLUMNS]
            for batch in table.iter_batches(PARQUET_ROWS, columns=columns, use_threads=False):
                yield from _batch_records(batch, number)
                number += batch.num_rows
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:  # the disk's or the network's, not the file's
                raise
            raise InputError(f"{pool_file.address} is damaged Parquet, after row {number:,}: {error}; fetch or write the file again") from error


def _batch_records(batch: pa.RecordBatch, before: int) -> Iterator[Record]:
    try:
        rows = batch.to_pylist()
    except UnicodeDecodeError:
        for row in range(batch.num_rows):
            yield _row_record(batch.slice(row, 1), before + row + 1)
        return
    for row, value in enumerate(rows):
        yield Record(before + row + 1, value, None, "", _first_text(value)[:EXCERPT_CHARS])


def _row_record(row: pa.RecordBatch, number: int) -> Record:
    try:
        value = row.to_pylist()[0]
    except UnicodeDecodeError as error:
        return _bad(number, "invalid_utf8", f"byte {error.start + 1} of a text of the row: {error.reason}", bytes(error.object).decode(errors="replace"))
    return Record(number, value, None, "", _first_text(value)[:EXCERPT_CHARS])


def _first_text(value: object) -> str:
    """The first text of the conversation in a row, as far as its keys tell; else the first text at all."""
    if isinstance(value, str):
        return value
    parts: list[object] = []
    if isinstance(value, dict):
        parts = [value[key] for key in _TEXT_KEYS if value.get(key)] or list(value.values())
    elif isinstance(value, list):
        parts = value
    return next((text for text in map(_first_text, parts) if text), "")

import gzip
import json
import os
import subprocess
import sys
import tracemalloc
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from rds_dagster import schema
from rds_dagster.errors import InputError
from rds_dagster.pools.files import list_files
from rds_dagster.pools.readers import MAX_LINE_BYTES, Record, read_records
from rds_dagster.pools.shapes import Conversation, to_messages

PACK = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}


def read(path: Path, data: bytes | None = None, format="auto") -> list[Record]:
    if data is not None:
        path.write_bytes(data)
    (file,) = list_files(path.name, root=path.parent)
    return list(read_records(file, format=format))


def brief(records: list[Record]):
    return [(record.line, record.reason or record.value) for record in records]


GOOD = [{"prompt": f"p{number}", "response": "ä\u2028\n"} for number in range(5)]


@pytest.mark.parametrize("packing", PACK)
@pytest.mark.parametrize("ascii_only", [True, False])
def test_json_lines_and_arrays_are_read_packed_or_not(tmp_path, packing, ascii_only):
    dumps = json.JSONEncoder(ensure_ascii=ascii_only).encode
    lines = PACK[packing]("\r\n".join(map(dumps, GOOD)).encode())
    array = PACK[packing](json.dumps(GOOD, ensure_ascii=ascii_only, indent=1).encode())
    expected = list(enumerate(GOOD, start=1))
    assert brief(read(tmp_path / f"a.jsonl{packing}", lines)) == expected
    assert brief(read(tmp_path / f"a.json{packing}", array)) == expected
    assert brief(read(tmp_path / f"lines.json{packing}", lines)) == expected  # a common misnomer


@pytest.mark.parametrize("compression", ["none", "snappy", "gzip", "zstd"])
def test_parquet_is_read_in_any_compression(tmp_path, compression):
    pq.write_table(pa.Table.from_pylist(GOOD), tmp_path / "a.parquet", compression=compression, row_group_size=2)
    records = read(tmp_path / "a.parquet")
    assert brief(records) == list(enumerate(GOOD, start=1))
    assert records[3].excerpt == "p3"


def test_a_named_format_overrules_the_ending_of_json(tmp_path):
    assert brief(read(tmp_path / "a.json", b'{"a": 1}\n{"a": 2}\n', format="jsonl")) == [(1, {"a": 1}), (2, {"a": 2})]
    assert brief(read(tmp_path / "a.jsonl", b'[{"a": 1},\n{"a": 2}]\n', format="json")) == [(1, {"a": 1}), (2, {"a": 2})]
    with pytest.raises(InputError, match=r"a.jsonl is to be read as parquet, which its ending contradicts; leave `format` out"):
        read(tmp_path / "a.jsonl", format="parquet")
    with pytest.raises(InputError, match=r"a.parquet is to be read as jsonl, which its ending contradicts"):
        read(tmp_path / "a.parquet", b"", format="jsonl")


def test_a_bad_line_is_a_record_with_its_reason_and_nothing_else_is_lost(tmp_path):
    lines = [
        b'\xef\xbb\xbf{"a": 1}',
        b'{"a": ',
        b"   ",
        b"",
        b'{"a": "\xff\xfe"}',
        b"[1]",
        b'"text"',
        b"null",
        b'{"a": NaN}',
        b'{"a": [-Infinity]}',
        b'{"a": 1e999}',
        b'{"a": ' + b"1" * 5000 + b"}",
        b"[" * 100_000,
        b'{"a": {"b": 1, "b": 2}}',
        b'{"a": "tab\there"}',
        b'{"a": 2} {"a": 3}',
        b'{"a": "\\ud800"}',
        b'{"a": 3}',
    ]
    records = read(tmp_path / "a.jsonl", b"\n".join(lines))
    assert brief(records) == [
        (1, {"a": 1}),
        (2, "malformed_json"),
        (5, "invalid_utf8"),
        (6, "not_an_object"),
        (7, "not_an_object"),
        (8, "not_an_object"),
        *((number, "malformed_json") for number in range(9, 17)),
        (17, {"a": "\ud800"}),
        (18, {"a": 3}),
    ]
    details = {record.line: record.detail for record in records}
    assert details[2] == "Expecting value at character 8"
    assert details[5] == "byte 8 of the line (0xff): invalid start byte"
    assert details[6] == "expected an object with a conversation, found an array"
    assert details[8].endswith("found null")
    assert details[9] == "NaN is not JSON"
    assert details[11] == "the number 1e999 is too large"
    assert details[12].endswith("has 5,000 digits")
    assert details[13] == "nested too deeply"
    assert details[14] == "the key 'b' stands twice in one object"
    assert {record.line: record.excerpt for record in records}[5] == '{"a": "��"}'
    for record in records:
        assert len(record.excerpt) <= 200
        (record.excerpt + record.detail).encode()


def test_a_bad_element_of_an_array_is_a_record_too(tmp_path):
    data = b'\xef\xbb\xbf [ {"a": 1}, 12345, {"a": NaN}, {"a": "\xff\xc3"}, {"a": "\xc3\xa4"} , null , {"a": 1, "a": 1}, {"a": 3} ] \n'
    records = read(tmp_path / "a.json", data)
    expected = [{"a": 1}, "not_an_object", "malformed_json", "invalid_utf8", {"a": "ä"}, "not_an_object", "malformed_json", {"a": 3}]
    assert brief(records) == list(enumerate(expected, start=1))
    assert records[3].detail == "character 8 of the element (0xff): not UTF-8"
    for record in records:
        (record.excerpt + record.detail).encode()


def test_a_row_of_parquet_with_broken_text_is_a_record_and_its_neighbours_stay(tmp_path):
    texts = pa.array([b"fine", b"\xff\xfe", b"good"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"prompt": texts, "response": ["x", "y", "z"]}), tmp_path / "a.parquet")
    records = read(tmp_path / "a.parquet")
    assert brief(records) == [(1, {"prompt": "fine", "response": "x"}), (2, "invalid_utf8"), (3, {"prompt": "good", "response": "z"})]
    assert records[1].detail == "byte 1 of a text of the row: invalid start byte"


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.json", "a.json.gz", "a.parquet"])
def test_an_empty_file_has_no_records(tmp_path, name):
    assert read(tmp_path / name, b"") == []


def test_an_empty_array_an_empty_table_and_blank_lines_have_no_records(tmp_path):
    assert read(tmp_path / "a.json", b" [ ] \n") == []
    assert read(tmp_path / "b.jsonl", b"\n \n\n") == []
    assert read(tmp_path / "c.json", b" \n") == []
    pq.write_table(pa.table({"prompt": pa.array([], pa.string()), "response": pa.array([], pa.string())}), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet") == []


@pytest.mark.parametrize(("packing", "words"), [(".gz", "gzip"), (".zst", "zstd")])
@pytest.mark.parametrize("kind", ["jsonl", "json"])
def test_a_cut_off_archive_is_an_error_with_the_place_after_the_records_before_it(tmp_path, packing, words, kind):
    rows = [{"prompt": os.urandom(200).hex(), "response": str(number)} for number in range(5000)]
    plain = "\n".join(map(json.dumps, rows)).encode() if kind == "jsonl" else json.dumps(rows).encode()
    packed = PACK[packing](plain)
    path = tmp_path / f"a.{kind}{packing}"
    path.write_bytes(packed[: len(packed) * 3 // 4])
    (file,) = list_files(path.name, root=tmp_path)
    seen = []
    place = {"jsonl": "line", "json": "element"}[kind]
    with pytest.raises(
        InputError,
        match=rf"^a.{kind}{packing}, after {place} [\d,]+: the {words} data of .*/a.{kind}{packing} break off in the middle .*; fetch or write the file again",
    ):
        for record in read_records(file, format="auto"):
            seen.append(record.value)
    assert seen == rows[: len(seen)]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b'[{"a": 1}, {"a": 2}', "breaks at element 2: the file ends after it"),
        (b'[{"a": 1}, {"a": ', "breaks at element 2: the file ends within it"),
        (b'[{"a": 1}, {"a": "long te', "breaks at element 2: the file ends within it"),
        (b'[{"a": 1}, tru', "breaks at element 2: the file ends within it"),
        (b'[{"a": 1}, {"a" 2}]', "breaks at element 2: Expecting ':' delimiter"),
        (b'[{"a": 1}, ]', "breaks at element 2: Expecting value"),
        (b'[{"a": 1},', "breaks at element 2: the file ends within it"),
        (b'[{"a": 1} {"a": 2}]', "breaks at element 1: expected , or ] after it, found '{'"),
        (b'[{"a": 1}] {"a": 2}', "breaks at element 1: '{' stands after the end of the array"),
        (b"[] x", "'x' stands after the end of the array"),
        (b"[" * 100_000, "breaks at element 1: it is nested too deeply"),
        (b'{\n "data": []\n}', r"begins with '\{', expected a JSON array; write the records as one array, or one to a line as .jsonl"),
    ],
)
def test_a_broken_array_is_an_error_with_the_element_and_the_mend(tmp_path, data, words):
    with pytest.raises(InputError, match=rf"a\.json.*{words}"):
        read(tmp_path / "a.json", data)


def test_a_malformed_element_is_found_at_once_and_not_at_the_end_of_the_file(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(b'[{"a" 1},' + b" " * (64 << 20) + b"1]")
    (file,) = list_files("a.json", root=tmp_path)
    tracemalloc.start()
    with pytest.raises(InputError, match="breaks at element 1: Expecting ':' delimiter"):
        list(read_records(file, format="auto"))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 16 << 20


def test_parquet_that_is_cut_off_or_damaged_is_an_error(tmp_path):
    rows = [{"prompt": os.urandom(100).hex(), "response": "x"} for _ in range(2000)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "whole.parquet", row_group_size=500, compression="zstd", use_dictionary=False)
    whole = (tmp_path / "whole.parquet").read_bytes()
    with pytest.raises(InputError, match=r"a.parquet is damaged Parquet, after row 0: .*; fetch or write the file again"):
        read(tmp_path / "a.parquet", whole[: len(whole) // 2])
    middle = len(whole) * 3 // 5
    with pytest.raises(InputError, match=r"b.parquet is damaged Parquet, after row [\d,]+"):
        read(tmp_path / "b.parquet", whole[:middle] + bytes(2000) + whole[middle + 2000 :])


def test_parquet_whose_columns_fit_no_shape_is_an_error_before_the_first_row(tmp_path):
    pq.write_table(pa.table({"text": ["x"], "instruction": ["y"]}), tmp_path / "a.parquet")
    with pytest.raises(
        InputError, match=r"a.parquet has the columns text, instruction, which fit no known shape \(messages; conversations;.*\); rename its columns"
    ):
        read(tmp_path / "a.parquet")


def test_only_the_columns_of_a_conversation_are_read_from_parquet(tmp_path):
    pq.write_table(pa.table({"prompt": ["x"], "response": ["y"], "vector": [[1.0, 2.0]], "source": ["s"]}), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet")[0].value == {"prompt": "x", "response": "y", "source": "s"}


def test_a_file_that_has_gone_since_it_was_listed_is_named(tmp_path):
    (tmp_path / "a.jsonl").write_text("{}")
    (file,) = list_files("a.jsonl", root=tmp_path)
    (tmp_path / "a.jsonl").unlink()
    with pytest.raises(InputError, match=r"a.jsonl does not exist.*has gone since"):
        list(read_records(file, format="auto"))


@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet"])
def test_a_message_of_50_mb_is_one_record_between_its_neighbours(tmp_path, kind):
    big = "word " * 10_000_000
    rows = [{"prompt": "before", "response": "x"}, {"prompt": big, "response": "ä"}, {"prompt": "after", "response": "x"}]
    path = tmp_path / f"a.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("\n".join(map(json.dumps, rows)) if kind == "jsonl" else json.dumps(rows))
    (file,) = list_files(path.name, root=tmp_path)
    tracemalloc.start()
    seen = [(record.line, len(record.value["prompt"]), len(record.excerpt) <= 200) for record in read_records(file, format="auto")]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seen == [(1, 6, True), (2, 50_000_000, True), (3, 5, True)]
    assert peak < 400 << 20  # bytes, text and value at once, and what they were joined from


def test_a_line_that_is_too_long_is_passed_over_without_being_held(tmp_path):
    path = tmp_path / "a.jsonl"
    exact = b'{"a": "' + b"x" * (MAX_LINE_BYTES - 9) + b'"}'
    assert len(exact) == MAX_LINE_BYTES
    with path.open("wb") as stream:
        stream.write(exact + b"\n" + exact + b" \n" + b'{"a": "')
        for _ in range(300):
            stream.write(b"y" * (1 << 20))
        stream.write(b'"}\n{"a": 4}\n')
    tracemalloc.start()
    (file,) = list_files("a.jsonl", root=tmp_path)
    seen = [(record.line, record.reason, record.excerpt[:8]) for record in read_records(file, format="auto")]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seen == [(1, None, '{"a": "x'), (2, "line_too_long", '{"a": "x'), (3, "line_too_long", '{"a": "y'), (4, None, '{"a": 4}')]
    assert peak < 5 * MAX_LINE_BYTES


def test_an_element_that_is_too_long_is_an_error(tmp_path):
    path = tmp_path / "a.json"
    with path.open("wb") as stream:
        stream.write(b'[{"a": "')
        for _ in range(200):
            stream.write(b"y" * (1 << 20))
    with pytest.raises(InputError, match="breaks at element 1: more than 67,108,864 characters"):
        read(path)


COUNT = """
import resource, sys
from pathlib import Path
from rds_dagster.pools.files import list_files
from rds_dagster.pools.readers import read_records
small, large = (list_files(name, root=Path(sys.argv[1]))[0] for name in sys.argv[2:])
num_small = sum(record.reason is None for record in read_records(small, format="auto"))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
num_large = sum(record.reason is None for record in read_records(large, format="auto"))
print(num_small, num_large, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "jsonl.zst", "json.gz", "parquet"])
def test_sixty_megabytes_take_no_more_memory_than_six(tmp_path, ending):
    """Peak resident memory in a process of its own; one row group, one array, one frame."""
    text = ["".join(chr(97 + (number * step) % 26) for step in range(1, 500)) for number in range(997)]
    for name, num in (("small", 12_000), ("large", 120_000)):
        rows = ({"prompt": f"{number}", "response": text[number % 997]} for number in range(num))
        path = tmp_path / f"{name}.{ending}"
        if ending == "parquet":
            pq.write_table(pa.Table.from_pylist(list(rows)), path, row_group_size=num, use_dictionary=False)
            continue
        opened = {"gz": partial(gzip.open, compresslevel=1), "zst": zstandard.open}.get(ending.rpartition(".")[2], Path.open)
        with opened(path, mode="wb") as stream:
            for number, row in enumerate(rows):
                mark = b"" if ending.startswith("jsonl") else b"," if number else b"["
                stream.write(mark + json.dumps(row).encode() + b"\n")
            stream.write(b"]" if ending.startswith("json.") else b"")
    done = subprocess.run(
        [sys.executable, "-c", COUNT, tmp_path, f"small.{ending}", f"large.{ending}"], capture_output=True, text=True, check=True, timeout=200
    )
    num_small, num_large, growth_kib = map(int, done.stdout.split())
    assert (num_small, num_large) == (12_000, 120_000)
    assert growth_kib < 12 << 10


def json_texts():
    calls = st.lists(
        st.fixed_dictionaries({"id": st.text(max_size=5), "function": st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), max_size=2)})
    )
    return calls.filter(bool).map(lambda value: json.dumps(value, sort_keys=True, ensure_ascii=False))


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(schema.ROLES), "content": TEXT},
        optional={"name": TEXT, "tool_call_id": TEXT, "tool_calls": json_texts()},
    ),
    min_size=1,
    max_size=4,
)


@given(talks=st.lists(MESSAGES, max_size=5), ascii_only=st.booleans(), indent=st.sampled_from([None, 0, 2]))
@settings(max_examples=60, deadline=None)
def test_any_messages_come_back_verbatim_from_every_format(tmp_path_factory, talks, ascii_only, indent):
    folder = tmp_path_factory.mktemp("talks")
    rows = [{"messages": talk, "id": number} for number, talk in enumerate(talks)]
    (folder / "a.jsonl").write_text("".join(json.dumps(row, ensure_ascii=ascii_only) + "\n" for row in rows), newline="")
    (folder / "b.json").write_text(json.dumps(rows, ensure_ascii=ascii_only, indent=indent), newline="")
    pq.write_table(pa.Table.from_pylist(rows, schema=pa.schema({"messages": schema.MESSAGES, "id": pa.int64()})), folder / "c.parquet")
    for file in list_files(".", root=folder):
        got = [to_messages(record.value, "auto") for record in read_records(file, format="auto")]
        assert got == [Conversation(talk, None, str(number)) for number, talk in enumerate(talks)]


@given(data=st.binary(max_size=200) | st.text('[]{}",:\\untrue0123 \n', max_size=60).map(str.encode))
@settings(max_examples=200, deadline=None)
def test_whatever_the_bytes_lines_give_records_and_arrays_give_records_or_an_input_error(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("bytes")
    (folder / "a.jsonl").write_bytes(data)
    (folder / "b.json").write_bytes(data)
    lines, array = list_files(".", root=folder)
    plain = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    assert [record.line for record in read_records(lines, format="auto")] == [number for number, line in enumerate(plain, start=1) if line.strip()]
    try:
        records = list(read_records(array, format="json"))
    except InputError:
        return
    try:
        values = json.loads(data.decode("utf-8-sig", errors="replace") or "[]")
    except json.JSONDecodeError:
        assert not data.removeprefix(b"\xef\xbb\xbf").strip()
        values = []
    assert len(records) == len(values)


@pytest.mark.real_data
@pytest.mark.skipif("RDS_REAL_DATA" not in os.environ, reason="RDS_REAL_DATA names no folder of real pools")
def test_every_record_of_a_real_pool_is_a_conversation():
    (file,) = list_files("pool/dolly.jsonl.zst", root=Path(os.environ["RDS_REAL_DATA"]))
    got = [to_messages(record.value, "auto") for record in read_records(file, format="auto")]
    assert len(got) == 14_989
    assert all(isinstance(talk, Conversation) and talk.source == "dolly" for talk in got)

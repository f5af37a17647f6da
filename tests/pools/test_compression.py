import gzip
import io
import tracemalloc

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from rds_dagster.errors import InputError
from rds_dagster.pools.compression import decompressed

PACK = {".gz": lambda data: gzip.compress(data, mtime=0), ".zst": lambda data: zstandard.ZstdCompressor(write_checksum=True).compress(data)}
KINDS = {".gz": "gzip", ".zst": "zstd"}
SKIPPABLE = bytes.fromhex("502a4d18") + (5).to_bytes(4, "little") + b"hello"  # RFC 8878, 3.1.2


def unpack(packed, ending):
    with decompressed(io.BufferedReader(io.BytesIO(packed)), address=f"x{ending}") as stream:
        return stream.read()


@pytest.mark.parametrize("ending", PACK)
@given(parts=st.lists(st.binary(max_size=5000), max_size=4))
def test_members_and_frames_one_after_another_are_one_stream(ending, parts):
    assert unpack(b"".join(map(PACK[ending], parts)), ending) == b"".join(parts)


@pytest.mark.parametrize("ending", PACK)
def test_a_file_cut_at_any_byte_is_noticed(ending):
    packed = PACK[ending](b"a line of text\n" * 40)
    for length in range(1, len(packed)):
        with pytest.raises(InputError, match=rf"the {KINDS[ending]} data of x{ending} break off in the middle.*after [\d,]+ compressed bytes; fetch"):
            unpack(packed[:length], ending)


@pytest.mark.parametrize("ending", PACK)
def test_damage_and_foreign_data_after_the_end_are_noticed(ending):
    packed = PACK[ending](bytes(range(256)) * 40)
    flipped = bytearray(packed)
    flipped[-2] ^= 0xFF  # in the checksum
    for broken in (bytes(flipped), packed + b"something else", b"plain text"):
        with pytest.raises(InputError, match=rf"the {KINDS[ending]} data of x{ending} are damaged \(.*\), after [\d,]+ compressed bytes"):
            unpack(broken, ending)


def test_an_empty_file_is_empty_and_padding_zeros_of_gzip_are_passed_over():
    assert unpack(b"", ".gz") == unpack(b"", ".zst") == b""
    assert unpack(PACK[".gz"](b"x") + b"\0" * 3000 + PACK[".gz"](b"y") + b"\0" * 512, ".gz") == b"xy"
    assert unpack(SKIPPABLE + PACK[".zst"](b"x") + SKIPPABLE, ".zst") == b"x"


def test_closing_the_stream_closes_the_file_below():
    below = io.BufferedReader(io.BytesIO(PACK[".gz"](b"x")))
    decompressed(below, address="x.gz").close()
    assert below.closed


@pytest.mark.parametrize("ending", PACK)
def test_a_file_that_unpacks_a_thousandfold_needs_little_memory(ending):
    packed = PACK[ending](bytes(300 << 20))
    assert len(packed) < 1 << 20
    tracemalloc.start()
    with decompressed(io.BufferedReader(io.BytesIO(packed)), address=f"x{ending}") as stream:
        total = sum(len(block) for block in iter(lambda: stream.read(1 << 20), b""))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert total == 300 << 20
    assert peak < 80 << 20  # 32 MiB is the worst that one slice can become, and zstandard joins it from as much


@pytest.mark.parametrize("ending", PACK)
def test_what_is_sound_before_the_damage_comes_out_first(ending):
    lines = [f"line {number}\n".encode() for number in range(100_000)]
    sound = PACK[ending](b"".join(lines[:50_000]))
    seen = []
    stream = decompressed(io.BufferedReader(io.BytesIO(sound + b"not packed")), address=f"x{ending}")
    with stream, pytest.raises(InputError, match=f"are damaged .*after {len(sound):,} compressed bytes"):
        for line in iter(stream.readline, b""):
            seen.append(line)
    assert seen == lines[:50_000]

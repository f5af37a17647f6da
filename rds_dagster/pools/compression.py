"""Compressed files as streams that notice when they break off.

Why not the libraries' own readers: python-zstandard's ``stream_reader`` ends quietly in the middle of a cut-off frame, and
gzip's does not close what it reads from. One class serves both formats, with concatenated members and frames.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from rds_dagster.errors import InputError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

BLOCK = 1 << 20  # bytes read at once
SLICE = 1 << 10  # compressed bytes unpacked at once: at zstd's worst (4 bytes for a block of 128 KiB) they become 32 MiB; 64 times more gained nothing
MAX_WINDOW = 1 << 31  # what `zstd --long=31` needs; memory is taken only for files that ask for it


class DamagedError(InputError):
    """Compressed data that cannot be read to their end."""


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, /) -> bytes: ...


def _zstd() -> _Decompressor:
    import zstandard

    made: _Decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW).decompressobj()
    return made


def _gzip() -> _Decompressor:
    return zlib.decompressobj(wbits=31)  # 31 = gzip's header and checksum


_KINDS: dict[str, tuple[str, Callable[[], _Decompressor]]] = {".gz": ("gzip", _gzip), ".zst": ("zstd", _zstd)}


def decompressed(raw: io.BufferedReader, *, address: str) -> io.BufferedReader:
    """The bytes behind ``raw``, unpacked if ``address`` ends in .gz or .zst; closing it closes ``raw``.

    Reading raises DamagedError (an InputError), with the place, where the data are cut off, damaged, or followed by something else.
    """
    for ending, (kind, start) in _KINDS.items():
        if address.lower().endswith(ending):
            return io.BufferedReader(_Decompressed(raw, address=address, kind=kind, start=start), BLOCK)
    return raw


class _Decompressed(io.RawIOBase):
    def __init__(self, raw: io.BufferedReader, *, address: str, kind: str, start: Callable[[], _Decompressor]) -> None:
        super().__init__()
        self._raw, self._address, self._kind, self._start = raw, address, kind, start
        self._member: _Decompressor | None = None  # None between members (gzip) or frames (zstd)
        self._packed = memoryview(b"")  # read, not yet unpacked
        self._plain = memoryview(b"")  # unpacked, not yet handed out
        self._taken = 0  # compressed bytes unpacked so far
        self._damage: DamagedError | None = None  # told only once what is sound before it has been handed out
        self._errors: tuple[type[Exception], ...] = (zlib.error,)
        if kind == "zstd":
            import zstandard

            self._errors = (zstandard.ZstdError,)

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        target = memoryview(buffer).cast("B")
        filled = 0
        while filled < len(target):
            try:
                if not self._plain and (self._damage is not None or not self._unpack()):
                    break
            except DamagedError as damage:
                self._damage = damage
                break
            part = self._plain[: len(target) - filled]
            target[filled : filled + len(part)] = part
            filled += len(part)
            self._plain = self._plain[len(part) :]
        if self._damage is not None and not filled:
            raise self._damage
        return filled

    def _unpack(self) -> bool:
        """Unpack until there is something to hand out; False at the sound end of the file."""
        while not self._plain:
            if not self._packed:
                self._packed = memoryview(self._raw.read(BLOCK))
                if not self._packed:
                    if self._member is not None:
                        raise self._broken("break off in the middle (the file is cut short)")
                    return False
            if self._member is None and not self._begin():
                continue
            self._feed()
        return True

    def _begin(self) -> bool:
        if self._kind == "gzip" and self._taken:  # as gzip itself does, zeros that pad the end of a file are passed over
            rest = bytes(self._packed).lstrip(b"\0")
            self._taken += len(self._packed) - len(rest)
            self._packed = memoryview(rest)
            if not rest:
                return False
        self._member = self._start()
        return True

    def _feed(self) -> None:
        assert self._member is not None
        piece = bytes(self._packed[:SLICE])
        try:
            self._plain = memoryview(self._member.decompress(piece))
        except self._errors as error:
            raise self._broken(f"are damaged ({error})") from error
        used = len(piece)
        if self._member.eof:
            used -= len(self._member.unused_data)
            self._member = None
        self._packed = self._packed[used:]
        self._taken += used

    def _broken(self, what: str) -> DamagedError:
        return DamagedError(f"the {self._kind} data of {self._address} {what}, after {self._taken:,} compressed bytes; fetch or write the file again")

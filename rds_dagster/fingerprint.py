"""The one definition of "same": short content hashes of settings, parents, ids and files.

Equal fingerprints mean reuse, different ones mean make anew. All are BLAKE2b (RFC 7693), never Python's ``hash()``,
which is salted per process.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

DIGEST_BYTES = 16
HASHED_ROWS = 65_536  # ids or texts hashed at once, so that what is made on the way stays small
ID_DTYPE = np.dtype("S16")  # 16 raw bytes; compares and sorts as bytes do, since every id has full length

Json = None | bool | int | float | str | Sequence["Json"] | Mapping[str, "Json"]


def content_digest(data: bytes) -> bytes:
    """16 bytes of BLAKE2b over ``data``."""
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest()


@dataclass(frozen=True, eq=False)
class CodedTexts:
    """A long list of few kinds of texts: ``kinds[codes[n]]`` for each n, or None where the code, (N,) of integers, is -1."""

    kinds: Sequence[str]
    codes: np.ndarray


def fingerprint(*parts: object) -> str:
    """32 hex digits over ``parts``: JSON values, frozen dataclasses, or containers of them; the order of keys does not matter.

    A part that is ``CodedTexts`` counts as the list that it stands for, of which no string is made: for 2.5 million picks that was 20 s.
    """
    digest = hashlib.blake2b(b"[", digest_size=DIGEST_BYTES)
    for number, part in enumerate(parts):
        digest.update(b"," if number else b"")
        for piece in _list_pieces(part) if isinstance(part, CodedTexts) else [_json(part)]:
            digest.update(piece.encode("utf-8", "surrogatepass"))
    digest.update(b"]")
    return digest.hexdigest()


def _json(value: object) -> str:
    return json.dumps(_plain(value), sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _list_pieces(texts: CodedTexts) -> Iterator[str]:
    kinds = np.array([*map(_json, texts.kinds), _json(None)], object)  # code -1 is the last
    yield "["
    for start in range(0, len(texts.codes), HASHED_ROWS):
        yield ("," if start else "") + ",".join(kinds[texts.codes[start : start + HASHED_ROWS]])
    yield "]"


def ids_fingerprint(ids: np.ndarray) -> str:
    """32 hex digits over example ids with multiplicity, whatever their order; ids (N,) S16."""
    return content_digest(np.sort(ids.astype(ID_DTYPE, copy=False)).tobytes()).hex()


def file_digest(path: Path) -> str:
    """32 hex digits over the bytes of a local file, read in blocks of 1 MiB."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=DIGEST_BYTES)).hexdigest()


def seeded_fractions(ids: np.ndarray, seed: int, purpose: str) -> np.ndarray:
    """A number in [0, 1) for each id, from seed, purpose and id alone, so that growth reshuffles nothing.

    Each use has a purpose of its own: with one hash for both, a random mixture would prefer what a sample kept.

    ids (N,) S16; returns (N,) float64. SplitMix64 finaliser over the id's two halves, keyed by the seed
    (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
    """
    halves = np.ascontiguousarray(ids.astype(ID_DTYPE, copy=False)).view("<u8").reshape(-1, 2)  # (N, 2)
    key = np.uint64(int.from_bytes(content_digest(f"{purpose} {seed}".encode())[:8], "little"))
    fractions = np.empty(len(ids))
    for start in range(0, len(ids), HASHED_ROWS):
        rows = slice(start, start + HASHED_ROWS)
        mixed = _splitmix(_splitmix(halves[rows, 0] ^ key) ^ halves[rows, 1])
        fractions[rows] = (mixed >> np.uint64(11)) * 2.0**-53
    return fractions


def _splitmix(x: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # 64-bit wrap-around is the point
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x ^= x >> np.uint64(31)
        return x


def _plain(value: object) -> Json:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (bytes, np.bytes_)):
        return bytes(value).hex()
    if isinstance(value, np.generic):
        scalar: Json = value.item()
        return scalar
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"cannot take a fingerprint of {type(value).__name__}; give JSON values or frozen dataclasses")

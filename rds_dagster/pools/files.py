"""The files of a pool: which there are, and their bytes.

A source is a file, a glob or a folder; what is listed does not depend on where it lies. Listing reads no file: ``stamp`` is
what changes when a file is rewritten, so that unchanged files need not be read again.
"""

from __future__ import annotations

import glob
import hashlib
import io
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast

from rds_dagster.errors import InputError
from rds_dagster.fingerprint import DIGEST_BYTES
from rds_dagster.pools.addresses import file_system, local_path, readable
from rds_dagster.pools.compression import decompressed

ENDINGS = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".json", ".json.gz", ".json.zst", ".parquet")
UNFINISHED = (".tmp", ".part")
BLOCK = 1 << 20  # bytes read at once

# What a remote listing may say of a file's content, best first: hashes of the content, then times of writing.
_STAMPS = ("ETag", "etag", "blob_id", "md5Hash", "content_md5", "LastModified", "last_modified", "mtime", "updated", "created")


@dataclass(frozen=True)
class PoolFile:
    """One file: ``file`` is its POSIX path relative to the pool's root, ``address`` opens it, ``size`` is in bytes.

    The root is the folder itself, or the folders before a glob's first wildcard, or the folder of a single file.
    ``stamp`` is another text once the file is rewritten (local: time in ns and inode; remote: what the listing gives, else the size).
    """

    file: str
    address: str
    size: int
    stamp: str


def list_files(source: str | tuple[str, ...], *, root: Path) -> list[PoolFile]:
    """All files of a pool, in order of ``file``; relative local sources lie under ``root``.

    Folders are searched to the bottom for the known endings; hidden files and folders and names that end in .tmp or .part are passed over.
    A file that several sources name counts once. Two files with equal relative names are told apart by the names of their roots' folders.
    Raises InputError where a source has no file, a named file's ending is unknown, or names cannot be told apart; MissingExtraError without a backend.
    """
    sources = (source,) if isinstance(source, str) else source
    found: dict[str, tuple[str, PoolFile]] = {}  # address -> (root of its source, file)
    for one in sources:
        path = local_path(one)
        base, files = _list_remote(one) if path is None else _list_local(one, path, root)
        for pool_file in files:
            found.setdefault(pool_file.address, (base, pool_file))
    return sorted(_told_apart(list(found.values())), key=lambda pool_file: pool_file.file)


def open_bytes(address: str) -> io.BufferedReader:
    """The bytes of a file as stored; raises InputError where it is gone or may not be read, MissingExtraError without a backend."""
    path = local_path(address)
    if path is not None:
        with readable(address):
            return io.BufferedReader(Path(path).open("rb", buffering=0), BLOCK)
    system, inner = file_system(address)
    with readable(address):
        system.invalidate_cache(inner)  # or a file that was rewritten would be read with its old length
        # Parquet is read here and there: read-ahead (50 MiB in s3fs) would be thrown away at each jump between columns.
        stream = system.open(inner, "rb", cache_type="none" if address.lower().endswith(".parquet") else "readahead")
    return io.BufferedReader(cast(io.RawIOBase, stream), BLOCK)  # finds lines in C, where fsspec's own files do so in Python


def open_text_bytes(address: str) -> io.BufferedReader:
    """The bytes of a file, unpacked if it ends in .gz or .zst; reading raises InputError where the data are cut off or damaged."""
    return decompressed(open_bytes(address), address=address)


def digest_file(address: str) -> str:
    """32 hex digits of BLAKE2b-128 over the bytes as stored, read in blocks of 1 MiB; equals ``fingerprint.file_digest`` for a local file."""
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    with readable(address), open_bytes(address) as stream:
        while block := stream.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def has_known_ending(name: str) -> bool:
    """Whether a pool's reader knows the ending of ``name`` (upper case counts as lower)."""
    return bool(ending(name))


def ending(name: str) -> str:
    """Which of ENDINGS a file's name has, and so how it is unpacked and read; "" for none."""
    return next((known for known in ENDINGS if name.lower().endswith(known)), "")


def _list_local(source: str, path: str, root: Path) -> tuple[str, list[PoolFile]]:
    full = os.path.abspath(root / path)  # noqa: PTH100 (Path.resolve would follow links, and the user's names would be lost)
    with readable(source):
        if Path(full).is_dir():
            base, names = full, _checked(source, _walk(full, above=frozenset()), base=full, kind="folder")
        elif Path(full).is_file():
            base = str(Path(full).parent)
            names = _checked(source, [full], base=base, kind="file")
        elif _has_wildcard(path):  # not of the whole: wildcard marks in the project folder's own name mean themselves
            base = os.path.abspath(root / _before_wildcard(path))  # noqa: PTH100
            matches = (os.path.abspath(root / match) for match in glob.iglob(path, root_dir=root, recursive=True))  # noqa: PTH100, PTH207
            names = _checked(source, (match for match in matches if not Path(match).is_dir()), base=base, kind="glob")
        elif Path(full).exists():
            raise InputError(f"{source} is neither a file nor a folder; name what can be read twice")
        else:
            raise FileNotFoundError(full)
    files = []
    for name in names:
        with readable(name):
            stat = Path(name).stat()
        files.append(PoolFile(_relative(name, base), name, stat.st_size, f"{stat.st_mtime_ns}-{stat.st_ino}"))
    return base, files


def _walk(folder: str, *, above: frozenset[tuple[int, int]]) -> Iterator[str]:
    """All files below a folder, links followed unless they lead back up; a dead link counts as a file, so that it is named and not lost."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                stat = entry.stat()
                place = (stat.st_dev, stat.st_ino)
                if place not in above:
                    yield from _walk(entry.path, above=above | {place})
            elif entry.is_file() or entry.is_symlink():
                yield entry.path


def _list_remote(source: str) -> tuple[str, list[PoolFile]]:
    system, path = file_system(source)
    path = path.rstrip("/")
    with readable(source):
        kind: Literal["file", "glob", "folder"]
        system.invalidate_cache()  # listings are cached per process; a pool that grew must show
        if _has_wildcard(path) and not system.isfile(path):
            base, kind = _before_wildcard(path), "glob"
            infos = system.glob(path, detail=True)
        elif system.info(path)["type"] == "directory":
            base, kind = path, "folder"
            infos = system.find(path, detail=True)
        else:
            base, kind = path.rpartition("/")[0], "file"
            infos = {path: system.info(path)}
        names = _checked(source, (name for name, info in infos.items() if info["type"] != "directory"), base=base, kind=kind)
        return base, [_remote_file(system.unstrip_protocol(name), _relative(name, base), infos[name]) for name in names]


def _remote_file(address: str, file: str, info: Mapping[str, object]) -> PoolFile:
    size = info.get("size")
    if not isinstance(size, int):  # some web servers do not say; reading tells
        with open_bytes(address) as stream:
            size = sum(len(block) for block in iter(lambda: stream.read(BLOCK), b""))
    said = next((f"{key}={info[key]}" for key in _STAMPS if info.get(key)), "")
    return PoolFile(file, address, size, f"{said} size={size}".strip())


def _checked(source: str, names: Iterable[str], *, base: str, kind: Literal["file", "glob", "folder"]) -> list[str]:
    """The names to read among those found; raises InputError where there is none, or (unless in a folder) an unknown ending among them."""
    visible = [name for name in names if kind == "file" or not _is_passed_over(_relative(name, base))]
    unknown = sorted(name for name in visible if not has_known_ending(name))
    known = ", ".join(ENDINGS)
    if unknown and kind != "folder":
        more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        raise InputError(f"{source} names {_relative(unknown[0], base)}{more}, whose ending is none of {known}: narrow `source`, or convert or rename the file")
    if len(visible) == len(unknown):
        what = "is a folder without a file to read" if kind == "folder" else "matches no file to read"
        raise InputError(f"{source} {what} ({known}; hidden names and .tmp, .part do not count): put files there, or correct `source`")
    for name in visible:
        if not name.isascii():
            _check_utf8(name)
    return [name for name in visible if has_known_ending(name)]


def _check_utf8(name: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"the file name {name!a} is not UTF-8; rename the file") from error


def _is_passed_over(file: str) -> bool:
    return any(part.startswith(".") for part in file.split("/")) or file.lower().endswith(UNFINISHED)


def _relative(name: str, base: str) -> str:
    return name.removeprefix(base.rstrip("/") + "/")


def _has_wildcard(path: str) -> bool:
    return any(mark in path for mark in "*?[")


def _before_wildcard(path: str) -> str:
    parts = path.split("/")
    first = next(number for number, part in enumerate(parts) if _has_wildcard(part))
    return "/".join(parts[:first])


def _told_apart(found: Sequence[tuple[str, PoolFile]]) -> list[PoolFile]:
    """The files, those with equal names under as many folder names of their roots as it takes."""
    depths = [0] * len(found)
    names = [pool_file.file for _, pool_file in found]
    while clashes := {name for name, count in Counter(names).items() if count > 1}:
        for number, (base, pool_file) in enumerate(found):
            if names[number] not in clashes:
                continue
            parts = [part for part in base.split("/") if part]
            depths[number] += 1
            if depths[number] > len(parts):
                others = ", ".join(other.address for (_, other), name in zip(found, names, strict=True) if name == names[number])
                raise InputError(f"these files of one pool cannot be told apart by their relative names: {others}; name one common folder, or make two pools")
            names[number] = "/".join([*parts[-depths[number] :], pool_file.file])
    return [replace(pool_file, file=name) for (_, pool_file), name in zip(found, names, strict=True)]

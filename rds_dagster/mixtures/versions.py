"""The versions of a mixture: which are there, in which order they were current, and how people name one.

mixtures/<name>/history.json lists fingerprints in the order in which each became current; it only grows. It stands outside the version
folders, whose bytes do not depend on what was current before.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rds_dagster.errors import SettingsError, StateError
from rds_dagster.storage.atomic import write_text
from rds_dagster.storage.manifest import Manifest, load_manifests
from rds_dagster.storage.tables import TableStore

CURRENT, PREVIOUS = "current", "previous"
FORMAT = 1  # of history.json
MIN_DIGITS = 4
LISTED = 10  # versions in an error


@dataclass(frozen=True)
class Version:
    """One whole version folder; ``made`` is when its files were written, in UTC. The current one has the manifest of today, whose upstream is the latest."""

    manifest: Manifest
    made: str
    is_current: bool

    @property
    def fingerprint(self) -> str:
        """The version's name: its data version."""
        return self.manifest.fingerprint


def record_current(store: TableStore, manifest: Manifest) -> None:
    """Write down that a version of a mixture is current, unless the history ends with it."""
    mixture = manifest.key.split("/", 1)[1]
    known = _history(store, mixture)
    if known[-1:] != [manifest.fingerprint]:
        write_text(_path(store, mixture), json.dumps({"format": FORMAT, "versions": [*known, manifest.fingerprint]}, indent=1))


def mixture_versions(store: TableStore, mixture: str) -> list[Version]:
    """All whole versions in the order in which they were last current; the current one is last.

    Those that the history does not name come first, by time. Raises StateError if there is none.
    """
    current = store.manifest(f"mixtures/{mixture}")
    paths = [path for path in (store.layout.mixtures / mixture).glob("*/manifest.json") if not path.parent.name.startswith(".")]  # those are half made
    found = {version.fingerprint: version for path in paths if (version := _read_version(store, path, current))}
    if not found:
        known = ", ".join(m.key.split("/", 1)[1] for m in store.manifests("mixtures")) or "none yet"
        raise StateError(f"mixture {mixture!r} is not there; made so far: {known}. Run `rds run '+mixtures/{mixture}'` or mend the name")
    place = {fingerprint: number for number, fingerprint in enumerate(_order(store, mixture, current))}
    return sorted(found.values(), key=lambda version: (place.get(version.fingerprint, -1), version.made, version.fingerprint))


def version_before(store: TableStore, mixture: str) -> Version | None:
    """The version that was current before the current one; None if there is no other, or none is current."""
    *others, last = mixture_versions(store, mixture)
    return others[-1] if others and last.is_current else None


def find_version(store: TableStore, mixture: str, named: str) -> Version:
    """The version called ``current``, ``previous``, or by its fingerprint or the first digits of it.

    Raises StateError if the mixture was never made or has no version of that standing, SettingsError listing the versions for an unknown name.
    """
    versions, wanted = mixture_versions(store, mixture), named.strip().lower()
    if wanted == CURRENT:
        if not versions[-1].is_current:
            raise StateError(f"mixture {mixture!r} has no current version; run `rds run '+mixtures/{mixture}'`, or name one of {_listed(versions)}")
        return versions[-1]
    if wanted == PREVIOUS:
        before = version_before(store, mixture)
        if before is None:
            raise StateError(f"mixture {mixture!r} has no version before the current one; there is only {_listed(versions)}")
        return before
    found = [version for version in versions if len(wanted) >= MIN_DIGITS and version.fingerprint.startswith(wanted)]
    if not found:
        raise SettingsError(
            f"mixture {mixture!r} has no version {named!r}; expected {CURRENT}, {PREVIOUS}, or {MIN_DIGITS} or more first digits of {_listed(versions)}"
        )
    if len(found) > 1:
        raise SettingsError(f"version {named!r} fits {len(found)} versions of mixture {mixture!r}; give more digits of {_listed(found)}")
    return found[0]


def _listed(versions: list[Version]) -> str:
    shown = [
        f"{version.fingerprint[:12]} (made {version.made}, {version.manifest.counts.kept:,} examples{', current' if version.is_current else ''})"
        for version in versions[::-1][:LISTED]
    ]
    return "; ".join([*shown, *([f"and {len(versions) - LISTED:,} older ones"] if len(versions) > LISTED else [])])


def _order(store: TableStore, mixture: str, current: Manifest | None) -> list[str]:
    """The history, and the current version where a run was killed before it could be written down."""
    return [*_history(store, mixture), *([current.fingerprint] if current else [])]


def _read_version(store: TableStore, path: Path, current: Manifest | None) -> Version | None:
    """The version of a folder's manifest; None if a file of it is missing."""
    (manifest,) = load_manifests(path.read_bytes(), where=str(path))
    if not all((store.layout.home / file.path).exists() for file in manifest.files):
        return None
    is_current = current is not None and current.fingerprint == manifest.fingerprint
    made = datetime.fromtimestamp(path.stat().st_mtime, UTC).strftime("%Y-%m-%d %H:%M:%S")
    return Version(current if is_current and current else manifest, made, is_current)


def _history(store: TableStore, mixture: str) -> list[str]:
    path = _path(store, mixture)
    if not path.exists():
        return []
    try:
        said = json.loads(path.read_bytes())
        if said["format"] != FORMAT:
            raise StateError(f"{path} has format {said['format']}, this version reads {FORMAT}; remove it: only the order of the versions is lost")
        return [str(fingerprint) for fingerprint in said["versions"]]
    except (KeyError, TypeError, ValueError) as error:
        raise StateError(f"{path} is no history of versions ({error}); remove it: only the order of the versions is lost") from error


def _path(store: TableStore, mixture: str) -> Path:
    return store.layout.mixtures / mixture / "history.json"

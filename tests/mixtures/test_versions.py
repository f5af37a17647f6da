"""Which versions there are, which was current before which, and how one is named."""

import json
import os
import shutil
from pathlib import Path

import pytest

from rds_dagster.errors import SettingsError, StateError
from rds_dagster.mixtures.versions import find_version, mixture_versions, record_current, version_before


def history(flow, mixture: str) -> list[str]:
    said = json.loads((flow.store.layout.mixtures / mixture / "history.json").read_text())
    assert said["format"] == 1
    return said["versions"]


def fingerprints(flow, mixture: str) -> list[str]:
    return [version.fingerprint for version in mixture_versions(flow.store, mixture)]


def test_versions_stand_in_the_order_in_which_they_were_last_current(own_flow) -> None:
    nine, ten, eleven = (own_flow.make("best", budget).manifest.fingerprint for budget in (9, 10, 11))
    assert history(own_flow, "best") == fingerprints(own_flow, "best") == [nine, ten, eleven]
    own_flow.make("best", 9)
    own_flow.make("best", 9)
    assert history(own_flow, "best") == [nine, ten, eleven, nine]
    assert fingerprints(own_flow, "best") == [ten, eleven, nine]
    assert [version.is_current for version in mixture_versions(own_flow.store, "best")] == [False, False, True]
    assert version_before(own_flow.store, "best").fingerprint == eleven
    assert fingerprints(own_flow, "by_chance") == [own_flow.mixtures["by_chance"].manifest.fingerprint]


def test_the_current_version_has_the_manifest_of_today(own_flow) -> None:
    """Its folder stays as it was first written; what it was made from may have changed since without changing a pick."""
    before = own_flow.mixtures["best"].manifest
    today = type(before)(**{**vars(before), "parents": {**before.parents, "unique/sums": "0" * 32}})
    own_flow.store.commit([today])
    assert find_version(own_flow.store, "best", "current").manifest == today


def test_a_version_whose_run_was_killed_before_the_history_was_written_is_in_its_place(own_flow) -> None:
    nine = own_flow.mixtures["best"].manifest.fingerprint
    ten = own_flow.make("best", 10).manifest.fingerprint
    path = own_flow.store.layout.mixtures / "best" / "history.json"
    path.write_text(json.dumps({"format": 1, "versions": [nine]}))
    assert fingerprints(own_flow, "best") == [nine, ten]
    assert own_flow.make("best", 10).reused
    assert history(own_flow, "best") == [nine, ten]
    path.write_text(json.dumps({"format": 1, "versions": [nine]}))
    eleven = own_flow.make("best", 11).manifest.fingerprint
    assert history(own_flow, "best") == [nine, ten, eleven]


def test_versions_made_before_there_was_a_history_come_first_by_time(own_flow) -> None:
    made = [own_flow.make("best", budget).manifest.fingerprint for budget in (12, 10, 11)]
    folder: Path = own_flow.store.layout.mixtures / "best"
    (folder / "history.json").unlink()
    for age, fingerprint in enumerate([own_flow.mixtures["best"].manifest.fingerprint, *made]):
        os.utime(folder / fingerprint / "manifest.json", (1_700_000_000 + age,) * 2)
    assert fingerprints(own_flow, "best") == [own_flow.mixtures["best"].manifest.fingerprint, *made]
    assert version_before(own_flow.store, "best").made == "2023-11-14 22:13:22"


def test_a_folder_that_is_not_whole_is_no_version(own_flow) -> None:
    nine, ten = own_flow.mixtures["best"].manifest.fingerprint, own_flow.make("best", 10).manifest.fingerprint
    own_flow.make("best", 11)
    folder: Path = own_flow.store.layout.mixtures / "best"
    shutil.copytree(folder / nine, folder / f".{nine}.0123abcd")
    (folder / ten / "queries.parquet").unlink()
    assert len(fingerprints(own_flow, "best")) == 2 and version_before(own_flow.store, "best").fingerprint == nine


def test_a_version_is_named_by_its_standing_or_its_first_digits(own_flow) -> None:
    nine, ten = own_flow.mixtures["best"].manifest.fingerprint, own_flow.make("best", 10).manifest.fingerprint
    for named, fingerprint in (("current", ten), (" Previous ", nine), (nine, nine), (nine[:6].upper(), nine), (ten[:4], ten)):
        assert find_version(own_flow.store, "best", named).fingerprint == fingerprint


@pytest.mark.parametrize("named", ["abc", "beef0000", "last", ""])
def test_an_unknown_version_is_answered_with_those_that_are_there(own_flow, named: str) -> None:
    own_flow.make("best", 10)
    digits = [version.fingerprint[:12] for version in mixture_versions(own_flow.store, "best")]
    date = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"
    words = (
        rf"mixture 'best' has no version '{named}'; expected current, previous, or 4 or more first digits of "
        rf"{digits[1]} \(made {date}, 10 examples, current\); {digits[0]} \(made {date}, 9 examples\)$"
    )
    with pytest.raises(SettingsError, match=words):
        find_version(own_flow.store, "best", named)


def test_only_the_latest_versions_are_listed(own_flow) -> None:
    for budget in range(10, 22):
        own_flow.make("best", budget)
    with pytest.raises(SettingsError, match=r"21 examples, current\).*12 examples\); and 3 older ones$"):
        find_version(own_flow.store, "best", "beef0000")


def test_digits_that_fit_several_versions_are_refused(own_flow) -> None:
    nine, ten = own_flow.mixtures["best"].manifest, own_flow.make("best", 10).manifest
    folder = own_flow.store.layout.mixtures / "best"
    alike = nine.fingerprint[:5] + ("0" if nine.fingerprint[5] != "0" else "1") + "0" * 26
    shutil.copytree(folder / ten.fingerprint, folder / alike)
    text = (folder / alike / "manifest.json").read_text().replace(ten.fingerprint, alike)
    (folder / alike / "manifest.json").write_text(text)
    with pytest.raises(SettingsError, match=rf"version '{alike[:5]}' fits 2 versions of mixture 'best'; give more digits of "):
        find_version(own_flow.store, "best", alike[:5])


def test_a_mixture_with_one_version_has_none_before_it(flow) -> None:
    assert version_before(flow.store, "best") is None
    with pytest.raises(StateError, match=r"mixture 'best' has no version before the current one; there is only [0-9a-f]{12} \(made .*, 9 examples, current\)$"):
        find_version(flow.store, "best", "previous")


def test_a_mixture_that_was_forgotten_has_its_versions_but_no_current_one(own_flow) -> None:
    nine = own_flow.mixtures["best"].manifest.fingerprint
    own_flow.make("best", 10)
    own_flow.store.forget("mixtures/best")
    assert find_version(own_flow.store, "best", nine[:8]).fingerprint == nine
    assert version_before(own_flow.store, "best") is None
    with pytest.raises(StateError, match=r"mixture 'best' has no current version; run `rds run '\+mixtures/best'`, or name one of [0-9a-f]{12} \(made "):
        find_version(own_flow.store, "best", "current")


def test_an_unknown_mixture_is_answered_with_those_that_are_there(flow) -> None:
    with pytest.raises(StateError, match=r"mixture 'bets' is not there; made so far: best, by_chance\. Run `rds run '\+mixtures/bets'` or mend the name"):
        mixture_versions(flow.store, "bets")


@pytest.mark.parametrize(("text", "words"), [("{", "is no history of versions"), ('{"format": 9}', "has format 9, this version reads 1")])
def test_a_damaged_history_is_named_with_the_mend(own_flow, text: str, words: str) -> None:
    (own_flow.store.layout.mixtures / "best" / "history.json").write_text(text)
    with pytest.raises(StateError, match=rf"best/history\.json {words}.*; remove it: only the order of the versions is lost"):
        record_current(own_flow.store, own_flow.mixtures["best"].manifest)

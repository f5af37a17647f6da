"""What Dagster records of a mixture beside its own figures: what entered and left since the version before."""

from pathlib import Path

import dagster as dg
import yaml

from rds_dagster.lineage.diff import diff_versions
from rds_dagster.runs.instance import open_instance
from rds_dagster.runs.walk import run_stale
from rds_dagster.storage.layout import Layout
from rds_dagster.storage.tables import TableStore

FIGURES = ("entered", "left", "jaccard", "against_version_before")


def recorded(folder: Path) -> dict[str, object]:
    """The metadata of the latest materialization of mixtures/best."""
    with open_instance(Layout.of_project(folder)) as instance:
        event = instance.get_latest_materialization_event(dg.AssetKey(["mixtures", "best"]))
    assert event is not None and event.asset_materialization is not None
    return {name: value.value for name, value in event.asset_materialization.metadata.items() if name in FIGURES}


def test_a_new_version_records_what_changed_since_the_one_before_and_the_first_records_nothing(own_project: Path) -> None:
    assert recorded(own_project) == {}
    defs = own_project / "assets/mixtures/best/defs.yaml"
    said = yaml.safe_load(defs.read_text())
    defs.write_text(yaml.safe_dump({**said, "attributes": {**said["attributes"], "budget": 12}}))
    talk: list[str] = []
    assert run_stale(own_project, "mixtures/best", talk.append).is_success, talk
    figures = recorded(own_project)
    assert (figures["entered"], figures["left"], figures["jaccard"]) == (3, 0, 0.75)
    diff = diff_versions(TableStore(Layout.of_project(own_project)), "best", "previous", "current")
    table = str(figures["against_version_before"]).splitlines()
    assert table[0] == "| against the version before | before | now |"
    for row in ("| examples | 9 | 12 |", "| entered |  | 3 |", "| entered: the budget changed |  | 3 |", "| Jaccard |  | 0.7500 |"):
        assert row in table
    for share in (*diff.tasks, *diff.sources):
        assert any(share.name in row and f"{share.before} ({share.share_before:.1%}) | {share.after} ({share.share_after:.1%})" in row for row in table)

"""Bytes by stage: everything that a state holds is counted once."""

from benchmarks.disk import bytes_by_stage


def test_every_byte_of_a_state_belongs_to_one_stage(flow) -> None:
    home = flow.store.layout.home
    stages = bytes_by_stage(flow.store.layout)
    assert sum(stages.values()) == sum(path.stat().st_size for path in home.rglob("*") if path.is_file())
    shards = sum(file.bytes for manifest in flow.store.manifests("clean") for file in manifest.files if file.table == "shard")
    assert stages["clean: texts"] == shards > 0
    assert stages["vectors"] == sum(path.stat().st_size for path in flow.store.layout.vectors.rglob("*") if path.is_file()) > 0
    assert {"raw: list of files", "provenance", "unique: kept", "scores, all tasks", "top lists of the queries, all tasks", "mixtures"} <= stages.keys()

"""Asset reports/<name> (temporary)."""

from __future__ import annotations

from rds_dagster.fingerprint import fingerprint
from rds_dagster.storage.atomic import write_text
from rds_dagster.storage.manifest import Counts, Manifest, TableFile
from rds_dagster.storage.tables import TableStore
from rds_dagster.storage.warehouse import Warehouse

CODE = 1


def report_mixture(store: TableStore, warehouse: Warehouse, name: str, compare_with: str | None) -> Manifest:
    """Temporary."""
    m = store.need(f"mixtures/{name}")
    path = store.layout.reports / f"{name}.html"
    write_text(path, "x")
    out = Manifest(
        f"reports/{name}",
        fingerprint(m.fingerprint),
        m.fingerprint,
        {},
        {m.key: m.fingerprint},
        Counts(1, 1),
        (TableFile("html", str(path.relative_to(store.layout.home)), 1, 1),),
    )
    store.commit([out])
    return out

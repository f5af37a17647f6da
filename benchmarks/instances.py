"""Writes the YAML of an instance of a component, as `dg scaffold` and an editor would."""

from __future__ import annotations

from pathlib import Path

import yaml


def write_instance(folder: Path, path: str, kind: str, attributes: dict[str, object]) -> None:
    """``folder``/assets/``path``/defs.yaml, such as pools/wild of the kind Pool; the folders are made."""
    defs = folder / "assets" / path / "defs.yaml"
    defs.parent.mkdir(parents=True, exist_ok=True)
    defs.write_text(yaml.safe_dump({"type": f"rds_dagster.components.{kind}", "attributes": attributes}, sort_keys=False))

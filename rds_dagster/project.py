"""Which project folder the definitions belong to: the one that holds pyproject.toml with [tool.dg], and assets/ beside it."""

from __future__ import annotations

import os
import sys
import tomllib
from pathlib import Path

from rds_dagster.errors import SettingsError


def project_folder() -> Path:
    """The project at hand, absolute: what RDS_PROJECT names, else the nearest folder from here upwards that is one.

    Raises SettingsError with the mend if there is none.
    """
    named = os.environ.get("RDS_PROJECT")
    start = Path(named).resolve() if named else Path.cwd()
    candidates = [start] if named else [start, *start.parents]
    for folder in candidates:
        if _is_project(folder):
            return folder
    where = f"RDS_PROJECT names {start}, which" if named else f"{start} and the folders above it"
    raise SettingsError(
        f"{where} hold no project: expected a pyproject.toml with [tool.dg] and a folder assets/. "
        "Make one with `rds init DIR`, or name one with `rds --project DIR` or RDS_PROJECT"
    )


def import_assets(project: Path) -> None:
    """Import the project's own ``assets`` package; raises SettingsError if another one comes first on the path.

    dg and dagster import it by its bare name, and would quietly load another project's.
    """
    if str(project) in sys.path:
        sys.path.remove(str(project))
    sys.path.insert(0, str(project))
    import assets

    found = Path(assets.__file__).resolve().parent if assets.__file__ else Path("nowhere")
    if found != (project / "assets").resolve():
        raise SettingsError(
            f"the project is {project}, but the package `assets` was loaded from {found}: another project comes first on the path. "
            f"Add {project / 'assets' / '__init__.py'} if it is missing, unset PYTHONPATH, or run from {project}"
        )


def _is_project(folder: Path) -> bool:
    pyproject = folder / "pyproject.toml"
    if not pyproject.is_file() or not (folder / "assets").is_dir():
        return False
    try:
        return "dg" in tomllib.loads(pyproject.read_text()).get("tool", {})
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{pyproject} is not valid TOML: {error}") from error

"""Ratchets: what the house's shape promises, and what may only get better."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import rds_dagster

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "rds_dagster"
MODULES = sorted(PACKAGE.rglob("*.py"))
LINT_IMPORTS = str(Path(sys.executable).with_name("lint-imports"))

MODULE_LINES, FUNCTION_LINES = 400, 60
LATE_MODULES = {"embeddings/onednn.py"}  # imported late as a whole
LONG_MODULES: dict[str, int] = {}
"""Modules that are longer, and how long they may be at most. Shorten one, lower its number; nothing is added here."""
LONG_FUNCTIONS: dict[str, int] = {}
"""The same for functions, as ``file:name``."""

PUBLIC = [
    "Encoder",
    "EncoderSettings",
    "Message",
    "Picks",
    "RdsError",
    "Whitening",
    "balanced",
    "example_id",
    "fit_whitening",
    "global_top",
    "load_encoder",
    "mean_max",
    "render",
    "round_robin_queries",
    "round_robin_tasks",
    "score_block",
    "unbalanced",
]


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    """The contracts of pyproject.toml over the package in ``folder``."""
    return subprocess.run([LINT_IMPORTS, "--no-cache"], cwd=folder, capture_output=True, text=True, env={"PYTHONPATH": str(folder), "PATH": ""})


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package and its contracts, to plant breaches in."""
    folder = tmp_path_factory.mktemp("copy")
    shutil.copytree(PACKAGE, folder / "rds_dagster", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def test_the_import_contracts_hold(copy):
    said = lint_imports(copy)
    assert said.returncode == 0, said.stdout + said.stderr
    assert "3 kept, 0 broken" in said.stdout


def test_planted_breaches_of_the_contracts_are_found(copy):
    """Upwards, dagster in the core, torch at the edge: one of each, each found under its own contract."""
    breaches = {
        "storage/layout.py": ("import rds_dagster.cli", "rds_dagster.storage.layout -> rds_dagster.cli"),
        "scores/similarity.py": ("import dagster", "rds_dagster.scores.similarity -> dagster"),
        "runs/summary.py": ("def late():\n    import torch", "rds_dagster.runs.summary -> torch"),
    }
    before = {file: (copy / "rds_dagster" / file).read_text() for file in breaches}
    try:
        for file, (line, _) in breaches.items():
            (copy / "rds_dagster" / file).write_text(f"{before[file]}\n{line}\n")
        said = lint_imports(copy)
    finally:
        for file, text in before.items():
            (copy / "rds_dagster" / file).write_text(text)
    assert said.returncode == 1
    assert "0 kept, 3 broken" in said.stdout
    for _, chain in breaches.values():
        assert chain in said.stdout


def test_every_package_and_module_has_its_place_in_the_order_of_imports():
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = [set(contract["layers"]) for contract in contracts if contract["type"] == "layers"]
    there = {path.stem if path.is_file() else path.name for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert there - {"__init__"} == layers


def test_torch_is_imported_late():
    """At the top of a module it would cost every command seconds."""
    for path in MODULES:
        if path.relative_to(PACKAGE).as_posix() in LATE_MODULES:
            continue
        for node in ast.parse(path.read_text()).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.split(".")[0] for name in names} & {"torch", "transformers", "great_expectations", "lancedb"}, path


def test_modules_stay_short():
    lengths = {path.relative_to(PACKAGE).as_posix(): len(path.read_text().splitlines()) for path in MODULES}
    long = {name: lines for name, lines in lengths.items() if lines > LONG_MODULES.get(name, MODULE_LINES)}
    assert not long, f"over {MODULE_LINES} lines, asking to be two things: {long}"
    assert not [name for name in LONG_MODULES if lengths.get(name, 0) <= MODULE_LINES], "short now: take it off the list"


def test_functions_stay_short():
    lengths = {f"{path.relative_to(PACKAGE).as_posix()}:{node.name}": length(node) for path in MODULES for node in functions(path)}
    long = {name: lines for name, lines in lengths.items() if lines > LONG_FUNCTIONS.get(name, FUNCTION_LINES)}
    assert not long, f"over {FUNCTION_LINES} lines, asking to be two things: {long}"
    assert not [name for name in LONG_FUNCTIONS if lengths.get(name, 0) <= FUNCTION_LINES], "short now: take it off the list"


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)))


def length(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def test_every_module_says_what_it_is():
    assert not [path for path in MODULES if not ast.get_docstring(ast.parse(path.read_text()))]


def test_no_module_is_a_drawer_for_leftovers():
    assert not [path for path in MODULES if path.stem in ("utils", "helpers", "common", "misc", "util")]


def test_prints_stand_in_the_command_line_alone():
    printing = [path for path in MODULES for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Name) and node.id == "print"]
    assert not printing


def test_every_group_of_assets_is_in_the_docstring_of_its_component():
    """And so is what makes it: the table in components/__init__.py is the map."""
    import rds_dagster.components as components

    said = components.__doc__ or ""
    keys = {
        line.split("/")[0]
        for line in (Path(__file__).parent / "snapshots" / "definitions.txt").read_text().splitlines()
        if re.match(r"[a-z]", line) and "(group " in line
    }
    for group in sorted(keys):
        assert re.search(rf"\b{group}\b", said), f"group {group} is not in the docstring of rds_dagster.components"
    for name in components.__all__:
        assert name in said


def test_the_public_names_are_these():
    assert sorted(rds_dagster.__all__) == PUBLIC


def test_every_public_name_can_be_used_and_is_documented():
    for name in PUBLIC:
        value = getattr(rds_dagster, name)
        assert value.__doc__, name


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(AttributeError, match=r"module 'rds_dagster' has no attribute 'encode'; it offers Encoder, EncoderSettings, "):
        _ = rds_dagster.encode


def test_importing_the_package_imports_nothing_heavy():
    script = "import sys, rds_dagster\nprint([name for name in ('torch', 'dagster', 'pyarrow', 'numpy', 'duckdb') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "[]\n"

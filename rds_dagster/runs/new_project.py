"""`rds init`: a new project folder that loads, with or without the demo's instances.

The repository root is such a folder itself; a test holds its assets/ equal to what this writes with the demo.
"""

from __future__ import annotations

from pathlib import Path

from rds_dagster.demo.plan import POOLS, TASKS
from rds_dagster.errors import SettingsError
from rds_dagster.storage.atomic import write_text

PYPROJECT = """[project]
name = "{name}"
version = "0.1.0"
requires-python = ">=3.11"
dependencies = ["rds-dagster"]

[tool.dg]
directory_type = "project"

[tool.dg.project]
root_module = "assets" # dg's root is the folder of definitions
defs_module = "assets"
code_location_name = "rds_dagster"
code_location_target_module = "rds_dagster.definitions"
registry_modules = ["rds_dagster.components"]
"""

WORKSPACE = """load_from:
  - python_module:
      module_name: rds_dagster.definitions
      location_name: rds_dagster
      working_directory: .
"""

ASSETS_INIT = '"""The project\'s instances: pools, tasks, corpus, mixtures and SQL models, one folder each."""\n'

GITIGNORE = ".rds/\ndemo_data/\ndata/\n__pycache__/\n"

README = """# {name}

Which instruction data to fine-tune on, picked by rds_dagster.

    dg scaffold defs rds_dagster.components.Pool pools/my_pool          then edit assets/pools/my_pool/defs.yaml
    dg scaffold defs rds_dagster.components.Task tasks/my_task          a few queries: prompt and answer
    dg scaffold defs rds_dagster.components.Mixture mixtures/my_mix     how many examples, for which tasks
    dg check defs                                                       is everything right?
    rds run                                                             make what is stale
    rds ui                                                              look at it

State lies in .rds/; delete it to start from nothing.
"""

CORPUS = """type: rds_dagster.components.Corpus

attributes:
  pools: [{pools}] # their order: the first one owns a conversation that stands in several; empty: that of the alphabet
  encoder:
    name: tiny
    model: tiny # the small language model of the package; or minilm, a folder, or a Hugging Face id: a bigger model selects better
    pooling: weighted_mean # RDS+
    dtype: float32 # bfloat16 on a GPU
"""

POOL = """type: rds_dagster.components.Pool

attributes:
  name: {name}
  source: demo_data/pools/{name}
  license: Apache-2.0
"""

TASK = """type: rds_dagster.components.Task

attributes:
  name: {name}
  queries: demo_data/tasks/{name}.jsonl
  test_items: demo_data/tasks/{name}.test.jsonl
"""

MIXTURES = {
    "all_tasks": """type: rds_dagster.components.Mixture

attributes:
  name: all_tasks
  budget: 240 # over all three tasks, in turn
  compare_with: random_balanced
""",
    "programs_only": """type: rds_dagster.components.Mixture

attributes:
  name: programs_only
  budget: 80
  tasks: [small_programs] # one task: its queries take turns
  on_taken: next_best
  compare_with: random_balanced
""",
    "random_balanced": """type: rds_dagster.components.Mixture

attributes:
  name: random_balanced
  budget: 240
  method: random
""",
}

SQL = """type: rds_dagster.components.SqlModels

attributes:
  folder: dbt_like_sql
"""


def make_project(folder: Path, *, with_demo: bool = False) -> None:
    """Write a new project; raises SettingsError if the folder holds anything already."""
    if folder.exists() and any(folder.iterdir()):
        raise SettingsError(f"{folder} is not empty; give a new folder, or remove what is in it")
    name = "".join(c if c.isalnum() else "_" for c in folder.resolve().name.lower()).strip("_") or "selection"
    files = {
        "pyproject.toml": PYPROJECT.format(name=name),
        "workspace.yaml": WORKSPACE,
        "README.md": README.format(name=name),
        ".gitignore": GITIGNORE,
        "assets/__init__.py": ASSETS_INIT,
        **project_assets(with_demo=with_demo),
        **{f"dbt_like_sql/{path}": text for path, text in sql_models().items()},
    }
    for path, text in files.items():
        write_text(folder / path, text)


def project_assets(*, with_demo: bool) -> dict[str, str]:
    """Path -> text of the instances under assets/."""
    pools = [plan.pool for plan in POOLS] if with_demo else []
    files = {"assets/corpus/defs.yaml": CORPUS.format(pools=", ".join(pools)), "assets/sql/defs.yaml": SQL}
    if with_demo:
        files |= {f"assets/pools/{pool}/defs.yaml": POOL.format(name=pool) for pool in pools}
        files |= {f"assets/tasks/{plan.task}/defs.yaml": TASK.format(name=plan.task) for plan in TASKS}
        files |= {f"assets/mixtures/{name}/defs.yaml": text for name, text in MIXTURES.items()}
    return files


def sql_models() -> dict[str, str]:
    """``<schema>/<name>.sql`` -> text of the models that the package brings."""
    package = Path(__file__).parent.parent
    bundled = package / "dbt_like_sql"  # in a wheel; in a checkout they stand at the root
    folder = bundled if bundled.is_dir() else package.parent / "dbt_like_sql"
    return {path.relative_to(folder).as_posix(): path.read_text() for path in sorted(folder.rglob("*.sql"))}

import os
import shutil
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
import yaml

from rds_dagster.embeddings.identity import describe_encoder
from rds_dagster.errors import SettingsError
from rds_dagster.runs.loading import load_project
from rds_dagster.runs.new_project import make_project
from rds_dagster.storage.layout import Layout

SMALL = {
    "corpus": ("Corpus", {"pools": []}),
    "pools/sums": ("Pool", {"name": "sums", "source": "data/sums.jsonl"}),
    "tasks/adding": ("Task", {"name": "adding", "queries": "data/adding.jsonl"}),
    "mixtures/best": ("Mixture", {"name": "best", "budget": 5}),
}


@pytest.fixture
def folder(tmp_path: Path, at_hand) -> Path:
    """A project of one pool, one task and one mixture, without data: definitions are read, nothing is run."""
    make_project(tmp_path / "small")
    for path, (kind, attributes) in SMALL.items():
        write(tmp_path / "small", path, kind, **attributes)
    with at_hand(tmp_path / "small"):
        yield tmp_path / "small"


def write(folder: Path, path: str, kind: str, **attributes: object) -> Path:
    defs = folder / "assets" / path / "defs.yaml"
    defs.parent.mkdir(parents=True, exist_ok=True)
    defs.write_text(yaml.safe_dump({"type": f"rds_dagster.components.{kind}", "attributes": attributes}, sort_keys=False))
    return defs


def refused(folder: Path, match: str) -> None:
    with pytest.raises(SettingsError, match=match):
        load_project(folder)


def test_a_loaded_project_is_what_its_yaml_says_now(folder, at_hand):
    write(folder, "pools/towns", "Pool", name="towns", source=["data/a.jsonl", "data/b.jsonl"], sample=0.5)
    write(folder, "pools/chat", "Pool", name="chat", source="data/chat")
    write(folder, "corpus", "Corpus", pools=["towns"], encoder={"name": "small", "model": "minilm", "max_tokens": 64})
    project = load_project(folder)
    assert [pool.name for pool in project.pools] == ["towns", "chat", "sums"], "the corpus's order first, the others by name"
    assert project.pools[0].settings.source == ("data/a.jsonl", "data/b.jsonl")
    assert project.pools[0].settings.sample == 0.5
    assert [task.name for task in project.tasks] == ["adding"]
    assert [mixture.name for mixture in project.mixtures] == ["best"]
    assert project.corpus.encoder_settings.max_tokens == 64
    assert project.layout == Layout.of_project(folder)
    assert {key.to_user_string() for key in project.graph.materializable_asset_keys} >= {"raw/chat", "embeddings/towns", "mixtures/best"}


def test_loading_puts_the_projects_own_dagster_instance_in_place(folder):
    load_project(folder)
    assert os.environ["DAGSTER_HOME"] == str(folder / ".rds" / "dagster")
    assert (folder / ".rds" / "dagster" / "dagster.yaml").is_file()


def test_a_project_without_pools_tasks_and_mixtures_loads(tmp_path, at_hand):
    make_project(tmp_path / "empty")
    with at_hand(tmp_path / "empty"):
        project = load_project(tmp_path / "empty")
    assert (project.pools, project.tasks, project.mixtures) == ((), (), ())
    assert {key.to_user_string() for key in project.graph.materializable_asset_keys} == {"encoders/tiny"}


def test_loading_is_silent(folder):
    """In a process of its own, since pytest has its own way with warnings and logs."""
    script = f"from pathlib import Path\nfrom rds_dagster.runs.loading import load_project\nload_project(Path({str(folder)!r}))"
    done = subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.parametrize(
    ("path", "kind", "attributes", "words"),
    [
        (
            "pools/towns",
            "Pool",
            {"name": "towns", "sources": "data/x.jsonl"},
            r"attributes\.source at .*towns/defs\.yaml:2: is missing; attributes\.sources at .*:4: there is no such setting",
        ),
        ("pools/towns", "Pool", {"name": "Towns", "source": "x"}, r"the name of a pool is 'Towns'; expected lower-case letters.*such as 'towns': rename it"),
        ("pools/towns", "Pool", {"name": "all", "source": "x"}, r"the name of a pool is 'all', which stands for all instances"),
        ("pools/copy", "Pool", {"name": "sums", "source": "x"}, r"pool 'sums' is defined 2 times; give each pool under assets/pools a name of its own"),
        ("pools/towns", "Pool", {"name": "towns", "source": "x", "sample": 0}, r"sample of pool 'towns' is 0; expected a whole number of examples above 0"),
        ("tasks/copy", "Task", {"name": "adding", "queries": "x"}, r"task 'adding' is defined 2 times"),
        ("tasks/places", "Task", {"name": "places", "queries": " "}, r"task places: queries is empty; give the file"),
        ("tasks/places", "Task", {"name": "places"}, r"attributes\.queries at .*tasks/places/defs\.yaml:\d: is missing\. Mend the YAML"),
        ("mixtures/copy", "Mixture", {"name": "best", "budget": 3}, r"mixture 'best' is defined 2 times"),
        (
            "mixtures/more",
            "Mixture",
            {"name": "more", "budget": 3, "tasks": ["addig"]},
            r"mixture 'more': tasks names task 'addig', which does not exist \(known: adding\)",
        ),
        (
            "mixtures/more",
            "Mixture",
            {"name": "more", "budget": 3, "pools": ["sum"]},
            r"mixture 'more': pools names pool 'sum', which does not exist \(known: sums\)",
        ),
        ("mixtures/more", "Mixture", {"name": "more", "budget": 3, "compare_with": "bset"}, r"compare_with names mixture 'bset', which does not exist"),
        (
            "mixtures/more",
            "Mixture",
            {"name": "more", "budget": 3, "compare_with": "more"},
            r"mixture 'more': compare_with names the mixture itself; name another",
        ),
        (
            "mixtures/more",
            "Mixture",
            {"name": "more", "budget": 3, "exports": []},
            r"mixture 'more': exports is \[\]; expected at least one of messages, .*parquet",
        ),
        (
            "mixtures/more",
            "Mixture",
            {"name": "more", "budget": 3, "exports": ["parquet", "messages", "parquet"]},
            r"mixture 'more': exports names parquet more than once; name each format once",
        ),
        ("mixtures/more", "Mixture", {"name": "more", "budget": 3, "seed": 4}, r"mixture 'more': seed is 4, which has no effect with method 'rds'"),
        ("mixtures/more", "Mixture", {"name": "more", "budget": 0}, r"mixture 'more': budget is 0; expected a whole number of examples, at least 1"),
        (
            "mixtures/more",
            "Mixture",
            {"name": "more", "budget": "lots"},
            r"component mixtures/more\[0\]: budget: Input should be a valid integer, .*but it is 'lots'",
        ),
        (
            "mixtures/more",
            "Mixture",
            {"name": "more", "budget": 3, "selector": "best"},
            r"component mixtures/more\[0\]: selector: Input should be 'round_robin', .* but it is 'best'",
        ),
        (
            "corpus",
            "Corpus",
            {"pools": ["sums", "towns"]},
            r"the order of pools in the corpus names pool 'towns', which does not exist \(known: sums\).*assets/pools/towns/defs\.yaml",
        ),
        ("corpus", "Corpus", {"encoder": {"modle": "minilm"}}, r"attributes\.encoder\.modle at .*corpus/defs\.yaml:\d: there is no such setting\. Mend"),
        ("corpus", "Corpus", {"encoder": {"model": ""}}, r"encoder 'tiny': model is ''; expected a model folder, a hub id, or one of tiny, minilm"),
        ("corpus", "Corpus", {"encoder": {"max_tokens": 3}}, r"encoder 'tiny': max_tokens is 3; expected a whole number of tokens, at least 8"),
        ("corpus", "Corpus", {"scores": {"depth": 0}}, r"depth.* 0; expected"),
        ("other", "Corpus", {}, r"the project has 2 components of type rds_dagster\.components\.Corpus; expected exactly one, in assets/corpus/defs\.yaml"),
        ("pools/towns", "Poool", {"name": "towns"}, r"Module `rds_dagster\.components` has no attribute `Poool`"),
    ],
)
def test_a_slip_in_the_yaml_is_refused_in_words(path, kind, attributes, words, folder):
    write(folder, path, kind, **attributes)
    refused(folder, f"(?s){words}")


def test_a_mixture_without_pool_or_task_is_refused_with_the_mend(folder):
    (folder / "assets" / "tasks" / "adding" / "defs.yaml").unlink()
    refused(folder, r"mixture 'best' has nothing to choose by: method 'rds' needs a task, .*`dg scaffold defs rds_dagster\.components\.Task tasks/NAME`")
    write(folder, "mixtures/best", "Mixture", name="best", budget=5, method="random")
    load_project(folder)
    (folder / "assets" / "pools" / "sums" / "defs.yaml").unlink()
    refused(folder, r"mixture 'best' has nothing to choose from: the project has no pool; .*`dg scaffold defs rds_dagster\.components\.Pool pools/NAME`")


def test_a_model_folder_is_relative_to_the_project_wherever_it_stands(folder, tmp_path, copy_of_tiny, monkeypatch, at_hand):
    shutil.copytree(copy_of_tiny, folder / "models" / "tiny")
    write(folder, "corpus", "Corpus", encoder={"name": "tiny", "model": "models/tiny", "dtype": "float32"})
    monkeypatch.chdir(tmp_path)
    key = dg.AssetKey(["encoders", "tiny"])
    project = load_project(folder)
    encoder = project.corpus.encoder_settings
    assert encoder.model == str(folder / "models" / "tiny")
    assert describe_encoder(encoder).dims == 160
    moved = folder.rename(tmp_path / "moved")
    with at_hand(moved):
        again = load_project(moved)
    assert again.graph.get(key).code_version == project.graph.get(key).code_version


@pytest.mark.parametrize("model", ["tiny", "minilm", "somebody/some-model", "/nowhere/model"])
def test_a_model_that_is_no_folder_of_the_project_stays_as_written(model, folder):
    write(folder, "corpus", "Corpus", encoder={"name": "other", "model": model})
    (folder / "minilm").mkdir()
    assert load_project(folder).corpus.encoder_settings.model == model


def test_a_project_without_a_corpus_is_refused(folder):
    (folder / "assets" / "corpus" / "defs.yaml").unlink()
    refused(folder, r"the project has 0 components of type rds_dagster\.components\.Corpus; expected exactly one, in assets/corpus/defs\.yaml")


def test_yaml_that_does_not_parse_is_refused_with_file_and_line(folder):
    (folder / "assets" / "pools" / "sums" / "defs.yaml").write_text("type: rds_dagster.components.Pool\nattributes:\n  name: [sums\n")
    refused(folder, r"(?s)pools/sums/defs\.yaml.*line 4")


def test_a_sql_model_that_reads_what_does_not_exist_is_refused(folder):
    (folder / "dbt_like_sql" / "reports" / "mine.sql").write_text("select id from clean.smus")
    refused(folder, r"reports/mine\.sql.*clean[./]smus")


def test_assets_of_another_project_are_refused_with_both_places(folder, tmp_path, monkeypatch):
    """A folder without assets/__init__.py is no package, so another project's `assets` further down the path would be taken."""
    make_project(tmp_path / "other")
    (folder / "assets" / "__init__.py").unlink()
    monkeypatch.syspath_prepend(str(tmp_path / "other"))
    refused(folder, rf"the project is {folder}, but the package `assets` was loaded from {tmp_path}/other/assets: another project comes first on the path\.")


def test_another_project_first_on_the_path_does_no_harm_where_this_one_is_a_package(folder, tmp_path, monkeypatch):
    make_project(tmp_path / "other", with_demo=True)
    monkeypatch.syspath_prepend(str(tmp_path / "other"))
    assert [pool.name for pool in load_project(folder).pools] == ["sums"]

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner, Result

from rds_dagster.cli import main
from rds_dagster.mixtures.make_mixture import make_mixture
from rds_dagster.mixtures.settings import MixtureSettings
from rds_dagster.mixtures.versions import find_version
from rds_dagster.storage.layout import Layout
from rds_dagster.storage.tables import TableStore

HEAVY = ("dagster", "torch", "transformers", "duckdb", "lancedb", "pyarrow", "pandas", "numpy", "great_expectations", "matplotlib", "sqlglot", "fsspec")
RDS = str(Path(sys.executable).with_name("rds"))


@pytest.fixture(autouse=True)
def unnamed(monkeypatch: pytest.MonkeyPatch) -> None:
    """No project is named, and what `--project` sets is put back."""
    monkeypatch.setenv("RDS_PROJECT", "put back afterwards")
    monkeypatch.delenv("RDS_PROJECT")


def rds(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words], prog_name="rds")


def shell(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([RDS, *words], cwd=folder, capture_output=True, text=True)


def commands(group: click.Group = main, path: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    yield " ".join(("rds", *path)), group
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield " ".join(("rds", *path, name)), command


each_command = pytest.mark.parametrize(("name", "command"), [pytest.param(*found, id=found[0]) for found in commands()])


def first_example(folder: Path, mixture: str) -> str:
    store = TableStore(Layout.of_project(folder))
    return store.read(store.need(f"mixtures/{mixture}"), "examples", ["id"]).column("id")[0].as_py().hex()


def test_the_commands_are_those_of_the_readme():
    assert sorted(main.commands) == ["demo", "diff", "explain", "export", "fit-whitening", "init", "prune", "run", "status", "ui"]


@each_command
def test_every_command_says_what_it_does_and_ends_with_a_line_to_paste(name, command):
    assert command.help, f"{name} has no help"
    first, *_, last = command.help.strip().splitlines()
    assert first.endswith("."), f"the first line of {name}'s help is a sentence"
    assert last.strip().startswith(f"Example: {name}" if name != "rds" else "Example: rds "), f"the help of {name} ends with {last!r}"


@each_command
def test_every_option_has_a_help(name, command):
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{name} {parameter.opts[0]} has no help"


@pytest.mark.parametrize("name", sorted(set(main.commands) - {"init"}))
def test_every_command_that_works_on_a_project_takes_its_folder(name):
    assert "--project" in {option for parameter in main.commands[name].params for option in parameter.opts}


@each_command
def test_the_pasted_example_parses(name, command):
    """Its words are known commands, options and arguments; nothing is run."""
    words = command.help.strip().splitlines()[-1].split("Example: rds ")[1].replace("'", "").split()
    target = main.commands[words[0]]
    target.make_context(words[0], words[1:])


def test_the_command_line_imports_nothing_heavy():
    """Else `rds --help` takes seconds."""
    script = f"import sys, rds_dagster.cli\nprint([name for name in {HEAVY} if name in sys.modules])"
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert said.stdout == "[]\n"


def test_help_and_version_go_to_stdout():
    for words in (["--help"], ["-h"], ["run", "--help"], ["--version"]):
        said = rds(*words)
        assert (said.exit_code, said.stderr) == (0, "")
        assert said.stdout


@pytest.mark.parametrize("words", [["rnu"], ["run", "a", "b"], ["run", "--verfy"], ["ui", "--port", "many"], ["export", "best"], ["explain", "best"], ["diff"]])
def test_wrong_use_exits_with_2_and_says_so_on_stderr(words):
    said = rds(*words)
    assert (said.exit_code, said.stdout) == (2, "")
    assert "Usage: rds" in said.stderr


def test_outside_of_a_project_the_mend_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for words in (
        ["status"],
        ["run"],
        ["demo"],
        ["ui"],
        ["fit-whitening"],
        ["prune"],
        ["explain", "best", "abcd"],
        ["diff", "best"],
        ["export", "best", "--to", "out"],
    ):
        said = rds(*words)
        assert (said.exit_code, said.stdout) == (2, ""), words
        assert said.stderr.startswith(f"SettingsError: {tmp_path} and the folders above it hold no project: expected a pyproject.toml")
        assert "`rds init DIR`" in said.stderr
        assert said.stderr.count("\n") == 1


def test_a_folder_that_was_named_and_is_no_project_is_named_back(tmp_path):
    for words in (["--project", tmp_path, "status"], ["status", "--project", tmp_path]):
        said = rds(*words)
        assert said.exit_code == 2
        assert f"{tmp_path}" in said.stderr


def test_init_prints_the_folder_and_talks_of_the_next_step(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = rds("init", "mine")
    assert (said.exit_code, said.stdout) == (0, f"{tmp_path / 'mine'}\n")
    assert said.stderr.startswith("next: cd mine && rds run")
    assert rds("init", "demo_project", "--demo").stderr.startswith("next: cd demo_project && rds demo")
    again = rds("init", "mine")
    assert (again.exit_code, again.stdout) == (2, "")
    assert again.stderr == "SettingsError: mine is not empty; give a new folder, or remove what is in it\n"


def test_run_talks_on_stderr_and_status_answers_on_stdout(own_project):
    """In processes of their own, where warnings and logs would show."""
    first = shell(own_project, "run", "raw/* or mixtures/*")
    assert (first.returncode, first.stdout) == (0, "")
    assert first.stderr.splitlines()[0] == "making 3: raw/chat, raw/sums, raw/towns"
    assert first.stderr.splitlines()[-1] == "3 made, 0 failed, 0 held back"
    second = rds("run")
    assert (second.exit_code, second.stdout, second.stderr) == (0, "", "nothing is stale\n0 made, 0 failed, 0 held back\n")
    text = shell(own_project, "status")
    assert (text.returncode, text.stderr) == (0, "")
    assert text.stdout.startswith(f"project {own_project}\n")
    assert text.stdout.endswith("nothing is stale\n")
    said = rds("status", "--json")
    assert (said.exit_code, said.stderr) == (0, "")
    assert json.loads(said.stdout)["stale"] == {}


def test_run_exits_with_1_when_an_asset_fails_and_names_what_it_held_back(own_project):
    defs = own_project / "assets" / "mixtures" / "adding_only" / "defs.yaml"
    said = yaml.safe_load(defs.read_text())
    defs.write_text(yaml.safe_dump({**said, "attributes": {**said["attributes"], "budget": 31}}))
    done = rds("run", "mixtures/adding_only+")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "✗ mixtures/adding_only: BudgetError: " in done.stderr
    assert "- not made, mixtures/adding_only failed: exports/adding_only, " in done.stderr
    assert done.stderr.splitlines()[-1] == "0 made, 1 failed, 4 held back"


def test_a_selection_that_matches_nothing_exits_with_2_and_runs_nothing(own_project):
    said = rds("run", "group:typo")
    assert (said.exit_code, said.stdout) == (2, "")
    assert said.stderr.startswith("SettingsError: the selection 'group:typo' matches no asset; groups are clean, ")


def test_definitions_that_do_not_load_exit_with_2_without_a_traceback(own_project):
    (own_project / "assets" / "pools" / "sums" / "defs.yaml").write_text("type: rds_dagster.components.Pool\nattributes: {name: sums, sorce: x}\n")
    done = shell(own_project, "run")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("SettingsError: the definitions under assets/ do not load: ")
    assert "attributes.sorce at " in done.stderr
    assert "Traceback" not in done.stderr
    assert rds("status").stderr == done.stderr


def test_explain_shows_the_whole_chain_for_an_id_or_its_first_digits(built_project):
    example = first_example(built_project.folder, "best")
    said = rds("--project", built_project.folder, "explain", "best", example[:8])
    assert (said.exit_code, said.stderr) == (0, "")
    for words in (example, "in mixture best, version ", "position 1", "task   adding", "rank   1 ", "sums.jsonl, line ", "user: What is ", "unique/sums  "):
        assert words in said.stdout
    as_json = json.loads(rds("explain", "best", example, "--json", "--project", built_project.folder).stdout)
    assert as_json["id"] == example
    assert as_json["places"][0]["pool"] == "sums"
    assert as_json["task"] == "adding"
    assert as_json["messages"][0]["role"] == "user"


def test_explain_names_every_place_where_the_example_stands(own_project):
    """The first sum stands in chat again."""
    store = TableStore(Layout.of_project(own_project))
    (keeper,) = store.read(store.need("unique/chat"), "losers", ["keeper_id"]).column("keeper_id").to_pylist()
    make_mixture(store, MixtureSettings("everything", 30, method="random"), ["sums", "towns", "chat"], [])
    said = rds("--project", own_project, "explain", "everything", keeper.hex())
    assert "stands at\n  chat  chat.jsonl, line 9\n  sums  sums.jsonl, line 1\n" in said.stdout


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["bset", "abcd"], 1, "StateError: mixture 'bset' is not there; made so far: adding_only, best, by_chance."),
        (["best", "xyz"], 2, "SettingsError: example id 'xyz' is not hexadecimal of 4 digits or more"),
        (["best", "00000000000000000000000000000000"], 2, "SettingsError: mixture 'best' does not hold example '0000"),
    ],
)
def test_explain_refuses_in_words(words, status, message, built_project):
    said = rds("--project", built_project.folder, "explain", *words)
    assert (said.exit_code, said.stdout) == (status, "")
    assert said.stderr.startswith(message)


@pytest.fixture
def two_versions(own_project) -> list[str]:
    """The project's mixture `best` with a second version of 12 examples; their fingerprints."""
    store = TableStore(Layout.of_project(own_project))
    first = store.need("mixtures/best").fingerprint
    return [first, make_mixture(store, MixtureSettings("best", 12), ["sums", "towns", "chat"], ["adding", "places"]).manifest.fingerprint]


def test_diff_says_what_entered_and_why_between_two_versions(own_project, two_versions):
    first, second = two_versions
    said = rds("--project", own_project, "diff", "best")
    assert (said.exit_code, said.stderr) == (0, "")
    for words in (
        f"from {first[:12]}  made ",
        f"to   {second[:12]}  made ",
        "9 stayed, 3 entered, 0 left; Jaccard 0.7500",
        "  budget  9 -> 12\n",
        "shares by source",
    ):
        assert words in said.stdout
    for words in ([first[:6], "current"], ["previous"], [first[:8], second[:8]]):
        assert rds("diff", "best", *words, "--project", own_project).stdout == said.stdout
    as_json = json.loads(rds("diff", "best", "--json", "--project", own_project).stdout)
    assert (as_json["before"]["fingerprint"], as_json["after"]["fingerprint"], as_json["jaccard"], as_json["left"]) == (first, second, 0.75, [])
    assert {moved["reason"] for moved in as_json["entered"]} == {"budget"} and all(len(moved["id"]) == 32 for moved in as_json["entered"])


def test_diff_refuses_in_words(own_project, two_versions):
    first, second = two_versions
    unknown = rds("--project", own_project, "diff", "best", "beef0")
    assert (unknown.exit_code, unknown.stdout) == (2, "")
    assert unknown.stderr.startswith("SettingsError: mixture 'best' has no version 'beef0'; expected current, previous, or 4 or more first digits of ")
    assert f"{second[:12]} (made " in unknown.stderr and f"{first[:12]} (made " in unknown.stderr and unknown.stderr.count("\n") == 1
    alone = rds("diff", "by_chance", "--project", own_project)
    assert (alone.exit_code, alone.stdout) == (1, "")
    assert alone.stderr.startswith("StateError: mixture 'by_chance' has no version before the current one; there is only ")


def test_an_older_version_is_explained_and_exported(own_project, two_versions, tmp_path):
    first, second = two_versions
    store = TableStore(Layout.of_project(own_project))
    make_mixture(store, MixtureSettings("best", 1, method="random"), ["sums", "towns", "chat"], [])
    row = store.read(find_version(store, "best", first).manifest, "examples", ["id"]).column("id").to_pylist()[-1].hex()
    said = rds("--project", own_project, "explain", "best", row, "--version", first[:8])
    assert (said.exit_code, said.stderr) == (0, "")
    assert f"in mixture best, version {first[:12]}, at position 9\n" in said.stdout
    out = rds("export", "best", "--version", "previous", "--to", tmp_path / "out", "--project", own_project)
    assert out.stdout == f"{tmp_path}/out/best.{second[:12]}.messages.jsonl\n"
    assert len(Path(out.stdout.strip()).read_text().splitlines()) == 12
    wrong = rds("explain", "best", row, "--version", "beef0", "--project", own_project)
    assert wrong.exit_code == 2 and "has no version 'beef0'" in wrong.stderr


@pytest.mark.slow
def test_fit_whitening_prints_where_the_file_lies_and_talks_of_the_rest(own_project):
    assert rds("run", "raw/*").exit_code == 0  # a copy lies elsewhere
    said = shell(own_project, "fit-whitening", "--dims", "3", "--vectors", "20")
    assert (said.returncode, said.stdout) == (0, f"{own_project}/whitening/tiny.safetensors\n")
    talk = said.stderr.splitlines()
    assert re.fullmatch(r"3 of \d+ dims keep \d+\.\d% of the variance of 20 vectors", talk[0])
    assert talk[1:] == [
        "next: add to the encoder in the YAML of the corpus: whiten: {dims: 3}",
        "next: commit whitening/tiny.safetensors with the project, then `rds run`",
    ]
    again = rds("fit-whitening", "--dims", "3")
    assert (again.exit_code, again.stdout) == (2, "")
    assert again.stderr.startswith(f"SettingsError: {own_project}/whitening/tiny.safetensors is there already, and a refit moves every score; ")
    assert again.stderr.count("\n") == 1


def test_fit_whitening_without_vectors_exits_with_1_and_names_the_mend(new_project):
    said = rds("fit-whitening", "--dims", "3")
    assert (said.exit_code, said.stdout) == (1, "")
    assert said.stderr == "StateError: embeddings/sums is not current (never materialized); run `rds run '+embeddings/*'` first\n"


def test_export_writes_the_file_and_prints_where_it_lies(built_project, tmp_path):
    said = rds("--project", built_project.folder, "export", "best", "--to", tmp_path / "out")
    assert (said.exit_code, said.stdout, said.stderr) == (0, f"{tmp_path}/out/best.messages.jsonl\n", "")
    lines = [json.loads(line) for line in Path(said.stdout.strip()).read_text().splitlines()]
    assert len(lines) == 9
    assert lines[0]["id"] == first_example(built_project.folder, "best")
    assert [message["role"] for message in lines[0]["messages"]] == ["user", "assistant"]
    assert lines[0]["provenance"][0]["file"].endswith(".jsonl")
    table = rds("--project", built_project.folder, "export", "by_chance", "--format", "parquet", "--to", tmp_path / "out")
    assert pq.read_table(table.stdout.strip()).num_rows == 9


def test_export_refuses_an_unknown_format_or_mixture(built_project, tmp_path):
    unknown = rds("--project", built_project.folder, "export", "best", "--format", "mesages", "--to", tmp_path)
    assert (unknown.exit_code, unknown.stdout) == (2, "")
    assert unknown.stderr == "SettingsError: the export format is 'mesages'; expected one of messages, parquet; did you mean 'messages'?\n"
    missing = rds("--project", built_project.folder, "export", "bset", "--to", tmp_path)
    assert missing.exit_code == 1
    assert "made so far: adding_only, best, by_chance" in missing.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_demo_refuses_a_project_that_is_not_its_own(own_project):
    said = rds("demo")
    assert (said.exit_code, said.stdout) == (2, "")
    assert "is not the demo's project" in said.stderr
    assert not (own_project / "demo_data").exists()

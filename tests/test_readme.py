"""What the README says can be typed: the library's example runs, its commands and settings exist."""

import re
from pathlib import Path

import yaml

from rds_dagster.cli import main
from rds_dagster.components import Mixture, Pool, Task

README = (Path(__file__).parents[1] / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_library_example_runs_as_it_stands():
    (example,) = blocks("python")
    names: dict[str, object] = {}
    exec(example, names)
    assert [conversation[0]["content"] for conversation in names["chosen"]] == ["What is 2 + 3?", "What is 4 + 4?"]


def test_the_listed_commands_are_the_commands():
    listed = re.findall(r"^    rds ([\w-]+)", README.split("## Commands")[1].split("## As a library")[0], re.MULTILINE)
    assert sorted(listed) == sorted(main.commands)


def test_the_shown_settings_exist_also_those_in_comments():
    kinds = {"Pool": Pool, "Task": Task, "Mixture": Mixture}
    (shown,) = blocks("yaml")
    documents = re.split(r"^# assets/.*\n", shown, flags=re.MULTILINE)[1:]
    assert len(documents) == 4
    for document in documents:
        said = yaml.safe_load(re.sub(r"^  # (\w+:)", r"  \1", document, flags=re.MULTILINE))
        fields = kinds[said["type"].rsplit(".", 1)[1]].model_fields
        assert set(said["attributes"]) <= set(fields)

import pytest

from rds_dagster.errors import SettingsError
from rds_dagster.queries.settings import TaskSettings


def test_a_task_needs_a_name_and_queries():
    task = TaskSettings("gsm8k", "data/gsm8k.jsonl")
    assert (task.test_items, task.shape, task.limit) == (None, "auto", None)


@pytest.mark.parametrize("name", ["GSM8K", "gsm-8k", "8k", "", "a b"])
def test_a_bad_name_is_told_with_a_better_one(name):
    with pytest.raises(SettingsError, match=f"the name of a task is {name!r}; expected lower-case letters, digits and underscores, a letter first, such as '"):
        TaskSettings(name, "x.jsonl")


def test_the_name_that_stands_for_all_is_refused():
    with pytest.raises(SettingsError, match="the name of a task is 'all', which stands for all instances in SQL models; rename it, for example to 'all_task'"):
        TaskSettings("all", "x.jsonl")


def test_a_task_without_a_file_of_queries_is_refused():
    with pytest.raises(SettingsError, match="task gsm8k: queries is empty; give the file that holds its queries"):
        TaskSettings("gsm8k", " ")


@pytest.mark.parametrize("limit", [0, -3, True])
def test_a_limit_that_is_none_is_refused(limit):
    with pytest.raises(SettingsError, match=f"task gsm8k: limit is {limit}; expected a whole number of queries of 1 or more"):
        TaskSettings("gsm8k", "x.jsonl", limit=limit)


def test_an_unknown_shape_is_told_with_the_known_ones():
    with pytest.raises(SettingsError, match=r"shape of task 'gsm8k' is 'alpacca'; expected one of alpaca, auto, messages, .*; did you mean 'alpaca'"):
        TaskSettings("gsm8k", "x.jsonl", shape="alpacca")

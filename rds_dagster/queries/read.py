"""The files of a task -> its queries, or its test items. Small and chosen by hand, so any bad row is an error, not a loss."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rds_dagster import schema
from rds_dagster.errors import InputError
from rds_dagster.pools.files import list_files
from rds_dagster.pools.readers import read_records
from rds_dagster.pools.settings import Shape
from rds_dagster.pools.shapes import Rejected, to_messages
from rds_dagster.queries.settings import TaskSettings
from rds_dagster.schema import Message


@dataclass(frozen=True)
class TaskItem:
    """One query or test item: its name within the task, its conversation and that conversation's id (16 bytes)."""

    name: str
    messages: list[Message]
    id: bytes


def read_queries(task: TaskSettings, *, root: Path) -> list[TaskItem]:
    """The task's queries in the file's order; raises InputError for a bad row, a repeated name, or none at all."""
    items = list(_read(task.name, task.queries, task.shape, root))
    if not items:
        raise InputError(f"task {task.name} has no queries in {task.queries}; put at least one conversation (prompt and answer) into it")
    return items[: task.limit]


def read_test_items(task: TaskSettings, *, root: Path) -> list[TaskItem]:
    """The task's held-out items in the file's order; none if the task names no file for them."""
    return [] if task.test_items is None else list(_read(task.name, task.test_items, task.shape, root))


def _read(task: str, source: str, shape: Literal["auto"] | Shape, root: Path) -> Iterator[TaskItem]:
    seen: dict[str, str] = {}
    for file in list_files(source, root=root):
        for record in read_records(file, format="auto"):
            where = f"{file.file}, line {record.line}"
            if record.value is None:
                raise InputError(f"task {task}: {where}: {record.reason} ({record.detail}); mend or remove the line")
            found = to_messages(record.value, shape)
            if isinstance(found, Rejected):
                raise InputError(f"task {task}: {where}: {found.reason} ({found.detail}); mend or remove the line")
            if not any(m["role"] == "user" for m in found.messages) or found.messages[-1]["role"] != "assistant":
                raise InputError(f"task {task}: {where}: a query is a prompt and its answer, a user turn and at last an assistant turn; mend the line")
            name = found.original_id or f"{file.file}:{record.line}"
            if name in seen:
                raise InputError(f"task {task}: {where}: the id {name!r} stands at {seen[name]} already; give every query an id of its own")
            seen[name] = where
            try:
                item_id = schema.example_id(found.messages)
            except UnicodeEncodeError as error:
                raise InputError(f"task {task}: {where}: broken_unicode (half of a surrogate pair); mend or remove the line") from error
            yield TaskItem(name, found.messages, item_id)

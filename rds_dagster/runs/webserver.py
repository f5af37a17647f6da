"""What is asked of a running webserver, over GraphQL: whether the definitions load, and to switch on automation.

The webserver has them loaded, so this process need not.
"""

from __future__ import annotations

import json
import urllib.request
from typing import TypedDict, cast

from rds_dagster.errors import SettingsError, StateError

TIMEOUT_S = 60.0

FIND = """query { workspaceOrError { ... on Workspace { locationEntries { name locationOrLoadError {
  ... on RepositoryLocation { repositories { name sensors { name } } } ... on PythonError { message causes { message } } } } } } }"""
START = """mutation($sensor: SensorSelector!) { startSensor(sensorSelector: $sensor) {
  __typename ... on PythonError { message } ... on SensorNotFoundError { message } ... on UnauthorizedError { message } } }"""


class _Named(TypedDict):
    name: str


class _Repository(TypedDict):
    name: str
    sensors: list[_Named]


class _Message(TypedDict):
    message: str


class _LocationOrError(TypedDict, total=False):
    repositories: list[_Repository]
    message: str
    causes: list[_Message]


class _Entry(TypedDict):
    name: str
    locationOrLoadError: _LocationOrError


class _Workspace(TypedDict):
    locationEntries: list[_Entry]


class _Answer(TypedDict, total=False):
    workspaceOrError: _Workspace
    startSensor: dict[str, str]


def load_error(address: str) -> str | None:
    """Why the definitions do not load, in the words of the innermost cause; None if they do.

    ``address`` is http://host:port. Raises StateError if nothing answers there.
    """
    for location in _locations(address).values():
        if "message" in location:
            return " ".join([location["message"], *(cause["message"] for cause in location["causes"])][-1].split())
    return None


def switch_on(address: str, sensor: str) -> None:
    """Switch on a sensor; raises SettingsError if the definitions have none of that name or do not load, StateError if nothing answers."""
    for name, location in _locations(address).items():
        for repository in location.get("repositories", []):
            if sensor in [found["name"] for found in repository["sensors"]]:
                where = {"repositoryLocationName": name, "repositoryName": repository["name"], "sensorName": sensor}
                answer = _ask(address, START, {"sensor": where})["startSensor"]
                if answer["__typename"] != "Sensor":
                    raise SettingsError(f"the automation sensor {sensor!r} cannot be switched on: {answer.get('message', answer['__typename'])}")
                return
    broken = load_error(address)
    if broken:
        raise SettingsError(f"automation cannot be switched on, the definitions do not load: {broken}")
    raise SettingsError(f"the definitions have no automation sensor named {sensor!r}; start without `--auto`, and make what is stale with `rds run`")


def _locations(address: str) -> dict[str, _LocationOrError]:
    return {entry["name"]: entry["locationOrLoadError"] for entry in _ask(address, FIND, {})["workspaceOrError"]["locationEntries"]}


def _ask(address: str, query: str, variables: dict[str, dict[str, str]]) -> _Answer:
    body = json.dumps({"query": query, "variables": variables}).encode()
    request = urllib.request.Request(f"{address}/graphql", data=body, headers={"Content-Type": "application/json"})
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy in the environment is not for this machine
    try:
        with direct.open(request, timeout=TIMEOUT_S) as answer:
            return cast(_Answer, json.load(answer)["data"])
    except OSError as error:  # urllib's errors are of this family
        raise StateError(f"the webserver at {address} does not answer any more ({error}); see logs/webserver.log and start `rds ui` again") from error

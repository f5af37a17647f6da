"""What `dg scaffold defs rds_dagster.components.X name` writes: a defs.yaml that loads once its data is there."""

from __future__ import annotations

from collections.abc import Mapping

from dagster.components import Scaffolder, ScaffoldRequest, scaffold_component

Yaml = object  # what YAML can hold


def scaffolder(name: str, attributes: Mapping[str, Yaml]) -> type[Scaffolder]:  # type: ignore[type-arg]
    """A Scaffolder class that writes ``attributes``, with ``{name}`` replaced by the new folder's name."""

    class DefsYaml(Scaffolder):  # type: ignore[type-arg]
        def scaffold(self, request: ScaffoldRequest) -> None:  # type: ignore[type-arg]
            scaffold_component(request, {key: _filled(value, request.target_path.name) for key, value in attributes.items()})

    DefsYaml.__name__ = name
    return DefsYaml


def _filled(value: Yaml, name: str) -> Yaml:
    if isinstance(value, str):
        return value.replace("{name}", name)
    if isinstance(value, Mapping):
        return {key: _filled(item, name) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, name) for item in value]
    return value

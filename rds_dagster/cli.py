"""The `rds` command: parse, call one function, print where the result lies. Heavy imports stand inside the commands.

Results go to stdout, talk to stderr. Exit status: 0 done, 1 something failed or a check blocks, 2 wrong use.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from rds_dagster.errors import RdsError, SettingsError
from rds_dagster.project import project_folder


def _remember_project(_: click.Context, __: click.Parameter, folder: Path | None) -> None:
    if folder is not None:
        os.environ["RDS_PROJECT"] = str(folder.resolve())  # dagster's code servers inherit it


PROJECT = click.option(
    "--project",
    type=click.Path(path_type=Path, file_okay=False),
    expose_value=False,
    callback=_remember_project,
    help="Project folder. Default: RDS_PROJECT, else the nearest one from here upwards.",
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
VERSION = click.option("--version", help="Fingerprint of a version or its first digits, `previous` or `current`. Default: the current one.")


class Rds(click.Group):
    """Prints the project's own errors without a traceback."""

    def invoke(self, ctx: click.Context) -> object:
        """Run a command; an RdsError becomes one line and exit status 1 (2 for wrong settings)."""
        try:
            return super().invoke(ctx)
        except RdsError as error:
            click.echo(f"{type(error).__name__}: {error}", err=True)
            sys.exit(2 if isinstance(error, SettingsError) else 1)


@click.group(cls=Rds, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="rds-dagster", prog_name="rds")
@PROJECT
def main() -> None:
    """Pick the instruction data to fine-tune on: pools in, mixtures out, with lineage.

    Example: rds demo
    """


@main.command()
@PROJECT
def demo() -> None:
    """Run the main job on the built-in demo pools, from nothing to mixtures and reports.

    Example: rds demo
    """
    from rds_dagster.demo import refuse_other_project, write_demo
    from rds_dagster.runs.summary import demo_summary

    folder = project_folder()
    refuse_other_project(folder)
    ledger = write_demo(folder / "demo_data")
    _talk(f"demo pools: {sum(pool.records for pool in ledger.pools):,} conversations in {len(ledger.pools)} pools under {folder / 'demo_data'}")
    is_success = _walk(folder, None, verify=False)
    click.echo(demo_summary(folder))
    sys.exit(0 if is_success else 1)


@main.command()
@click.argument("selection", required=False)
@click.option("--verify", is_flag=True, help="Hash all files of the pools anew instead of trusting size and time.")
@PROJECT
def run(selection: str | None, verify: bool) -> None:
    """Look at the pools, then materialize what is stale, and only that.

    SELECTION is Dagster's selection syntax; a bare key such as mixtures/mine works too. Default: everything.

    Example: rds run '+mixtures/all_tasks'
    """
    sys.exit(0 if _walk(project_folder(), selection, verify=verify) else 1)


@main.command()
@JSON
@PROJECT
def status(as_json: bool) -> None:
    """Say what is stale and why, what follows from it, and the rows of each stage.

    Example: rds status --json
    """
    from rds_dagster.runs.summary import project_status, status_json, status_text

    said = project_status(project_folder())
    click.echo(status_json(said) if as_json else status_text(said))


@main.command()
@click.option("--port", default=3000, show_default=True, help="Port on 127.0.0.1; 0 picks a free one.")
@click.option("--auto", is_flag=True, help="Switch on the sensor that makes what is stale by itself; it stays on until it is switched off in the UI.")
@PROJECT
def ui(port: int, auto: bool) -> None:
    """Serve the Dagster UI and its daemon on 127.0.0.1 until Ctrl-C.

    Example: rds ui --port 3000
    """
    from rds_dagster.runs.servers import run_ui
    from rds_dagster.storage.layout import Layout

    folder = project_folder()
    sys.exit(run_ui(folder, Layout.of_project(folder), port=port, auto=auto, say=_talk))


@main.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--demo", "with_demo", is_flag=True, help="With the demo's pools, tasks and mixtures as a start.")
def init(folder: Path, with_demo: bool) -> None:
    """Make a new project folder: pyproject.toml, workspace.yaml, assets/ and dbt_like_sql/.

    Example: rds init my_selection
    """
    from rds_dagster.runs.new_project import make_project

    make_project(folder, with_demo=with_demo)
    click.echo(folder.resolve())
    _talk(f"next: cd {folder} && rds {'demo' if with_demo else 'run'}; the README there says how to add pools, tasks and mixtures")


@main.command("fit-whitening")
@click.option("--dims", type=click.IntRange(min=1), help="Numbers of a whitened vector. Default: whiten.dims of the corpus's encoder.")
@click.option("--vectors", default=500_000, show_default=True, type=click.IntRange(min=2), help="Examples whose vectors are fitted on, at most.")
@click.option("--seed", default=0, show_default=True, help="Draws those examples, by their ids.")
@click.option("--force", is_flag=True, help="Replace the whitening that is there; every score is stale then.")
@PROJECT
def fit_whitening(dims: int | None, vectors: int, seed: int, force: bool) -> None:
    """Fit a PCA whitening on the stored vectors, once, and freeze it in a file of the project.

    Example: rds fit-whitening --dims 64
    """
    from rds_dagster.runs.fitting import fit_project_whitening

    done = fit_project_whitening(project_folder(), dims=dims, vectors=vectors, seed=seed, force=force)
    fitted = done.whitening
    _talk(f"{fitted.dims:,} of {done.hidden:,} dims keep {fitted.variance_kept:.1%} of the variance of {fitted.vectors:,} vectors")
    click.echo(done.path)
    for step in done.next_steps:
        _talk(f"next: {step}")


@main.command()
@click.argument("mixture")
@click.argument("example_id")
@VERSION
@JSON
@PROJECT
def explain(mixture: str, example_id: str, version: str | None, as_json: bool) -> None:
    """Show the whole chain for one example: file, line, cleaning, task, query, rank, score.

    EXAMPLE_ID is the id in hex, or its first digits.

    Example: rds explain all_tasks 3f9c
    """
    from dataclasses import asdict
    from json import dumps

    from rds_dagster.lineage.explain import explain as explain_example
    from rds_dagster.lineage.explain import explanation_text
    from rds_dagster.storage.layout import Layout
    from rds_dagster.storage.tables import TableStore

    said = explain_example(TableStore(Layout.of_project(project_folder())), mixture, example_id, version=version)
    click.echo(dumps(asdict(said), indent=1, ensure_ascii=False) if as_json else explanation_text(said))


@main.command()
@click.argument("mixture")
@click.argument("before", metavar="[A]", default="previous")
@click.argument("after", metavar="[B]", default="current")
@JSON
@PROJECT
def diff(mixture: str, before: str, after: str, as_json: bool) -> None:
    """Say what entered a mixture and what left it, and why, from version A to version B.

    A and B are fingerprints or their first digits, `previous` or `current`. Default: from the version before the current one to the current one.
    A version that is not there is answered with those that are.

    Example: rds diff all_tasks 3f9c current
    """
    from dataclasses import asdict
    from json import dumps

    from rds_dagster.lineage.diff import diff_versions
    from rds_dagster.lineage.diff_text import diff_text
    from rds_dagster.storage.layout import Layout
    from rds_dagster.storage.tables import TableStore

    said = diff_versions(TableStore(Layout.of_project(project_folder())), mixture, before, after)
    click.echo(dumps(asdict(said), indent=1, ensure_ascii=False) if as_json else diff_text(said))


@main.command()
@click.option("--keep", default=1, show_default=True, type=click.IntRange(min=1), help="Versions of each mixture that count, the current one first.")
@click.option("--dry-run", is_flag=True, help="Only say what would be freed.")
@PROJECT
def prune(keep: int, dry_run: bool) -> None:
    """Drop vectors, scores, shards, tables and exports that no kept version needs.

    Kept are the current state, the last N versions of each mixture, and those under `pinned:` in its YAML. The versions themselves stay,
    so older ones can still be explained and compared; going back to a dropped encoder embeds again.

    Example: rds prune --keep 2
    """
    from rds_dagster.runs.prune import prune_project, pruned_text

    pruned = prune_project(project_folder(), keep=keep, dry_run=dry_run)
    click.echo(pruned_text(pruned))
    for reason in pruned.left:
        _talk(f"left: {reason}")


@main.command()
@click.argument("mixture")
@click.option("--format", "export_format", default="messages", show_default=True, help="messages (JSON Lines) or parquet.")
@click.option("--to", "folder", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder to write into; made if missing.")
@VERSION
@PROJECT
def export(mixture: str, export_format: str, folder: Path, version: str | None) -> None:
    """Write a version of a mixture as a training file.

    Example: rds export all_tasks --format messages --to out
    """
    from rds_dagster.exports.export_mixture import export_to
    from rds_dagster.storage.layout import Layout
    from rds_dagster.storage.tables import TableStore

    click.echo(export_to(TableStore(Layout.of_project(project_folder())), mixture, export_format, folder, version=version))


def _walk(folder: Path, selection: str | None, *, verify: bool) -> bool:
    """Materialize what is stale; True if all of it was made."""
    from rds_dagster.runs.walk import run_stale

    _show_progress()
    result = run_stale(folder, selection, _talk, verify=verify)
    if not result.made and result.is_success:
        _talk("nothing is stale")
    for reason in sorted(set(result.blocked.values())):
        _talk(f"- not made, {reason}: {', '.join(sorted(key for key, why in result.blocked.items() if why == reason))}")
    _talk(f"{len(result.made)} made, {len(result.failed)} failed, {len(result.blocked)} held back")
    return result.is_success


def _show_progress() -> None:
    """Say how far an encoding is, in log lines on stderr, where there is no terminal for a bar."""
    import logging

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("  %(message)s"))
    logger = logging.getLogger("rds_dagster")
    logger.handlers = [handler]  # here and not at the root: dagster's own handler, added later, rewrites the record
    logger.setLevel(logging.INFO)


def _talk(line: str) -> None:
    click.echo(line, err=True)

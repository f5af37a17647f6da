"""`Corpus`: all pools together -> unique/*, encoders/<name>, whitening/<name>, embeddings/*, scores/rds/*; the settings that hold for all of them."""

import time
import warnings
from collections.abc import Iterator
from dataclasses import replace

import dagster as dg

from rds_dagster.cleaning import unique as unique_stage
from rds_dagster.cleaning.settings import CleaningSettings
from rds_dagster.components.check_suites import CorpusChecks, embeddings_suite, scores_suite, unique_suite
from rds_dagster.components.resources import Project
from rds_dagster.components.results import file_link, materialized
from rds_dagster.components.scaffolding import scaffolder
from rds_dagster.components.siblings import pools_in_order, tasks_in_order
from rds_dagster.components.watching import watchers
from rds_dagster.embeddings import embed_pools as embed_stage
from rds_dagster.embeddings.settings import BUNDLED_MODELS, DEFAULT_MODEL, Device, Dtype, EncoderSettings, Pooling, What, WhitenSettings
from rds_dagster.embeddings.whitening_file import CODE as WHITENING_CODE
from rds_dagster.embeddings.whitening_file import GROUP as WHITENING
from rds_dagster.embeddings.whitening_file import register_whitening, whitening_path
from rds_dagster.fingerprint import fingerprint
from rds_dagster.pools.settings import PoolSettings
from rds_dagster.project import project_folder
from rds_dagster.scores import score_tasks as score_stage
from rds_dagster.scores.settings import METHOD, ScoreSettings

CORPUS_YAML = {"pools": [], "encoder": {"name": DEFAULT_MODEL, "model": DEFAULT_MODEL, "dtype": "float32"}}


class Cleaning(dg.Model, dg.Resolvable):
    """What counts as a valid conversation."""

    max_chars: int = 1_000_000


class Whiten(dg.Model, dg.Resolvable):
    """PCA whitening of the vectors when they are scored; `rds fit-whitening` fits it, once."""

    dims: int


with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message='Field name "model"')  # hides Resolvable.model, which only classes without fields need

    class EncoderModel(dg.Model, dg.Resolvable):
        """The model that embeds pools and queries."""

        name: str = DEFAULT_MODEL
        model: str = DEFAULT_MODEL  # type: ignore[assignment]
        pooling: Pooling = "weighted_mean"
        what: What = "full"
        max_tokens: int | None = None
        dtype: Dtype = "auto"
        device: Device = "auto"
        batch_tokens: int | None = None
        whiten: Whiten | None = None


class Scoring(dg.Model, dg.Resolvable):
    """How scores are made."""

    depth: int = 256


@dg.scaffold_with(scaffolder("CorpusScaffolder", CORPUS_YAML))
class Corpus(dg.Component, dg.Model, dg.Resolvable):
    """All pools as one: their order (the first pool owns a conversation that stands in several), cleaning, encoder, scoring."""

    pools: list[str] = []
    cleaning: Cleaning = Cleaning()
    encoder: EncoderModel = EncoderModel()
    scores: Scoring = Scoring()
    checks: CorpusChecks = CorpusChecks()

    @property
    def cleaning_settings(self) -> CleaningSettings:
        """The checked settings; raises SettingsError."""
        return CleaningSettings(**self.cleaning.model_dump())

    @property
    def encoder_settings(self) -> EncoderSettings:
        """The checked settings, a model folder that is relative to the project's made absolute; raises SettingsError."""
        written = self.written_encoder
        if written.model in BUNDLED_MODELS:
            return written
        folder = project_folder() / written.model
        return replace(written, model=str(folder.resolve())) if folder.is_dir() else written

    @property
    def written_encoder(self) -> EncoderSettings:
        """The same as the YAML has it, so that it does not change when the project moves; raises SettingsError."""
        whiten = self.encoder.whiten
        return EncoderSettings(**self.encoder.model_dump(exclude={"whiten"}), whiten=WhitenSettings(whiten.dims) if whiten else None)

    @property
    def score_settings(self) -> ScoreSettings:
        """The checked settings; raises SettingsError."""
        return ScoreSettings(**self.scores.model_dump())

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """The assets over all pools, their checks, and what watches the files behind them."""
        members, targets = pools_in_order(context), tasks_in_order(context)
        pools, tasks = [pool.name for pool in members], [task.name for task in targets]
        assets = [_encoder_asset(self.encoder_settings, self.written_encoder)]
        if pools:
            assets += [_unique_assets([pool.settings for pool in members]), _embedding_assets(pools, self.encoder_settings)]
        whitened = self.encoder_settings.name if self.encoder_settings.whiten else None
        if whitened:
            assets.append(_whitening_asset(self.encoder_settings))
        if pools and tasks:
            assets.append(_score_assets(pools, tasks, self.score_settings, whitened))
        checks = [unique_suite(pool, self.checks.unique) for pool in pools]
        checks += [embeddings_suite(pool, self.checks.embeddings) for pool in pools]
        checks += [scores_suite(task, self.checks.scores) for task in tasks if pools]
        outside = watchers([pool.settings for pool in members], [task.settings for task in targets], self.encoder_settings)
        return dg.Definitions.merge(dg.Definitions(assets=assets, asset_checks=checks), outside)


def _unique_assets(members: list[PoolSettings]) -> dg.AssetsDefinition:
    pools = [pool.name for pool in members]
    version = f"{unique_stage.CODE}-{fingerprint(pools, [(pool.sample, pool.sample_seed) for pool in members])[:12]}"

    @dg.multi_asset(
        name="unique",
        specs=[
            dg.AssetSpec(
                ["unique", pool],
                deps=[["clean", other] for other in pools],
                group_name="unique",
                kinds={"parquet"},
                code_version=version,
                description=f"One conversation that pool {pool} keeps after deduplication over all pools.",
            )
            for pool in pools
        ],
    )
    def unique(project: Project) -> Iterator[dg.MaterializeResult]:  # type: ignore[type-arg]
        began = time.monotonic()
        manifests = unique_stage.unify_pools(project.tables, members)
        for pool, manifest in manifests.items():
            lineage = {"id": [f"clean/{pool}.id"], "source": [f"clean/{pool}.source"]}
            yield materialized(project.tables, manifest, table="kept", figures={"seconds": round(time.monotonic() - began, 3)}, columns_from=lineage)

    return unique


def _encoder_asset(settings: EncoderSettings, written: EncoderSettings) -> dg.AssetsDefinition:
    @dg.asset(
        key=["encoders", settings.name],
        group_name="encoders",
        kinds={"pytorch"},
        code_version=fingerprint({name: value for name, value in vars(written).items() if name != "whiten"})[:12],  # the vectors know nothing of whitening
        description="The encoder: its data version is the hash of weights, tokenizer, template and settings.",
    )
    def encoder(project: Project) -> dg.MaterializeResult:  # type: ignore[type-arg]
        from rds_dagster.embeddings.register import register_encoder

        manifest, identity = register_encoder(project.tables, settings)
        figures = {"model": settings.model, "dims": identity.dims, "max_tokens": identity.max_tokens, "dtype": identity.dtype, "pooling": identity.pooling}
        return materialized(project.tables, manifest, figures=figures)

    return encoder


def _whitening_asset(settings: EncoderSettings) -> dg.AssetsDefinition:
    @dg.asset(
        key=[WHITENING, settings.name],
        deps=[["encoders", settings.name]],
        group_name=WHITENING,
        kinds={"safetensors"},
        code_version=f"{WHITENING_CODE}-{fingerprint(settings.whiten)[:12]}",
        description="The whitening that scores are taken with: its data version is the hash of the file that `rds fit-whitening` wrote into the project.",
    )
    def whitening(project: Project) -> dg.MaterializeResult:  # type: ignore[type-arg]
        manifest = register_whitening(project.tables, settings, root=project.root)
        result = materialized(project.tables, manifest, figures={name: value for name, value in manifest.settings.items() if value is not None})
        return result._replace(metadata={**(result.metadata or {}), "file": file_link(whitening_path(project.root, settings.name))})

    return whitening


def _embedding_assets(pools: list[str], encoder: EncoderSettings) -> dg.AssetsDefinition:
    @dg.multi_asset(
        name="embeddings",
        can_subset=True,
        specs=[
            dg.AssetSpec(
                ["embeddings", pool],
                deps=[["unique", pool], ["encoders", encoder.name]],
                group_name="embeddings",
                kinds={"lancedb", "pytorch"},
                code_version=str(embed_stage.CODE),
                skippable=True,
                description=f"Asserts that every example of unique/{pool} has its vector in LanceDB.",
            )
            for pool in pools
        ],
    )
    def embeddings(context: dg.AssetExecutionContext, project: Project) -> Iterator[dg.MaterializeResult]:  # type: ignore[type-arg]
        from rds_dagster.embeddings.register import current_encoder

        began = time.monotonic()
        chosen = [pool for pool in pools if dg.AssetKey(["embeddings", pool]) in context.selected_asset_keys]
        made = embed_stage.embed_pools(project.tables, current_encoder(project.tables, encoder), encoder.name, chosen)
        for pool, manifest in made.manifests.items():
            figures = {
                "rows_computed": made.rows_computed[pool],
                "rows_reused": made.rows_reused[pool],
                "tokens_in_pass": made.tokens,
                "seconds": round(time.monotonic() - began, 3),
            }
            yield materialized(project.tables, manifest, figures=figures, columns_from={"id": [f"unique/{pool}.id"]})

    return embeddings


def _score_assets(pools: list[str], tasks: list[str], settings: ScoreSettings, whitened: str | None) -> dg.AssetsDefinition:
    whitening = [[WHITENING, whitened]] if whitened else []
    version = fingerprint(settings, pools, *whitening)  # so that scores are stale when a pool is gone, or whitening is no longer asked for

    @dg.multi_asset(
        name="scores",
        can_subset=True,
        specs=[
            dg.AssetSpec(
                ["scores", METHOD, task],
                deps=[*(["embeddings", pool] for pool in pools), ["queries", task], *whitening],
                group_name="scores",
                kinds={"duckdb", "parquet"},
                code_version=f"{score_stage.CODE}-{version[:12]}",
                skippable=True,
                description=f"One kept example's largest cosine to a query of task {task}, and that query.",
            )
            for task in tasks
        ],
    )
    def scores(context: dg.AssetExecutionContext, project: Project) -> Iterator[dg.MaterializeResult]:  # type: ignore[type-arg]
        began = time.monotonic()
        chosen = [task for task in tasks if dg.AssetKey(["scores", METHOD, task]) in context.selected_asset_keys]
        live = unique_stage.owned_ids(project.tables, pools)
        made = score_stage.score_tasks(project.tables, chosen, pools, live, settings, whitened=whitened)
        project.warehouse.land()
        for task, manifest in made.manifests.items():
            figures = {"rows_computed": made.rows_computed[task], "rows_reused": made.rows_reused[task], "seconds": round(time.monotonic() - began, 3)}
            lineage = {"id": [f"unique/{pool}.id" for pool in pools], "best_query": [f"queries/{task}.query"]}
            yield materialized(project.tables, manifest, table="scores", figures=figures, columns_from=lineage)

    return scores

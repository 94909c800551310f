"""The component for `dg` projects: collections in `defs.yaml`, the same definitions as `build_keen_definitions` gives.

type: keen_pipeline.KeenExtractionComponent
attributes:
  destination: {uri: "{{ env.LANDING }}"}
  collections:
    - {name: purchases, start_date: "2026-01-01"}
"""

import json
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import dagster as dg
import yaml
from dagster.components import DefsStateConfig, DefsStateConfigArgs, ResolvedDefsStateConfig
from dagster.components.component.component import Component
from dagster.components.component_scaffolding import scaffold_component
from dagster.components.utils.translation import TranslationFn, TranslationFnResolver
from pydantic import BaseModel, ConfigDict, Field, create_model

from keen_pipeline.collection import Collection, is_collection_name
from keen_pipeline.collections_file import parse_collections, read_yaml
from keen_pipeline.defs.assets.run import run_assets
from keen_pipeline.defs.build import build_keen_definitions
from keen_pipeline.defs.resources import CsvDestination, ExtractionLedger, KeenResource, checked
from keen_pipeline.defs.sensors.status import INTERVAL_SECONDS
from keen_pipeline.defs.translator import KeenTranslator, KeenTranslatorData
from keen_pipeline.errors import ConfigurationError, InvalidInputError
from keen_pipeline.scope import DEFAULT_NAME

_log = logging.getLogger(__name__)
_HINTS = get_type_hints(Collection)
# The attributes of the collections file, from the one place that knows them; a template may stand for each, and YAML reads `off`
# as false.
_ATTRIBUTES: dict[str, Any] = {f.name: (_HINTS[f.name] | str | bool | None, None) for f in fields(Collection)}
_REQUIRED: dict[str, Any] = {"name": (str, ...)}
_TEMPLATE = re.compile(r"""\{\{\s*env(?:\.|\((['"]))(\w+)(?:\1\))?\s*\}\}""")
_STRICT = ConfigDict(extra="forbid")
CollectionModel: type[BaseModel] = create_model("CollectionModel", __config__=_STRICT, **(_ATTRIBUTES | _REQUIRED))


def _given(context: dg.ResolutionContext, model: BaseModel) -> dict[str, Any]:
    given = context.resolve_value(model.model_dump(mode="json", exclude_unset=True))
    assert isinstance(given, dict)
    return given


def _collections(context: dg.ResolutionContext, models: Sequence[BaseModel]) -> list[Collection]:
    return parse_collections([_given(context, model) for model in models])


class Discovery(BaseModel):
    """Which collections of the project are extracted beside those that are named, and how."""

    model_config = _STRICT

    defaults: dict[str, Any] = Field(
        description="attributes of every collection that is found, as under `collections` and without a name"
    )
    exclude: list[str] = Field(default=[], description="names of collections that are left out")

    def collections(self, found: Sequence[str], named: Sequence[Collection]) -> list[Collection]:
        """The collections of the names that were found, without those excluded, named already or never extracted (Keen's own)."""
        known = {*self.exclude, *(collection.name for collection in named)}
        wanted = [name for name in sorted(set(found) - known) if is_collection_name(name)]
        return parse_collections([{**self.defaults, "name": name} for name in wanted])


def _discovery(context: dg.ResolutionContext, model: Discovery | None) -> Discovery | None:
    if model is None:
        return None
    discovery = Discovery(**_given(context, model))
    if "name" in discovery.defaults:
        raise InvalidInputError("discover: defaults can't have a name, they are for every collection", field="discover")
    discovery.collections(["any"], ())  # what is wrong with the defaults is said now, not after the first discovery
    return discovery


def _variable(_: dg.ResolutionContext, given: str | None) -> str | None:
    """The name of a template's variable: its value would be shown by the UI and kept in Dagster's database."""
    if given is None:
        return None
    found = _TEMPLATE.fullmatch(given)
    if found is None:
        raise InvalidInputError('keen: read_key must name a variable, as "{{ env.KEEN_READ_KEY }}"', field="read_key")
    return found[2]


def _text(context: dg.ResolutionContext, given: Any) -> str | None:
    """A template's value as the text that it is: by itself Dagster reads `2.0`, and a project such as `50119e24`, as a number."""
    value = context.resolve_value(given)
    return None if value is None else str(context.resolve_value(f"={given}"))[1:]


_Text = Annotated[str | None, dg.Resolver(_text, model_field_type=str | None, inject_before_resolve=False)]


class ServiceModel(dg.Model, dg.Resolvable):
    """Which Keen service, instead of what the environment says. Keys stand in variables, never in YAML."""

    base_url: str | None = Field(default=None, description="API root; unset: KEEN_BASE_URL, or Keen's own with a project or key")
    project_id: _Text = Field(default=None, description="unset: KEEN_PROJECT_ID")
    read_key: Annotated[
        str | None,
        dg.Resolver(
            _variable,
            model_field_type=str | None,
            description='"{{ env.X }}", read when a run starts; unset: KEEN_READ_KEY',
            inject_before_resolve=False,
        ),
    ] = None
    read_key_variable: str | None = Field(
        default=None, description="name of the variable with the read key, read when a run starts"
    )
    api_version: _Text = Field(default=None, description="2.0 or 3.0; unset: KEEN_API_VERSION")
    requests_per_minute: int | None = Field(default=None, description="unset: KEEN_PIPELINE_REQUESTS_PER_MINUTE")
    max_attempts: int | None = Field(default=None, description="unset: KEEN_PIPELINE_MAX_ATTEMPTS")

    def resource(self) -> KeenResource:
        """The resource with these fields."""
        given = self.model_dump(exclude={"read_key", "read_key_variable"}, exclude_none=True)
        variable = self.read_key_variable or self.read_key
        if variable is not None:
            given["read_key"] = dg.EnvVar(variable)
        return KeenResource(**given)


class DestinationModel(dg.Model, dg.Resolvable):
    """Where files land, instead of what the environment says."""

    uri: str | None = Field(default=None, description="a folder or URI; unset: KEEN_PIPELINE_DESTINATION")
    options: dict[str, str | float] | None = Field(default=None, description="transport options such as endpoint")


class ExtractionScaffoldParams(BaseModel):
    """What `dg scaffold defs keen_pipeline.KeenExtractionComponent` asks for."""

    collection: str = Field(default="purchases", description="name of the first event collection")
    start_date: str = Field(default="2026-01-01", description="its first day, YYYY-MM-DD")
    live: bool = Field(default=False, description="a project at Keen, whose variables are required, not the embedded service")


class KeenExtractionScaffolder(dg.Scaffolder[ExtractionScaffoldParams]):
    """Writes a `defs.yaml` that loads."""

    @classmethod
    def get_scaffold_params(cls) -> type[ExtractionScaffoldParams]:
        return ExtractionScaffoldParams

    def scaffold(self, request: dg.ScaffoldRequest[ExtractionScaffoldParams]) -> None:
        """Raises InvalidInputError if the name or the day can't be one, before anything is written."""
        params = request.params
        parse_collections([{"name": params.collection, "start_date": params.start_date}])
        attributes: dict[str, Any] = {"collections": [{"name": params.collection, "start_date": params.start_date}]}
        if params.live:
            attributes = {"keen": {"base_url": "{{ env.KEEN_BASE_URL }}", "project_id": "{{ env.KEEN_PROJECT_ID }}"}, **attributes}
        scaffold_component(request, attributes)
        if params.live and request.scaffold_format == "yaml":
            needed = {"requirements": {"env": ["KEEN_BASE_URL", "KEEN_PROJECT_ID", "KEEN_READ_KEY"]}}
            with (request.target_path / "defs.yaml").open("a", encoding="utf-8") as file:
                file.write("\n" + yaml.safe_dump(needed, sort_keys=False))


@dg.scaffold_with(KeenExtractionScaffolder)
@dataclass
class KeenExtractionComponent(dg.StateBackedComponent, dg.Resolvable):
    """Whole files of Keen's event collections: assets, checks, the nightly schedule, the status sensor and their resources.

    `discover` asks the project for its collections; what it answered is the component's state, which `dg utils
    refresh-defs-state` renews (`dg dev` does so by itself). Without it the component has no state.
    """

    collections: Annotated[
        Sequence[Collection],
        dg.Resolver(
            _collections,
            model_field_type=Sequence[CollectionModel],
            description="the event collections; the same attributes as in the file of KEEN_PIPELINE_COLLECTIONS",
        ),
    ] = ()
    discover: Annotated[
        Discovery | None,
        dg.Resolver(_discovery, model_field_type=Discovery | None, description="the project's other collections too"),
    ] = None
    keen: ServiceModel | None = None
    destination: DestinationModel | None = None
    ledger_url_variable: str | None = None
    """Name of the variable with the ledger's URL, which may hold a password; unset: KEEN_PIPELINE_LEDGER_URL."""
    name: str = DEFAULT_NAME
    """What every name in Dagster derives from; a second component needs another one."""
    group_name: str | None = None
    translation: (
        Annotated[TranslationFn[Collection], TranslationFnResolver[Collection](lambda collection: {"collection": collection})]
        | None
    ) = None
    nightly_cron: str | None = None
    nightly_timezone: str | None = None
    sensor_interval_seconds: int = INTERVAL_SECONDS
    downstream: str | None = None
    """A selection of assets whose automation conditions a sensor of ours evaluates, for example `group:reports`; unset: none."""
    running: bool = False
    pool: str | None = None
    partitions_per_run: int | None = None
    """A longer backfill is several runs of so many partitions; unset: KEEN_PIPELINE_PARTITIONS_PER_RUN, else one run."""
    defs_state: ResolvedDefsStateConfig = field(default_factory=DefsStateConfigArgs.local_filesystem)

    @classmethod
    def load(cls, attributes: BaseModel | None, context: dg.ComponentLoadContext) -> "KeenExtractionComponent":
        """As every component; without discovery there is no state to speak of."""
        for file in context.path.glob("defs.yaml"):
            read_yaml(file)  # Dagster has read NO as false, 01234 as 668, and of an attribute that is listed twice the last one
        loaded = Component.load.__func__(cls, attributes, context)  # type: ignore[attr-defined]
        assert isinstance(loaded, cls)
        if loaded.discover is not None:
            context.component_tree.mark_component_defs_state_key(
                defs_state_key=loaded.defs_state_config.key, loc=context.component_loc
            )
        return loaded

    @property
    def defs_state_config(self) -> DefsStateConfig:
        project = self.keen.project_id if self.keen is not None and self.keen.project_id else "environment"
        return DefsStateConfig.from_args(self.defs_state, default_key=f"{type(self).__name__}[{self.name}][{project}]")

    def get_asset_spec(self, data: KeenTranslatorData) -> dg.AssetSpec:
        """The spec of a collection's files; override it to have your own."""
        spec = KeenTranslator(self.group_name).get_asset_spec(data)
        return spec if self.translation is None else self.translation(spec, data.collection)

    def execute(self, context: dg.AssetExecutionContext) -> Iterator[Any]:
        """What the step of an asset does; override it to do something before or after."""
        yield from run_assets(context)

    def _keen(self) -> KeenResource:
        return self.keen.resource() if self.keen is not None else KeenResource()

    def write_state_to_path(self, state_path: Path) -> None:
        """Ask the project for the names of its collections. Raises the errors of the client."""
        resource = self._keen()
        if isinstance(resource.read_key, dg.EnvVar):  # outside of a run nobody has read it yet
            resource = KeenResource(**{**resource.model_dump(exclude_none=True), "read_key": resource.read_key.get_value()})
        with resource.client() as client:
            state_path.write_text(json.dumps({"collections": client.collections()}))

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """The definitions; those of discovered collections from the state."""
        return self._definitions(()) if self.discover is None else super().build_defs(context)

    def build_defs_from_state(self, context: dg.ComponentLoadContext, state_path: Path | None) -> dg.Definitions:
        """Only those of the named collections if nothing has been discovered yet."""
        found = json.loads(state_path.read_text())["collections"] if state_path is not None else []
        return self._definitions(found)

    def _discovered(self, found: Sequence[str]) -> list[Collection]:
        """Those with an asset of their own. Another one's neighbour of nearly the same name is left out with a warning."""
        if self.discover is None:
            return []
        others = self.discover.collections(found, self.collections)
        keys = {c.name: self.get_asset_spec(KeenTranslatorData(c, self.name)).key for c in (*self.collections, *others)}
        owners = {keys[collection.name]: collection.name for collection in self.collections}
        # `a_b` comes before `a b`: whatever is found later, an asset stays that of its collection.
        for collection in sorted(others, key=lambda c: (c.name not in keys[c.name].path, c.name)):
            key = keys[collection.name]
            if owners.setdefault(key, collection.name) != collection.name:
                _log.warning(
                    "discovered collection %r is left out: it would be the asset %s, which is that of %r; name it under "
                    "`collections`, and give it another key by `translation`",
                    *(collection.name, key.to_user_string(), owners[key]),
                )
        return [collection for collection in others if owners[keys[collection.name]] == collection.name]

    def _definitions(self, found: Sequence[str]) -> dg.Definitions:
        if not self.collections and self.discover is None:
            raise ConfigurationError("KeenExtractionComponent: name `collections`, or let it `discover` those of the project")
        place, translator = self.destination, KeenTranslator()
        translator.get_asset_spec = self.get_asset_spec  # type: ignore[method-assign]
        return build_keen_definitions(
            [*self.collections, *self._discovered(found)],
            keen=self._keen(),
            ledger=ExtractionLedger(url=dg.EnvVar(self.ledger_url_variable)) if self.ledger_url_variable else None,
            destination=CsvDestination(uri=place.uri, options=place.options) if place is not None else None,
            name=self.name,
            translator=translator,
            nightly_cron=self.nightly_cron,
            nightly_timezone=self.nightly_timezone,
            sensor_interval_seconds=self.sensor_interval_seconds,
            downstream=self.downstream,
            pool=self.pool,
            execute=self.execute,
            # A template's value is a text.
            **checked({"running": self.running, "partitions_per_run": self.partitions_per_run}),
        )

"""`KeenExtractionComponent`: YAML gives what Python gives, wrong YAML is refused, collections are discovered, `dg` finds it all."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import dagster as dg
import pytest
import yaml
from dagster._core.remote_representation.external_data import RepositorySnap
from dagster._serdes import serialize_value
from dagster.components.testing.utils import create_defs_folder_sandbox

from keen_pipeline import (
    Collection,
    CsvDestination,
    KeenExtractionComponent,
    KeenResource,
    KeenTranslator,
    KeenTranslatorData,
    build_keen_definitions,
)
from keen_pipeline.client import KeenClient
from keen_pipeline.collection import CheckPolicy, CountPolicy, Encoding
from keen_pipeline.defs.component import Discovery, ServiceModel
from keen_pipeline.defs.translator import collection_of
from keen_pipeline.errors import ConfigurationError, InvalidInputError
from keen_pipeline.testing import live_service

PURCHASES: dict[str, Any] = {
    "name": "purchases",
    "start_date": "2026-01-01",
    "filters": [{"property_name": "body:amount", "operator": "gt", "property_value": 3.5}],
    "encoding": "csv.gz",
    "lookback_days": 7,
    "owners": ["team:growth"],
    "tags": {"area": "shop"},
    "mask": {"body:user:email": "hash"},
    "run_tags": {"dagster-k8s/config": {"container_config": {"resources": {"limits": {"memory": "2Gi"}}}}},
}
LOGINS: dict[str, Any] = {"name": "logins", "start_date": "2026-01-01", "granularity": "weekly", "timezone": "Europe/Berlin"}


@contextmanager
def loaded(attributes: dict[str, Any]) -> Iterator[tuple[KeenExtractionComponent, dg.Definitions]]:
    with create_defs_folder_sandbox() as sandbox:
        path = sandbox.scaffold_component(component_cls=KeenExtractionComponent, defs_yaml_contents=_document(attributes))
        with sandbox.load_component_and_build_defs(defs_path=path) as (component, defs):
            assert isinstance(component, KeenExtractionComponent)
            yield component, defs


def _document(attributes: dict[str, Any]) -> dict[str, Any]:
    return {"type": "keen_pipeline.KeenExtractionComponent", "attributes": attributes}


def _told(defs: dg.Definitions) -> dict[str, Any]:
    """Everything of definitions that can be compared."""
    repository = defs.get_repository_def()
    # Where the component stands is in its specs too, and nowhere in Python's.
    own = ("dagster/code_references", "dagster/component_origin")
    return {
        "specs": [
            spec.replace_attributes(metadata={k: v for k, v in spec.metadata.items() if not k.startswith(own)})
            for spec in sorted(defs.resolve_all_asset_specs(), key=lambda spec: spec.key)
        ],
        "per_run": {policy.max_partitions_per_run for assets in _assets(defs) if (policy := assets.backfill_policy) is not None},
        "checks": sorted(str(key) for key in repository.asset_graph.asset_check_keys),
        "jobs": sorted(job.name for job in repository.get_all_jobs()),
        "schedules": [(s.name, s.cron_schedule, s.execution_timezone) for s in repository.schedule_defs],
        "sensors": sorted((s.name, s.minimum_interval_seconds) for s in repository.sensor_defs),
        "resources": sorted(defs.resources or {}),
        "destination": (defs.resources or {})["keen_destination"],
        "keen": (defs.resources or {})["keen"],
    }


def _assets(defs: dg.Definitions) -> list[dg.AssetsDefinition]:
    return [node.assets_def for node in defs.get_repository_def().asset_graph.asset_nodes]


@pytest.mark.parametrize("template", ["{{ env.OUR_READ_KEY }}", "{{ env('OUR_READ_KEY') }}"])
def test_a_key_of_a_template_stands_in_nothing_that_dagster_keeps(monkeypatch: pytest.MonkeyPatch, template: str) -> None:
    monkeypatch.setenv("OUR_READ_KEY", "s3cret-key")
    with loaded({"collections": [PURCHASES], "keen": {"project_id": "p", "read_key": template}}) as (_, defs):
        kept = serialize_value(RepositorySnap.from_def(defs.get_repository_def()))
        assert "OUR_READ_KEY" in kept
        assert "s3cret" not in kept
        keen = dg.build_resources({"keen": (defs.resources or {})["keen"]})
        with keen as resources:
            assert resources.keen.settings().read_key == "s3cret-key"


@pytest.mark.parametrize(("project", "version"), [("501199595462283200000000", "2.0"), ("5011e9595462283200000000", "3.0")])
def test_a_template_that_looks_like_a_number_stays_the_text_that_it_is(
    monkeypatch: pytest.MonkeyPatch, project: str, version: str
) -> None:
    monkeypatch.setenv("OUR_PROJECT", project)
    monkeypatch.setenv("OUR_VERSION", version)
    keen = {"project_id": "{{ env.OUR_PROJECT }}", "api_version": "{{ env.OUR_VERSION }}", "base_url": "{{ env.OUR_UNSET }}"}
    with loaded({"collections": [LOGINS], "keen": keen}) as (_, defs):
        settings = (defs.resources or {})["keen"].settings()
    assert (settings.project_id, settings.api_version, settings.base_url) == (project, version, "https://api.keen.io")


def test_an_option_of_the_destination_may_be_a_number() -> None:
    place: dict[str, Any] = {"uri": "sftp://us@host/x", "options": {"timeout_seconds": 30, "known_hosts": "hosts"}}
    with loaded({"collections": [LOGINS], "destination": place}) as (_, defs):
        assert (defs.resources or {})["keen_destination"].open().uri == "sftp://us@host/x"
    assert CsvDestination(**place).open().uri == "sftp://us@host/x"
    wrong = CsvDestination(uri="sftp://us@host/x", options={"timeout_seconds": 30, "known_hosts": 5})
    with pytest.raises(ConfigurationError, match="option known_hosts must be text, not 5"):
        wrong.open()


def test_a_project_s_own_collections_of_keen_are_not_discovered() -> None:
    found = Discovery(defaults={"encoding": "csv.gz"}, exclude=["logins"]).collections(["_audit", "logins", "views", "in $"], ())
    assert found == [Collection("views", encoding=Encoding.CSV_GZ)]


def test_collections_are_discovered_with_a_key_that_a_variable_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys: list[object] = []

    def client(resource: KeenResource) -> Any:
        keys.append(resource.read_key)
        return MagicMock(**{"__enter__.return_value.collections.return_value": ["purchases"]})

    monkeypatch.setattr(KeenResource, "client", client)
    monkeypatch.setenv("OUR_READ_KEY", "k1")
    component = KeenExtractionComponent(discover=Discovery(defaults={}), keen=ServiceModel(read_key_variable="OUR_READ_KEY"))
    component.write_state_to_path(tmp_path / "state")
    assert (keys, (tmp_path / "state").read_text()) == (["k1"], '{"collections": ["purchases"]}')


def test_discovered_collections_of_one_asset_stop_nobody_and_it_stays_the_same_ones(caplog: pytest.LogCaptureFixture) -> None:
    named = Collection("pur chases")
    component = KeenExtractionComponent(collections=[named], discover=Discovery(defaults={}))
    found = ["a b", "a_b", "a:b", "pur_chases", "pur:chases", "x y", "x:y", "views"]
    defs = component._definitions(found)
    sources = {c.key.to_user_string(): collection_of(c.metadata) for c in defs.resolve_all_asset_specs()}
    assert {key: c.name for key, c in sources.items() if c is not None} == {
        "keen/a_b": "a_b",
        "keen/pur_chases": "pur chases",
        "keen/views": "views",
        "keen/x_y": "x y",
    }
    assert len(caplog.messages) == 5
    assert "'a b' is left out: it would be the asset keen/a_b, which is that of 'a_b'; name it" in caplog.text
    with pytest.raises(InvalidInputError, match="would be one asset"):  # what a person names is an error
        KeenExtractionComponent(collections=[named, Collection("pur_chases")])._definitions(())


def test_yaml_and_python_give_the_same_definitions(monkeypatch: pytest.MonkeyPatch) -> None:
    from keen_pipeline import CsvDestination, KeenResource

    monkeypatch.setenv("LANDING_OF_TEST", "s3://bucket/events")

    class Web(KeenTranslator):
        def get_asset_spec(self, data: KeenTranslatorData) -> dg.AssetSpec:
            return super().get_asset_spec(data).merge_attributes(tags={"source": data.collection.name})

    attributes = {
        "collections": [PURCHASES, LOGINS],
        "destination": {"uri": "{{ env.LANDING_OF_TEST }}", "options": {"region": "eu-central-1"}},
        "keen": {"base_url": "https://api.keen.io", "project_id": "p", "read_key_variable": "OUR_READ_KEY"},
        "group_name": "web",
        "translation": {"tags": {"source": "{{ collection.name }}"}},
        "nightly_cron": "30 2 * * *",
        "nightly_timezone": "Europe/Berlin",
        "partitions_per_run": 30,
    }
    python = build_keen_definitions(
        [Collection(**PURCHASES), Collection(**LOGINS)],
        keen=KeenResource(base_url="https://api.keen.io", project_id="p", read_key=dg.EnvVar("OUR_READ_KEY")),
        destination=CsvDestination(uri="s3://bucket/events", options={"region": "eu-central-1"}),
        translator=Web("web"),
        nightly_cron="30 2 * * *",
        nightly_timezone="Europe/Berlin",
        partitions_per_run=30,
    )
    assert _told(python)["per_run"] == {30}
    with loaded(attributes) as (component, defs):
        assert list(component.collections) == [Collection(**PURCHASES), Collection(**LOGINS)]
        assert _told(defs) == _told(python)


@pytest.mark.parametrize(
    ("attributes", "says"),
    [
        ({"collections": [{"start_date": "2026-01-01"}]}, "name"),
        ({"collections": [{**LOGINS, "lookback": 3}]}, "lookback"),
        ({"collections": [{**LOGINS, "timezone": "Mars/Base"}]}, "unknown timezone 'Mars/Base'"),
        ({"collections": [LOGINS], "partitions_per_run": 0}, "partitions_per_run must lie between 1 and 100000"),
        ({"collections": [LOGINS, LOGINS]}, "logins is listed twice"),
        ({"collections": [PURCHASES, LOGINS], "translation": {"key": "other"}}, "would be one asset, other"),
        ({"collections": [LOGINS], "name": "no name"}, "name must be letters, digits and underscores"),
        ({"collections": [{**LOGINS, "cron": "at night"}]}, "cron must be a schedule such as '0 1 * * *', not 'at night'"),
        ({"collections": [{**LOGINS, "cron": "0 24 * * *"}]}, "'0 24 * * *' in Europe/Berlin isn't a schedule"),
        ({"collections": [{**LOGINS, "cron": "0 1 31 2 *"}]}, "'0 1 31 2 *' in Europe/Berlin isn't a schedule"),
        ({"collections": [LOGINS], "keen": {"read_key": "0123456789abcdef"}}, "read_key must name a variable"),
        ({}, "name `collections`, or let it `discover`"),
        ({"discover": {"defaults": {"granularity": "yearly"}}}, "granularity must be one of"),
        ({"discover": {"defaults": {"name": "purchases"}}}, "defaults can't have a name, they are for every collection"),
    ],
)
def test_what_is_wrong_in_yaml_is_named(attributes: dict[str, Any], says: str) -> None:
    # Dagster wraps what a component raises, in classes of its own that vary with where it stood: the reader's text counts.
    with pytest.raises(Exception) as caught, loaded(attributes) as (_, defs):  # noqa: PT011
        defs.resolve_all_asset_specs()
    assert says in _said(caught.value)


def _said(error: BaseException | None) -> str:
    return f"{error}\n{_said(error.__cause__ or error.__context__)}" if error is not None else ""


@pytest.mark.parametrize(
    ("filters", "says"),
    [
        ("[{property_name: zip, operator: eq, property_value: 01234}]", "'01234' isn't what it looks like in YAML"),
        ("[{property_name: country, operator: in, property_value: [DE, NO]}]", "'NO' isn't what it looks like in YAML"),
        ("[]\n      filters: []", "'filters' is listed twice"),
    ],
)
def test_what_yaml_reads_otherwise_than_it_looks_is_refused(filters: str, says: str) -> None:
    with create_defs_folder_sandbox() as sandbox:
        path = sandbox.scaffold_component(component_cls=KeenExtractionComponent, defs_yaml_contents=_document({}))
        collection = f"    - name: purchases\n      filters: {filters}\n"
        (path / "defs.yaml").write_text(f"type: keen_pipeline.KeenExtractionComponent\nattributes:\n  collections:\n{collection}")
        with pytest.raises(Exception) as caught, sandbox.load_component_and_build_defs(defs_path=path):  # noqa: PT011
            pass
    assert says in _said(caught.value)


def test_a_check_is_switched_off_by_the_word_that_yaml_reads_as_false() -> None:
    assert yaml.safe_load("count_check: off") == {"count_check": False}
    with loaded({"collections": [{**LOGINS, "count_check": False, "size_check": False}]}) as (component, _):
        [collection] = component.collections
        assert (collection.count_check, collection.size_check) == (CountPolicy.OFF, CheckPolicy.OFF)


@pytest.mark.parametrize(("word", "is_running"), [("false", False), ("true", True)])
def test_a_switch_out_of_the_environment_is_what_it_says(monkeypatch: pytest.MonkeyPatch, word: str, is_running: bool) -> None:
    monkeypatch.setenv("RUNNING_OF_TEST", word)
    attributes = {"collections": [PURCHASES], "running": "{{ env.RUNNING_OF_TEST }}", "partitions_per_run": "10"}
    with loaded(attributes) as (_, defs):
        statuses = {sensor.default_status for sensor in defs.get_repository_def().sensor_defs}
        assert statuses == {dg.DefaultSensorStatus.RUNNING if is_running else dg.DefaultSensorStatus.STOPPED}
        assert _told(defs)["per_run"] == {10}


def test_a_component_can_be_overridden() -> None:
    done: list[str] = []

    class Ours(KeenExtractionComponent):
        def get_asset_spec(self, data: KeenTranslatorData) -> dg.AssetSpec:
            return super().get_asset_spec(data).replace_attributes(key=["events", data.collection.name])

        def execute(self, context: dg.AssetExecutionContext) -> Iterator[Any]:
            done.append(context.partition_key)
            yield dg.MaterializeResult(asset_key=["events", "purchases"])

    defs = Ours(collections=[Collection(**PURCHASES)])._definitions(())
    tags = {"dagster/partition": "2026-01-02"}
    with dg.DagsterInstance.ephemeral() as instance:
        job = defs.resolve_implicit_global_asset_job_def()
        assert job.execute_in_process(instance=instance, partition_key="2026-01-02", tags=tags).success
    assert done == ["2026-01-02"]


def _environment(tmp_path: Path, **more: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("KEEN_", "DAGSTER_", "SMTP_"))}
    scripts = str(Path(sys.executable).parent)
    return {**kept, "PATH": f"{scripts}:{kept['PATH']}", "DAGSTER_DISABLE_TELEMETRY": "yes", "HOME": str(tmp_path), **more}


def _dg(project: Path, environment: dict[str, str], *arguments: str) -> str:
    done = subprocess.run(["dg", *arguments], cwd=project, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_dg_scaffolds_checks_discovers_and_lists_in_a_project_of_its_own(tmp_path: Path) -> None:
    project = tmp_path / "ours"
    (project / "src" / "ours" / "defs").mkdir(parents=True)
    for name in ("__init__", "defs/__init__"):
        (project / "src" / "ours" / f"{name}.py").touch()
    (project / "src" / "ours" / "definitions.py").write_text(
        "from pathlib import Path\n\nfrom dagster import definitions, load_from_defs_folder\n\n\n"
        "@definitions\ndef defs():\n    return load_from_defs_folder(path_within_project=Path(__file__).parent)\n"
    )
    (project / "pyproject.toml").write_text('[tool.dg]\ndirectory_type = "project"\n\n[tool.dg.project]\nroot_module = "ours"\n')
    # The project is not installed, as it would be; its modules are found nevertheless.
    source = os.pathsep.join([str(project / "src"), os.environ.get("PYTHONPATH", "")])
    with live_service() as endpoint:
        with KeenClient(endpoint.base_url, endpoint.project_id, read_key=endpoint.read_key, write_key=endpoint.write_key) as client:
            client.add_events({name: [{"n": 1}] for name in ("purchases", "logins", "pageviews")})
        environment = _environment(
            tmp_path,
            PYTHONPATH=source,
            KEEN_BASE_URL=endpoint.base_url,
            KEEN_PROJECT_ID=endpoint.project_id,
            KEEN_READ_KEY=endpoint.read_key,
        )
        _dg(project, environment, "scaffold", "defs", "keen_pipeline.KeenExtractionComponent", "events", "--live", "true")
        written = project / "src" / "ours" / "defs" / "events" / "defs.yaml"
        document = yaml.safe_load(written.read_text())
        assert document["attributes"]["collections"] == [{"name": "purchases", "start_date": "2026-01-01"}]
        assert document["requirements"] == {"env": ["KEEN_BASE_URL", "KEEN_PROJECT_ID", "KEEN_READ_KEY"]}
        document["attributes"]["discover"] = {"defaults": {"start_date": "2026-01-01"}, "exclude": ["pageviews"]}
        # By itself, `dg` in development asks again each time.
        document["attributes"]["defs_state"] = {"management_type": "LOCAL_FILESYSTEM", "refresh_if_dev": False}
        written.write_text(yaml.safe_dump(document))
        _dg(project, environment, "check", "yaml")
        _dg(project, environment, "utils", "refresh-defs-state")
    # The service has gone: what was discovered is the state.
    listed = _dg(project, environment, "list", "defs", "--json")
    assert [name for name in ("purchases", "logins", "pageviews") if f'"keen/{name}"' in listed] == ["purchases", "logins"]
    assert endpoint.read_key not in listed

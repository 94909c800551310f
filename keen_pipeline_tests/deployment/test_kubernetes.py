"""The Kubernetes profile: manifests against Kubernetes' schemas, and a run's pod as dagster-k8s' own launcher makes it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import kubernetes_validate
import pytest
import yaml
from dagster._core.code_pointer import ModuleCodePointer
from dagster._core.launcher import LaunchRunContext
from dagster._core.origin import JobPythonOrigin, RepositoryPythonOrigin
from dagster_k8s import K8sRunLauncher
from kubernetes.client import ApiClient, V1Job

from keen_pipeline.cli.docs import PROFILES
from keen_pipeline.collections_file import read_collections_file
from keen_pipeline.settings import Settings

FOLDER = PROFILES / "kubernetes"
NEWEST = kubernetes_validate.latest_version()
KUBECONFIG = {
    "apiVersion": "v1",
    "kind": "Config",
    "clusters": [{"name": "none", "cluster": {"server": "https://127.0.0.1:1"}}],
    "users": [{"name": "none", "user": {}}],
    "contexts": [{"name": "none", "context": {"cluster": "none", "user": "none"}}],
    "current-context": "none",
}
# Names that the chart has, as far as we set values below them; None: what stands below is Kubernetes' or the user's. One that it
# does not know it would refuse, or ignore silently.
NAMES: Mapping[str, Any] = {
    "global": {"postgresqlSecretName": None},
    "generatePostgresqlPasswordSecret": None,
    "postgresql": dict.fromkeys(
        ("enabled", "postgresqlHost", "postgresqlUsername", "postgresqlDatabase", "postgresqlScheme", "service")
    ),
    "dagsterWebserver": dict.fromkeys(("image", "envConfigMaps", "envSecrets", "resources")),
    "dagsterDaemon": {
        **dict.fromkeys(("image", "envConfigMaps", "envSecrets", "resources")),
        "runCoordinator": {
            "enabled": None,
            "type": None,
            "config": {"queuedRunCoordinator": dict.fromkeys(("maxConcurrentRuns", "dequeueIntervalSeconds"))},
        },
        "runMonitoring": dict.fromkeys(
            ("enabled", "startTimeoutSeconds", "maxResumeRunAttempts", "pollIntervalSeconds", "freeSlotsAfterRunEndSeconds")
        ),
        "runRetries": dict.fromkeys(("enabled", "maxRetries", "retryOnAssetOrOpFailure")),
        "sensors": dict.fromkeys(("useThreads", "numWorkers")),
        "schedules": dict.fromkeys(("useThreads", "numWorkers")),
    },
    "dagster-user-deployments": {
        "enabled": None,
        "enableSubchart": None,
        "deployments": {
            **dict.fromkeys(("name", "image", "codeServerArgs", "port", "envConfigMaps", "envSecrets", "resources")),
            **dict.fromkeys(("volumes", "volumeMounts")),
            "includeConfigInLaunchedRuns": {"enabled": None},
        },
    },
    "runLauncher": {
        "type": None,
        "config": {
            "k8sRunLauncher": {
                **dict.fromkeys(("imagePullPolicy", "loadInclusterConfig", "envConfigMaps", "envSecrets", "envVars")),
                **dict.fromkeys(("volumes", "volumeMounts", "failPodOnRunFailure")),
                "runK8sConfig": dict.fromkeys(("containerConfig", "podSpecConfig", "jobSpecConfig")),
            }
        },
    },
    "computeLogManager": {
        "type": None,
        "config": {"s3ComputeLogManager": dict.fromkeys(("bucket", "prefix", "skipEmptyFiles"))},
    },
    "telemetry": {"enabled": None},
}


def unknown(values: Any, names: Mapping[str, Any] | None, where: str = "") -> list[str]:
    """Paths of values that the chart has no name for."""
    if names is None:
        return []
    if isinstance(values, list):
        return [found for item in values for found in unknown(item, names, where)]
    assert isinstance(values, Mapping), where
    here = [f"{where}{name}" for name in values if name not in names]
    return here + [
        found for name, inner in values.items() if name in names for found in unknown(inner, names[name], f"{where}{name}.")
    ]


@pytest.fixture
def values() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((FOLDER / "values.yaml").read_text())
    return found


def manifests(name: str) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all((FOLDER / name).read_text()) if document]


def snake(value: Any) -> Any:
    """The chart's camel case as dagster.yaml has it; what stands below a Kubernetes object's own key stays."""
    if not isinstance(value, Mapping):
        return value
    return {re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower(): inner for name, inner in value.items()}


class Batch:
    """Kubernetes' API as far as a launch uses it: keeps the jobs."""

    def __init__(self) -> None:
        self.jobs: list[V1Job] = []

    def create_namespaced_job(self, body: V1Job, namespace: str, **_: Any) -> V1Job:
        self.jobs.append(body)
        return body


def launched(values: Mapping[str, Any], tags: Mapping[str, str], folder: Path, instance: dg.DagsterInstance) -> dict[str, Any]:
    """The Job of a run of our code location with these tags, as the chart's templates configure launcher and location."""
    (folder / "kubeconfig").write_text(yaml.safe_dump(KUBECONFIG))
    given = values["runLauncher"]["config"]["k8sRunLauncher"]
    launcher_values = {
        **{name: value for name, value in snake(given).items() if name not in ("image", "env_config_maps", "env_secrets")},
        "run_k8s_config": snake(given["runK8sConfig"]),
        "load_incluster_config": False,
        "kubeconfig_file": str(folder / "kubeconfig"),
        "service_account_name": "keen-dagster",
        "dagster_home": "/opt/dagster/dagster_home",
        "instance_config_map": "keen-dagster-instance",
        "postgres_password_secret": values["global"]["postgresqlSecretName"],
        "job_namespace": "default",
        "env_config_maps": ["keen-dagster-pipeline-env"],
    }
    batch = Batch()
    launcher = configured(launcher_values, batch)
    launcher.register_instance(instance)
    [deployment] = values["dagster-user-deployments"]["deployments"]
    context = {
        "k8s": {
            "image_pull_policy": deployment["image"]["pullPolicy"],
            "env_config_maps": [entry["name"] for entry in deployment["envConfigMaps"]],
            "env_secrets": [entry["name"] for entry in deployment["envSecrets"]],
            "volume_mounts": deployment["volumeMounts"],
            "volumes": deployment["volumes"],
            "resources": deployment["resources"],
            "namespace": "default",
        }
    }
    image = f"{deployment['image']['repository']}:{deployment['image']['tag']}"
    pointer = ModuleCodePointer("keen_pipeline.definitions", "defs", "/")
    repository = RepositoryPythonOrigin(
        "python", pointer, container_image=image, entry_point=["dagster"], container_context=context
    )
    run = dg.DagsterRun(
        job_name="keen_materialize_csvs", tags=dict(tags), job_code_origin=JobPythonOrigin("keen_materialize_csvs", repository)
    )
    instance.add_run(run)
    launcher.launch_run(LaunchRunContext(run, workspace=None))
    [job] = batch.jobs
    manifest: dict[str, Any] = ApiClient().sanitize_for_serialization(job)
    return manifest


def configured(values: Mapping[str, Any], batch: Batch) -> K8sRunLauncher:
    """The launcher of these values, which its own schema has accepted."""
    from dagster._config import process_config, resolve_to_config_type

    processed = process_config(resolve_to_config_type(K8sRunLauncher.config_type()), dict(values))
    assert processed.success, processed.errors
    assert processed.value is not None
    return K8sRunLauncher(**processed.value, k8s_client_batch_api=batch)


def test_the_values_have_only_names_of_the_chart(values: dict[str, Any]) -> None:
    assert unknown(values, NAMES) == []
    values["dagster-user-deployments"]["deployments"][0]["comand"] = []
    assert unknown(values, NAMES) == ["dagster-user-deployments.deployments.comand"]


def test_no_secret_stands_in_the_files() -> None:
    for path in FOLDER.iterdir():
        assert not re.search(r"(?i)(password|secret_access_key|_KEY)\s*[:=]\s*[\"']?[A-Za-z0-9+/]{6,}", path.read_text()), path


@pytest.mark.parametrize("name", ["settings.yaml", "service.yaml"])
def test_kubernetes_accepts_the_manifests(name: str) -> None:
    documents = manifests(name)
    assert documents
    for document in documents:
        kubernetes_validate.validate(document, NEWEST, strict=True)
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate({**documents[0], "data": 3, "spec": 3}, NEWEST, strict=True)


def test_the_settings_are_ours_and_the_collections_are_read(tmp_path: Path) -> None:
    settings, collections = manifests("settings.yaml")
    read = Settings.from_environment(settings["data"])
    assert (read.partitions_per_run, read.lease_seconds, read.destination) == (30, 60, "s3://your-bucket/keen")
    (tmp_path / "collections.yaml").write_text(collections["data"]["collections.yaml"])
    assert [c.name for c in read_collections_file(tmp_path / "collections.yaml")] == ["logins", "purchases"]


def test_a_runs_pod_has_the_locations_environment_and_its_collections_memory(values: dict[str, Any], tmp_path: Path) -> None:
    _, document = manifests("settings.yaml")
    (tmp_path / "collections.yaml").write_text(document["data"]["collections.yaml"])
    logins, purchases = read_collections_file(tmp_path / "collections.yaml")
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        plain = launched(values, logins.run_tags, tmp_path, instance)
        large = launched(values, purchases.run_tags, tmp_path, instance)
    for job in (plain, large):
        kubernetes_validate.validate(job, NEWEST, strict=True)
        pod = job["spec"]["template"]["spec"]
        [container] = pod["containers"]
        assert container["image"] == "registry.example.com/keen-pipeline:0.2.0"
        assert {"secretRef": {"name": "keen-pipeline"}} in container["envFrom"]
        assert {"configMapRef": {"name": "keen-pipeline"}} in container["envFrom"]
        assert {"name": "collections", "mountPath": "/etc/keen", "readOnly": True} in container["volumeMounts"]
        assert {"name": "collections", "configMap": {"name": "keen-collections"}} in pod["volumes"]
        assert pod["restartPolicy"] == "Never"
        assert job["spec"]["ttlSecondsAfterFinished"] == 86400
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        [password] = [variable for variable in container["env"] if variable["name"] == "DAGSTER_PG_PASSWORD"]
        assert password["valueFrom"]["secretKeyRef"] == {"name": "keen-postgres", "key": "postgresql-password"}
    resources = [job["spec"]["template"]["spec"]["containers"][0]["resources"] for job in (plain, large)]
    assert resources[0] == values["dagster-user-deployments"]["deployments"][0]["resources"]
    assert resources[1] == json.loads(purchases.run_tags["dagster-k8s/config"])["container_config"]["resources"]
    assert resources[1] == {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"memory": "2Gi"}}


def test_the_rest_of_the_instances_configuration_is_dagsters(values: dict[str, Any], tmp_path: Path) -> None:
    """As the chart's template writes it into dagster.yaml, without what needs a cluster."""
    daemon = values["dagsterDaemon"]
    monitoring = snake(daemon["runMonitoring"])
    written = {
        "run_coordinator": {
            "module": "dagster.core.run_coordinator",
            "class": "QueuedRunCoordinator",
            "config": snake(daemon["runCoordinator"]["config"]["queuedRunCoordinator"]),
        },
        "run_monitoring": monitoring,
        "run_retries": {
            "enabled": daemon["runRetries"]["enabled"],
            "max_retries": daemon["runRetries"]["maxRetries"],
            "retry_on_asset_or_op_failure": daemon["runRetries"]["retryOnAssetOrOpFailure"],
        },
        "sensors": snake(daemon["sensors"]),
        "schedules": snake(daemon["schedules"]),
        "telemetry": values["telemetry"],
    }
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(written))
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        assert instance.run_monitoring_enabled
        assert instance.run_monitoring_poll_interval_seconds == 15
        assert instance.run_retries_max_retries == 3
        assert instance.run_retries_retry_on_asset_or_op_failure is False

"""The names of everything in Dagster, all derived from the definitions' own."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

import dagster as dg

from keen_pipeline.collection import Collection
from keen_pipeline.errors import InvalidInputError
from keen_pipeline.scope import DEFAULT_NAME

DEFINITIONS_TAG = "keen/definitions"
"""Tag of our runs and metadata of our assets: the name of the definitions they belong to."""


@dataclass(frozen=True)
class Names:
    """What the definitions called `name` call their parts. Raises InvalidInputError for a name that Dagster doesn't take.

    >>> Names("shop").ledger, Names("shop").submit_job
    ('shop_ledger', 'shop_submit_extractions')
    """

    name: str = DEFAULT_NAME

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,63}", self.name):
            raise InvalidInputError(
                f"name must be letters, digits and underscores, beginning with a letter, not {self.name!r}", field="name"
            )

    @property
    def ledger(self) -> str:
        """Resource: the ledger."""
        return f"{self.name}_ledger"

    @property
    def destination(self) -> str:
        """Resource: the destination storage."""
        return f"{self.name}_destination"

    @property
    def reader(self) -> str:
        """Resource: reads landed partitions."""
        return f"{self.name}_reader"

    @property
    def io_manager(self) -> str:
        """Resource: loads landed partitions as inputs."""
        return f"{self.name}_io_manager"

    @property
    def notifications(self) -> str:
        """Resource and sensor: digest and failures."""
        return f"{self.name}_notifications"

    @property
    def submit_job(self) -> str:
        """Job: asks for what the last nights lack."""
        return f"{self.name}_submit_extractions"

    @property
    def materialize_job(self) -> str:
        """Job: lands what has finished."""
        return f"{self.name}_materialize_csvs"

    @property
    def nightly(self) -> str:
        """What the schedules' names begin with."""
        return f"{self.name}_nightly"

    @property
    def status_sensor(self) -> str:
        """Sensor: polls, and asks for landing runs."""
        return f"{self.name}_extraction_status"

    @property
    def freshness_sensor(self) -> str:
        """Sensor: evaluates the check `fresh`."""
        return f"{self.name}_freshness"

    @property
    def failures_sensor(self) -> str:
        """Sensor: takes failed runs up into the outbox."""
        return f"{self.name}_extraction_failures"

    @property
    def downstream_sensor(self) -> str:
        """Sensor: evaluates the automation conditions of the assets downstream that the user selected."""
        return f"{self.name}_downstream"

    @property
    def resources(self) -> set[str]:
        """The resources that every step of ours needs."""
        return {self.name, self.ledger, self.destination}

    def asset_key(self, collection: str) -> dg.AssetKey:
        """The key of a collection's files; what Dagster takes in no name is `_` in it.

        >>> Names("keen").asset_key("Sign Ups").path
        ['keen', 'Sign_Ups']
        """
        return dg.AssetKey([self.name, re.sub(r"[^A-Za-z0-9_.\-]", "_", collection)])

    def step(self, collection: str, prefix: str = "") -> str:
        """The name of the step that lands a collection; the same whatever else is configured, and no other collection's."""
        return f"{self.name}_{prefix}{identifier(collection)}"


def key_of(given: dg.AssetKey | Sequence[str]) -> dg.AssetKey:
    """An asset key, given as such or by its parts."""
    return given if isinstance(given, dg.AssetKey) else dg.AssetKey(list(given))


def identifier(text: str) -> str:
    """`text` as a name of Dagster; a digest keeps apart what would look alike.

    >>> identifier("purchases"), identifier("a.b") == identifier("a_b")
    ('purchases', False)
    """
    if re.fullmatch(r"[A-Za-z0-9_]+", text):
        return text
    return f"{re.sub(r'[^A-Za-z0-9_]', '_', text)}_{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def sensor_status(running: bool) -> dg.DefaultSensorStatus:
    """Nothing of ours starts by itself unless its user says so."""
    return dg.DefaultSensorStatus.RUNNING if running else dg.DefaultSensorStatus.STOPPED


def tags_identity(collection: Collection | None) -> str:
    """Equal for collections with equal `run_tags`, empty for those without; eight hexadecimal digits, fit for a name."""
    if collection is None or not collection.run_tags:
        return ""
    return hashlib.sha256(json.dumps(dict(collection.run_tags), sort_keys=True).encode()).hexdigest()[:8]

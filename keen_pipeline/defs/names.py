"""The names of everything in Dagster, all derived from the definitions' own."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

import dagster as dg

from keen_pipeline.scope import DEFAULT_NAME
from keen_pipeline.settings import check_name

DEFINITIONS_TAG = "keen/definitions"
"""Tag of our runs and metadata of our assets: the name of the definitions they belong to."""


class _Derived:
    """`{name}_{what}`."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __get__(self, names: Names, _: type[Names]) -> str:
        return f"{names.name}_{self._what}"


@dataclass(frozen=True)
class Names:
    """What the definitions called `name` call their parts. Raises InvalidInputError for a name that Dagster doesn't take.

    >>> Names("shop").ledger, Names("shop").submit_job
    ('shop_ledger', 'shop_submit_extractions')
    """

    name: str = DEFAULT_NAME

    def __post_init__(self) -> None:
        check_name("name", self.name)

    # Resources
    ledger = _Derived("ledger")
    destination = _Derived("destination")
    reader = _Derived("reader")
    io_manager = _Derived("io_manager")
    notifications = _Derived("notifications")  # and the sensor that sends them
    # What the keys of table assets begin with
    tables = _Derived("tables")
    # Jobs, and what the schedules' names begin with
    submit_job = _Derived("submit_extractions")
    materialize_job = _Derived("materialize_csvs")
    nightly = _Derived("nightly")
    # Sensors
    status_sensor = _Derived("extraction_status")
    freshness_sensor = _Derived("freshness")
    failures_sensor = _Derived("extraction_failures")
    downstream_sensor = _Derived("downstream")

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
        """The name of the step that lands a collection; the same whatever else is configured, and nobody else's.

        It is the one that Dagster itself gives to an asset of the collection's key; no other name of ours has `__` in it.

        >>> Names("keen").step("eu_users"), Names("keen_eu").step("users")
        ('keen__eu_users', 'keen_eu__users')
        """
        return f"{self.name}__{prefix}{identifier(collection)}"


def key_of(given: dg.AssetKey | Sequence[str]) -> dg.AssetKey:
    """An asset key, given as such or by its parts."""
    return given if isinstance(given, dg.AssetKey) else dg.AssetKey(list(given))


def identifier(text: str) -> str:
    """`text` as a name of Dagster; a digest keeps apart what would look alike.

    >>> identifier("purchases"), identifier("a.b") == identifier("a_b")
    ('purchases', False)
    """
    if re.fullmatch(r"[A-Za-z0-9_]+", text) and "__" not in text:
        return text
    return f"{re.sub(r'[^A-Za-z0-9]+', '_', text)}_{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def sensor_status(running: bool) -> dg.DefaultSensorStatus:
    """Nothing of ours starts by itself unless its user says so."""
    return dg.DefaultSensorStatus.RUNNING if running else dg.DefaultSensorStatus.STOPPED

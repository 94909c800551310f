"""The collections file: YAML in, collections out. The same attributes as `Collection` has in Python."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from keen_pipeline.collection import Collection
from keen_pipeline.errors import ConfigurationError, InvalidInputError
from keen_pipeline.filters import Filter

_ATTRIBUTES = {f.name for f in fields(Collection)}


def read_collections_file(path: Path) -> list[Collection]:
    """Read `collections: [{name, start_date, ...}]`.

    Raises ConfigurationError naming the file and the item where something is missing, unknown or wrong.
    """
    import yaml

    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"KEEN_PIPELINE_COLLECTIONS: {path} can't be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(document, Mapping) or not isinstance(document.get("collections"), list):
        raise ConfigurationError(f"{path}: expected a mapping with a list under 'collections'")
    unknown = sorted(set(document) - {"collections"})
    if unknown:
        raise ConfigurationError(f"{path}: unknown {', '.join(map(repr, unknown))}, expected only 'collections'")
    try:
        return parse_collections(document["collections"])
    except InvalidInputError as error:
        raise ConfigurationError(f"{path}: {error}") from None


def parse_collections(items: list[Any]) -> list[Collection]:
    """Collections of their mappings. Raises InvalidInputError naming the item."""
    collections: list[Collection] = []
    for position, item in enumerate(items):
        where = f"collections[{position}]"
        if not isinstance(item, Mapping):
            raise InvalidInputError(f"{where}: {item!r} is not a mapping", field=where)
        unknown = sorted(str(key) for key in set(item) - _ATTRIBUTES)
        if unknown:
            raise InvalidInputError(
                f"{where}: unknown {', '.join(unknown)}; known are {', '.join(sorted(_ATTRIBUTES))}", field=where
            )
        for required in ("name", "start_date"):
            if required not in item:
                raise InvalidInputError(f"{where}: {required} is missing", field=required)
        values = dict(item)
        try:
            if "filters" in values:
                values["filters"] = tuple(Filter.from_wire(f) for f in values["filters"] or ())
            collections.append(Collection(**values))
        except InvalidInputError as error:
            raise InvalidInputError(f"{where}: {error}", field=error.field) from None
        except TypeError as error:
            raise InvalidInputError(f"{where}: {error}", field=where) from None
    names = [c.name for c in collections]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InvalidInputError(f"collections: {', '.join(twice)} stands there twice", field="name")
    return collections


def collection_to_wire(collection: Collection) -> dict[str, Any]:
    """The mapping that `parse_collections` reads back, JSON only and without nulls, which Dagster's config can't hold."""
    wire = {
        "name": collection.name,
        "start_date": collection.start.isoformat(),
        "granularity": collection.granularity.value,
        "timezone": collection.timezone,
        "filters": [f.to_wire() for f in collection.filters],
        "encoding": collection.encoding.value,
        "lookback_days": collection.lookback_days,
        "count_check": collection.count_check.value,
        "email": collection.email,
        "schema_check": collection.schema_check.value,
        "size_check": collection.size_check.value,
        "fresh_within_hours": collection.fresh_within_hours,
        "mask": {name: method.value for name, method in collection.mask.items()} or None,
        "run_tags": dict(collection.run_tags) or None,
    }
    return {name: value for name, value in wire.items() if value is not None}

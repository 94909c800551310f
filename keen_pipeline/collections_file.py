"""The collections file: YAML in, collections out. The same attributes as `Collection` has in Python."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import date
from enum import Enum
from pathlib import Path
from typing import Any

from keen_pipeline.collection import Collection
from keen_pipeline.errors import ConfigurationError, InvalidInputError
from keen_pipeline.filters import Filter

_ATTRIBUTES = {f.name for f in fields(Collection)}


def read_collections_file(path: Path) -> list[Collection]:
    """Read `collections: [{name, start_date, ...}]`.

    Raises ConfigurationError naming the file and the item if something is missing, unknown or wrong.
    """
    try:
        documents = read_yaml(path)
    except OSError as error:
        raise ConfigurationError(f"KEEN_PIPELINE_COLLECTIONS: {path} can't be read: {error.strerror}") from None
    document = documents[0] if len(documents) == 1 else None
    if not isinstance(document, Mapping) or not isinstance(document.get("collections"), list):
        raise ConfigurationError(f"{path}: expected a mapping with a list under 'collections'")
    unknown = sorted(set(document) - {"collections"}, key=str)
    if unknown:
        raise ConfigurationError(f"{path}: unknown {', '.join(map(repr, unknown))}, expected only 'collections'")
    try:
        return parse_collections(document["collections"])
    except InvalidInputError as error:
        raise ConfigurationError(f"{path}: {error}") from None


def read_yaml(path: Path) -> list[Any]:
    """The documents of a file. Raises OSError, and ConfigurationError for what isn't YAML or would be read otherwise than meant."""
    import yaml

    try:
        with path.open(encoding="utf-8") as file:
            return list(yaml.load_all(file, _loader()))
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # of bytes that aren't text, and of lists in lists in lists
        raise ConfigurationError(f"{path} is not YAML: {' '.join(str(error).split())}") from None


def _loader() -> Any:
    import yaml  # by whoever reads a file

    class Loader(yaml.SafeLoader):
        def construct_yaml_timestamp(self, node: yaml.ScalarNode) -> Any:
            try:
                return super().construct_yaml_timestamp(node)
            except ValueError:  # 30 February: whoever wanted a date says which field it is
                return node.value

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            seen: list[Any] = []
            for key, value in node.value:
                if key.value in seen:  # the last one would count, and nobody would hear of the other
                    raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} is listed twice", key.start_mark)
                seen.append(key.value)
                for one in (value, *value.value) if key.value == "property_value" else ():
                    if isinstance(one, yaml.ScalarNode) and one.style is None and not _is_what_it_looks_like(one.value, one.tag):
                        told = f"{one.value!r} isn't what it looks like in YAML: put texts in quotes, and write others as JSON does"
                        raise yaml.constructor.ConstructorError(None, None, told, one.start_mark)
            return super().construct_mapping(node, deep)

    Loader.add_constructor("tag:yaml.org,2002:timestamp", Loader.construct_yaml_timestamp)
    return Loader


def _is_what_it_looks_like(text: str, tag: str) -> bool:
    """Whether JSON reads a plain scalar as YAML does, to which Norway's NO is false, 01234 is 668, 12:30 is 750 and 1e5 a text."""
    kind = tag.rpartition(":")[2]
    is_number = re.fullmatch(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?", text) is not None
    return {"bool": text.lower() in ("true", "false"), "str": not is_number}.get(kind, is_number or kind not in ("int", "float"))


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
        if "name" not in item:
            raise InvalidInputError(f"{where}: name is missing", field="name")
        # What is left empty in YAML has its default.
        values = {name: value for name, value in item.items() if value is not None}
        try:
            collections.append(Collection(**values))
        except InvalidInputError as error:
            raise InvalidInputError(f"{where}: {error}", field=error.field) from None
        except TypeError as error:
            raise InvalidInputError(f"{where}: {error}", field=where) from None
    check_collections(collections)
    return collections


def check_collection(given: object) -> None:
    """Raises InvalidInputError for what is no Collection, such as the name of one."""
    if not isinstance(given, Collection):
        raise InvalidInputError(f"collection must be a Collection(name=...), not {given!r}", field="collection")


def check_collections(collections: object) -> None:
    """Raises InvalidInputError for what is no list of them, and naming a collection that is listed twice."""
    if not isinstance(collections, Sequence) or not all(isinstance(one, Collection) for one in collections):
        raise InvalidInputError(
            "collections must be a list of Collection(name=...); read_collections_file has those of a file", field="collections"
        )
    twice = sorted(name for name, times in Counter(c.name for c in collections).items() if times > 1)
    if twice:
        raise InvalidInputError(f"collections: {', '.join(twice)} is listed twice", field="name")


def collection_to_wire(collection: Collection) -> dict[str, Any]:
    """The mapping that `parse_collections` reads back, JSON only and without nulls, which Dagster's config can't hold."""
    return {f.name: _to_json(value) for f in fields(collection) if (value := getattr(collection, f.name)) not in (None, (), {})}


def _to_json(value: Any) -> Any:
    match value:
        case Enum():
            return value.value
        case date():
            return value.isoformat()
        case tuple():
            return [_to_json(one) for one in value]
        case Mapping():
            return {name: _to_json(one) for name, one in value.items()}
        case Filter():
            return value.to_wire()
    return value

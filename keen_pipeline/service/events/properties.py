r"""Property names: nested objects become flat paths, and paths have one name in each version of the API.

A path is the keys from the outermost object inwards, joined by dots: `user.email`, `keen.timestamp`. A dot or a backslash
inside a key is written `\.` and `\\`, so no two properties share a path. v3.0 shows the path itself. v2.0 shows
`header:timestamp` for `keen.timestamp` and `body:user:email` for `user.email`, a colon inside a key as `\:`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

TIMESTAMP = "keen.timestamp"
CREATED_AT = "keen.created_at"
EVENT_ID = "keen.id"
SERVICE_PATHS = (TIMESTAMP, CREATED_AT, EVENT_ID)

_SPECIAL = re.compile(r"[.\\]")


def escape_key(key: str) -> str:
    """One key as one segment of a path."""
    return _SPECIAL.sub(r"\\\g<0>", key) if "." in key or "\\" in key else key


def split_path(path: str) -> list[str]:
    """The keys of a path, outermost first."""
    if "\\" not in path:
        return path.split(".")
    return _split(path, ".")


def join_keys(keys: list[str]) -> str:
    """The path of keys, outermost first."""
    return ".".join(escape_key(key) for key in keys)


def _split(text: str, separator: str) -> list[str]:
    keys, current, characters = [], [], iter(text)
    for character in characters:
        if character == "\\":
            # A lone backslash before another character is taken as it stands.
            following = next(characters, "")
            current.append(following if following in (separator, "\\") else character + following)
        elif character == separator:
            keys.append("".join(current))
            current = []
        else:
            current.append(character)
    return [*keys, "".join(current)]


def unflatten(leaves: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Nested objects of (path, value). Raises TypeError if one path is a value and an object at once."""
    root: dict[str, Any] = {}
    for path, value in leaves:
        keys = split_path(path)
        place = root
        for key in keys[:-1]:
            place = place.setdefault(key, {})
        if keys[-1] in place:
            raise TypeError(f"{path} is a value and an object at once")
        place[keys[-1]] = value
    return root


def v2_name(path: str) -> str:
    """The v2.0 name of a path."""
    keys = [key.replace("\\", "\\\\").replace(":", "\\:") for key in split_path(path)]
    if keys[0] == "keen" and len(keys) > 1:
        return ":".join(["header", *keys[1:]])
    return ":".join(["body", *keys])


def path_of_name(name: str) -> str:
    """The path that a name of either version means: `body:user:email`, `header:timestamp` or `user.email`."""
    if name.startswith("header:"):
        return join_keys(["keen", *_split(name[len("header:") :], ":")])
    if name.startswith("body:"):
        return join_keys(_split(name[len("body:") :], ":"))
    return name


def meant_path(name: str, known: Iterable[str], names: str = "v3") -> str:
    """The path that the name in a request means, of a property or of an object of properties. `known`: the collection's paths.

    `names`: `v2`, where `header:` and `body:` are prefixes, or `v3`, where they are that only when no property has such a name.
    """
    path = path_of_name(name)
    if names == "v3" and path != name and any(_is_alike(name, one) or one.startswith(f"{name}.") for one in known):
        return name
    return path


def matching_paths(name: str, known: Iterable[str], names: str = "v3") -> list[str]:
    """The known paths that a name means: the exact one first, then one whose keys hold the dots themselves (`{"a.b": 1}`)."""
    meant = meant_path(name, known, names)
    return sorted((path for path in known if _is_alike(meant, path)), key=lambda path: path != meant)


def paths_within(name: str, known: Iterable[str], names: str = "v3") -> list[str]:
    """The known paths that a name means, and those of the properties within it, if it is an object's."""
    inside = meant_path(name, known, names) + "."
    return [*matching_paths(name, known, names), *(path for path in known if path.startswith(inside))]


def _is_alike(meant: str, path: str) -> bool:
    return path == meant or ("\\" in path and _with_dots(path) == _with_dots(meant))


@lru_cache(maxsize=2048)  # a thousand names are looked up among a thousand paths
def _with_dots(path: str) -> str:
    return ".".join(split_path(path))

"""Names of event collections, as Keen's own clients allow them."""

from __future__ import annotations

import re

from keen_pipeline.errors import InvalidInputError

MAX_NAME_CHARACTERS = 64

_NAME = re.compile(rf"[!-#%-\-/-^`-~][ -#%-~]{{0,{MAX_NAME_CHARACTERS - 1}}}")


def check_event_collection(name: object) -> str:
    """Return `name` if it may be an event collection, else raise InvalidInputError.

    Legal: 1 to 64 characters of printable ASCII other than `$`, starting with neither `_` nor `.` nor a blank, not ending in a
    blank and without `..`; so `user:signup`, `a/b`, `c++` and `keen` are. Storage must not take a name for a path.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name) or ".." in name or name.endswith(" "):
        shown = repr(name)[: MAX_NAME_CHARACTERS * 2]
        raise InvalidInputError(
            f"collection: {shown} is not a legal name (1 to {MAX_NAME_CHARACTERS} characters of printable ASCII, no '$';"
            " it may not start with '_', '.' or a blank, end with a blank, nor hold '..')",
            field="collection",
        )
    return name

"""Keys and signed URLs are kept out of every message that leaves the client."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import quote

EXCERPT_CHARACTERS = 200
"""How much of an answer's text an error message may quote."""

# A results URL opens the file to whoever reads it; JSON may have escaped its slashes.
_URL = re.compile(r"https?:(?:\\?/){2}[^\s\"'<>]+", re.IGNORECASE)


@dataclass(frozen=True)
class Credential:
    """One key and the environment variable that a person sets it with. The key never shows in `repr`."""

    variable: str
    key: str | None = field(repr=False)


class Scrubber:
    """Removes known keys and every URL from text written by somebody else."""

    def __init__(self, keys: tuple[str | None, ...]) -> None:
        # The longest first, so that a key that begins with another one goes as a whole.
        known = sorted({form for key in keys if key for form in (key, quote(key, safe=""))}, key=len, reverse=True)
        self._known = tuple(known)

    def __repr__(self) -> str:
        return f"Scrubber({len(self._known)} secrets)"

    def __call__(self, text: str) -> str:
        """Return `text` on one line, without keys and URLs, cut to EXCERPT_CHARACTERS."""
        for secret in self._known:
            text = text.replace(secret, "***")
        text = " ".join(_URL.sub("<url>", text).split())
        return text if len(text) <= EXCERPT_CHARACTERS else text[: EXCERPT_CHARACTERS - 3] + "..."

"""Text of others is cleaned once, here: no control characters, no secrets, no more than it takes to understand it."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field

from keen_pipeline.errors import InvalidInputError

LONGEST_TEXT = 500
"""Characters of the service's words in a message."""
SHORTEST_SECRET = 8
"""Characters. A shorter key isn't a secret, and masking it would take ordinary words out of messages."""
_READ_CHARACTERS = 64 * 1024

# What a terminal obeys, as a whole; a lone ESC is a control character like any other.
_TERMINAL = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"
    r"|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?"
    r"|\x1b[ -/]*[0-~]"
)
# In it there is nothing that any of the patterns below, or a terminal, knows.
_PLAIN = re.compile(r"[A-Za-z0-9_.-]{1,64}")
# Control, format (bidi overrides too), surrogate and unassigned characters.
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn"})
# A results URL opens the file to whoever reads it. JSON may have escaped its slashes, a query its colon.
_URL = re.compile(r"[a-z][a-z0-9+.-]{0,30}(?::|%3a)(?:(?:\\?/)|%2f){2}[^\s\"'<>]+", re.IGNORECASE)
_NAMES = (
    r"[\w-]*(?:api[_-]?key|(?:read|write|master|access|secret)[_-]?key(?:[_-]?id)?|signature|credential|security[_-]token|token"
    r"|password|secret)|sig|authorization"
)
# As JSON may write any character, and must write some.
_ESCAPED = re.compile(r"\\u00([2-7][0-9a-f])", re.IGNORECASE)
# `name=value` as in a query, whatever the value; after a colon only what can be a secret, since `token: expired` is none.
_QUERY = re.compile(rf"(?<![\w-])({_NAMES})=[^\s&\"'<>,;]+", re.IGNORECASE)
_FIELD = re.compile(
    rf"(?<![\w-])({_NAMES})(\\?[\"']?\s*:\s*\\?[\"']?)(?:(?:basic|bearer|token)\s+[^\s\"'<>,;]+|[^\s\"'<>,;]{{{SHORTEST_SECRET},}})",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Credential:
    """One key and the environment variable that a person sets it with. The key never shows in `repr`."""

    variable: str
    key: str | None = field(repr=False)

    @classmethod
    def checked(cls, variable: str, key: str | None) -> Credential:
        """Without the white space around it; a blank one is none. Raises InvalidInputError for what no header can carry."""
        key = (key or "").strip()
        if not all("!" <= character <= "~" for character in key):
            raise InvalidInputError(
                f"{variable}: a key is letters, digits and signs of ASCII; this one holds a blank, a control or another character. "
                "Copy it again from the project's page",
                field=variable,
            )
        return cls(variable, key or None)


def clean(text: str, longest: int = LONGEST_TEXT) -> str:
    """`text` on one line of at most `longest` visible characters, and nothing that a terminal or a database chokes on."""
    text = _TERMINAL.sub("", text[:_READ_CHARACTERS])
    visible = (c if c.isspace() or unicodedata.category(c) not in _HIDDEN else "" for c in text)
    text = " ".join("".join(visible).split())
    return text if len(text) <= longest else text[: longest - 3] + "..."


def _written(secret: str) -> str:
    """Matches a secret whose characters may be percent-encoded or folded, also the beginning of one if the text was cut."""
    signs = [re.escape(c) + "|" + "".join(f"%(?:25)*{byte:02x}" for byte in c.encode(errors="replace")) for c in secret]
    return " ?".join(f"(?:{sign}{'' if n < SHORTEST_SECRET else '|$'})" for n, sign in enumerate(signs))


class Scrubber:
    """Cleans text written by somebody else and takes out `secrets` (of SHORTEST_SECRET characters or more) and every URL."""

    def __init__(self, secrets: Iterable[str | None]) -> None:
        long = [secret for secret in secrets if secret and len(secret) >= SHORTEST_SECRET]
        # The longest first, so that a key that begins with another one goes as a whole.
        self._known = re.compile("|".join(map(_written, sorted(long, key=len, reverse=True))) or "(?!)", re.IGNORECASE)

    def __call__(self, text: str) -> str:
        """Return `text` cleaned, without secrets and URLs, cut to LONGEST_TEXT characters."""
        if _PLAIN.fullmatch(text):  # most ids, of which a list has thousands
            return self._known.sub("***", text)
        text = html.unescape(_ESCAPED.sub(lambda found: chr(int(found[1], 16)), text[:_READ_CHARACTERS].replace("\\/", "/")))
        text = self._known.sub("***", clean(text, _READ_CHARACTERS))
        text = _FIELD.sub(r"\1\2***", _QUERY.sub(r"\1=***", _URL.sub("<url>", text)))
        return clean(text)

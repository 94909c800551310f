"""Is it a CSV that came, or a page, a JSON document, a few words? By the Content-Type and the first bytes."""

from __future__ import annotations

import json
import re

_DOCUMENTS = re.compile(r"(?:application|text)/(?:[\w.-]+\+)?(?:json|html|xml|xhtml|javascript|pdf)\b|(?:image|audio|video|font)/")
_CSV = re.compile(r"(?:text|application)/(?:[\w.+-]*csv|comma-separated-values)\b")
# Parquet and PDF may begin with a line of text. A CSV's header is UTF-8, without control characters.
_BINARY = re.compile(r"PAR1|%PDF-|.*[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufffd](?!\Z)")
_PLAIN = "plain words"
_MESSAGE = re.compile(r'"(?:message|error|error_code)"\s*:\s*"(?:[^"\\]|\\.)*(?:"|\Z)')
_MARKUP = re.compile(r"<[a-zA-Z!?/]")
# A CSV's first column begins with none of these: a name that holds a quote is quoted.
_JSON = re.compile(r"[{\[]\s*[\"{\[\]}]")
# Each extraction has columns of the service's own: header:timestamp (v2.0), keen.timestamp (v3.0).
_COLUMN_OF_KEEN = re.compile(r"(?:^|,)\"?(?:header:|body:|keen\.)")


def why_not_csv(content_type: str, head: bytes, whole: bool) -> str | None:
    """What the answer is instead of a CSV, in a few words; None when it may be one.

    `head`: its first bytes, at most some thousand; `whole`: these are all. A zero-length answer is a CSV without events.
    """
    kind = content_type.strip().lower()
    if _DOCUMENTS.match(kind):
        return f"a document of type {kind.partition(';')[0].strip()}"
    text = head.decode("utf-8-sig", "replace")
    if not text:
        return None
    text = text.strip()
    if _MARKUP.match(text):
        return "a web page or an XML document"
    if _JSON.match(text) or (whole and _is_json(text)):
        return "a JSON document"
    first, *others = text.splitlines() or [""]
    if _COLUMN_OF_KEEN.search(first):
        return None
    if _BINARY.match(text):
        return "a packed or binary file"
    columns = first.split(",")
    blanks = any(re.search(r"[\w:;.!?]\s+\w|^\s|[\w:]\s+$", column) for column in columns) or not re.search(r"\w", first)
    if whole and not others and (blanks or (len(columns) == 1 and not _CSV.match(kind))):
        return _PLAIN
    return _PLAIN if len(columns) == 1 and blanks and '"' not in first else None


def words_of(reason: str, head: bytes) -> str:
    """What an answer that is no CSV for this reason says to a person; whatever else is in it may be events."""
    text = head.decode("utf-8-sig", "replace").strip()
    if reason == _PLAIN or _MARKUP.match(text):
        return text
    return ", ".join(_MESSAGE.findall(text)[:2]) if _JSON.match(text) else ""


def _is_json(text: str) -> bool:
    """A whole JSON value that isn't CSV of one column: not a name or a number."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return value is None or isinstance(value, (dict, list, bool))

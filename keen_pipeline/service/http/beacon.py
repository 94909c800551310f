"""The image beacon: an event in the address of an image, for pages and mails that can do no more than show one."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Collection
from urllib.parse import unquote, urlsplit

from keen_pipeline.errors import InvalidInputError

# One transparent pixel.
GIF = base64.b64decode("R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7")
_TARGET = re.compile(r"https?://[!-\[\]-~]+")


def decode_event(data: object) -> bytes:
    """The JSON text of base64: usual or url-safe, its padding there or not, percent-encoded once or twice.

    Raises InvalidInputError.
    """
    if not isinstance(data, str) or not data:
        raise InvalidInputError("data: must be the base64 of an event's JSON", field="data")
    text = unquote(data) if "%" in data else data
    text = text.replace("-", "+").replace("_", "/").replace(" ", "+").rstrip("=")  # a plus that nobody encoded arrives as a blank
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise InvalidInputError("data: not base64", field="data") from None


def checked_redirect(target: object, hosts: Collection[str]) -> str:
    """The address to redirect to. Raises InvalidInputError for one that leads to no host of the configuration's."""
    problem = InvalidInputError(
        "redirect: only http and https addresses of the hosts in KEEN_PIPELINE_SERVICE_REDIRECT_HOSTS are allowed", field="redirect"
    )
    if not isinstance(target, str) or not _TARGET.fullmatch(target):
        raise problem
    try:
        parts = urlsplit(target)
        host = (parts.hostname or "").lower()
    except ValueError:
        raise problem from None
    if parts.username is not None or host not in {one.lower() for one in hosts}:
        raise problem
    return target

"""Who mail may go to: addresses checked when they are accepted, one of them, inside of what the configuration allows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from keen_pipeline.errors import InvalidInputError

_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
# The addresses of RFC 5321 in ASCII, without quoted local parts and address literals, which no server here needs, and without what
# a header takes for an encoded word (RFC 2047), which may hold another address.
_ADDRESS = re.compile(rf"(?=.{{1,254}}\Z)(?!.*=\?)(?=[^@]{{1,64}}@){_ATOM}(?:\.{_ATOM})*@{_LABEL}(?:\.{_LABEL})*")


def checked_email(parameters: Mapping[str, Any], allowed: Sequence[str] = ()) -> str | None:
    """The address of a request, `email` or `email_address`; empty is none. `allowed`: addresses and domains, empty: any.

    Raises InvalidInputError for what isn't an address, for two of them, and for one that is not allowed.
    """
    given = [(name, parameters[name]) for name in ("email", "email_address") if parameters.get(name) not in (None, "")]
    if len(given) > 1:
        raise InvalidInputError("email_address: give email or email_address, not both", field="email_address")
    for name, address in given:
        if not isinstance(address, str) or not _ADDRESS.fullmatch(address):
            raise InvalidInputError(f"{name}: not an e-mail address; expected one such as ada@example.com", field=name)
        if allowed and not any(_covers(entry, address) for entry in allowed):
            raise InvalidInputError(f"{name}: mail to this address is not allowed (KEEN_PIPELINE_SERVICE_MAIL_TO)", field=name)
        return address
    return None


def _covers(entry: str, address: str) -> bool:
    """`ada@example.com` covers that address, `example.com` and `@example.com` every one of exactly that domain."""
    entry, address = entry.lower(), address.lower()
    return address == entry if not entry.startswith("@") and "@" in entry else address.endswith("@" + entry.removeprefix("@"))

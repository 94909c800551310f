"""A certificate authority of the tests' own, and what makes clients trust it."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import trustme

_AUTHORITY = trustme.CA()


def server_context(*names: str) -> ssl.SSLContext:
    """For a server that is known by `names`, 127.0.0.1 and localhost."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _AUTHORITY.issue_cert("127.0.0.1", "localhost", *names).configure_cert(context)
    return context


def trust(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on clients of this process trust such servers."""
    _AUTHORITY.cert_pem.write_to_path(str(folder / "authority.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(folder / "authority.pem"))

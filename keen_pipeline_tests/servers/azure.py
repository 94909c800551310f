"""The few calls of Azure's blob service that a destination makes, over real HTTP and in memory; Azurite is not to be had from pip.

Blocks lie uncommitted until a list names them; a commit forgets the others, as the service does. Signatures are checked.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

from keen_pipeline_tests.contract.storages.places import Place

ACCOUNT, CONTAINER = "lander", "landings"
KEY = base64.b64encode(b"azure-key-for-tests").decode()
_SIGNED = ("content-encoding", "content-language", "content-length", "content-md5", "content-type", "date")
_SIGNED += ("if-modified-since", "if-match", "if-none-match", "if-unmodified-since", "range")


class AzureServer(ThreadingHTTPServer):
    """The blobs of one container by name, each with its version; blocks by blob and id."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.lock = threading.Lock()
        self.blobs: dict[str, tuple[bytes, int]] = {}
        self.blocks: dict[str, dict[str, bytes]] = {}
        self.folders: set[str] = set()
        self.versions = 0

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/{ACCOUNT}"

    def put(self, name: str, data: bytes) -> None:
        self.versions += 1
        self.blobs[name] = (data, self.versions)
        self.blocks.pop(name, None)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: AzureServer

    def log_message(self, *args: Any) -> None:
        """Say nothing."""

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        name, query = self._asked()
        if name is None:
            return None
        with self.server.lock:
            if query.get("comp") == "block":
                self.server.blocks.setdefault(name, {})[query["blockid"]] = body
            elif query.get("comp") == "blocklist":
                staged = self.server.blocks.get(name, {})
                wanted = re.findall(r"<(?:Latest|Uncommitted)>(.*?)</", body.decode())
                if not all(block in staged for block in wanted):
                    return self._refuse(400, "InvalidBlockList")
                self.server.put(name, b"".join(staged[block] for block in wanted))
            else:
                assert self.headers["x-ms-blob-type"] == "BlockBlob"
                self.server.put(name, body)
        return self._answer(201, {"ETag": '"0x1"', "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT"})

    def do_DELETE(self) -> None:
        name, _ = self._asked()
        if name is None:
            return
        with self.server.lock:
            found = self.server.blobs.pop(name, None)
        self._refuse(404, "BlobNotFound") if found is None else self._answer(202, {})

    def do_GET(self) -> None:
        name, query = self._asked()
        if name is None:
            return None
        if query.get("comp") == "list":
            return self._list(query)
        if query.get("restype") == "container":
            return self._answer(200, {"ETag": '"0x1"', "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT"})
        data, version = self.server.blobs.get(name, (b"", 0))
        if not version:
            return self._refuse(404, "BlobNotFound")
        facts = {"ETag": f'"0x{version}"', "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT", "x-ms-blob-type": "BlockBlob"}
        if self.headers.get("If-Match", facts["ETag"]) != facts["ETag"]:
            return self._refuse(412, "ConditionNotMet")
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("x-ms-range") or self.headers.get("Range") or "")
        if asked is None or self.command == "HEAD":
            return self._answer(200, facts, data)
        start, end = int(asked[1]), min(int(asked[2] or len(data)), len(data) - 1)
        if start >= len(data):
            return self._refuse(416, "InvalidRange")
        return self._answer(206, {**facts, "Content-Range": f"bytes {start}-{end}/{len(data)}"}, data[start : end + 1])

    def _list(self, query: dict[str, str]) -> None:
        """Three blobs a page, so that a listing takes several."""
        with self.server.lock:
            named = sorted(name for name in self.server.blobs if name.startswith(query.get("prefix", "")))
            sizes = {name: len(self.server.blobs[name][0]) for name in named}
        rest = [name for name in named if name > query.get("marker", "")]
        page, more = rest[:3], rest[3:]
        told = query.get("include") == "metadata"
        blobs = "".join(
            f"<Blob><Name>{escape(name)}</Name><Properties><Content-Length>{sizes[name]}</Content-Length>"
            "<BlobType>BlockBlob</BlobType></Properties>"
            f"{'<Metadata><hdi_isfolder>true</hdi_isfolder></Metadata>' if told and name in self.server.folders else ''}</Blob>"
            for name in page
        )
        marker = f"<NextMarker>{escape(page[-1])}</NextMarker>" if more else "<NextMarker/>"
        prefix = f"<Prefix>{escape(query.get('prefix', ''))}</Prefix>"  # the client asks for the next page by it
        listed = f"<EnumerationResults>{prefix}<Blobs>{blobs}</Blobs>{marker}</EnumerationResults>"
        self._answer(200, {"Content-Type": "application/xml"}, f'<?xml version="1.0" encoding="utf-8"?>{listed}'.encode())

    def do_HEAD(self) -> None:
        self.do_GET()

    def _asked(self) -> tuple[str | None, dict[str, str]]:
        """The blob and the parameters of the request; None where it was refused."""
        parts = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(parts.query, keep_blank_values=True).items()}
        _, account, container, name = [*parts.path.split("/", 3), ""][:4]
        if self.headers.get("Authorization") != f"SharedKey {ACCOUNT}:{self._signature(parts.path, query)}":
            self._refuse(403, "AuthenticationFailed")
        elif (account, container) != (ACCOUNT, CONTAINER):
            self._refuse(404, "ContainerNotFound")
        else:
            return unquote(name), query
        return None, query

    def _signature(self, path: str, query: dict[str, str]) -> str:
        values = [self.headers.get(name) or "" for name in _SIGNED]
        values[2] = "" if values[2] == "0" else values[2]
        own = sorted((name.lower(), value) for name, value in self.headers.items() if name.lower().startswith("x-ms-"))
        resource = f"/{ACCOUNT}{path}" + "".join(f"\n{name}:{value}" for name, value in sorted(query.items()))
        text = "\n".join([self.command, *values, *(f"{name}:{value}" for name, value in own), resource])
        return base64.b64encode(hmac.new(base64.b64decode(KEY), text.encode(), hashlib.sha256).digest()).decode()

    def _answer(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body)), "x-ms-version": "2026-01-01"}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _refuse(self, status: int, code: str) -> None:
        text = f'<?xml version="1.0" encoding="utf-8"?><Error><Code>{code}</Code><Message>{code}</Message></Error>'
        self._answer(status, {"x-ms-error-code": code, "Content-Type": "application/xml"}, text.encode())


@contextmanager
def running_azure() -> Iterator[AzureServer]:
    with AzureServer() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join(10)


def azure_place(server: AzureServer, prefix: str) -> Place:
    def look() -> dict[str, bytes]:
        found = {name: data for name, (data, _) in server.blobs.items() if name.startswith(prefix + "/")}
        return {name.removeprefix(prefix + "/"): data for name, data in found.items()}

    # Azure forgets uncommitted blocks by itself; nobody but a new writer of the blob could remove them.
    transport = {"endpoint": server.endpoint, "account": ACCOUNT}
    return Place(f"azure://{CONTAINER}/{prefix}", look, lambda: 0, transport, leftovers=False)

"""What one operation of the API is: from these come its route, its parameters, `Allow` and its part of the OpenAPI document."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import quote, unquote

from starlette.requests import Request
from starlette.responses import Response

from keen_pipeline.errors import AuthenticationError, NotFoundError
from keen_pipeline.service.application import Service
from keen_pipeline.service.http.bodies import read_body
from keen_pipeline.service.http.lanes import EVENTS, EXTRACT, LISTS, PARAMETERS, QUERY, RECORDS, Lanes
from keen_pipeline.service.http.parameters import Parameter, query_fields, read_parameters
from keen_pipeline.service.names import check_event_collection

READ, WRITE, MASTER = "read", "write", "master"
_PARAMETERS_IN_BODY = 16
"""How many of the largest may be in one body."""
Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class Operation:
    """One method of one path. `answer`: the content of its success by media type. `body`: the schema of a body that is no object
    of parameters. `keys`: which keys open it, the master key always does; None: open to all. `kind`: what the limit of a minute
    counts it as. `responses`: further answers, and refusals that others don't have.
    """

    method: str
    path: str
    handler: Callable[[Call], Awaitable[Response]]
    summary: str
    answer: Mapping[str, Any] | None = None
    status: int = 200
    parameters: tuple[Parameter, ...] = ()
    body: str | None = None
    keys: tuple[str, ...] | None = (READ,)
    kind: str | None = None
    responses: Mapping[str, Any] = field(default_factory=dict)


class Call:
    """One request to an operation.

    Once `prepare` is done: `parameters`, `collection`, the one that the path or a parameter names, and the caller's `key`.
    """

    def __init__(self, request: Request, operation: Operation) -> None:
        self.request = request
        self.operation = operation
        self.query = query_fields(request.scope["query_string"])
        self.service: Service = request.app.state.service
        self._lanes: Lanes = request.app.state.lanes
        self.parameters: dict[str, Any] = {}
        self.collection = ""
        self.key = ""
        self._purpose = ""

    async def prepare(self) -> None:
        """Check the key, count the request, read the parameters, look at the name of the collection."""
        operation = self.operation
        if operation.keys is None:
            return
        self._authorize()
        self.allow(*operation.keys)
        if operation.kind is not None and self.service.config.requests_per_minute is not None:
            kind = operation.kind
            await self.run(RECORDS, lambda: self.service.count_request(kind))
        if "{collection}" in operation.path:
            self.collection = check_event_collection(self.variable("collection"))
        self.parameters = await self._read_parameters()
        if "event_collection" in self.parameters:
            self.collection = check_event_collection(self.parameters["event_collection"])

    async def _read_parameters(self) -> dict[str, Any]:
        request, known, most = self.request, self.operation.parameters, self.service.config.max_parameter_bytes
        if self.operation.body is not None:
            return read_parameters(self.query, known, None, most)
        # A body of thousands of empty lists takes a hundred times its bytes and its time, which nobody else must wait for.
        body = await read_body(request, _PARAMETERS_IN_BODY * most)
        absent = b"" if request.method == "POST" else None  # only a POST must have one
        return await self.run(PARAMETERS, lambda: read_parameters(self.query, known, body() or absent, most))

    def _authorize(self) -> None:
        credentials = self.service.credentials
        if "project" in self.request.path_params and self.variable("project") != credentials.project_id:
            raise NotFoundError("there is no such project here")
        given = dict(self.query).get("api_key") or self.request.headers.get("authorization", "")
        if not given:
            raise AuthenticationError("no API key was given; send it in the Authorization header")
        # Every key is compared, and in constant time, so that the answer's timing tells nothing.
        for purpose, key in ((READ, credentials.read_key), (WRITE, credentials.write_key), (MASTER, credentials.master_key)):
            if hmac.compare_digest(key.encode(), given.encode("utf-8", "replace")):
                self._purpose, self.key = purpose, given
        if not self._purpose:
            raise AuthenticationError("the API key is wrong for this project (scoped keys and access keys are not offered here)")

    def allow(self, *purposes: str) -> None:
        """Raises AuthenticationError for a key of another purpose."""
        if self._purpose != MASTER and self._purpose not in purposes:
            wanted = " or ".join(dict.fromkeys([*purposes, MASTER]))
            raise AuthenticationError(f"this resource needs the {wanted} key, not the {self._purpose} key")

    def variable(self, name: str) -> str:
        """A variable of the path, decoded; the path is matched as it was sent, so that a name may hold a slash."""
        return unquote(self.request.path_params[name], errors="replace")

    @property
    def version(self) -> str:
        """How the called version of the API names properties: `v2` or `v3`."""
        return "v2" if self.operation.path.startswith("/2.0") else "v3"

    @property
    def base_url(self) -> str:
        """Root of this service as the caller, or the configured proxy, knows it."""
        return self.service.config.public_url or str(self.request.base_url).rstrip("/")

    @property
    def project_url(self) -> str:
        """The project in the version of the API that was called."""
        return f"{self.base_url}{self.operation.path[:4]}/projects/{quote(self.service.credentials.project_id, safe='')}"

    def collection_url(self, name: str) -> str:
        """A collection in the version of the API that was called."""
        return f"{self.project_url}/{'' if self.version == 'v2' else 'events/'}{quote(name, safe='')}"

    async def run(self, lane: str, work: Callable[[], Result]) -> Result:
        """Run blocking work in a thread of its lane; what only reads events is cancelled when the client leaves."""
        if lane in (QUERY, EVENTS, LISTS, EXTRACT):
            return await self._lanes.run_while_connected(lane, self.request, work)
        return await self._lanes.run(lane, work)

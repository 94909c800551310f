"""What one operation of the API is: from these come its route, its parameters, `Allow` and its part of the OpenAPI document."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import unquote

from starlette.requests import Request
from starlette.responses import Response

from keen_pipeline.errors import AuthenticationError, NotFoundError
from keen_pipeline.service.application import Service
from keen_pipeline.service.http.bodies import query_parameters, read_body, read_parameters, unpack
from keen_pipeline.service.http.lanes import DELETE, EVENTS, INGEST, QUERY, RECORDS, Lanes
from keen_pipeline.service.names import check_event_collection

READ, WRITE, MASTER = "read", "write", "master"
Schema = dict[str, Any]
Result = TypeVar("Result")


@dataclass(frozen=True)
class Parameter:
    """One parameter. `in_address`: its schema in a query string, if it differs from that in a body; `encoded`: JSON there.

    `hidden`: taken, and not described for a query string.
    """

    name: str
    schema: Schema
    required: bool = False
    in_address: Schema | None = None
    encoded: bool = False
    hidden: bool = False


@dataclass(frozen=True, eq=False)
class Operation:
    """One method of one path. `answer`: the content of its success by media type. `errors`: statuses of refusals, beyond those
    that any request may get. `body`: the schema of a body that is no object of parameters. `keys`: which keys open it, the master
    key always does; None: open to all. `kind`: what the limit of a minute counts it as. `responses`: further answers.
    """

    method: str
    path: str
    handler: Callable[[Call], Awaitable[Response]]
    summary: str
    answer: Mapping[str, Any] | None = None
    status: int = 200
    errors: tuple[int, ...] = ()
    parameters: tuple[Parameter, ...] = ()
    body: str | None = None
    keys: tuple[str, ...] | None = (READ,)
    kind: str | None = None
    responses: Mapping[str, Any] = field(default_factory=dict)

    @property
    def known(self) -> frozenset[str]:
        """The names of its parameters."""
        return frozenset(parameter.name for parameter in self.parameters)


class Call:
    """One request to an operation. `parameters` are there once `prepare` is done."""

    def __init__(self, request: Request, operation: Operation) -> None:
        self.request = request
        self.operation = operation
        self.service: Service = request.app.state.service
        self._lanes: Lanes = request.app.state.lanes
        self.parameters: dict[str, Any] = {}
        self.key = ""
        self.purpose = ""

    async def prepare(self) -> None:
        """Check the key, count the request, look at the name of the collection, read the parameters."""
        operation = self.operation
        if operation.keys is None:
            return
        self._authorize()
        self.allow(*operation.keys)
        if operation.kind is not None and self.service.config.requests_per_minute is not None:
            kind = operation.kind
            await self.records(lambda: self.service.count_request(kind))
        if "{collection}" in operation.path:
            check_event_collection(self.variable("collection"))
        if operation.body is not None:
            self.parameters = query_parameters(self.request, operation.known)
        else:
            self.parameters = await read_parameters(self.request, operation.known)

    def _authorize(self) -> None:
        credentials = self.service.credentials
        if self.request.path_params.get("project", credentials.project_id) != credentials.project_id:
            raise NotFoundError("there is no such project here")
        given = self.request.query_params.get("api_key") or self.request.headers.get("authorization", "")
        if not given:
            raise AuthenticationError("no API key was given; send it in the Authorization header")
        # Every key is compared, and in constant time, so that the answer's timing tells nothing.
        for purpose, key in ((READ, credentials.read_key), (WRITE, credentials.write_key), (MASTER, credentials.master_key)):
            if hmac.compare_digest(key.encode(), given.encode("utf-8", "replace")):
                self.purpose, self.key = purpose, given
        if not self.purpose:
            raise AuthenticationError("the API key is wrong for this project")

    def allow(self, *purposes: str) -> None:
        """Raises AuthenticationError for a key of another purpose."""
        if self.purpose != MASTER and self.purpose not in purposes:
            wanted = " or ".join(dict.fromkeys([*purposes, MASTER]))
            raise AuthenticationError(f"this resource needs the {wanted} key, not the {self.purpose} key")

    def variable(self, name: str) -> str:
        """A variable of the path, decoded; the path is matched as it was sent, so that a name may hold a slash."""
        return unquote(self.request.path_params[name], errors="replace")

    @property
    def collection(self) -> str:
        """The collection in the path."""
        return self.variable("collection")

    @property
    def base_url(self) -> str:
        """Root of this service as the caller, or the configured proxy, knows it."""
        return (self.service.config.public_url or str(self.request.base_url)).rstrip("/")

    @property
    def project_url(self) -> str:
        """The project in the version of the API that was called."""
        return f"{self.base_url}{self.operation.path[:4]}/projects/{self.service.credentials.project_id}"

    async def body(self) -> Callable[[], bytes]:
        """Read the body; what is returned unpacks it, and is to be called in a thread."""
        body = await read_body(self.request)
        encoding, limit = self.request.headers.get("content-encoding", ""), self.service.config.max_body_bytes
        return lambda: unpack(body, encoding, limit)

    async def query(self, work: Callable[[], Result]) -> Result:
        """Run a query, which is cancelled when the client leaves."""
        return await self._lanes.run_while_connected(QUERY, self.request, work)

    async def events(self, work: Callable[[], Result]) -> Result:
        """Put events together in memory, also cancelled when the client leaves."""
        return await self._lanes.run_while_connected(EVENTS, self.request, work)

    async def ingest(self, work: Callable[[], Result]) -> Result:
        """Store events."""
        return await self._lanes.run(INGEST, work)

    async def delete(self, work: Callable[[], Result]) -> Result:
        """Delete events."""
        return await self._lanes.run(DELETE, work)

    async def records(self, work: Callable[[], Result]) -> Result:
        """Look something up that takes milliseconds."""
        return await self._lanes.run(RECORDS, work)

    async def in_lane(self, lane: str, work: Callable[[], Result]) -> Result:
        """Run something else."""
        return await self._lanes.run(lane, work)

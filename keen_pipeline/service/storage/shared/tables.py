"""Tables in a storage that several processes share: S3, or a folder that all of them mount."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from deltalake import DeltaTable, Field, Schema
from deltalake.exceptions import CommitFailedError, DeltaError
from deltalake.schema import PrimitiveType
from deltalake.transaction import CommitProperties, Transaction, create_table_with_add_actions

from keen_pipeline.errors import ConfigurationError
from keen_pipeline.service.storage.parts import DataFile, check_root, disk_name
from keen_pipeline.service.storage.places import FOLDER, ObjectStore, StorageError, TablePlace, lost, object_name
from keen_pipeline.service.storage.shared.cache import FileCache, FileGoneError
from keen_pipeline.service.storage.tables import Table

_SCHEMES = ("s3", "s3a", "gs")
# deltalake's own would hold up a reader for three minutes.
_PATIENCE = {"connect_timeout": "5s", "timeout": "30s", "max_retries": "5", "retry_timeout": "20s"}


class SharedTables:
    """The tables below a root URI. `objects`: the same root. Raises ConfigurationError if they can't lie there."""

    shared = True

    def __init__(self, root: str, objects: ObjectStore, cache: FileCache, work: Path) -> None:
        self._root, self._objects, self._cache, self.work = table_root(root), objects, cache, work
        self._options = storage_options(self._root)
        work.mkdir(mode=0o700, parents=True, exist_ok=True)
        for left in work.iterdir():
            left.unlink()
        prove_one_winner(self._root, self._options, objects)

    def names(self) -> list[str]:
        """The catalogue knows them."""
        return []

    def place(self, name: str) -> TablePlace:
        if "://" not in self._root:
            (Path(self._root) / FOLDER / disk_name(name)).mkdir(mode=0o700, parents=True, exist_ok=True)
        return TablePlace(f"{self._root}/{FOLDER}/{disk_name(name)}", self._options, lambda version: None)

    def publish(self, name: str, files: Sequence[DataFile]) -> None:
        for file in files:
            self._objects.put(object_name(name, file), self.work / file.name)
            self._cache.adopt(object_name(name, file), self.work / file.name)

    @contextmanager
    def held(self, name: str, files: Sequence[DataFile]) -> Iterator[dict[DataFile, Path]]:
        """Have files here while the block runs. Raises FileGoneError, ServiceUnavailableError.

        Raises StorageError for one that the table still names.
        """
        wanted = {file: object_name(name, file) for file in files}
        try:
            self._cache.hold(wanted.values())
        except FileGoneError as gone:
            for file in Table(self.place(name), shared=True).state().files:
                if object_name(name, file) == gone.name:
                    raise lost(name, file) from None
            raise
        try:
            yield {file: self._cache.path(one) for file, one in wanted.items()}
        finally:
            self._cache.release(wanted.values())

    def damaged(self, name: str, file: DataFile) -> StorageError:
        """What to say of a file that can't be read. The copy goes, as that alone may be damaged."""
        self._cache.path(object_name(name, file)).unlink(missing_ok=True)
        return lost(name, file, "damaged")

    def close(self) -> None:
        self._cache.close()


def table_root(uri: str) -> str:
    """The root of the tables as deltalake takes it. Raises ConfigurationError for a storage without conditional writes."""
    scheme, mark, rest = uri.rstrip("/").partition("://")
    if not mark:
        return check_root(str(Path(uri).absolute()))
    if scheme == "file":
        return check_root(rest)
    if scheme not in _SCHEMES:
        raise ConfigurationError("service: --storage must be a folder, s3:// or gs://; others have no conditional writes")
    return check_root(f"{scheme}://{rest}")


def storage_options(root: str) -> dict[str, str]:
    """Bounds in time, and what deltalake does not find in the environment under the names that the other clients of S3 use."""
    if "://" not in root:
        return {}
    options = dict(_PATIENCE)
    if not root.startswith("s3"):
        return options
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if endpoint:
        options["AWS_ENDPOINT_URL"] = endpoint
        if endpoint.startswith("http://"):
            options["AWS_ALLOW_HTTP"] = "true"
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if region:
        options["AWS_REGION"] = region
    return options


def prove_one_winner(root: str, options: dict[str, str], objects: ObjectStore) -> None:
    """See that of two commits of one version the storage takes only the first, since else events would be lost.

    Raises ConfigurationError.
    """
    probe = f"probe-{uuid.uuid4().hex}"
    uri = f"{root}/{probe}"
    if "://" not in root:
        Path(uri).mkdir(mode=0o700, parents=True)
    schema = Schema([Field("t", PrimitiveType("long"))])
    try:
        create_table_with_add_actions(uri, schema, [], storage_options=options)
        tables = [DeltaTable(uri, storage_options=options) for _ in range(2)]
        properties = CommitProperties(app_transactions=[Transaction("probe", 1)], max_commit_retries=0)
        tables[0].create_write_transaction([], "append", schema, commit_properties=properties)
        try:
            tables[1].create_write_transaction([], "append", schema, commit_properties=properties)
        except CommitFailedError:
            return
        raise ConfigurationError(
            "service: --storage overwrites what another process wrote; it needs conditional writes (If-None-Match)"
        )
    except (DeltaError, OSError) as error:
        raise ConfigurationError(f"service: --storage can't hold tables ({type(error).__name__}); see its log") from error
    finally:
        if "://" not in root:
            shutil.rmtree(uri, ignore_errors=True)
        else:
            for version in range(2):
                objects.remove(f"{probe}/_delta_log/{version:020d}.json")

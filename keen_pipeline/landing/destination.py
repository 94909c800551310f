"""The configured place: download, verify, publish; what can't be landed is kept aside with its reason."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import TYPE_CHECKING, BinaryIO

from keen_pipeline.collection import Encoding, MaskMethod, masked_by
from keen_pipeline.errors import ConfigurationError, InvalidInputError, KeenPipelineError, RetryableError, VerificationError
from keen_pipeline.extraction import Landing
from keen_pipeline.landing.csv.masking import Masker
from keen_pipeline.landing.layout import REASON_SUFFIX, encoding_of, file_path, list_path, path_below, quarantine_path
from keen_pipeline.landing.storages.errors import of_temporary_folder
from keen_pipeline.landing.storages.storage import Fence, Storage, no_fence, normal_root, open_storage
from keen_pipeline.landing.transfer.encode import check_encoding
from keen_pipeline.landing.transfer.workers import copy
from keen_pipeline.ports import ResultsSource
from keen_pipeline.timeframe import format_instant

if TYPE_CHECKING:
    from keen_pipeline.landing.parquet.convert import Conversion
    from keen_pipeline.landing.transfer.intake import Intake

LONGEST_LIST_BYTES = 256 * 1024 * 1024
"""Of a list of unique values; the service's answer, of which it is made, has at most 64 MiB."""
LEFTOVER_AGE = timedelta(hours=6)
"""A staged file or upload this old belongs to a landing that died: none is allowed to take so long."""


class FileDestination:
    """A folder, or a prefix of `s3://`, `gs://`, `azure://` or `sftp://` (a Destination).

    Safe to share between threads; landings of one target don't disturb each other.

    `transport`: the options of the scheme. Raises ConfigurationError for a scheme or option it can't serve.
    """

    def __init__(self, root_uri: str, *, transport: Mapping[str, object] | None = None) -> None:
        self._root = normal_root(root_uri)
        self._storage: Storage = open_storage(self._root, transport or {})

    @property
    def uri(self) -> str:
        """Root of the destination, without a trailing slash; a plain path for a local folder."""
        return self._root

    def __repr__(self) -> str:
        return f"FileDestination({self._root})"

    def uri_of(self, path: str) -> str:
        """The URI of a path below the root."""
        return f"{self._root}/{path}"

    def target_uri(self, collection: str, partition_key: str, encoding: Encoding = Encoding.CSV) -> str:
        """The URI of one partition's file here, in the plain layout."""
        return self.uri_of(file_path(collection, partition_key, encoding))

    def land(
        self,
        source: ResultsSource,
        target: str,
        *,
        extraction_id: str,
        label: str | None = None,
        types: Mapping[str, str] | None = None,
        mask: Mapping[str, MaskMethod] | None = None,
        mask_key: bytes | None = None,
        earlier_types: Mapping[str, str] | None = None,
        check: Callable[[], None] = no_fence,
        fence: Fence = no_fence,
    ) -> Landing:
        """Download, verify, then publish the file at the URI `target`, of the encoding that its suffix names, in one step (the old
        whole file or the new one).

        `label`: what errors call it, its path by default.
        `types`: Keen's type by property, which Parquet needs for any column but text; `earlier_types`: in Arrow's words, those of
        columns in the collection's earlier Parquet files; none gets narrower.
        `mask`, with the key of its hashes: what is done to which columns before anything is written; what came is proven.
        `check`: called before each wait for bytes; what it raises ends the landing.
        `fence`: called immediately before the file is switched into place; if it raises, nothing is.

        Raises VerificationError (the CSV that came is kept under `_quarantine/`, with its reason beside it), RetryableError if the
        transfer can't finish now, ConfigurationError if the place can't be written. The file at `target` is as it was then.
        """
        from keen_pipeline.landing.transfer.download import Download  # brings NumPy, which those that land nothing can spare

        path = path_below(self._root, target)
        encoding = encoding_of(path)
        check_encoding(encoding)
        new_masker = partial(Masker, mask, mask_key) if mask else None
        what = f"{label or path}, extraction {extraction_id}"
        begun = time.monotonic()
        with ExitStack() as stack:
            stage = stack.enter_context(self._storage.stage(target))
            # Parquet is made of a CSV that is kept until then, and maybe twice: a cell that doesn't fit may come last.
            conversion = stack.enter_context(_conversion(encoding, stage, mask or {}, types or {}, earlier_types or {}))
            body, written = (stage, encoding) if conversion is None else (conversion.body, Encoding.CSV)
            download = stack.enter_context(Download(source, body, written, new_masker, check=check))
            try:
                with of_temporary_folder():  # the storage tells its own errors: other files are this machine's
                    intake = download.run()
                    column_types = () if conversion is None else conversion.finish(intake)
                self._storage.publish(stage, target, fence=fence)
            except KeenPipelineError as error:
                # A source's own word, such as a slice's that isn't CSV: nothing came of the service.
                if not isinstance(error, VerificationError) or download.came is None:
                    raise _about(error, what) from None
                aside = quarantine_path(f"{path.removesuffix('parquet')}csv" if conversion else path, extraction_id)
                raise self._keep_aside(stage, conversion, self.uri_of(aside), f"{what}: {error}", download.came, target) from None
        return Landing(
            uri=target,
            bytes=intake.bytes,
            records=intake.records,
            sha256=intake.sha256,
            columns=intake.columns,
            stored_bytes=(conversion or intake).stored_bytes,
            seconds=time.monotonic() - begun,
            column_types=column_types,
            property_types=tuple(types.get(name, "") for name in intake.columns) if types else (),
            masked=intake.masked,
            stored_sha256=(conversion or intake).stored_sha256,
        )

    def exists(self, target: str) -> int | None:
        """Size in bytes of the file at `target` as it is stored, None if there is none."""
        return self._storage.size(target)

    def open(self, target: str) -> AbstractContextManager[BinaryIO]:
        """A binary reader of the file as it is stored (compressed if its suffix says so). Raises FileNotFoundError."""
        return self._storage.open(target)

    def remove(self, target: str) -> None:
        """Remove the file at `target`; nothing if there is none. Raises InvalidInputError for one outside the root."""
        path_below(self._root, target)
        self._storage.remove(target)

    def set_aside(self, target: str, extraction_id: str, reason: str) -> str:
        """Move a landed file to the quarantine with the reason beside it; answers its URI there."""
        path = path_below(self._root, target)
        aside = self.uri_of(quarantine_path(path, extraction_id))
        with self._storage.open(target) as file, self._storage.stage(aside) as stage:
            copy(file, stage)
            self._storage.publish(stage, aside)
        self._write_reason(aside, reason)
        self._storage.remove(target)
        return aside

    def write(self, path: str, data: bytes) -> None:
        """A small file at a path below the root, in one step. Raises ConfigurationError or RetryableError."""
        self._storage.write(self.uri_of(path), data)

    def read(self, path: str, most_bytes: int) -> bytes:
        """A small file at a path below the root. Raises FileNotFoundError, InvalidInputError if it is longer than `most_bytes`."""
        with self._storage.open(self.uri_of(path)) as file:
            data = file.read(most_bytes + 1)
        if len(data) > most_bytes:
            raise InvalidInputError(f"{self.uri_of(path)} is longer than {most_bytes} bytes")
        return data

    def files(self, folder: str) -> Iterator[tuple[str, int]]:
        """Path below the root and bytes of each file in a folder below the root, in any order; none if there is no such folder.
        Raises InvalidInputError for a folder outside the root.

        A file whose name no landing gives is left out: with a character that can't be printed, or an object's key such as `a//b`.
        """
        path_below(self._root, self.uri_of(folder))
        for uri, size in self._storage.files(self.uri_of(folder)):
            with suppress(InvalidInputError):
                yield path_below(self._root, uri), size

    def write_list(self, collection: str, property_name: str, partition_key: str, values: Sequence[object]) -> str:
        """Write unique values as a JSON array, in one step; returns its URI. Raises ConfigurationError."""
        path = list_path(collection, property_name, partition_key)
        self.write(path, json.dumps(values, ensure_ascii=False).encode())
        return self.uri_of(path)

    def read_list(self, collection: str, property_name: str, partition_key: str) -> list[object]:
        """What `write_list` wrote. Raises FileNotFoundError, InvalidInputError if it is another file or over LONGEST_LIST_BYTES."""
        path = list_path(collection, property_name, partition_key)
        try:
            values = json.loads(self.read(path, LONGEST_LIST_BYTES))
        except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
            values = None
        if not isinstance(values, list):
            raise InvalidInputError(f"{self.uri_of(path)} isn't the list that was written there; materialize it again")
        return values

    def remove_leftovers(self, older_than: timedelta = LEFTOVER_AGE) -> list[str]:
        """Remove what landings that died more than `older_than` ago have left; returns its URIs. Never a landed file."""
        return self._storage.remove_leftovers(older_than)

    def probe(self) -> None:
        """Write, read and remove a small file. Raises ConfigurationError or RetryableError that says what failed."""
        target = f"{self._root}/.keen-pipeline-probe-{secrets.token_hex(8)}"
        written = b"keen-pipeline probe\n"
        try:
            self._storage.write(target, written)
            with self._storage.open(target) as file:
                read = file.read()
            self._storage.remove(target)
        except FileNotFoundError:
            read = b""
        if read != written:
            raise ConfigurationError(f"destination {self._root}: a file that was written can't be read back unchanged")

    def _keep_aside(
        self, stage: BinaryIO, conversion: Conversion | None, aside: str, why: str, came: Intake, target: str
    ) -> VerificationError:
        received = f"{came.bytes} bytes came, sha256 {came.sha256}"
        if came.masked:
            received += ", and are kept masked, up to where it is wrong"
        try:
            if conversion is not None:
                conversion.restore(stage)
            self._storage.publish(stage, aside)
            self._write_reason(aside, f"{why}\n{received}; nothing was landed at {target}")
        except (ConfigurationError, RetryableError) as unkept:
            return VerificationError(f"{why}. Nothing was landed; what came could not be kept either: {unkept}")
        return VerificationError(f"{why}. Nothing was landed; what came is kept as {aside}", quarantined=aside)

    def _write_reason(self, aside: str, reason: str) -> None:
        """Beside what was kept, which goes again if its reason can't be told."""
        moment = format_instant(datetime.now(timezone.utc).replace(microsecond=0))
        try:
            self._storage.write(aside + REASON_SUFFIX, f"{moment}\n{reason}\n".encode())
        except KeenPipelineError:
            self._storage.remove(aside)
            raise


def _about(error: KeenPipelineError, what: str) -> KeenPipelineError:
    """The same error, saying of which extraction it speaks."""
    if not isinstance(error, InvalidInputError) and what not in str(error):
        first, *mend = str(error).split("\n")
        kept = "" if "nothing was published" in first else "; nothing was landed"
        error.args = ("\n".join([f"{what}: {first}{kept}", *mend]), *error.args[1:])
    return error


def _conversion(
    encoding: Encoding, stage: BinaryIO, mask: Mapping[str, MaskMethod], types: Mapping[str, str], earlier: Mapping[str, str]
) -> AbstractContextManager[Conversion | None]:
    """For Parquet, by the types of the columns as they are written: a masked one is text, a dropped one is none."""
    if encoding is not Encoding.PARQUET:
        return nullcontext()
    from keen_pipeline.landing.parquet.convert import Conversion  # brings Arrow

    def dropped(name: str) -> bool:
        return mask.get(masked_by(mask, name) or "") is MaskMethod.DROP

    kept = {name: "string" if masked_by(mask, name) else word for name, word in types.items() if not dropped(name)}
    return Conversion(stage, kept, {name: word for name, word in earlier.items() if not dropped(name)})

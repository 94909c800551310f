"""Verify: read again what lies at the destination, and hold it against the ledger, its manifest and, if wanted, the service.

What is proven of a file: its length; its SHA-256, of Keen's CSV if that is what lies there (compressed or not), of the stored file
if it is masked or Parquet; and that ledger and manifest say the same of it. The number of events follows from the hash, since both
were taken of the same bytes.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import BinaryIO

from keen_pipeline.collection import Collection, Encoding
from keen_pipeline.errors import ConfigurationError, InvalidInputError, KeenPipelineError, RetryableError
from keen_pipeline.extraction import ExtractionRequest, Kind, Landing, Status
from keen_pipeline.landing import FileDestination
from keen_pipeline.landing.csv.stored import decompressed
from keen_pipeline.landing.layout import collection_folder, manifest_path
from keen_pipeline.ledger import SqlLedger
from keen_pipeline.lifecycle import Entry
from keen_pipeline.partitions import partition_for_key
from keen_pipeline.pipeline.context import Pipeline, first_line
from keen_pipeline.pipeline.counts import count_landed, is_late
from keen_pipeline.pipeline.extractions.wait import Event, Stopped, extract
from keen_pipeline.pipeline.files import manifests
from keen_pipeline.pipeline.files.manifests import Manifest
from keen_pipeline.pipeline.requests import partition_request

_PIECE_BYTES = 1 << 20
# Files at once: of a local disk as many as there are processors, of a storage over a network more wait than work.
_LOCAL_READERS = os.cpu_count() or 1
_REMOTE_READERS = 16


@dataclass(frozen=True)
class Verified:
    """One thing that was looked at. `problem`: what is wrong with it, None if nothing is.

    `partition`: None for a file that nobody knows. `entry`: its landing, None if extracting it again would fix nothing.
    `is_file`: whether the file is wrong; else only its manifest is, which can be written again.
    """

    collection: str
    partition: str | None
    uri: str
    problem: str | None = None
    entry: Entry | None = None
    is_file: bool = True


@dataclass(frozen=True)
class Range:
    """Partition keys from `first` to `last`, both inclusive, compared as far as they are written: `2026-01` is a month."""

    first: str | None = None
    last: str | None = None

    def __contains__(self, key: object) -> bool:
        assert isinstance(key, str)
        return (self.first is None or key >= self.first) and (self.last is None or key[: len(self.last)] <= self.last)

    @property
    def is_everything(self) -> bool:
        """Whether no key is left out."""
        return self.first is None and self.last is None


def landed_of(ledger: SqlLedger, collections: Sequence[str], wanted: Range) -> list[Entry]:
    """The landings that are to be looked at: with a range those of partitions, else ad hoc files too."""
    entries = (entry for name in collections for entry in ledger.landed_entries(name))
    return [e for e in entries if wanted.is_everything or (e.is_partition and e.request.partition_key in wanted)]


def verify(pipeline: Pipeline, landed: Sequence[Entry], *, counts: bool = False) -> Iterator[Verified]:
    """Look at each landed file, several at once, in any order; with `counts` at last those that the service counts otherwise.

    Each file is answered once, with the first thing that is wrong with it.
    """
    is_local = "://" not in pipeline.destination.uri
    readers = min(_LOCAL_READERS if is_local else _REMOTE_READERS, max(1, len(landed)))
    whole: list[Entry] = []
    with ThreadPoolExecutor(readers, thread_name_prefix="keen-verify") as pool:
        try:
            for entry, (problem, is_file) in zip(landed, pool.map(lambda e: _looked_at(pipeline, e), landed), strict=True):
                if problem is None and counts:
                    whole.append(entry)
                    continue
                yield _verified(entry, problem, is_file)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    for entries, answer in count_landed(pipeline, whole):
        if isinstance(answer, KeenPipelineError):
            why = f"its events could not be counted: {answer}"
            yield from (replace(_verified(entry, why), entry=None) for entry in entries)  # the file is right: nothing to extract
            continue
        yield from (_verified(entry, _counted_otherwise(entry)) for entry in answer)
        gone = {e.entry_id for e in entries} - {e.entry_id for e in answer}
        yield from (_verified(entry, None) for entry in entries if entry.entry_id in gone)


def _verified(entry: Entry, problem: str | None, is_file: bool = True) -> Verified:
    request, uri = entry.request, entry.landing.uri if entry.landing is not None else ""
    return Verified(request.collection, request.partition_key, uri, problem, entry, is_file)


def _counted_otherwise(entry: Entry) -> str | None:
    assert entry.landing is not None
    return f"it holds {entry.landing.records} events, the service counts {entry.counted}" if is_late(entry) else None


def _looked_at(pipeline: Pipeline, entry: Entry) -> tuple[str | None, bool]:
    problem, is_file = _problem(pipeline.destination, entry)
    if problem is None:
        return None, True
    # Another landing may have been at work: what it replaced is nobody's fault.
    now = pipeline.ledger.entries([entry.entry_id])
    if not now or now[0].status is not entry.status:
        return None, True
    return problem, is_file


def _problem(destination: FileDestination, entry: Entry) -> tuple[str | None, bool]:
    """What is wrong with a file, or with its manifest alone."""
    landing, path = entry.landing, entry.request.path
    assert landing is not None
    if entry.unproven:
        return "a landing broke off while it was switched into place: it may be another's", True
    try:
        manifest = manifests.find(destination, path)
        about = _differs(manifest, entry)
    except (InvalidInputError, ConfigurationError, RetryableError) as error:
        manifest, about = None, f"its manifest can't be read: {error}"
    try:
        size = destination.exists(landing.uri)
        if size is None:
            return "the file is missing", True
        if size != landing.stored_bytes:
            return f"it has {size} bytes, {landing.stored_bytes} landed", True
        problem = _content(destination, entry, landing, manifest if about is None else None, about)
    except FileNotFoundError:
        return "the file is missing", True
    except (ConfigurationError, RetryableError) as error:
        return f"it can't be read: {error}", True
    return (problem, True) if problem is not None else (about, False)


def _differs(manifest: Manifest | None, entry: Entry) -> str | None:
    if manifest is None:
        return "its manifest is missing"
    if manifest.entry.token != entry.token:
        return f"its manifest is of another landing ({manifest.entry.token}, the ledger has {entry.token})"
    request, landing = entry.request, replace(manifest.landing, stored_sha256=None)
    assert entry.landing is not None
    asked = replace(manifest.entry.request, count_check=request.count_check, email=request.email)
    same = replace(entry.landing, uri=landing.uri, seconds=landing.seconds) == landing and asked == request
    return None if same else "its manifest differs from the ledger"


def _content(
    destination: FileDestination, entry: Entry, landing: Landing, manifest: Manifest | None, about: str | None
) -> str | None:
    with destination.open(landing.uri) as file:
        if entry.request.encoding is Encoding.PARQUET or entry.request.mask:
            stored = manifest.landing.stored_sha256 if manifest is not None else None
            if stored is None:
                return f"nothing proves it: its manifest alone could, and {about or 'has no hash'}"
            return _compared(_sha256(file), stored)
        try:
            with decompressed(file, landing.uri) as csv:
                return _compared(_sha256(csv), landing.sha256)
        except (OSError, EOFError) as error:
            return f"it can't be unpacked ({error})"


def _compared(found: str, noted: str) -> str | None:
    return None if found == noted else f"its content has changed: sha256 {found}, {noted} landed"


def _sha256(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    while piece := file.read(_PIECE_BYTES):
        digest.update(piece)
    return digest.hexdigest()


def strangers(pipeline: Pipeline, collections: Sequence[str]) -> Iterator[Verified]:
    """Files too many in the folders of some collections: those that no landing of this ledger has put there.

    What other definitions have landed, by the same ledger or by their manifests, is theirs. Nothing is removed for being unknown.
    """
    ledger, destination = pipeline.ledger, pipeline.destination
    for name in collections:
        folder = collection_folder(name)
        try:
            there = [path for path, _ in destination.files(folder)]
            found = (one.manifest for one in manifests.all_of(destination, name))
            told = {m.entry.request.path: (m.entry.request.partition_key, m.is_of(pipeline.scope)) for m in found if m is not None}
        except (ConfigurationError, RetryableError) as error:  # which may hold for this one alone
            yield Verified(name, None, destination.uri_of(folder), f"its folder can't be listed: {first_line(error)}")
            continue
        # Read at last: what has landed meanwhile is known then.
        mine = (*ledger.open_entries(), *ledger.stale_files(), *ledger.landed_entries(name))
        known = {entry.request.path for entry in mine}
        paths = {path for path in there if path not in known}
        for path in sorted(paths - ledger.others_paths(paths)):
            partition, is_mine = told.get(path, (None, True))
            if not is_mine:
                continue
            why = "no landing has put it there"
            if partition is not None:
                why = "another ledger has landed it, or it was moved here (then: keen-pipeline ledger rebuild)"
            yield Verified(name, partition, destination.uri_of(path), f"a file too many: {why}")
        why = "a manifest too many: its file is not there, and the ledger does not know it"
        for path in sorted(set(told) - known - set(there)):
            partition, is_mine = told[path]
            if is_mine:
                yield Verified(name, partition, destination.uri_of(manifest_path(path)), why)


def repair(pipeline: Pipeline, wrong: Sequence[Verified], configured: Sequence[Collection]) -> Generator[Event, None, None]:
    """Write again the manifests of files that are right, and extract again what is wrong, by today's configuration.

    What nobody knows stays as it is.
    """
    untold = [one.entry.entry_id for one in wrong if one.entry is not None and not one.is_file]
    for entry in pipeline.ledger.entries(untold):  # as it is by now: another landing may have brought its own manifest
        if entry.status is not Status.LANDED:
            continue
        try:
            manifests.write(pipeline.destination, Manifest.of(entry, pipeline.scope, entry.landed_at or pipeline.clock.now()))
        except (ConfigurationError, RetryableError) as error:
            yield Stopped(entry, error)
    requests = to_repair(pipeline, wrong, configured)
    if requests:
        yield from extract(pipeline, requests, doing="keen-pipeline verify --repair", keep=lambda _: False, resumable=True)


def to_repair(pipeline: Pipeline, wrong: Sequence[Verified], configured: Sequence[Collection]) -> list[ExtractionRequest]:
    """What has to be extracted again."""
    known = {collection.name: collection for collection in configured}
    requests: dict[tuple[str, str], ExtractionRequest] = {}
    for one in wrong:
        if one.entry is not None and one.is_file:
            requests[one.entry.request.place] = _request(pipeline, one.entry, known.get(one.collection))
    return list(requests.values())


def _request(pipeline: Pipeline, entry: Entry, collection: Collection | None) -> ExtractionRequest:
    if collection is None or entry.request.kind is Kind.AD_HOC:
        return replace(entry.request, email=None)
    try:
        partition = partition_for_key(collection, entry.request.partition_key, pipeline.clock.now())
    except InvalidInputError:  # of another granularity or zone, or before the start date of today
        return replace(entry.request, email=None)
    return partition_request(collection, partition, mask_key=pipeline.mask_key)

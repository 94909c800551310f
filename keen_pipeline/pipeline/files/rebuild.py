"""A lost ledger recreated from the manifests at the destination: nothing landed is asked for or told again."""

from __future__ import annotations

from dataclasses import dataclass, replace
from urllib.parse import unquote

from keen_pipeline.errors import ConfigurationError
from keen_pipeline.landing import FileDestination
from keen_pipeline.landing.layout import collection_folder, manifest_path
from keen_pipeline.ledger import SqlLedger
from keen_pipeline.lifecycle import Entry
from keen_pipeline.pipeline.context import first_line
from keen_pipeline.pipeline.files import manifests
from keen_pipeline.pipeline.files.manifests import Manifest


@dataclass(frozen=True)
class Rebuilt:
    """What became of the manifests at a destination.

    `restored`: landings that the ledger has now and had not before. `known`: those that it knew, or has something newer of.
    `others`: of another project or other definitions. `problems`: by URI why a manifest was left out.
    """

    restored: tuple[Entry, ...]
    known: int
    others: int
    problems: tuple[tuple[str, str], ...]


def rebuild(ledger: SqlLedger, destination: FileDestination) -> Rebuilt:
    """Take over every landing whose manifest and file lie at the destination, be it a copy of the place where they landed.

    Raises ConfigurationError or RetryableError if the destination can't be listed.
    """
    told: list[Manifest] = []
    others, problems = 0, []
    for found in manifests.all_of(destination):
        if found.manifest is None:
            problems.append((found.uri, found.problem or "it can't be read"))
        elif not _is_beside(destination, found.uri, found.manifest.entry.request.path):
            problems.append((found.uri, f"it tells of a file at another place, {found.manifest.entry.request.path}"))
        elif found.manifest.is_of(ledger.scope):
            told.append(found.manifest)
        else:
            others += 1
    sizes: dict[str, int] = {}
    hidden = set()
    for folder in sorted({collection_folder(manifest.entry.request.collection) for manifest in told}):
        try:
            sizes.update(destination.files(folder))
        except ConfigurationError as error:  # which may hold for this one alone
            hidden.add(folder)
            problems.append((destination.uri_of(folder), f"its folder can't be listed: {first_line(error)}"))
    landed = []
    for manifest in told:
        path = manifest.entry.request.path
        size = sizes.get(path)
        if collection_folder(manifest.entry.request.collection) in hidden:
            continue
        if size != manifest.landing.stored_bytes:
            there = "is not there" if size is None else f"has {size} bytes, not {manifest.landing.stored_bytes}"
            problems.append((destination.uri_of(path), f"the file {there}"))
            continue
        landed.append(replace(manifest.entry, landing=replace(manifest.landing, uri=destination.uri_of(path))))
    restored = ledger.restore(landed)
    return Rebuilt(tuple(restored), len(landed) - len(restored), others, tuple(problems))


def _is_beside(destination: FileDestination, uri: str, path: str) -> bool:
    """Whether a manifest lies where that of the file at a path does; some storages list names unquoted."""
    return unquote(uri) == unquote(destination.uri_of(manifest_path(path)))

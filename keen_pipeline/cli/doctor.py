"""`keen-pipeline doctor`: each part of the configuration tried, with what to fix."""

from __future__ import annotations

import os
import smtplib
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from difflib import get_close_matches
from pathlib import Path

import click

from keen_pipeline.cli.common import as_called, configured_collections, other_scopes, print_json, service_for_command
from keen_pipeline.collection import MaskMethod, masked_by
from keen_pipeline.errors import ConfigurationError, KeenPipelineError
from keen_pipeline.extraction import Status
from keen_pipeline.ledger.database.migrate import CONTRACT_COMMAND, ledger_version
from keen_pipeline.mail import connected
from keen_pipeline.pipeline.files.manifests import all_of, of_other_ledgers
from keen_pipeline.pipeline.freshness import coverage
from keen_pipeline.pipeline.told import backfill_command, by_cause, few, is_unknown_collection
from keen_pipeline.settings import VARIABLES, Settings
from keen_pipeline.wiring import open_client, open_destination, open_ledger, scope_of

_HEARTBEAT_SECONDS = 300
_NOT_TRIED = "not tried"
# So many manifests are looked at.
_MANIFESTS = 200


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def command(as_json: bool) -> None:
    """Check variables, collections, service, key, destination (writes and removes a probe), ledger, partitions, mail and daemon.

    What is wrong comes with what to fix, and the exit status is 1.

    Example: keen-pipeline doctor
    """
    settings = Settings.from_environment()
    with service_for_command(settings):
        told: list[tuple[str, bool, str]] = []
        for name, (check, needs) in _CHECKS.items():
            broken = [one for one, well, _ in told if one in needs and not well]
            told.append((name, True, f"{_NOT_TRIED}, see {broken[0]} above") if broken else _try(name, check, settings))
            if not as_json:  # at once: a service that hangs is waited for
                _, well, text = told[-1]
                mark = "wrong" if not well else "-" if broken else "ok"
                click.echo(f"{mark:5} {name}: {as_called(text)}")
    if as_json:
        print_json({"checks": [{"name": name, "ok": well, "message": text} for name, well, text in told]})
    bad = sum(not well for _, well, _ in told)
    if bad:
        raise ConfigurationError(f"{bad} of {len(told)} checks failed, see above for what to fix")


def _try(name: str, check: Callable[[Settings], str], settings: Settings) -> tuple[str, bool, str]:
    try:
        return name, True, check(settings)
    except KeenPipelineError as error:
        return name, False, " ".join(str(error).split())


def _variables(settings: Settings) -> str:
    if not settings.unknown:
        return "no KEEN_PIPELINE_* variable is misspelt"
    known = [one.name for one in VARIABLES]
    told = []
    for name in settings.unknown:
        near = get_close_matches(name, known, 1, 0.6)
        told.append(f"{name} isn't a setting" + (f", {near[0]} is" if near else ""))
    raise ConfigurationError(f"{'; '.join(told)}: correct or unset it")


def _collections(settings: Settings) -> str:
    collections = configured_collections(settings)
    if not collections:
        wrong = f"{settings.collections_file} names none" if settings.collections_file else "KEEN_PIPELINE_COLLECTIONS is not set"
        raise ConfigurationError(f"{wrong}: name the collections to extract in a YAML file, `keen-pipeline init` writes one")
    from keen_pipeline.defs.build import build_keen_definitions  # with Dagster, a second and a half

    build_keen_definitions(collections, name=settings.name)  # what keeps a code location from loading is wrong
    now = datetime.now(timezone.utc)
    late = [c.name for c in collections if datetime(c.start.year, c.start.month, c.start.day, tzinfo=timezone.utc) > now]
    if late:
        raise ConfigurationError(f"start_date of {', '.join(late)} lies in the future: there is no partition to extract before it")
    source = settings.collections_file or "the sample, as KEEN_PIPELINE_COLLECTIONS is not set"
    return f"{', '.join(c.name for c in collections)} ({source})"


def _service(settings: Settings) -> str:
    client = open_client(settings)
    client.ping()
    return f"{client.base_url}, API {client.api_version}" + (
        "" if not settings.is_embedded else " (embedded, as KEEN_BASE_URL is not set)"
    )


def _key(settings: Settings) -> str:
    client = open_client(settings)
    client.collections()
    return f"the read key opens project {client.project_id}"


def _names(settings: Settings) -> str:
    collections = configured_collections(settings)
    if settings.collections_file is None:
        return "not compared: KEEN_PIPELINE_COLLECTIONS is not set"
    known = open_client(settings).collections()
    unknown = [c.name for c in collections if c.name not in known]
    if unknown:
        raise ConfigurationError(
            f"the project has no collection {', '.join(unknown)}; it has {', '.join(known[:20]) or 'none yet'}. "
            f"Names are case-sensitive; correct {settings.collections_file}, take a deleted collection out of it (what has landed "
            "stays), or wait for the first event"
        )
    return f"the project has all {len(collections)}"


def _properties(settings: Settings) -> str:
    """A mask that covers no property lets personal data through, and a filter on one that isn't there takes no event or each."""
    client, named, wrong = open_client(settings), 0, []
    for collection in configured_collections(settings):
        filtered = [f.property_name for f in collection.filters]
        named += len(filtered) + len(collection.mask)
        try:
            known = sorted(client.property_types(collection.name)) if filtered or collection.mask else []
        except KeenPipelineError as error:  # of this one: the masks of others are looked at all the same
            wrong.append(f"{collection.name}: {error}")
            continue
        spelled = {*known, *(one.removeprefix("body:").replace(":", ".") for one in known)}
        unmet = [name for name in filtered if name not in spelled and not name.startswith(("header:", "keen."))]
        unmet += [name for name in collection.mask if not any(masked_by({name: None}, one) for one in known)]
        near = [f"{name}{''.join(f' ({one}?)' for one in get_close_matches(name, known, 1))}" for name in unmet if known]
        told = f"{collection.name} has no property {', '.join(near)}, which a filter or mask names: such a mask masks nothing"
        wrong += [told] if near else []
    if wrong:
        raise ConfigurationError("; ".join(wrong))
    return "filters and masks name properties that the collections have" if named else "no filter or mask names one"


def _mask(settings: Settings) -> str:
    hashing = sorted(c.name for c in configured_collections(settings) if MaskMethod.HASH in c.mask.values())
    if hashing and settings.mask_key is None:
        raise ConfigurationError(
            f"{', '.join(hashing)}: columns are to be hashed, but there is no key for it: set KEEN_PIPELINE_MASK_KEY to a "
            "secret of your own, and keep it: another key gives other hashes"
        )
    return f"a key is set for the hashes of {', '.join(hashing)}" if hashing else "nothing is hashed"


def _destination(settings: Settings) -> str:
    destination = open_destination(settings.destination, settings.destination_options)
    destination.probe()
    return f"{destination.uri} can be written"


def _ledger(settings: Settings) -> str:
    ledger = open_ledger(settings.ledger_url, scope_of(settings))
    told = [str(ledger.scope)]
    others = [f"{one.landed} landed and {one.open} open of {one.scope}" for one in other_scopes(ledger)]
    told += [f"it also holds {few(others, ', ')}"] if others else []
    now, lease = ledger.clock.now(), settings.lease_seconds
    told += [f"at work: {worker}" for worker in ledger.workers.all() if not worker.is_gone(now, lease)]
    if ledger_version(ledger.engine).waiting:
        told.append(f"once no older release runs: {CONTRACT_COMMAND}")
    return "; ".join(told)


def _manifests(settings: Settings) -> str:
    """Whether another ledger lands the same files: then each overwrites what the other has proven."""
    destination = open_destination(settings.destination, settings.destination_options)
    ledger = open_ledger(settings.ledger_url, scope_of(settings, destination.uri))
    found = [one.manifest for one in all_of(destination, most=_MANIFESTS) if one.manifest is not None]
    mine = {manifest.entry.token: manifest.entry for manifest in found if manifest.is_of(ledger.scope)}
    unknown = sorted(mine[token].request.path for token in set(mine) - ledger.known_tokens(mine))
    if unknown:
        raise ConfigurationError(
            f"{len(unknown)} of {len(mine)} landed files at {destination.uri} are not in this ledger, such as {unknown[0]}: if "
            "another ledger lands there too, one of them needs another KEEN_PIPELINE_DESTINATION; if this one was lost, or the "
            "files were moved: keen-pipeline ledger rebuild"
        )
    names = {collection.name for collection in configured_collections(settings)}
    others = [m for m in found if m.entry.request.collection in names and not m.is_of(ledger.scope)]
    foreign = of_other_ledgers(ledger, others)
    if foreign:
        raise ConfigurationError(
            f"{destination.uri} holds files of another ledger, such as {foreign[0]}: give one of the two another "
            "KEEN_PIPELINE_DESTINATION"
        )
    return f"the ledger knows the {len(mine)} manifests that were looked at"


def _partitions(settings: Settings) -> str:
    ledger = open_ledger(settings.ledger_url, scope_of(settings))
    wrong, landed = [], 0
    for collection in configured_collections(settings):
        found = coverage(ledger, collection, ledger.clock.now(), mask_key=settings.mask_key)
        landed += found.landed
        for what, keys in (("without a file", found.gaps), ("out of date or unproven", found.outdated)):
            if keys:
                wrong.append(f"{collection.name} has {len(keys)} partitions {what}: {backfill_command(collection.name, keys)}")
        abandoned = [s for s in found.given_up if s.status is Status.ABANDONED]
        for group in by_cause((collection.name, s.key, s.error or "", "retry") for s in abandoned):
            mend = "see names above" if is_unknown_collection(group.reason) else group.command
            wrong.append(f"{collection.name} has {len(group.keys)} given up: {mend}")
    if wrong:
        raise ConfigurationError("; ".join(wrong))
    return f"{landed} landed, none missing between the first and today, none given up"


def _mail(settings: Settings) -> str:
    smtp = settings.smtp
    if smtp is None:
        # Keen has a mail server of its own, the embedded service has ours.
        wanted = [f"email of {c.name}" for c in configured_collections(settings) if c.email and settings.is_embedded]
        wanted += ["KEEN_PIPELINE_DIGEST_TO"] if settings.digest_to else []
        if wanted:
            raise ConfigurationError(f"{', '.join(wanted)} is set, but there is no mail server: set SMTP_HOST, or unset it")
        return "not configured"
    try:
        with connected(smtp) as server:
            server.noop()
    except (OSError, smtplib.SMTPException, ValueError) as error:
        # The class alone: a server's words may quote the user.
        raise ConfigurationError(
            f"the mail server {smtp.host}:{smtp.port} does not accept our mail ({type(error).__name__}): check SMTP_HOST, "
            "SMTP_PORT, SMTP_USER, SMTP_PASSWORD and SMTP_STARTTLS"
        ) from None
    return f"{smtp.host}:{smtp.port} takes mail" + (
        "" if settings.digest_to else "; nobody gets the digest (KEEN_PIPELINE_DIGEST_TO)"
    )


def _dagster(settings: Settings) -> str:
    """Whether something ticks the schedule and the sensors of the configured Dagster home."""
    home = os.environ.get("DAGSTER_HOME")
    if not home:
        return "DAGSTER_HOME is not set; `keen-pipeline dev` keeps a home of its own"
    if not Path(home).is_absolute() or not Path(home).is_dir():
        raise ConfigurationError(f"DAGSTER_HOME {home} must be the absolute path of a folder that exists")
    import dagster as dg  # a second and a half, only here

    try:
        with dg.DagsterInstance.get() as instance:
            beats = instance.get_daemon_heartbeats()
    except Exception as error:  # noqa: BLE001 - of Dagster, its storage's driver or YAML; their words may quote a password
        raise ConfigurationError(
            f"Dagster can't be opened for DAGSTER_HOME {home} ({type(error).__name__}): check its dagster.yaml and its database"
        ) from None
    now = datetime.now(timezone.utc).timestamp()
    newest = max((beat.timestamp for beat in beats.values()), default=0.0)
    if now - newest > _HEARTBEAT_SECONDS:
        said = "none has run there yet" if not newest else f"the last one was heard of {(now - newest) / 60:.0f} minutes ago"
        raise ConfigurationError(
            f"no daemon runs for DAGSTER_HOME {home} ({said}): schedules and sensors don't tick; start `dagster-daemon run` or "
            "`keen-pipeline dev`"
        )
    return f"a daemon runs for {home}"


# By name: the check, and those without which it is not tried, as they would say the same once more.
_CHECKS: Mapping[str, tuple[Callable[[Settings], str], tuple[str, ...]]] = {
    "variables": (_variables, ()),
    "collections": (_collections, ()),
    "service": (_service, ()),
    "key": (_key, ("service",)),
    "names": (_names, ("collections", "service", "key")),
    "properties": (_properties, ("collections", "service", "key", "names")),
    "mask": (_mask, ("collections",)),
    "destination": (_destination, ()),
    "ledger": (_ledger, ("destination",)),
    "manifests": (_manifests, ("destination", "ledger")),
    "partitions": (_partitions, ("collections", "destination", "ledger")),
    "mail": (_mail, ("collections",)),
    "dagster": (_dagster, ()),
}

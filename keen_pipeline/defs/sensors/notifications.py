"""The nightly digest and failures, told by e-mail and Slack: two sensors around the outbox in the ledger; no run is needed."""

import hashlib
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from time import monotonic
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import dagster as dg
from pydantic import Field

from keen_pipeline.collection import Collection
from keen_pipeline.defs.jobs import last_asked
from keen_pipeline.defs.names import DEFINITIONS_TAG, Names, sensor_status
from keen_pipeline.defs.reports.checks import Keys
from keen_pipeline.defs.resources import adapters_of, checked, ledger_of
from keen_pipeline.errors import KeenPipelineError
from keen_pipeline.extraction import SecretUrl
from keen_pipeline.notifications.send import MAIL, Channels, Message
from keen_pipeline.pipeline.told import shortened
from keen_pipeline.ports import Clock, SystemClock
from keen_pipeline.scope import title_of
from keen_pipeline.settings import Settings
from keen_pipeline.wiring import limits_of

if TYPE_CHECKING:
    from keen_pipeline.ledger import SqlLedger
    from keen_pipeline.ledger.notices import Notice

_log = logging.getLogger(__name__)

INTERVAL_SECONDS = 30
# Dagster ends a tick after 60 s; a sending that began before takes at most 20 more for each step.
SENDING_SECONDS = 15.0
# How long a schedule's tick and its run may take to ask for what is due.
_ASKING = timedelta(minutes=15)
_MOST_RUNS = 100
"""Failed ones that a tick looks at, whoever's they are."""
_TITLE_CHARACTERS = 150
_STORY_CHARACTERS = 4000
_DIGEST = "digest/"
# The first line of what a run of ours says at its end.
_SUMMARY = re.compile(r" partitions failed| stopped$")
# An error of ours says what is wrong by itself; of which class it is tells a reader nothing.
_OUR_ERROR = re.compile(r"^keen_pipeline\.errors\.\w+: ")


class KeenNotifications(dg.ConfigurableResource[Settings]):
    """Where the digest and failures go. Without a field: `KEEN_PIPELINE_DIGEST_TO`, `KEEN_PIPELINE_SLACK_WEBHOOK` and the other
    variables; the mail server is that of `SMTP_HOST` and its like. Give the webhook as `dg.EnvVar`: it is a secret.
    """

    mail_to: list[str] | None = Field(default=None, description="addresses, none: no mail; unset: KEEN_PIPELINE_DIGEST_TO")
    slack_webhook: str | None = Field(default=None, description="unset: KEEN_PIPELINE_SLACK_WEBHOOK", repr=False)
    digest_at: str | None = Field(default=None, description="HH:MM in the collections' zone; unset: KEEN_PIPELINE_DIGEST_AT, 06:00")
    attachment_bytes: int | None = Field(
        default=None, description="of all files in one mail, 0 to 20000000; unset: KEEN_PIPELINE_DIGEST_ATTACHMENT_BYTES"
    )
    ui_url: str | None = Field(default=None, description="root of Dagster's UI, for links; unset: KEEN_PIPELINE_UI_URL")

    def settings(self) -> Settings:
        """The environment with this resource's fields over it. Raises ConfigurationError naming a wrong field or variable."""
        given = {
            "digest_to": ",".join(self.mail_to) if self.mail_to else None,
            "slack_webhook": self.slack_webhook,
            "digest_at": self.digest_at,
            "digest_attachment_bytes": self.attachment_bytes,
            "ui_url": self.ui_url,
        }
        values = checked(given)
        if self.mail_to is not None and not self.mail_to:
            values["digest_to"] = ()
        return replace(Settings.from_environment(), **values)


def channels_of(settings: Settings) -> Channels:
    """What is configured."""
    webhook = SecretUrl(settings.slack_webhook) if settings.slack_webhook else None
    return Channels(settings.digest_to, settings.smtp if settings.digest_to else None, webhook)


def configured_notifications(given: KeenNotifications | None) -> KeenNotifications | None:
    """`given`, else the environment's, None if that names neither an address nor a webhook. Mail without a server is warned of."""
    settings = Settings.from_environment()
    found = given or (KeenNotifications() if settings.digest_to or settings.slack_webhook else None)
    if found is not None and (settings.digest_to if found.mail_to is None else found.mail_to) and settings.smtp is None:
        _log.warning("notifications are to go out by mail, and there is no mail server: set SMTP_HOST, or no mail is sent")
    return found


def notification_sensors(
    names: Names,
    collections: Sequence[Collection],
    keys: Keys,
    timezone: str | None,
    cron: str | None = None,
    *,
    running: bool = False,
    clock: Clock | None = None,
) -> list[dg.SensorDefinition]:
    """`{name}_notifications` sends what is due, the digest once a night; `{name}_extraction_failures` takes up failed runs.

    `timezone`: of the digest's hour, None: that of most collections. `cron`, `timezone`: of the schedules, see `nightly_schedules`.
    """
    how: dict[str, Any] = {
        "minimum_interval_seconds": INTERVAL_SECONDS,
        "required_resource_keys": names.resources | {names.notifications},
        "default_status": sensor_status(running),
    }
    said = "Sends the nightly digest and what failed by e-mail and Slack; what can't be sent is tried again for a day."
    sending = _Sending(names, collections, keys, timezone, cron, clock)
    taking_up = _TakingUp(names, keys, {names.step(collection.name) for collection in collections}, clock)
    # Not Dagster's own sensor of failed runs: it spends a whole tick on each run of somebody else's, or writes into that run.
    told = f"Takes failed runs of our jobs and of CSV assets up into the outbox of the sensor {names.notifications}."
    return [
        dg.SensorDefinition(names.notifications, evaluation_fn=sending.tick, description=said, **how),
        dg.SensorDefinition(names.failures_sensor, evaluation_fn=taking_up.tick, description=told, **how),
    ]


@dataclass(frozen=True)
class _Sending:
    """The sensor that sends."""

    names: Names
    collections: Sequence[Collection]
    keys: Keys
    timezone: str | None
    cron: str | None
    clock: Clock | None

    def tick(self, context: dg.SensorEvaluationContext) -> dg.SkipReason:
        """Plan the digest once its hour has come, and send what is due."""
        # What a tick needs, a code location that is only loaded does not: SQLAlchemy and the writing of messages.
        from keen_pipeline.ledger.notices import SqlNotices
        from keen_pipeline.notifications.outbox import deliver

        notifications: KeenNotifications = getattr(context.resources, self.names.notifications)
        settings, ledger = notifications.settings(), ledger_of(context.resources, self.names.name)
        channels, time = channels_of(settings), self.clock or ledger.clock
        notices = SqlNotices(ledger.engine, of=_of(ledger), clock=time)
        # By default in the zone of most collections: their night is over at the hour of the digest.
        zones = [collection.timezone for collection in self.collections]
        local = time.now().astimezone(ZoneInfo(self.timezone or max(zones, key=zones.count, default="UTC")))
        today = f"{local:%Y-%m-%d}"
        if context.cursor is None:
            context.update_cursor(today)
        # The day of an installation had no night before it: that nothing was ever asked for is told from the next day on.
        is_new = context.cursor == today and not (ledger.landed_collections() or ledger.open_entries())
        if f"{local:%H:%M}" >= settings.digest_at and not is_new:
            for channel in sorted(channels.names):
                notices.plan(f"{_of(ledger)}{_DIGEST}{today}", channel)
        write = self._writer(context.resources, ledger, settings)
        sent, problems = deliver(notices, channels, write, time, seconds=SENDING_SECONDS)
        for what in sent:
            context.log.info("sent: %s", what)
        if problems:
            # A failed tick is what Dagster shows; the outbox has noted everything before.
            raise KeenPipelineError("not sent: " + " | ".join(problems))
        return dg.SkipReason(f"sent {', '.join(sent)}" if sent else "nothing to send")

    def _asked(self, collection: Collection, now: datetime) -> datetime:
        return last_asked(collection, now - _ASKING, cron=self.cron, timezone=self.timezone)

    def _writer(self, resources: Any, ledger: "SqlLedger", settings: Settings) -> "Callable[[Notice], Message]":
        """What writes a tick's notices, of the ledger and the files alone: a service that is away is no reason to be silent."""
        from keen_pipeline.notifications.digest import Digest, gather
        from keen_pipeline.notifications.outbox import attach
        from keen_pipeline.notifications.render import digest_message, failure_message

        digests: dict[str, Digest] = {}  # of one night, the same for each channel

        def write(notice: "Notice") -> Message:
            if notice.body is not None:
                return failure_message(notice.name, notice.body, settings.ui_url)
            night = notice.name.rpartition(_DIGEST)[2]
            keen, _, destination = adapters_of(resources, self.names.name)
            if night not in digests:
                limits = limits_of(keen.settings())
                digests[night] = gather(ledger, self.collections, night, notice.created_at, self._asked, limits=limits)
            digest, most = digests[night], settings.digest_attachment_bytes
            attachments = attach(destination.open(), digest, most) if notice.channel == MAIL else []
            paths = {name: "/".join(key.path) for name, key in self.keys.items()}
            return digest_message(notice.name, digest, ui_url=settings.ui_url, assets=paths, attachments=attachments)

        return write


@dataclass(frozen=True)
class _TakingUp:
    """The sensor of failed runs. `steps`: ours. `sent`: by this process, while the ledger could not be reached."""

    names: Names
    keys: Keys
    steps: set[str]
    clock: Clock | None
    sent: set[str] = field(default_factory=set)

    def tick(self, context: dg.SensorEvaluationContext) -> dg.SkipReason:
        """Look at the runs that have failed since the cursor."""
        changes = context.instance.fetch_run_status_changes
        cursor, newest = context.cursor or "", changes(dg.DagsterEventType.RUN_FAILURE, limit=1).records
        last = newest[0].storage_id if newest else 0
        # Dagster's events were wiped, and are counted anew, if it lies ahead of them.
        if not cursor.isdecimal() or int(cursor) > last:
            context.update_cursor(str(last))
            return dg.SkipReason("runs that fail from now on are told")
        notifications: KeenNotifications = getattr(context.resources, self.names.notifications)
        settings, told, problems = notifications.settings(), 0, list[str]()
        only = dg.RunStatusChangeRecordsFilter(dg.DagsterEventType.RUN_FAILURE, after_storage_id=int(cursor))
        records = changes(only, limit=_MOST_RUNS, ascending=True).records
        found = context.instance.get_runs(dg.RunsFilter(run_ids=[record.run_id for record in records])) if records else []
        runs = {run.run_id: run for run in found}
        begun = monotonic()
        for record in records:
            if monotonic() - begun > SENDING_SECONDS:
                break
            context.update_cursor(str(record.storage_id))  # kept only if the tick succeeds
            run = runs.get(record.run_id)
            body = self._failure(context, run, record.event_log_entry) if run is not None else None
            if body is None:
                continue
            try:
                self._take_up(context.resources, settings, body)
                told += 1
            except KeenPipelineError as error:
                problems.append(str(error))
        if problems:  # the tick fails, and the next one tries these runs again
            raise KeenPipelineError("; ".join(problems))
        return dg.SkipReason(f"{told} of {len(records)} failed runs are extractions of {self.names.name}")

    def _failure(self, context: dg.SensorEvaluationContext, run: dg.DagsterRun, entry: dg.EventLogEntry) -> dict[str, str] | None:
        """What is to be told of a failed run, None if it is somebody else's, or not its end."""
        place = run.remote_job_origin.repository_origin if run.remote_job_origin is not None else None
        here = context.code_location_origin.location_name if context.code_location_origin is not None else None
        of = (place.code_location_origin.location_name, place.repository_name) if place is not None else (None, None)
        # What Dagster runs again by itself is told if its last retry has failed.
        if of != (here, context.repository_name) or run.tags.get("dagster/will_retry") == "true":
            return None
        records = context.instance.get_records_for_run(run.run_id, of_type=dg.DagsterEventType.STEP_FAILURE).records
        failed = [event for one in records if (event := one.event_log_entry.dagster_event) is not None]
        if run.tags.get(DEFINITIONS_TAG) != self.names.name:  # a run of assets, and of somebody's own among them
            ours = [event for event in failed if event.step_key in self.steps]
            if not ours and (failed or not self._died_in_ours(context.instance, run)):
                return None
            failed = ours
        said = entry.dagster_event.message if entry.dagster_event is not None else None
        story = (_story(failed) or said or "no reason is known")[:_STORY_CHARACTERS]
        story = story.encode(errors="backslashreplace").decode()  # half a surrogate, as in a file's name, is in no mail
        return {"title": _title(run, self.names, story), "story": story, "run": run.run_id}

    def _died_in_ours(self, instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
        """Whether a run in which no step failed, as it was killed or never began, was to make or was making assets of ours."""
        if set(run.asset_selection or ()) & set(self.keys.values()):
            return True
        # A run of a whole job has no selection.
        return any(one.step_key in self.steps and one.end_time is None for one in instance.get_run_step_stats(run.run_id))

    def _take_up(self, resources: Any, settings: Settings, body: dict[str, str]) -> None:
        """Into the outbox, or sent without it while the ledger is down; KeenPipelineError if not all channels took it then."""
        from keen_pipeline.ledger.notices import SqlNotices
        from keen_pipeline.notifications.outbox import send_once

        channels, causes = channels_of(settings), _causes(body["story"])
        today = f"{(self.clock or SystemClock()).now():%Y-%m-%d}"
        alone = [f"{self.names.name}/failure/{today}/{cause}" for cause in causes]
        left = [one for one in sorted(channels.names) if not all(f"{name} {one}" in self.sent for name in alone)]
        try:
            ledger = ledger_of(resources, self.names.name)
            notices = SqlNotices(ledger.engine, clock=self.clock or ledger.clock)
            # What fails run after run, with now these and now those beside it, is told once a day: a run by its first new cause.
            while left:
                any(notices.plan(f"{_of(ledger)}failure/{today}/{cause}", left[0], body) for cause in causes)
                del left[0]
        except KeenPipelineError as error:
            # Most likely it is the ledger that made the run fail.
            why = "" if str(error) in body["story"] else f": {error}"
            told = body | {"story": f"{body['story']}\nTold without the ledger{why}"}
            send_once(self.sent, channels, left, alone, told, settings.ui_url)


def _of(ledger: "SqlLedger") -> str:
    """What the names of this pipeline's notices begin with: two projects on one ledger may have definitions of one name."""
    scope = ledger.scope
    return f"{scope.name}/{hashlib.sha256(str(scope).encode()).hexdigest()[:8]}/"


def _title(run: dg.DagsterRun, names: Names, story: str) -> str:
    """How much failed and which first, if the story's first lines say it; else what and why."""
    first, second = [*story.splitlines(), "", ""][:2]
    if _SUMMARY.search(first):
        # An extraction's id would push out why it failed.
        return shortened(f"{title_of(names.name)}: {first}: {re.sub(r'extraction [0-9a-f]{8,}: ', '', second)}", _TITLE_CHARACTERS)
    what = "submitting" if run.job_name == names.submit_job else "landing"
    return shortened(f"{title_of(names.name)}: {what} failed: {first}", _TITLE_CHARACTERS)


def _causes(story: str) -> list[str]:
    """Of each line that says why something failed, a digest without what differs from run to run: numbers, partitions, times."""
    lines = [line for line in story.splitlines() if line.strip() and not line.startswith("  ") and not _SUMMARY.search(line)]
    bare = [re.sub(r"[0-9a-f]{8,}|\d+", "#", line).replace("extraction #: ", "") for line in lines or [story]]
    same = [re.sub(r"( [#:+-]+)+( and # more)?", " #", line) for line in bare]
    return [hashlib.sha256(line.encode()).hexdigest()[:12] for line in same]


def _story(failed: Sequence[dg.DagsterEvent]) -> str:
    said: list[str] = []
    for event in failed:
        data = event.step_failure_data
        if data.user_failure_data is not None and data.user_failure_data.description:
            said.append(data.user_failure_data.description)
        elif data.error is not None:
            cause = data.error.cause or data.error
            said.append(_OUR_ERROR.sub("", cause.message.strip()))
    return "\n".join(said)

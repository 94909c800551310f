"""The nightly digest and failures, told by e-mail and Slack: two sensors around the outbox in the ledger; no run is needed."""

from collections.abc import Sequence
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import dagster as dg
from pydantic import Field

from keen_pipeline.defs.jobs import MATERIALIZE_JOB, SUBMIT_JOB
from keen_pipeline.defs.resources import CsvDestination, ExtractionLedger
from keen_pipeline.errors import KeenPipelineError
from keen_pipeline.collection import Collection
from keen_pipeline.extraction import SecretUrl
from keen_pipeline.notifications.send import MAIL, Channels, Message
from keen_pipeline.ports import Clock
from keen_pipeline.settings import Settings

if TYPE_CHECKING:
    from keen_pipeline.ledger.notices import Notice

NOTIFICATIONS_SENSOR = "notifications"
FAILURES_SENSOR = "extraction_failures"
INTERVAL_SECONDS = 30
# Dagster ends a tick after 60 s; a sending that began before takes at most 20 more for each step.
SENDING_SECONDS = 15.0
_STORY_CHARACTERS = 4000
_DIGEST = "digest/"


class KeenNotifications(dg.ConfigurableResource[Channels]):
    """Where the digest and failures go. Without a field: `KEEN_PIPELINE_DIGEST_TO`, `KEEN_PIPELINE_SLACK_WEBHOOK` and the other
    variables; the mail server is that of `SMTP_HOST` and its like. Give the webhook as `dg.EnvVar`: it is a secret.
    """

    mail_to: list[str] | None = Field(default=None, description="addresses; unset: KEEN_PIPELINE_DIGEST_TO")
    slack_webhook: str | None = Field(default=None, description="unset: KEEN_PIPELINE_SLACK_WEBHOOK", repr=False)
    digest_at: str | None = Field(default=None, description="HH:MM in the schedule's zone; unset: KEEN_PIPELINE_DIGEST_AT, 06:00")
    attachment_bytes: int | None = Field(
        default=None, ge=0, le=20_000_000, description="of all files in one mail; unset: KEEN_PIPELINE_DIGEST_ATTACHMENT_BYTES"
    )
    ui_url: str | None = Field(default=None, description="root of Dagster's UI, for links; unset: KEEN_PIPELINE_UI_URL")

    def channels(self) -> Channels:
        """What is configured. Raises ConfigurationError naming a wrong variable."""
        settings = Settings.from_environment()
        mail_to = self.mail_to if self.mail_to is not None else settings.digest_to
        webhook = self.slack_webhook or settings.slack_webhook
        return Channels(tuple(mail_to), settings.smtp, SecretUrl(webhook) if webhook else None)


def are_notifications_configured() -> bool:
    """Whether the environment names an address or a webhook."""
    settings = Settings.from_environment()
    return bool(settings.digest_to or settings.slack_webhook)


def notification_sensors(
    collections: Sequence[Collection], *, timezone: str, running: bool = True, clock: Clock | None = None
) -> list[dg.SensorDefinition]:
    """`notifications` sends what is due, the digest once a night; `extraction_failures` takes up failed runs of ours."""
    status = dg.DefaultSensorStatus.RUNNING if running else dg.DefaultSensorStatus.STOPPED
    return [_notifications_sensor(collections, timezone, status, clock), _failures_sensor(status, clock)]


def _notifications_sensor(
    collections: Sequence[Collection], timezone: str, status: dg.DefaultSensorStatus, clock: Clock | None
) -> dg.SensorDefinition:
    @dg.sensor(
        name=NOTIFICATIONS_SENSOR,
        minimum_interval_seconds=INTERVAL_SECONDS,
        default_status=status,
        description="Sends the nightly digest and what failed by e-mail and Slack; what can't be sent is tried again for a day.",
    )
    def notifications_sensor(
        context: dg.SensorEvaluationContext,
        ledger: ExtractionLedger,
        destination: CsvDestination,
        notifications: KeenNotifications,
    ) -> dg.SkipReason:
        # What a tick needs, a code location that is only loaded does not: SQLAlchemy and the writing of messages.
        from keen_pipeline.ledger.notices import SqlNotices
        from keen_pipeline.notifications.digest import gather
        from keen_pipeline.notifications.outbox import attach, check_time, deliver
        from keen_pipeline.notifications.render import digest_message, failure_message

        settings, channels, book = Settings.from_environment(), notifications.channels(), ledger.open()
        time = clock or book.clock
        notices = SqlNotices(book.engine, clock=time)
        local = time.now().astimezone(ZoneInfo(timezone))
        if (local.hour, local.minute) >= check_time(notifications.digest_at or settings.digest_at):
            for channel in sorted(channels.names):
                notices.plan(f"{_DIGEST}{local:%Y-%m-%d}", channel)
        most_bytes = settings.digest_attachment_bytes if notifications.attachment_bytes is None else notifications.attachment_bytes
        ui_url = notifications.ui_url or settings.ui_url

        def write(notice: "Notice") -> Message:
            if notice.body is not None:
                link = f"{ui_url.rstrip('/')}/runs/{notice.body['run']}" if ui_url else None
                return failure_message(notice.name, notice.body["title"], notice.body["story"], link)
            files = destination.open()
            digest = gather(book, collections, files.uri, notice.name.removeprefix(_DIGEST), notice.created_at)
            attachments = attach(files, digest, most_bytes) if notice.channel == MAIL else []
            return digest_message(digest, ui_url=ui_url, attachments=attachments)

        sent, problems = deliver(notices, channels, write, time, seconds=SENDING_SECONDS)
        for what in sent:
            context.log.info("sent: %s", what)
        if problems:
            # A failed tick is what Dagster shows; the outbox has noted everything before.
            raise KeenPipelineError("not sent: " + " | ".join(problems))
        return dg.SkipReason(f"sent {', '.join(sent)}" if sent else "nothing to send")

    return notifications_sensor


def _failures_sensor(status: dg.DefaultSensorStatus, clock: Clock | None) -> dg.SensorDefinition:
    @dg.run_failure_sensor(
        name=FAILURES_SENSOR,
        minimum_interval_seconds=INTERVAL_SECONDS,
        default_status=status,
        description="Takes failed runs of our jobs and of CSV assets up into the outbox of the sensor notifications.",
    )
    def failures_sensor(
        context: dg.RunFailureSensorContext, ledger: ExtractionLedger, notifications: KeenNotifications
    ) -> dg.SkipReason | None:
        from keen_pipeline.ledger.notices import SqlNotices

        run = context.dagster_run
        if not _is_ours(run):
            return dg.SkipReason(f"{run.job_name} is no extraction")
        notices = SqlNotices(ledger.open().engine, clock=clock)
        for channel in sorted(notifications.channels().names):
            notices.plan(f"run/{run.run_id}", channel, {"title": _title(run), "story": _story(context), "run": run.run_id})
        return None

    return failures_sensor


def _is_ours(run: dg.DagsterRun) -> bool:
    if run.job_name in (SUBMIT_JOB, MATERIALIZE_JOB):
        return True
    return any(len(key.path) == 2 and key.path[0] == "keen" for key in run.asset_selection or ())


def _title(run: dg.DagsterRun) -> str:
    if run.job_name in (SUBMIT_JOB, MATERIALIZE_JOB):
        return f"Keen: {run.job_name} failed"
    return f"Keen: an extraction of {', '.join(sorted(key.path[-1] for key in run.asset_selection or ()))} failed"


def _story(context: dg.RunFailureSensorContext) -> str:
    """What the failed steps said; without a step, what the run said."""
    said: list[str] = []
    for event in context.get_step_failure_events():
        data = event.step_failure_data
        if data.user_failure_data is not None and data.user_failure_data.description:
            said.append(data.user_failure_data.description.replace(" | ", "\n"))
        elif data.error is not None:
            cause = data.error.cause or data.error
            said.append(cause.message.strip())
    return ("\n".join(said) or context.failure_event.message or "no reason is known")[:_STORY_CHARACTERS]

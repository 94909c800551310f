"""Sending what is due: once for each channel, tried again while a server is dead, given up after a day. No landing waits for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from threading import Thread
from typing import TYPE_CHECKING

from keen_pipeline.collection import Encoding
from keen_pipeline.errors import KeenPipelineError
from keen_pipeline.landing import FileDestination as Destination
from keen_pipeline.notifications.digest import Digest
from keen_pipeline.notifications.render import attachment_name, failure_message
from keen_pipeline.notifications.send import Attachment, Channels, Message
from keen_pipeline.ports import Clock

if TYPE_CHECKING:
    from keen_pipeline.ledger.notices import Notice, SqlNotices

FIRST_RETRY_SECONDS = 60.0
LONGEST_RETRY_SECONDS = 3600.0
MOST_ATTEMPTS = 28
"""With these pauses: a little more than a day."""
HOLD_SECONDS = 300.0
"""How long one attempt may take before another process takes it for dead."""
ATTACHING_SECONDS = 10.0
"""How long a digest waits for its attachments."""
_MEDIA_TYPES = {Encoding.CSV: "text/csv", Encoding.CSV_GZ: "application/gzip", Encoding.CSV_ZST: "application/zstd"}


def deliver(
    notices: SqlNotices, channels: Channels, write: Callable[[Notice], Message], clock: Clock, *, seconds: float
) -> tuple[list[str], list[str]]:
    """Send what is due, none begun after `seconds`. Answers what went out, and what did not and why, both in words."""
    sent: list[str] = []
    problems: list[str] = []
    begun = time.monotonic()
    while channels.names and time.monotonic() - begun < seconds:
        notice = notices.claim(channels.names, HOLD_SECONDS)
        if notice is None:
            break
        what = f"{notice.name} by {notice.channel}"
        try:
            refused = channels.send(notice.channel, write(notice))
        except KeenPipelineError as error:
            problems.append(f"{what}, attempt {notice.attempts}: {error}; {_again(notices, notice, str(error), clock.now())}")
        else:
            notices.end(notice.notice_id)
            sent.append(what)
            problems += [f"{what}: {refused}"] if refused else []
    return sent, problems


def _again(notices: SqlNotices, notice: Notice, error: str, now: datetime) -> str:
    if notice.attempts >= MOST_ATTEMPTS:
        notices.end(notice.notice_id, error=error)
        return "it is given up"
    pause = min(FIRST_RETRY_SECONDS * 2 ** min(notice.attempts - 1, 20), LONGEST_RETRY_SECONDS)
    notices.failed(notice.notice_id, error, now + timedelta(seconds=pause))
    return f"it is tried again in {pause / 60:.0f} min"


def send_once(
    sent: set[str], channels: Channels, names: Iterable[str], causes: Sequence[str], body: Mapping[str, str], ui_url: str | None
) -> None:
    """Send a failure without the outbox, unless all of its causes are in `sent`, which keeps what went out today.

    Raises KeenPipelineError for the channels of `names` that did not take it.
    """
    problems = []
    for channel in names:
        new = next((cause for cause in causes if f"{cause} {channel}" not in sent), None)
        if new is None:
            continue
        try:
            refused = channels.send(channel, failure_message(f"{new}/{body['run']}", body, ui_url))
        except KeenPipelineError as error:
            problems.append(f"{new} by {channel}: {error}")
        else:
            problems += [f"{new} by {channel}: {refused}"] if refused else []
            day = new.rpartition("/")[0]
            sent -= {one for one in sent if not one.startswith(day)}
            sent.add(f"{new} {channel}")
    if problems:
        raise KeenPipelineError("not sent: " + " | ".join(problems))


def attach(destination: Destination, digest: Digest, most_bytes: int) -> list[Attachment]:
    """The newest partitions' files, the smallest first, as many as fit into `most_bytes` together; without unreadable ones, and
    without what the destination has not given within ATTACHING_SECONDS."""
    attached: list[Attachment] = []
    # A daemon: a destination that hangs holds up neither the digest nor the end of the process.
    reading = Thread(target=_read, args=(attached, destination, digest, most_bytes), name="keen-attachments", daemon=True)
    reading.start()
    reading.join(ATTACHING_SECONDS)
    return list(attached)


def _read(attached: list[Attachment], destination: Destination, digest: Digest, most_bytes: int) -> None:
    left = most_bytes
    files = [(line.entry, line.landing, attachment_name(line)) for line in digest.landed]
    for entry, landing, name in sorted(files, key=lambda file: file[1].stored_bytes if file[1] is not None else 0):
        assert entry is not None
        assert landing is not None
        if landing.stored_bytes > left:
            break
        try:
            with destination.open(landing.uri) as file:
                data = file.read(left + 1)
        except (KeenPipelineError, OSError):
            continue  # the link is in the mail all the same
        if len(data) <= left:
            left -= len(data)
            attached.append(Attachment(name, _MEDIA_TYPES.get(entry.request.encoding, "application/octet-stream"), data))

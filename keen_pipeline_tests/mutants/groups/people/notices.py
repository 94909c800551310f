"""What people read and type, commands and notifications: wrong lines, and the tests that must fail for each."""

_OUTBOX = "keen_pipeline_tests/unit/test_outbox.py"
_DIGEST = "keen_pipeline_tests/defs/notices/test_notifications.py"
_FAILURES = "keen_pipeline_tests/defs/notices/test_failure_notices.py"
_COMMANDS = "keen_pipeline_tests/acceptance/commands/test_commands.py"
_MESSAGES = "keen_pipeline_tests/acceptance/commands/test_messages.py"

MUTANTS: list[tuple[str, str, str, str]] = [
    (
        "keen_pipeline/notifications/outbox.py",
        "if notice.attempts >= MOST_ATTEMPTS:",
        "if notice.attempts > MOST_ATTEMPTS:",
        f"{_OUTBOX}::test_what_can_not_be_sent_is_tried_for_a_day_ever_more_rarely_and_then_given_up",
    ),
    (
        "keen_pipeline/notifications/outbox.py",
        "while channels.names and time.monotonic() - begun < seconds:",
        "while channels.names:",
        f"{_OUTBOX}::test_nothing_is_begun_when_the_time_is_over",
    ),
    (
        "keen_pipeline/notifications/outbox.py",
        "if landing.stored_bytes > left:",
        "if landing.stored_bytes >= left:",
        f"{_OUTBOX}::test_a_digest_names_what_landed_lately_and_attaches_what_fits",
    ),
    (
        "keen_pipeline/notifications/digest.py",
        "unusual=usual is not None and not usual.holds(events)",
        "unusual=usual is not None and usual.holds(events)",
        f"{_OUTBOX}::test_a_number_of_events_far_from_the_usual_is_marked",
    ),
    (
        "keen_pipeline/notifications/render.py",
        "for part, size in zip(parts, sizes, strict=True) if size <= most_bytes]",
        "for part, size in zip(parts, sizes, strict=True)]",
        f"{_OUTBOX}::test_a_digest_of_many_collections_is_no_longer_than_mail_programs_show",
    ),
    (
        "keen_pipeline/defs/sensors/notifications.py",
        "if run.tags.get(DEFINITIONS_TAG) != self.names.name:",
        "if run.tags.get(DEFINITIONS_TAG) is None:",
        f"{_FAILURES}::test_a_failed_run_of_other_definitions_is_theirs_to_tell",
    ),
    (
        "keen_pipeline/defs/sensors/notifications.py",
        "one.step_key in self.steps and one.end_time is None",
        "one.end_time is None",
        f"{_FAILURES}::test_a_run_of_the_users_own_job_that_was_killed_is_told_if_it_was_in_a_step_of_ours",
    ),
    (
        "keen_pipeline/defs/sensors/notifications.py",
        "zones = [collection.timezone for collection in self.collections]",
        "zones: list[str] = []",
        f"{_DIGEST}::test_the_digests_hour_is_that_of_the_collections",
    ),
    (
        "keen_pipeline/cli/status.py",
        " and e.parent_id is None",
        "",
        f"{_MESSAGES}::test_a_cancel_counts_partitions_and_takes_their_slices_along",
    ),
    (
        "keen_pipeline/cli/status.py",
        "    ledger.due_now([e.entry_id for e in ledger.current(requests) if e is not None and not e.status.is_terminal])\n",
        "",
        f"{_MESSAGES}::test_a_retry_makes_due_what_waits_for_its_next_attempt",
    ),
    (
        "keen_pipeline/cli/verify.py",
        "broken = {entry.request.place: why for entry, why in failed}",
        "broken: dict[tuple[str, str], str] = {}",
        "keen_pipeline_tests/acceptance/commands/test_verify.py::test_a_repair_that_fails_is_not_told_as_one",
    ),
    (
        "keen_pipeline/cli/extract.py",
        "settings.destination_options if same_kind else {}",
        "settings.destination_options",
        f"{_COMMANDS}::test_options_of_the_destination_are_not_those_of_another_kind_of_place",
    ),
    (
        "keen_pipeline/wiring.py",
        "root = normal_root(uri)",
        "root = uri",
        f"{_COMMANDS} -k a_wrong_setting",
    ),
    (
        "keen_pipeline/pipeline/told.py",
        'if collection.startswith("-") else',
        "if False else",
        "keen_pipeline_tests/acceptance/commands/test_printed_commands.py -k read_as_it_is_meant",
    ),
    (
        "keen_pipeline/pipeline/told.py",
        'elif self.verb == "retry" and len(self.keys) > _MOST_IN_A_COMMAND:',
        "elif False:",
        "keen_pipeline_tests/acceptance/commands/test_printed_commands.py -k more_partitions_than",
    ),
    (
        "keen_pipeline/cli/status.py",
        "        if len(landed) == len(wanted):\n",
        "        if landed:\n",
        "keen_pipeline_tests/acceptance/commands/test_printed_commands.py -k landed_since",
    ),
    (
        "keen_pipeline/cli/common.py",
        'text.encode(sys.stdout.encoding or "utf-8")',
        'text.encode("utf-8")',
        "keen_pipeline_tests/acceptance/commands/test_messages.py -k lacks_a_character",
    ),
    (
        "keen_pipeline/cli/__init__.py",
        'errors="backslashreplace"',
        'errors="strict"',
        "keen_pipeline_tests/acceptance/commands/test_messages.py -k lacks_a_character",
    ),
    (
        "keen_pipeline/pipeline/extractions/explain.py",
        " and not row.is_gone(now, limits.lease_seconds)",
        "",
        "keen_pipeline_tests/acceptance/commands/test_messages.py -k no_more",
    ),
    (
        "keen_pipeline/cli/backfill.py",
        "    for collection, problem in {**submission.problems, **posted.problems}.items():",
        "    for collection, problem in submission.problems.items():",
        "keen_pipeline_tests/pipeline/test_reasons.py -k backfill_that_does_not_wait",
    ),
    (
        "keen_pipeline/pipeline/told.py",
        '    return [*lines, f"  {_of(name, _DOCTOR)}"] if lines else []',
        '    return [*lines, f"  {_DOCTOR}"] if lines else []',
        "keen_pipeline_tests/pipeline/test_reasons.py -k command_of_its_definitions",
    ),
    (
        "keen_pipeline/defs/sensors/notifications.py",
        'notices.plan(f"{_of(ledger)}failure/{today}/{cause}", left[0], body) for cause in causes)',
        'notices.plan(f"{_of(ledger)}failure/{today}/{cause}", left[0], body) for cause in causes[:1])',
        "keen_pipeline_tests/defs/notices/test_failure_notices.py -k one_cause_is_told",
    ),
    (
        "keen_pipeline/cli/doctor.py",
        "        abandoned = [s for s in found.given_up if s.status is Status.ABANDONED]",
        "        abandoned = list(found.given_up)",
        "keen_pipeline_tests/acceptance/commands/test_doctor.py -k a_person_cancelled",
    ),
    (
        "keen_pipeline/cli/doctor.py",
        "if manifest.is_of(ledger.scope)}",
        "}",
        "keen_pipeline_tests/acceptance/commands/test_doctor.py -k a_person_cancelled",
    ),
    (
        "keen_pipeline/cli/doctor.py",
        "    if now - newest > _HEARTBEAT_SECONDS:",
        "    if not newest:",
        "keen_pipeline_tests/acceptance/commands/test_doctor.py -k five_minutes",
    ),
    (
        "keen_pipeline/notifications/send.py",
        """        except ValueError:
            raise Conf""",
        """        except KeyError:
            raise Conf""",
        "keen_pipeline_tests/unit/test_outbox.py -k no_mail_can_have",
    ),
    (
        "keen_pipeline/notifications/outbox.py",
        "            sent -= {one for one in sent if not one.startswith(day)}\n",
        "",
        "keen_pipeline_tests/unit/test_outbox.py -k once_a_day",
    ),
    (
        "keen_pipeline/notifications/render.py",
        "blocks = [_section(told[: _SLACK_CHARACTERS - 300] + ",
        "blocks = [_section(told + ",
        "keen_pipeline_tests/unit/test_outbox.py -k long_story",
    ),
    (
        "keen_pipeline/defs/sensors/notifications.py",
        "is_new = context.cursor == today and not (ledger.landed_collections() or ledger.open_entries())",
        "is_new = context.cursor == today and not ledger.landed_collections()",
        "keen_pipeline_tests/defs/notices/test_notifications.py -k day_of_an_installation",
    ),
    (
        "keen_pipeline/cli/common.py",
        "if told not in self._uncountable:",
        "if True:",
        "keen_pipeline_tests/pipeline/test_reasons.py -k tells_once",
    ),
    (
        "keen_pipeline/notifications/render.py",
        '<b style="color:{_RED}">{escape(first)}</b>',
        '<b style="color:{_RED}">{first}</b>',
        "keen_pipeline_tests/unit/test_outbox.py -k no_html",
    ),
]

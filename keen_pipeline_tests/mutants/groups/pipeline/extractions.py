"""Small wrong changes of submitting, polling and waiting, each with a test that must notice it: (file, old text, new text, pytest target)."""

from __future__ import annotations

_CODE, _TESTS = "keen_pipeline/pipeline", "keen_pipeline_tests/pipeline"
_ANSWERS, _TIME, _CHANGES = f"{_TESTS}/test_answers.py", f"{_TESTS}/clocks/test_time.py", f"{_TESTS}/test_configuration.py"
_WAITS = f"{_TESTS}/test_waits.py"
_NEIGHBOURS, _FENCES, _ORPHANS = (
    f"{_TESTS}/test_neighbours.py",
    f"{_TESTS}/killed/test_fences.py",
    f"{_TESTS}/killed/test_orphans.py",
)
_SLICES, _COUNTS = f"{_TESTS}/test_slices.py", f"{_TESTS}/test_counts.py"
_ANSWER = f"{_ANSWERS}::test_an_answer"

MUTANTS: list[tuple[str, str, str, str]] = [
    # Submit.
    (
        f"{_CODE}/extractions/submit.py",
        "    check_mask_key(requests, pipeline.mask_key)\n",
        "",
        f"{_CHANGES}::test_a_hash_without_a_key_is_refused_before_anything_is_noted",
    ),
    (
        f"{_CODE}/extractions/submit.py",
        "!= entry.landing.stored_bytes",
        "is None",
        f"{_CHANGES}::test_a_file_that_is_gone_or_has_another_length_is_asked_for_anew",
    ),
    (
        f"{_CODE}/extractions/submit.py",
        "again = [i for i, entry in landed.items() if i in gone or entry.entry_id in late]",
        "again = [i for i in landed if i in gone]",
        f"{_NEIGHBOURS}::test_a_night_leaves_alone_what_it_can_t_count_and_asks_for_the_rest",
    ),
    (
        f"{_CODE}/extractions/submit.py",
        "keep=lambda _: False, run_id=run_id",
        "run_id=run_id",
        f"{_CHANGES}::test_a_file_that_is_gone_or_has_another_length_is_asked_for_anew",
    ),
    (
        f"{_CODE}/extractions/submit.py",
        "if e.request.count_check is not CountPolicy.OFF]\n",
        "]\n",
        f"{_CHANGES}::test_a_policy_that_was_turned_off_asks_for_nothing",
    ),
    (
        f"{_CODE}/extractions/submit.py",
        "for some in (checked[:1], checked[1:])",
        "for some in (checked,)",
        f"{_COUNTS}::test_an_event_that_is_gone_beside_one_that_came_late_is_found_before_the_day_leaves_the_lookback",
    ),
    (
        f"{_CODE}/extractions/submit.py",
        "problems[entries[0].request.collection] = answer",
        "pass",
        f"{_NEIGHBOURS}::test_a_backfill_tells_what_it_could_not_hold_against_the_count",
    ),
    (
        f"{_CODE}/extractions/submit.py",
        "[: collection.catch_up]",
        "",
        f"{_TIME}::test_catch_up_bounds_a_night_and_none_turns_it_off",
    ),
    (
        f"{_CODE}/extractions/submit.py",
        "for p in reversed(older)",
        "for p in older",
        f"{_TIME}::test_after_forty_nights_without_a_daemon_the_next_ones_close_the_hole",
    ),
    (
        f"{_CODE}/extractions/submit.py",
        "if p.key not in states or states[p.key].status is not Status.CANCELLED",
        "",
        f"{_TIME}::test_a_hole_that_was_given_up_or_cancelled_is_nobodys_gap",
    ),
    (
        f"{_CODE}/extractions/submit.py",
        "not state.status.is_terminal or state.status in (Status.ABANDONED, Status.CANCELLED)",
        "state.status in (Status.ABANDONED, Status.CANCELLED)",
        f"{_TIME}::test_a_hole_that_was_given_up_or_cancelled_is_nobodys_gap",
    ),
    (
        f"{_CODE}/extractions/submit.py",
        "min((state.start for state in states.values() if state.landed), default=EVER)",
        "max((state.start for state in states.values() if state.landed), default=EVER)",
        f"{_TIME}::test_after_forty_nights_without_a_daemon_the_next_ones_close_the_hole",
    ),
    # Post.
    (
        f"{_CODE}/extractions/post.py",
        "self._orphans.find(entry) if maybe_posted else None",
        "None",
        f"{_ORPHANS}::test_one_that_was_made_by_a_clock_a_little_behind_is_adopted",
    ),
    (
        f"{_CODE}/extractions/post.py",
        "                self._refused = error\n",
        "                pass\n",
        f"{_ANSWERS}::test_429_in_the_middle_of_a_round_ends_it_for_all",
    ),
    (
        f"{_CODE}/extractions/post.py",
        "isinstance(error, (UnreachableError, RateLimitedError, ConfigurationError))",
        "True",
        f"{_ANSWER}",
    ),
    (
        f"{_CODE}/extractions/post.py",
        "ambiguous=maybe_posted or not told",
        "ambiguous=True",
        f"{_ANSWERS}::test_429_in_the_middle_of_a_round_ends_it_for_all",
    ),
    (
        f"{_CODE}/extractions/post.py",
        "_REST_SECONDS if wished is None else wished",
        "0.0",
        f"{_ANSWERS}::test_429_in_the_middle_of_a_round_ends_it_for_all",
    ),
    (
        f"{_CODE}/extractions/post.py",
        "        except (ConfigurationError, RetryableError, PermanentError) as error:\n            with",
        "        except ConfigurationError as error:\n            with",
        f"{_ANSWER}",
    ),
    # Poll.
    (f"{_CODE}/extractions/poll.py", "            outcome.problems[collection] = answer\n", "", f"{_ANSWER}"),
    (
        f"{_CODE}/extractions/poll.py",
        "Seen(listed=True, remote=remote, tick=tick)",
        "Seen(listed=True, remote=remote, tick=1e9)",
        f"{_TIME}::test_an_hour_of_answers_is_what_stuck_means",
    ),
    (f"{_CODE}/extractions/poll.py", "final=isinstance(action, GiveUp)", "final=True", f"{_ANSWER}"),
    (
        f"{_CODE}/extractions/poll.py",
        "            if remote is not None and remote.results_url is not None:\n                outcome.urls[entry.entry_id] = remote.results_url\n",
        "",
        f"{_TESTS}/test_waits.py::test_a_wait_asks_with_one_list_call_a_poll_and_for_no_url",
    ),
    (
        f"{_CODE}/extractions/poll.py",
        " or any(entry.extraction_id not in known[collection].pending for entry in members)",
        "",
        f"{_TESTS}/test_waits.py::test_runs_that_wait_at_once_list_hardly_more_often_than_one",
    ),
    (
        f"{_CODE}/extractions/poll.py",
        "if shared_seconds and groups else {}",
        "if False else {}",
        f"{_TESTS}/test_waits.py::test_runs_that_wait_at_once_list_hardly_more_often_than_one",
    ),
    (
        f"{_CODE}/extractions/post.py",
        "posts = [pool.map(self._one, [e for e in claimed if is_planned(e)])]",
        "posts = []",
        f"{_NEIGHBOURS}::test_a_refusal_of_one_collections_counts_that_stops_all_for_a_minute_starves_nobody",
    ),
    # Slices.
    (
        f"{_CODE}/extractions/slices.py",
        "lambda _, total: total <= limit",
        "lambda _, total: total < limit",
        f"{_SLICES}::test_days_that_hold_exactly_the_limit_together_are_counted_once",
    ),
    (
        f"{_CODE}/extractions/slices.py",
        "        if total <= limit:\n",
        "        if total < limit:\n",
        f"{_SLICES}::test_exactly_the_limit_is_one_extraction_and_one_more_is_two",
    ),
    (
        f"{_CODE}/extractions/slices.py",
        "        elif number:\n",
        "        else:\n",
        f"{_SLICES}::test_windows_without_events_are_not_asked_for",
    ),
    (
        f"{_CODE}/extractions/slices.py",
        "        email=None,\n",
        "",
        f"{_SLICES}::test_a_person_is_mailed_about_partitions_never_about_slices",
    ),
    (
        f"{_CODE}/extractions/slices.py",
        "        if number > limit:\n",
        "        if number >= limit:\n",
        f"{_SLICES}::test_a_half_of_exactly_the_limit_is_not_cut_again",
    ),
    (
        f"{_CODE}/extractions/slices.py",
        "intent.planned_at is not None or intent.request.count_check is CountPolicy.OFF",
        "intent.planned_at is not None",
        f"{_SLICES}::test_nothing_is_counted_before_a_post_if_the_policy_is_off",
    ),
    (
        f"{_CODE}/extractions/slices.py",
        "        if isinstance(answer, RateLimitedError):\n            planned",
        "        if answer is not None:\n            planned",
        f"{_NEIGHBOURS}::test_a_collection_that_can_t_be_counted_keeps_nobody_from_being_cut",
    ),
    # The wait.
    (
        f"{_CODE}/extractions/wait.py",
        "if not resumable and (not is_over",
        "if (not is_over",
        f"{_FENCES}::test_a_stopped_wait_gives_back_what_it_adopted_and_forgets_what_was_never_posted",
    ),
    (
        f"{_CODE}/extractions/wait.py",
        "ledger.withdraw(wait.created, run_id=run_id)",
        "ledger.cancel((r.entry.entry_id for r in submission.requested), 'stopped')",
        f"{_FENCES}::test_a_stopped_wait_gives_back_what_it_adopted_and_forgets_what_was_never_posted",
    ),
    (
        f"{_CODE}/extractions/wait.py",
        "if entry.request.collection == collection and entry.status in stuck:",
        "if entry.status in stuck:",
        f"{_ANSWER}",
    ),
    (
        f"{_CODE}/extractions/wait.py",
        "if counted.is_final_failure and entry.request.kind is Kind.AD_HOC:",
        "if False:",
        f"{_COUNTS}::test_an_ad_hoc_file_that_stays_wrong_is_kept_aside",
    ),
    (
        f"{_CODE}/extractions/wait.py",
        "                self.pending[entry.request.place] = counted.follower\n",
        "                pass\n",
        f"{_COUNTS}::test_a_file_that_the_count_contradicts_is_extracted_again",
    ),
    (
        f"{_CODE}/extractions/wait.py",
        "ledger.release([entry.entry_id, *(part.entry_id for part in slices)], self.worker.id)",
        "pass",
        f"{_TESTS}/test_waits.py::test_what_a_wait_stops_for_is_free_at_once",
    ),
    (
        f"{_CODE}/extractions/wait.py",
        "            if others and ledger.workers.prune(",
        "            if False and ledger.workers.prune(",
        f"{_FENCES}::test_a_wait_takes_over_from_a_process_that_dies_while_it_waits",
    ),
    # Orphans.
    (
        f"{_CODE}/extractions/post.py",
        "except (ConfigurationError, RetryableError, PermanentError) as error:  # the list's",
        "except (ConfigurationError, RetryableError) as error:  # the list's",
        f"{_ORPHANS}::test_a_refused_look_at_the_list_ends_nothing_and_is_told",
    ),
    (
        f"{_CODE}/extractions/slices.py",
        "if any(total * _SMALLEST_SHARE <=",
        "if any(total * 0 >",
        f"{_SLICES}::test_what_is_refused_however_small_it_is_isn_t_cut_down_to_its_last_event",
    ),
    (
        f"{_CODE}/extractions/post.py",
        "if key not in known}",
        "}",
        f"{_ORPHANS}::test_an_extraction_of_something_else_is_not_adopted",
    ),
    (
        f"{_CODE}/extractions/post.py",
        "                    del unknown[extraction_id]\n",
        "",
        f"{_ORPHANS}::test_one_extraction_answers_for_one_intent",
    ),
    # What somebody else's word, or another number, makes of it.
    (
        f"{_CODE}/extractions/wait.py",
        "rows.get(before.entry_id, before)",
        "before",
        f"{_WAITS}::test_progress_tells_where_everything_is",
    ),
    (
        f"{_CODE}/extractions/post.py",
        "if collection in going_on and state.problem is not None",
        "if collection in going_on or state.problem is not None",
        f"{_NEIGHBOURS}::test_what_goes_on_in_one_collection_leaves_the_problem_of_another_told",
    ),
    (
        f"{_CODE}/extractions/explain.py",
        "timedelta(seconds=limits.lease_seconds)",
        "timedelta()",
        f"{_FENCES}::test_a_wait_leaves_to_a_living_process_what_it_works_on",
    ),
    (
        f"{_CODE}/extractions/explain.py",
        "entry.landing_tries and not",
        "entry.landing_tries and",
        f"{_ANSWERS} -k asked_to_land_again",
    ),
    (f"{_CODE}/extractions/wait.py", "return min([next_poll, *due])", "return next_poll", f"{_TIME} -k back_off_that_is_over"),
    (f"{_CODE}/extractions/wait.py", "if self.refused:", "if False:", f"{_TIME} -k may_be_sent"),
    (
        "keen_pipeline/pipeline/counts.py",
        "min(max(error.retry_after or 0.0, 1.0), _LONGEST_REST_SECONDS)",
        "max(error.retry_after or 0.0, 1.0)",
        "keen_pipeline_tests/pipeline/test_counts.py -k after_a_minute",
    ),
    (
        "keen_pipeline/pipeline/extractions/submit.py",
        "    checked.sort(key=lambda e: e.request.timeframe.start)\n",
        "",
        "keen_pipeline_tests/pipeline/test_counts.py -k whatever_order",
    ),
    (
        "keen_pipeline/pipeline/counts.py",
        "valid = {entry.entry_id for entry in counted if not entry.unproven}",
        "valid = {entry.entry_id for entry in counted}",
        "keen_pipeline_tests/pipeline/test_manifests.py -k leaves_that_one_in_doubt",
    ),
    (
        "keen_pipeline/pipeline/extractions/explain.py",
        "if state is not None and entry.status is not Status.COMPLETE else None",
        "if state is not None else None",
        "keen_pipeline_tests/pipeline/test_reasons.py -k no_finished_extraction",
    ),
    (
        "keen_pipeline/pipeline/extractions/explain.py",
        "min(one.since for one in members)",
        "max(one.since for one in members)",
        "keen_pipeline_tests/pipeline/test_reasons.py -k until_the_next",
    ),
    (
        "keen_pipeline/pipeline/extractions/wait.py",
        "elif entry.status is Status.SUPERSEDED and current is not None and current.fingerprint == wanted:",
        "elif entry.status is Status.SUPERSEDED and current is not None:",
        "keen_pipeline_tests/pipeline/test_reasons.py -k none_of_its_own",
    ),
    (
        "keen_pipeline/pipeline/extractions/post.py",
        "wait = max(wished or 0.0, backoff_seconds(entry.post_tries + 1, pipeline.limits, pipeline.jitter()))",
        "wait = backoff_seconds(entry.post_tries + 1, pipeline.limits, pipeline.jitter())",
        "keen_pipeline_tests/pipeline/test_answers.py -k sent_again_when_it_asks",
    ),
    (
        "keen_pipeline/pipeline/extractions/post.py",
        """        if self._pipeline.clock.now() >= self._deadline:
            return
""",
        "",
        "keen_pipeline_tests/pipeline/test_answers.py -k no_post_begins",
    ),
    (
        "keen_pipeline/pipeline/extractions/slices.py",
        "if len(entries) == 1 or total == 0 else None",
        "if len(entries) == 1 else None",
        "keen_pipeline_tests/pipeline/test_answers.py -k counted_together",
    ),
    (
        "keen_pipeline/pipeline/extractions/poll.py",
        "                outcome.problems[entry.request.collection] = error\n",
        "                pass\n",
        "keen_pipeline_tests/pipeline/test_answers.py -k stays_as_it_is",
    ),
    (
        "keen_pipeline/pipeline/extractions/wait.py",
        " and entry.status in stuck:",
        ":",
        "keen_pipeline_tests/pipeline/test_answers.py -k what_has_finished",
    ),
    (
        "keen_pipeline/pipeline/extractions/post.py",
        "{e.request.collection for e in outcome.submitted} - set(outcome.problems)",
        "{e.request.collection for e in outcome.submitted}",
        "keen_pipeline_tests/pipeline/test_answers.py -k until_nothing_does",
    ),
    (
        "keen_pipeline/pipeline/extractions/slices.py",
        "min(one.expected or 0, pipeline.limits.max_events)",
        "(one.expected or 0)",
        "keen_pipeline_tests/pipeline/test_answers.py -k in_proportion",
    ),
]

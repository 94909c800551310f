"""Small wrong changes of the use cases of landed files, each with a test that must notice it: (file, old text, new text, pytest target)."""

from __future__ import annotations

_CODE, _TESTS = "keen_pipeline/pipeline", "keen_pipeline_tests/pipeline"
_ANSWERS = f"{_TESTS}/test_answers.py"
_WAITS = f"{_TESTS}/test_waits.py"
_NEIGHBOURS, _FENCES = f"{_TESTS}/test_neighbours.py", f"{_TESTS}/killed/test_fences.py"
_SLICES, _COUNTS = f"{_TESTS}/test_slices.py", f"{_TESTS}/test_counts.py"
_ROOTS = "keen_pipeline_tests/contract/storages/test_roots.py"

MUTANTS: list[tuple[str, str, str, str]] = [
    # Land.
    (
        f"{_CODE}/files/land.py",
        "if self._is_publishing:  #",
        "if False:  #",
        f"{_FENCES}::test_a_process_paused_inside_the_switch_for_so_long_that_all_was_mended_says_what_it_has_done",
    ),
    (
        f"{_CODE}/files/land.py",
        "            fence=self._fence,\n",
        "",
        f"{_FENCES}::test_a_process_that_dies_between_the_switch_and_its_word_leaves_nothing_proven",
    ),
    (
        f"{_CODE}/files/land.py",
        "self._pipeline.ledger.publishing(self._entry.entry_id, self._worker)",
        "pass",
        f"{_FENCES}::test_a_slow_landing_under_old_filters_publishes_nothing_over_the_new",
    ),
    (
        f"{_CODE}/files/land.py",
        "mask={} if parts else request.mask",
        "mask=request.mask",
        f"{_SLICES}::test_slices_of_a_masked_day_are_hashed_once",
    ),
    (
        f"{_CODE}/files/land.py",
        "        except (ConfigurationError, RetryableError) as error:\n            return self._try_again(error)\n",
        "        except RetryableError as error:\n            return self._try_again(error)\n        except ConfigurationError as error:\n            return self._failed(error, str(error))\n",
        f"{_NEIGHBOURS}::test_a_landing_run_lands_the_others_and_tells_the_one",
    ),
    (f"{_CODE}/files/land.py", "tries >= most", "tries >= 1", f"{_WAITS} -k fetched_three_times"),
    (f"{_CODE}/files/land.py", "tries >= most", "tries > most", f"{_WAITS} -k fetched_three_times"),
    (f"{_CODE}/files/land.py", "MAX_LANDING_TRIES = 3", "MAX_LANDING_TRIES = 2", f"{_WAITS} -k fetched_three_times"),
    (
        f"{_CODE}/files/land.py",
        "MAX_TRIES_OF_AN_OUTAGE = 10",
        "MAX_TRIES_OF_AN_OUTAGE = 9",
        f"{_WAITS} -k says_nothing_about_a_finished",
    ),
    (
        f"{_CODE}/files/land.py",
        "(ConfigurationError, RateLimitedError)) and",
        "ConfigurationError) and",
        f"{_WAITS} -k says_nothing_about_a_finished",
    ),
    (
        f"{_CODE}/files/land.py",
        "        yield from reconcile(pipeline, landed)\n",
        "",
        f"{_COUNTS}::test_a_count_that_can_t_be_had_is_made_up_for_once_it_can",
    ),
    (
        f"{_CODE}/files/land.py",
        "                    pipeline.ledger.release([outcome.entry.entry_id], worker.id)\n",
        "                    pass\n",
        f"{_TESTS}/test_waits.py::test_a_landing_run_gives_back_at_once_what_it_could_not_land",
    ),
    # Counts.
    (
        f"{_CODE}/counts.py",
        "groups[entry.request.collection, filters_identity(entry.request.filters)]",
        'groups[entry.request.collection, ""]',
        f"{_NEIGHBOURS}::test_a_count_of_the_same_collection_with_other_filters_is_asked_by_itself",
    ),
    (
        f"{_CODE}/counts.py",
        "return total == sum(records[position] for position in positions)",
        "return total <= sum(records[position] for position in positions)",
        f"{_COUNTS}::test_a_landed_file_with_more_events_than_are_counted_now_is_asked_for_anew",
    ),
    (
        f"{_CODE}/counts.py",
        "yield Counted(entry, problem=answer)",
        "yield Counted(entry)",
        f"{_NEIGHBOURS}::test_a_count_that_can_t_be_had_hides_no_other_collections_cut_file",
    ),
    (
        f"{_CODE}/counts.py",
        "if requests[before].timeframe.end != requests[position].timeframe.start or len(group)",
        "if len(group)",
        f"{_COUNTS}::test_days_that_don_t_touch_are_counted_apart_and_in_any_order",
    ),
    (
        f"{_CODE}/counts.py",
        "(positions[:middle], left)]",
        "(positions[:middle], total)]",
        f"{_COUNTS}::test_the_one_that_differs_is_found_by_halving",
    ),
    (
        f"{_CODE}/counts.py",
        "entry.counted != entry.landing.records",
        "entry.counted > entry.landing.records",
        f"{_COUNTS}::test_a_landed_file_with_more_events_than_are_counted_now_is_asked_for_anew",
    ),
    (
        f"{_CODE}/counts.py",
        "            if patience is None:\n                raise\n",
        "            patience = patience or Patience()\n",
        f"{_COUNTS}::test_a_patient_count_waits_for_the_budget_and_another_doesn_t",
    ),
    (
        f"{_CODE}/counts.py",
        "            if patience.seconds < 0:\n                raise\n",
        "            if patience.seconds < -86400:\n                raise\n",
        f"{_NEIGHBOURS}::test_counts_of_one_collection_that_are_always_refused_hold_up_a_night_for_minutes_at_most",
    ),
    (
        f"{_CODE}/counts.py",
        "if entry.entry_id not in valid and not entry.unproven:",
        "if False:",
        f"{_FENCES}::test_a_count_noted_while_another_landing_is_published_leaves_no_older_manifest_in_force",
    ),
    (f"{_CODE}/counts.py", "or len(group) >= MOST_COUNTED_TOGETHER", "", f"{_COUNTS}::test_years_are_counted_in_pieces"),
    (
        f"{_CODE}/files/upkeep.py",
        "            pipeline.destination.remove(stale.landing.uri)\n",
        "            pass\n",
        f"{_SLICES}::test_slices_are_put_together_and_gone",
    ),
    (
        f"{_CODE}/files/land.py",
        "            _check_lengths(pipeline, parts)\n",
        "",
        f"{_SLICES}::test_a_slice_that_was_cut_at_the_destination_is_not_joined",
    ),
    (
        f"{_CODE}/files/land.py",
        "NotLanded(after or self._entry, error, is_lost=after is None)",
        "NotLanded(after or self._entry, error)",
        f"{_ANSWERS}::test_what_a_person_cancels_while_its_landing_fails_is_lost_and_no_failure",
    ),
    (
        f"{_CODE}/files/manifests.py",
        "entry.landed_at or now",
        "entry.landed_at and now",
        f"{_FENCES}::test_a_count_noted_with_nobody_else_at_work_leaves_the_landing_proven",
    ),
    (
        f"{_CODE}/files/verify.py",
        """        return "a landing broke off while it was switched into place: it may be another's", True""",
        "        pass",
        "keen_pipeline_tests/contract/storages/test_verify.py -k may_be_anothers",
    ),
    (
        f"{_CODE}/extractions/submit.py",
        "    if foreign:\n",
        "    if False:\n",
        f"{_TESTS}/test_configuration.py -k files_of_another_ledgers_project",
    ),
    (
        f"{_CODE}/extractions/submit.py",
        "[manifest for manifest in unknown if not manifest.is_of(pipeline.scope)]",
        "unknown",
        f"{_TESTS}/test_configuration.py -k ledger_was_lost",
    ),
    (
        f"{_CODE}/files/manifests.py",
        "if manifest.entry.token not in known",
        "if known is None",
        f"{_TESTS}/test_configuration.py -k files_of_another_ledgers_project",
    ),
    ("keen_pipeline/wiring.py", 'root if "://" in root', 'root if "://" not in root', f"{_ROOTS} -k one_destination"),
    ("keen_pipeline/wiring.py", "root = normal_root(uri)", "root = uri", f"{_ROOTS} -k one_destination"),
    (
        "keen_pipeline/pipeline/files/manifests.py",
        "if known is not None and known.entry.token != entry.token:",
        "if False:",
        "keen_pipeline_tests/pipeline/test_manifests.py -k of_another_landing",
    ),
    (
        "keen_pipeline/pipeline/files/verify.py",
        """    if not now or now[0].status is not entry.status:
        return None, True
""",
        "",
        "keen_pipeline_tests/pipeline/test_manifests.py -k nobodys_fault",
    ),
    (
        "keen_pipeline/pipeline/files/verify.py",
        """if collection is None or entry.request.kind is Kind.AD_HOC:
        return replace(entry.request, email=None)""",
        """if collection is None or entry.request.kind is Kind.AD_HOC:
        return entry.request""",
        "keen_pipeline_tests/pipeline/test_manifests.py -k todays_configuration",
    ),
    (
        "keen_pipeline/pipeline/files/verify.py",
        "mine = (*ledger.open_entries(), *ledger.stale_files(), *ledger",
        "mine = (*ledger.open_entries(), *ledger",
        "keen_pipeline_tests/pipeline/test_manifests.py -k no_file_too_many",
    ),
    (
        "keen_pipeline/pipeline/files/upkeep.py",
        "SqlNotices(ledger.engine, clock=ledger.clock).prune(now - KEEP_NOTICES)",
        "SqlNotices(ledger.engine, clock=ledger.clock).prune(now)",
        "keen_pipeline_tests/pipeline/test_manifests.py -k three_months",
    ),
    (
        "keen_pipeline/pipeline/freshness.py",
        """    if lacks_mask_key(collection, mask_key):
        raise""",
        """    if False:
        raise""",
        "keen_pipeline_tests/pipeline/test_configuration.py -k which_variable_has_it",
    ),
    (
        "keen_pipeline/wiring.py",
        "budget = settings.budget or ledger.scope.source",
        "budget = ledger.scope.source",
        "keen_pipeline_tests/pipeline/test_configuration.py -k projects_of_one_budget",
    ),
    (
        "keen_pipeline/pipeline/files/verify.py",
        "same = replace(entry.landing, uri=landing.uri, seconds=landing.seconds) == landing and asked == request",
        "same = replace(entry.landing, uri=landing.uri, seconds=landing.seconds) == landing",
        "keen_pipeline_tests/pipeline/test_manifests.py -k another_request",
    ),
    (
        "keen_pipeline/pipeline/files/manifests.py",
        "request.kind is Kind.SLICE or not request.path",
        "not request.path",
        "keen_pipeline_tests/pipeline/test_manifests.py -k no_file_of",
    ),
    (
        "keen_pipeline/wiring.py",
        "use_proxies=not settings.is_embedded,",
        "use_proxies=True,",
        "keen_pipeline_tests/pipeline/test_configuration.py -k without_a_proxy",
    ),
    (
        "keen_pipeline/pipeline/files/land.py",
        " and [e.status for e in now] == [Status.CANCELLED]:",
        ":",
        "keen_pipeline_tests/pipeline/test_manifests.py -k comes_too_late",
    ),
    (
        "keen_pipeline/pipeline/files/property_types.py",
        "wider(known[name], kind) if name in known else kind",
        "kind",
        "keen_pipeline_tests/pipeline/test_slow_neighbours.py -k as_wide_as",
    ),
]

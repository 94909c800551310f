"""Mutations of the service's extraction queue, mail and storage: (file, old text, new text, the tests of which one has to fail)."""

from __future__ import annotations

from keen_pipeline_tests.mutants.groups.service import SERVICE, tests_of

_BATCH = tests_of("clients/clients", "a_batch_answers_for_each_event_in_keens_words_and_nothing_takes_anything_along")
_LITERAL = tests_of("clients/clients", "properties_whose_names_look_like_those_of_the_other_version")
_LEFT = tests_of("extractions/going_on", "the_work_of_a_client_that_left_is_cancelled_whether_it_runs_or_waits")
_UNIQUE = tests_of("extractions/going_on", "unique_values_are_bounded_in_bytes_and_repeated_ones_are_not_counted_twice")
_THREAD = tests_of("extractions/extractions", "the_extraction_thread_outlives_a_database_that_fails")
_MAIL_THREAD = tests_of("extractions/mail", "the_mail_thread_outlives_any_mail")
_MAIL_TEXT = tests_of("extractions/mail", "a_mail_says_that_a_machine_wrote_it_and_its_subject_is_ours")
_ALLOWED = tests_of("extractions/mail", "mail_goes_to_the_addresses_and_domains_of_the_configuration_alone")
_MISSING = tests_of("storage/folder", "logs_after_one_that_is_missing_are_set_aside_as_it_may_have_named_their_columns")
_DAMAGED = tests_of("storage/folder", "logs_after_one_that_is_damaged_are_read_if_their_columns_are_known")
_AHEAD = tests_of("extractions/extractions", "what_was_asked_for_and_put_off_while_the_clock_was_ahead_waits_no_longer_than_usual")
_BEHIND = tests_of("storage/catalogue", "what_a_standby_that_was_behind_lacks_is_named_again_and_means_the_same_to_all")
_PAIR = tests_of("storage/catalogue", "a_catalogue_and_a_storage_of_two_services_are_refused")
_SWEPT = tests_of("storage/tables", "only_what_left_the_table_long_ago_is_swept")

MUTANTS: list[tuple[str, str, str, str]] = [
    (f"{SERVICE}/events/incoming.py", "        self._check_text(line)\n", "", _BATCH),
    (
        f"{SERVICE}/application.py",
        'return None if value == "" else value',
        "return value",
        tests_of("clients/clients", "empty_and_quoted_timeframes_and_zones"),
    ),
    (
        f"{SERVICE}/names.py",
        "MAX_NAME_CHARACTERS = 64",
        "MAX_NAME_CHARACTERS = 65",
        tests_of("clients/clients", "names_that_nobody_allows"),
    ),
    (f"{SERVICE}/events/properties.py", 'if names == "v3" and path != name and', "if False and", _LITERAL),
    (f"{SERVICE}/events/properties.py", ' or one.startswith(f"{name}.")', "", _LITERAL),
    (f"{SERVICE}/storage/engine.py", "                        cursor.interrupt()", "                        pass", _LEFT),
    (
        f"{SERVICE}/storage/engine.py",
        "            if (found := problem()) is not None:",
        "            if (found := problem()) is not None and False:",
        tests_of("extractions/going_on", "a_cancelled_request_opens_no_further_cursor"),
    ),
    (
        f"{SERVICE}/metrics.py",
        'method if method in _METHODS else "other"',
        "method",
        tests_of("http/limits", "invented_methods_are_one_label"),
    ),
    (
        f"{SERVICE}/events/analyses.py",
        "    if size > most_bytes:",
        "    if False:",
        tests_of("extractions/going_on", "an_answer_is_bounded_in_bytes_before_it_is_made"),
    ),
    (f"{SERVICE}/events/analyses.py", "        if size <= most_bytes:", "        if True:", _UNIQUE),
    (f"{SERVICE}/events/analyses.py", 'f"SELECT DISTINCT v FROM ({rows})"', "rows", _UNIQUE),
    (
        f"{SERVICE}/events/analyses.py",
        "    if not math.isfinite(value):",
        "    if False:",
        tests_of("extractions/going_on", "a_sum_past_the_range_of_a_double_is_refused"),
    ),
    (
        f"{SERVICE}/limits.py",
        "        if self.held + size > self._limit:",
        "        if False:",
        tests_of("extractions/going_on", "the_bodies_of_all_requests_together_have_a_bound"),
    ),
    (
        f"{SERVICE}/extractions/records.py",
        "WHERE collection = ? ORDER BY (finished IS NOT NULL), created DESC",
        "WHERE collection = ? ORDER BY created DESC, (finished IS NOT NULL)",
        tests_of("extractions/going_on", "a_list_shows_what_is_open_before_what_has_ended"),
    ),
    (
        f"{SERVICE}/extractions/records.py",
        "CASE WHEN characters <= ? THEN filters END",
        "coalesce(filters, ?)",
        tests_of("extractions/going_on", "a_list_is_bounded_in_number_and_in_the_bytes_of_its_filters_and_tells_every_status"),
    ),
    (
        f"{SERVICE}/extractions/worker.py",
        "                except Exception:  # noqa: BLE001 - one record",
        "                except ValueError:  # noqa: BLE001 - one record",
        _THREAD,
    ),
    (
        f"{SERVICE}/extractions/worker.py",
        "        except Exception as error:  # noqa: BLE001 - whatever it is",
        "        except ValueError as error:  # noqa: BLE001 - whatever it is",
        tests_of("extractions/extractions", "an_extraction_that_fails_in_a_way_nobody_expected_ends_and_the_next_one_runs"),
    ),
    (
        f"{SERVICE}/extractions/results.py",
        "if path.stat().st_mtime < finished_before",
        "if True",
        tests_of("extractions/extractions", "results_that_an_older_database_does_not_know_are_kept_as_long_as_any"),
    ),
    # Mail.
    (
        f"{SERVICE}/extractions/mail.py",
        "        except Exception as error:  # noqa: BLE001 - an address",
        "        except OSError as error:  # noqa: BLE001 - an address",
        _MAIL_THREAD,
    ),
    (
        f"{SERVICE}/extractions/mail.py",
        "            except Exception:  # noqa: BLE001 - the database",
        "            except ValueError:  # noqa: BLE001 - the database",
        _MAIL_THREAD,
    ),
    (f"{SERVICE}/extractions/mail.py", '    message["Auto-Submitted"] = "auto-generated"', "    pass", _MAIL_TEXT),
    (f"{SERVICE}/extractions/mail.py", 're.sub(r"[^A-Za-z0-9_.:-]", "_", collection)', "collection", _MAIL_TEXT),
    (
        f"{SERVICE}/addresses.py",
        "    if len(given) > 1:",
        "    if False:",
        tests_of("extractions/mail", "an_extraction_without_a_mail_address_sends_none_and_a_wrong_address_is_refused"),
    ),
    (f"{SERVICE}/addresses.py", "        if allowed and not any(", "        if False and not any(", _ALLOWED),
    (f"{SERVICE}/addresses.py", 'address.endswith("@" + entry', "address.endswith(entry", _ALLOWED),
    (
        f"{SERVICE}/application.py",
        "            self.count_request(MAILS)",
        "            pass",
        tests_of("extractions/mail", "the_environment_says_who_gets_mail_and_a_minute_has_a_limit"),
    ),
    (
        f"{SERVICE}/application.py",
        ", seconds=max(left, 0))",
        ")",
        tests_of("extractions/mail", "the_link_of_a_mail_works_as_long_as_its_result"),
    ),
    (f"{SERVICE}/storage/folder/event_log.py", "if not whole or number != before + 1:", "if not whole:", _MISSING),
    (f"{SERVICE}/storage/folder/event_log.py", "if not whole or number != before + 1:", "if number != before + 1:", _MISSING),
    (f"{SERVICE}/storage/folder/event_log.py", "whole = _NAMES not in rest", "whole = False", _DAMAGED),
    (f"{SERVICE}/storage/folder/event_log.py", "whole = _NAMES not in rest", "whole = True", _DAMAGED),
    # Files and the page.
    (
        f"{SERVICE}/storage/tables.py",
        "continue  # commits of their own",
        "pass  # commits of their own",
        tests_of("storage/tables", "what_is_done_first_between_a_new_column_and_its_events_is_not_done_again"),
    ),
    (
        f"{SERVICE}/storage/folder/tables.py",
        'oldest_log(path.name) for path in folder.glob("*.parquet")',
        "int(path.name) for path in ()",
        tests_of("storage/folder", "a_table_whose_commits_are_lost_is_not_taken_for_an_empty_one"),
    ),
    (
        f"{SERVICE}/credentials.py",
        "        folder.chmod(0o700)",
        "        pass",
        tests_of("storage/processes", "everything_it_makes_is_its_owners_alone"),
    ),
    (
        f"{SERVICE}/limits.py",
        "times.popleft()",
        "times.clear()",
        tests_of("http/limits", "the_minute_slides_and_a_refusal_lasts_one"),
    ),
    (f"{SERVICE}/extractions/records.py", "created > ?)", "created < ?)", _AHEAD),
    (f"{SERVICE}/extractions/records.py", "held_until > ?)", "held_until < ?)", _AHEAD),
    (f"{SERVICE}/storage/shared/log.py", "if lost or self._database.server", "if lost or None and self._database.server", _BEHIND),
    (f"{SERVICE}/storage/shared/backend.py", "    if _id_in(objects) != ours:", "    if False:", _PAIR),
    (f"{SERVICE}/storage/tables.py", "math.ceil(seconds / 3600)", "int(seconds / 3600)", _SWEPT),
    (
        "keen_pipeline/service/events/analyses.py",
        "return int(value) if float(value).is_integer() and abs(value) < 2**53 else value",
        "return int(value) if float(value).is_integer() else value",
        "keen_pipeline_tests/service/storage/test_storage.py -k figures_at_the_edges",
    ),
    (
        "keen_pipeline/service/extractions/worker.py",
        """                if failures == MOST_FAILURES:
                    break""",
        """                if False:
                    break""",
        "keen_pipeline_tests/service/extractions/test_extractions.py -k not_asked_for_every_result",
    ),
    (
        "keen_pipeline/service/http/resources/results.py",
        'coded = not as_file and "range" not in request.headers and _accepts',
        "coded = not as_file and _accepts",
        "keen_pipeline_tests/service/extractions/test_results.py -k whole_ranges",
    ),
]

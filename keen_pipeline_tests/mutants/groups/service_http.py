"""Mutations of the service's HTTP, extraction queue and mail: (file, old text, new text, the tests of which one has to fail)."""

from __future__ import annotations

_HTTP, _SERVICE = "keen_pipeline/service/http", "keen_pipeline/service"


def _test(module: str, *names: str) -> str:
    folder, _, file = module.partition("/")
    return " ".join(f"keen_pipeline_tests/service/{folder}/test_{file}.py::test_{name}" for name in names)


_DELETE_REFUSED = _test("clients/clients", "a_delete_that_is_not_understood_deletes_nothing")
_GZIP = _test("clients/clients", "compressed_bodies")
_KEYS = _test("http/bad_input", "wrong_keys_and_projects")
_ALLOW = _test("http/openapi", "options_and_a_wrong_method_say_what_is_allowed")
_DOCUMENT = _test("http/openapi", "the_document_lists_exactly_what_is_routed_and_allowed")
_NAMES = _test("clients/clients", "names_as_keens_clients_allow_them")
_PREFLIGHT = _test("clients/clients", "a_browser_may_ask_from_any_page")
_BATCH = _test("clients/clients", "a_batch_answers_for_each_event_in_keens_words_and_nothing_takes_anything_along")
_FULL = _test("clients/clients", "a_batch_keeps_what_could_be_stored_when_the_rest_could_not")
_BEACON = _test("clients/clients", "an_image_beacon_stores_its_event_and_answers_a_pixel")
_BEACON_KEY = _test("clients/clients", "a_beacon_needs_the_write_key_and_an_event")
_REDIRECT = _test("clients/clients", "a_beacon_redirects_nowhere_else_and_stores_nothing_then")
_LITERAL = _test("clients/clients", "properties_whose_names_look_like_those_of_the_other_version")
_LEFT = _test("extractions/going_on", "the_work_of_a_client_that_left_is_cancelled_whether_it_runs_or_waits")
_MACHINE = _test("extractions/going_on", "a_machine_that_is_full_is_no_fault_of_the_service")
_UNIQUE = _test("extractions/going_on", "unique_values_are_bounded_in_bytes_and_repeated_ones_are_not_counted_twice")
_THREAD = _test("extractions/extractions", "the_extraction_thread_outlives_a_database_that_fails")
_MAIL_THREAD = _test("extractions/mail", "the_mail_thread_outlives_any_mail")
_MAIL_TEXT = _test("extractions/mail", "a_mail_says_that_a_machine_wrote_it_and_its_subject_is_ours")
_ALLOWED = _test("extractions/mail", "mail_goes_to_the_addresses_and_domains_of_the_configuration_alone")
_PLACES = _test("http/connections", "who_gives_way_to_whom")
_JUST_COME = _test("http/connections", "one_that_has_just_come_is_not_taken_for_a_silent_one")
_HEAD = _test("http/connections", "a_head_that_does_not_come_ends_the_connection_with_an_answer")
_BODY = _test("http/connections", "a_body_that_stands_still_or_trickles_ends_the_connection_and_stores_nothing")
_UNREAD = _test("http/connections", "unread_answers_are_bounded_together_and_the_slowest_reader_goes_first")
_LISTS = _test("http/limits", "a_body_of_many_lists_is_refused_before_they_are_made")
_MANY = _test("http/limits", "too_many_events_in_one_request_are_refused_whole")
_MISSING = _test("storage/folder", "logs_after_one_that_is_missing_are_set_aside_as_it_may_have_named_their_columns")
_DAMAGED = _test("storage/folder", "logs_after_one_that_is_damaged_are_read_if_their_columns_are_known")
_NEIGHBOUR = _test("http/neighbours", "a_damaged_collection_is_listed_with_its_error_and_hides_no_other")
_AWAY = _test("http/neighbours", "the_schemas_wait_for_few_collections_that_are_away")
_AHEAD = _test("extractions/extractions", "what_was_asked_for_and_put_off_while_the_clock_was_ahead_waits_no_longer_than_usual")
_BEHIND = _test("storage/catalogue", "what_a_standby_that_was_behind_lacks_is_named_again_and_means_the_same_to_all")
_PAIR = _test("storage/catalogue", "a_catalogue_and_a_storage_of_two_services_are_refused")
_SWEPT = _test("storage/tables", "only_what_left_the_table_long_ago_is_swept")

MUTANTS: list[tuple[str, str, str, str]] = [
    # Parameters and bodies.
    (f"{_HTTP}/operation.py", "known, body() or absent, most", "known, absent, most", _DELETE_REFUSED),
    (
        f"{_HTTP}/parameters.py",
        ', errors="strict"',
        "",
        _test("http/bad_input", "an_address_that_is_not_utf_8_asks_for_nothing_and_deletes_nothing"),
    ),
    (
        f"{_HTTP}/app.py",
        "raw[:_MAX_PATH_BYTES]",
        "raw",
        _test("http/limits", "a_long_address_is_refused_before_it_is_taken_apart"),
    ),
    (
        f"{_HTTP}/parameters.py",
        'unknown = sorted(n for n, v in parameters.items() if n not in names and not (n in _OFTEN_ASKED and v in (None, "")))',
        "unknown: list[str] = []",
        _DELETE_REFUSED,
    ),
    (f"{_HTTP}/parameters.py", "        if name in made:", "        if False:", _DELETE_REFUSED),
    (f"{_HTTP}/parameters.py", "given = parse_json(body, pairs=_once)", "given = parse_json(body)", _DELETE_REFUSED),
    (
        f"{_HTTP}/parameters.py",
        "if size > most_bytes:",
        "if False:",
        _test("extractions/going_on", "every_parameter_is_bounded_in_bytes"),
    ),
    (f"{_HTTP}/bodies.py", "    if len(unpacked) > limit:", "    if False:", _GZIP),
    (f"{_HTTP}/bodies.py", "> MAX_CONTAINERS:", "> 2 * MAX_CONTAINERS:", _LISTS),
    (
        f"{_HTTP}/operation.py",
        "_PARAMETERS_IN_BODY = 16",
        "_PARAMETERS_IN_BODY = 160",
        _test("http/limits", "a_body_of_parameters_is_bounded_before_it_is_read_as_json"),
    ),
    (f"{_HTTP}/bodies.py", "    if not whole:", "    if False:", _GZIP),
    (
        f"{_HTTP}/app.py",
        'self._service.pending_bodies.release(state.get("body_bytes", 0))',
        "pass",
        _test("extractions/going_on", "bodies_are_given_back_when_a_request_ends_however_it_does"),
    ),
    (
        f"{_HTTP}/app.py",
        "error_answer(refusal) if twice else app",
        "app",
        _test("extractions/going_on", "a_length_said_in_two_ways_is_refused"),
    ),
    # Keys and the table.
    (f"{_HTTP}/operation.py", "if self._purpose != MASTER and self._purpose not in purposes:", "if False:", _KEYS),
    (f"{_HTTP}/operation.py", "        self.allow(*operation.keys)", "        pass", _KEYS),
    (
        f"{_HTTP}/app.py",
        'self._operations["HEAD"] = self._operations["GET"]',
        "pass",
        _DOCUMENT,
    ),
    (f"{_HTTP}/app.py", '"this resource does not accept this method", headers={"Allow": self.allow}', '"no"', _ALLOW),
    (f"{_HTTP}/openapi.py", 'if operation.method == "GET":', 'if operation.method == "POST":', _DOCUMENT),
    # Clients.
    (f"{_HTTP}/app.py", 'quote(unquote(segment, errors="replace"), safe="")', 'unquote(segment, errors="replace")', _NAMES),
    (f"{_HTTP}/app.py", 'allow_origins=["*"]', "allow_origins=[]", _PREFLIGHT),
    (f"{_HTTP}/app.py", 'allow_headers=["*"]', "allow_headers=[]", _PREFLIGHT),
    (
        f"{_HTTP}/resources/events.py",
        "        return [_refused(COLLECTION_NAME, str(error))] * len(events)",
        "        raise",
        _BATCH,
    ),
    (f"{_HTTP}/resources/events.py", "                return PROPERTY_NAME", "                return PROPERTY_VALUE", _BATCH),
    (f"{_HTTP}/resources/events.py", "            held_up.append(error)", "            raise", _FULL),
    (f"{_HTTP}/resources/events.py", "if held_up and len(held_up) == sum(map(bool, batch.values())):", "if False:", _FULL),
    (f"{_SERVICE}/events/incoming.py", "        self._check_text(line)\n", "", _BATCH),
    (f"{_HTTP}/resources/events.py", '.replace("-", "+").replace("_", "/")', "", _BEACON),
    (f"{_HTTP}/resources/events.py", ' + "=" * (-len(text) % 4)', "", _BEACON),
    (
        f"{_HTTP}/resources/events.py",
        '.replace(" ", "+")',
        "",
        _test("clients/clients", "a_plus_that_the_client_did_not_encode_is_still_a_plus"),
    ),
    (f"{_HTTP}/resources/events.py", "if parts.username is not None or host not in", "if host not in", _REDIRECT),
    (f"{_HTTP}/resources/events.py", "host not in {one.lower() for one in hosts}", "not host", _REDIRECT),
    (f"{_HTTP}/resources/events.py", "    call.allow(WRITE)", "    pass", _BEACON_KEY),
    (f"{_HTTP}/resources/events.py", 'if call.request.method == "HEAD":', "if False:", _BEACON_KEY),
    (
        f"{_HTTP}/parameters.py",
        'if value not in (None, "", kind):',
        "if False:",
        _test("clients/clients", "parameters_that_clients_send_beside_a_query_are_taken"),
    ),
    (
        f"{_SERVICE}/application.py",
        'return None if value == "" else value',
        "return value",
        _test("clients/clients", "empty_and_quoted_timeframes_and_zones"),
    ),
    (
        f"{_SERVICE}/names.py",
        "MAX_NAME_CHARACTERS = 64",
        "MAX_NAME_CHARACTERS = 65",
        _test("clients/clients", "names_that_nobody_allows"),
    ),
    (f"{_SERVICE}/events/properties.py", 'if names == "v3" and path != name and', "if False and", _LITERAL),
    (f"{_SERVICE}/events/properties.py", ' or one.startswith(f"{name}.")', "", _LITERAL),
    (
        f"{_HTTP}/resources/collections.py",
        "                if name in parameters and not meant:",
        "                if False:",
        _DELETE_REFUSED,
    ),
    (
        f"{_HTTP}/parameters.py",
        "if parameter.required and",
        "if False and",
        _test("http/bad_input", "wrong_parameters"),
    ),
    # Going on.
    (f"{_HTTP}/lanes.py", "            cancellation.cancel()\n", "", _LEFT),
    (f"{_HTTP}/lanes.py", "            scope.cancel()  # it may still wait for a thread", "            pass", _LEFT),
    (
        f"{_HTTP}/lanes.py",
        "if limiter.statistics().tasks_waiting >= MAX_WAITING:",
        "if False:",
        _test("extractions/going_on", "work_of_one_kind_keeps_no_other_waiting_and_too_much_of_it_is_turned_away"),
    ),
    (f"{_SERVICE}/cancellation.py", "                cursor.interrupt()", "                pass", _LEFT),
    (
        f"{_SERVICE}/cancellation.py",
        "            if self.cancelled:",
        "            if False:",
        _test("extractions/going_on", "a_cancelled_request_opens_no_further_cursor"),
    ),
    (
        f"{_SERVICE}/metrics.py",
        'method if method in _METHODS else "other"',
        "method",
        _test("http/limits", "invented_methods_are_one_label"),
    ),
    (f"{_HTTP}/answers.py", "if is_disk_full(error):", "if False:", _MACHINE),
    (f"{_HTTP}/answers.py", "_RETRY_SECONDS.get(status) if after is None else after", "after", _MACHINE),
    (
        f"{_SERVICE}/events/analyses.py",
        "    if size > most_bytes:",
        "    if False:",
        _test("extractions/going_on", "an_answer_is_bounded_in_bytes_before_it_is_made"),
    ),
    (f"{_SERVICE}/events/analyses.py", "        if size <= most_bytes:", "        if True:", _UNIQUE),
    (f"{_SERVICE}/events/analyses.py", 'f"SELECT DISTINCT v FROM ({rows})"', "rows", _UNIQUE),
    (
        f"{_HTTP}/resources/queries.py",
        "analyses.count_unique(cursor, selection, target)",
        "len(analyses.unique_values(cursor, selection, target, call.service.config.max_answer_bytes))",
        _UNIQUE,
    ),
    (
        f"{_SERVICE}/events/analyses.py",
        "    if not math.isfinite(value):",
        "    if False:",
        _test("extractions/going_on", "a_sum_past_the_range_of_a_double_is_refused"),
    ),
    (
        f"{_SERVICE}/limits.py",
        "        if self.held + size > self._limit:",
        "        if False:",
        _test("extractions/going_on", "the_bodies_of_all_requests_together_have_a_bound"),
    ),
    (
        f"{_SERVICE}/extractions/records.py",
        "WHERE collection = ? ORDER BY (finished IS NOT NULL), created DESC",
        "WHERE collection = ? ORDER BY created DESC, (finished IS NOT NULL)",
        _test("extractions/going_on", "a_list_shows_what_is_open_before_what_has_ended"),
    ),
    (
        f"{_SERVICE}/extractions/records.py",
        "CASE WHEN characters <= ? THEN filters END",
        "coalesce(filters, ?)",
        _test("extractions/going_on", "a_list_is_bounded_in_number_and_in_the_bytes_of_its_filters_and_tells_every_status"),
    ),
    (
        f"{_SERVICE}/extractions/worker.py",
        "                except Exception:  # noqa: BLE001 - one record",
        "                except ValueError:  # noqa: BLE001 - one record",
        _THREAD,
    ),
    (
        f"{_SERVICE}/extractions/worker.py",
        "        except Exception as error:  # noqa: BLE001 - whatever it is",
        "        except ValueError as error:  # noqa: BLE001 - whatever it is",
        _test("extractions/extractions", "an_extraction_that_fails_in_a_way_nobody_expected_ends_and_the_next_one_runs"),
    ),
    (
        f"{_SERVICE}/extractions/results.py",
        "if path.stat().st_mtime < finished_before",
        "if True",
        _test("extractions/extractions", "results_that_an_older_database_does_not_know_are_kept_as_long_as_any"),
    ),
    # Mail.
    (
        f"{_SERVICE}/extractions/mail.py",
        "        except Exception as error:  # noqa: BLE001 - an address",
        "        except OSError as error:  # noqa: BLE001 - an address",
        _MAIL_THREAD,
    ),
    (
        f"{_SERVICE}/extractions/mail.py",
        "            except Exception:  # noqa: BLE001 - the database",
        "            except ValueError:  # noqa: BLE001 - the database",
        _MAIL_THREAD,
    ),
    (f"{_SERVICE}/extractions/mail.py", '    message["Auto-Submitted"] = "auto-generated"', "    pass", _MAIL_TEXT),
    (f"{_SERVICE}/extractions/mail.py", 're.sub(r"[^A-Za-z0-9_.:-]", "_", collection)', "collection", _MAIL_TEXT),
    (
        f"{_SERVICE}/addresses.py",
        "    if len(given) > 1:",
        "    if False:",
        _test("extractions/mail", "an_extraction_without_a_mail_address_sends_none_and_a_wrong_address_is_refused"),
    ),
    (f"{_SERVICE}/addresses.py", "        if allowed and not any(", "        if False and not any(", _ALLOWED),
    (f"{_SERVICE}/addresses.py", 'address.endswith("@" + entry', "address.endswith(entry", _ALLOWED),
    (
        f"{_SERVICE}/application.py",
        "            self.count_request(MAILS)",
        "            pass",
        _test("extractions/mail", "the_environment_says_who_gets_mail_and_a_minute_has_a_limit"),
    ),
    (
        f"{_SERVICE}/application.py",
        ", seconds=max(left, 0))",
        ")",
        _test("extractions/mail", "the_link_of_a_mail_works_as_long_as_its_result"),
    ),
    (
        "keen_pipeline/mail.py",
        "and not smtp.starttls and not smtp.insecure_login",
        "and False",
        _test("extractions/mail", "a_password_is_not_sent_in_clear_unless_that_is_said"),
    ),
    # Connections.
    (f"{_HTTP}/server/connections.py", "            victim.abort()", "            pass", _PLACES),
    (f"{_HTTP}/server/connections.py", "if len(neighbours) < self._most_per_address:", "if True:", _PLACES),
    (f"{_HTTP}/server/connections.py", "0 if since <= time.monotonic() - self._grace else 2", "2", _JUST_COME),
    (f"{_HTTP}/server/connections.py", "0 if since <= time.monotonic() - self._grace else 2", "0", _JUST_COME),
    (f"{_HTTP}/server/connections.py", "if len(self) >= self._most else {}", "if False else {}", _PLACES),
    (f"{_HTTP}/server/protocol.py", "            self._refuse(408)", "            pass", _HEAD),
    (f"{_HTTP}/server/protocol.py", "            self._look_at_body(now)", "            pass", _BODY),
    (
        f"{_HTTP}/server/protocol.py",
        "if self.unread_since is not None:",
        "if False:",
        _test("http/connections", "a_reader_that_reads_nothing_is_let_go"),
    ),
    (
        f"{_HTTP}/server/protocol.py",
        "if self._unread_bytes - self.unread_bytes() < (now",
        "if 0 < (now",
        _test("http/connections", "a_slow_but_steady_reader_gets_the_whole_answer"),
    ),
    (f"{_HTTP}/server/connections.py", "        self._give_up_unread()", "        pass", _UNREAD),
    (
        f"{_HTTP}/server/connections.py",
        "key=lambda one: one.unread_since or 0",
        "key=lambda one: -(one.unread_since or 0)",
        _UNREAD,
    ),
    (f"{_HTTP}/resources/events.py", "100_000, 5000", "100_001, 5001", _MANY),
    (
        f"{_HTTP}/resources/collections.py",
        "            if size > limit:",
        "            if False:",
        _test("http/limits", "schemas_larger_than_an_answer_are_refused_together_and_given_one_by_one"),
    ),
    (f"{_SERVICE}/storage/folder/event_log.py", "if not whole or number != before + 1:", "if not whole:", _MISSING),
    (f"{_SERVICE}/storage/folder/event_log.py", "if not whole or number != before + 1:", "if number != before + 1:", _MISSING),
    (f"{_SERVICE}/storage/folder/event_log.py", "whole = _NAMES not in rest", "whole = False", _DAMAGED),
    (f"{_SERVICE}/storage/folder/event_log.py", "whole = _NAMES not in rest", "whole = True", _DAMAGED),
    (
        f"{_HTTP}/server/protocol.py",
        "SLOWEST = 1024",
        "SLOWEST = 102_400",
        _test("http/connections", "a_slow_but_steady_body_is_taken"),
    ),
    (
        f"{_HTTP}/server/protocol.py",
        "status = status if status in _ANSWERS else 400",
        "status = 400",
        _test("http/protocol", "what_is_no_request_is_refused_as_everything_else_is"),
    ),
    (
        f"{_HTTP}/server/protocol.py",
        "        self._hold_head(0)\n",
        "",
        _test("http/connections", "half_heads_are_bounded_together_and_whole_ones_are_answered"),
    ),
    # Files and the page.
    (
        f"{_SERVICE}/storage/tables.py",
        "continue  # commits of their own",
        "pass  # commits of their own",
        _test("storage/tables", "what_is_done_first_between_a_new_column_and_its_events_is_not_done_again"),
    ),
    (
        f"{_SERVICE}/storage/folder/tables.py",
        'oldest_log(path.name) for path in folder.glob("*.parquet")',
        "int(path.name) for path in ()",
        _test("storage/folder", "a_table_whose_commits_are_lost_is_not_taken_for_an_empty_one"),
    ),
    (
        f"{_HTTP}/server/serve.py",
        "    os.umask(0o077)",
        "    os.umask(0o022)",
        _test("storage/processes", "everything_it_makes_is_its_owners_alone"),
    ),
    (
        f"{_SERVICE}/credentials.py",
        "        folder.chmod(0o700)",
        "        pass",
        _test("storage/processes", "everything_it_makes_is_its_owners_alone"),
    ),
    (
        f"{_HTTP}/server/serve.py",
        "if config.host in _LOOPBACK:",
        "if True:",
        _test("storage/processes", "no_link_with_a_key_is_printed_for_other_machines"),
    ),
    (
        f"{_HTTP}/resources/discovery.py",
        " frame-ancestors 'none'",
        "",
        _test("http/page", "a_browser_gets_the_page_and_others_the_versions"),
    ),
    # One bad neighbour, several processes, clocks.
    (f"{_HTTP}/resources/collections.py", "if broken and len(broken) == len(names):", "if False:", _NEIGHBOUR),
    (f"{_HTTP}/resources/collections.py", " > MOST_AWAY:", " > 9 * MOST_AWAY:", _AWAY),
    (f"{_HTTP}/app.py", ' or b"/"\n', "\n", _test("http/protocol", "a_target_in_the_absolute_form_is_its_path_and_its_host")),
    ("keen_pipeline/mail.py", "|relay", "", _test("extractions/mail", "a_mail_that_is_refused_for_good_is_tried_once")),
    (
        "keen_pipeline/mail.py",
        "550 <= code < 560",
        "500 <= code",
        _test("extractions/mail", "a_mail_that_is_refused_for_good_is_tried_once"),
    ),
    (
        f"{_SERVICE}/limits.py",
        "times.popleft()",
        "times.clear()",
        _test("http/limits", "the_minute_slides_and_a_refusal_lasts_one"),
    ),
    (f"{_SERVICE}/extractions/records.py", "created > ?)", "created < ?)", _AHEAD),
    (f"{_SERVICE}/extractions/records.py", "held_until > ?)", "held_until < ?)", _AHEAD),
    (f"{_SERVICE}/storage/shared/log.py", "if lost or self._database.server", "if lost or None and self._database.server", _BEHIND),
    (f"{_SERVICE}/storage/shared/backend.py", "    if _id_in(objects) != ours:", "    if False:", _PAIR),
    (f"{_SERVICE}/storage/tables.py", "math.ceil(seconds / 3600)", "int(seconds / 3600)", _SWEPT),
]

"""Mutations of the service's HTTP: (file, old text, new text, the tests of which one has to fail)."""

from __future__ import annotations

from keen_pipeline_tests.mutants.groups.service import HTTP, tests_of

_DELETE_REFUSED = tests_of("clients/clients", "a_delete_that_is_not_understood_deletes_nothing")
_GZIP = tests_of("clients/clients", "compressed_bodies")
_KEYS = tests_of("http/bad_input", "wrong_keys_and_projects")
_ALLOW = tests_of("http/openapi", "options_and_a_wrong_method_say_what_is_allowed")
_DOCUMENT = tests_of("http/openapi", "the_document_lists_exactly_what_is_routed_and_allowed")
_NAMES = tests_of("clients/clients", "names_as_keens_clients_allow_them")
_PREFLIGHT = tests_of("clients/clients", "a_browser_may_ask_from_any_page")
_BATCH = tests_of("clients/clients", "a_batch_answers_for_each_event_in_keens_words_and_nothing_takes_anything_along")
_FULL = tests_of("clients/clients", "a_batch_keeps_what_could_be_stored_when_the_rest_could_not")
_BEACON = tests_of("clients/clients", "an_image_beacon_stores_its_event_and_answers_a_pixel")
_BEACON_KEY = tests_of("clients/clients", "a_beacon_needs_the_write_key_and_an_event")
_REDIRECT = tests_of("clients/clients", "a_beacon_redirects_nowhere_else_and_stores_nothing_then")
_LEFT = tests_of("extractions/going_on", "the_work_of_a_client_that_left_is_cancelled_whether_it_runs_or_waits")
_MACHINE = tests_of("extractions/going_on", "a_machine_that_is_full_is_no_fault_of_the_service")
_UNIQUE = tests_of("extractions/going_on", "unique_values_are_bounded_in_bytes_and_repeated_ones_are_not_counted_twice")
_PLACES = tests_of("http/connections", "who_gives_way_to_whom")
_JUST_COME = tests_of("http/connections", "one_that_has_just_come_is_not_taken_for_a_silent_one")
_HEAD = tests_of("http/connections", "a_head_that_does_not_come_ends_the_connection_with_an_answer")
_BODY = tests_of("http/connections", "a_body_that_stands_still_or_trickles_ends_the_connection_and_stores_nothing")
_UNREAD = tests_of("http/connections", "unread_answers_are_bounded_together_and_the_slowest_reader_goes_first")
_LISTS = tests_of("http/limits", "a_body_of_many_lists_is_refused_before_they_are_made")
_MANY = tests_of("http/limits", "too_many_events_in_one_request_are_refused_whole")
_NEIGHBOUR = tests_of("http/neighbours", "a_damaged_collection_is_listed_with_its_error_and_hides_no_other")
_AWAY = tests_of("http/neighbours", "the_schemas_wait_for_few_collections_that_are_away")

MUTANTS: list[tuple[str, str, str, str]] = [
    # Parameters and bodies.
    (f"{HTTP}/operation.py", "known, body() or absent, most", "known, absent, most", _DELETE_REFUSED),
    (
        f"{HTTP}/parameters.py",
        ', errors="strict"',
        "",
        tests_of("http/bad_input", "an_address_that_is_not_utf_8_asks_for_nothing_and_deletes_nothing"),
    ),
    (
        f"{HTTP}/app.py",
        "raw[:_MAX_PATH_BYTES]",
        "raw",
        tests_of("http/limits", "a_long_address_is_refused_before_it_is_taken_apart"),
    ),
    (
        f"{HTTP}/parameters.py",
        'unknown = sorted(n for n, v in parameters.items() if n not in names and not (n in _OFTEN_ASKED and v in (None, "")))',
        "unknown: list[str] = []",
        _DELETE_REFUSED,
    ),
    (f"{HTTP}/parameters.py", "        if name in made:", "        if False:", _DELETE_REFUSED),
    (f"{HTTP}/parameters.py", "given = parse_json(body, pairs=_once)", "given = parse_json(body)", _DELETE_REFUSED),
    (
        f"{HTTP}/parameters.py",
        "if size > most_bytes:",
        "if False:",
        tests_of("extractions/going_on", "every_parameter_is_bounded_in_bytes"),
    ),
    (f"{HTTP}/bodies.py", "    if len(unpacked) > limit:", "    if False:", _GZIP),
    (f"{HTTP}/bodies.py", "> MAX_CONTAINERS:", "> 2 * MAX_CONTAINERS:", _LISTS),
    (
        f"{HTTP}/operation.py",
        "_PARAMETERS_IN_BODY = 16",
        "_PARAMETERS_IN_BODY = 160",
        tests_of("http/limits", "a_body_of_parameters_is_bounded_before_it_is_read_as_json"),
    ),
    (f"{HTTP}/bodies.py", "    if not whole:", "    if False:", _GZIP),
    (
        f"{HTTP}/app.py",
        'self._service.pending_bodies.release(state.get("body_bytes", 0))',
        "pass",
        tests_of("extractions/going_on", "bodies_are_given_back_when_a_request_ends_however_it_does"),
    ),
    (
        f"{HTTP}/app.py",
        "error_answer(refusal) if twice else app",
        "app",
        tests_of("extractions/going_on", "a_length_said_in_two_ways_is_refused"),
    ),
    # Keys and the table.
    (f"{HTTP}/operation.py", "if self._purpose != MASTER and self._purpose not in purposes:", "if False:", _KEYS),
    (f"{HTTP}/operation.py", "        self.allow(*operation.keys)", "        pass", _KEYS),
    (
        f"{HTTP}/app.py",
        'self._operations["HEAD"] = self._operations["GET"]',
        "pass",
        _DOCUMENT,
    ),
    (f"{HTTP}/app.py", '"this resource does not accept this method", headers={"Allow": self.allow}', '"no"', _ALLOW),
    (f"{HTTP}/openapi.py", 'if operation.method == "GET":', 'if operation.method == "POST":', _DOCUMENT),
    # Clients.
    (f"{HTTP}/app.py", 'quote(unquote(segment, errors="replace"), safe="")', 'unquote(segment, errors="replace")', _NAMES),
    (f"{HTTP}/app.py", 'allow_origins=["*"]', "allow_origins=[]", _PREFLIGHT),
    (f"{HTTP}/app.py", 'allow_headers=["*"]', "allow_headers=[]", _PREFLIGHT),
    (
        f"{HTTP}/resources/events.py",
        "        return [_refused(COLLECTION_NAME, str(error))] * len(events)",
        "        raise",
        _BATCH,
    ),
    (f"{HTTP}/resources/events.py", "                return PROPERTY_NAME", "                return PROPERTY_VALUE", _BATCH),
    (f"{HTTP}/resources/events.py", "            held_up.append(error)", "            raise", _FULL),
    (f"{HTTP}/resources/events.py", "if held_up and len(held_up) == sum(map(bool, batch.values())):", "if False:", _FULL),
    (f"{HTTP}/resources/events.py", '.replace("-", "+").replace("_", "/")', "", _BEACON),
    (f"{HTTP}/resources/events.py", ' + "=" * (-len(text) % 4)', "", _BEACON),
    (
        f"{HTTP}/resources/events.py",
        '.replace(" ", "+")',
        "",
        tests_of("clients/clients", "a_plus_that_the_client_did_not_encode_is_still_a_plus"),
    ),
    (f"{HTTP}/resources/events.py", "if parts.username is not None or host not in", "if host not in", _REDIRECT),
    (f"{HTTP}/resources/events.py", "host not in {one.lower() for one in hosts}", "not host", _REDIRECT),
    (f"{HTTP}/resources/events.py", "    call.allow(WRITE)", "    pass", _BEACON_KEY),
    (f"{HTTP}/resources/events.py", 'if call.request.method == "HEAD":', "if False:", _BEACON_KEY),
    (
        f"{HTTP}/parameters.py",
        'if value not in (None, "", kind):',
        "if False:",
        tests_of("clients/clients", "parameters_that_clients_send_beside_a_query_are_taken"),
    ),
    (
        f"{HTTP}/resources/collections.py",
        "                if name in parameters and not meant:",
        "                if False:",
        _DELETE_REFUSED,
    ),
    (
        f"{HTTP}/parameters.py",
        "if parameter.required and",
        "if False and",
        tests_of("http/bad_input", "wrong_parameters"),
    ),
    # Going on.
    (f"{HTTP}/lanes.py", "            left.set()\n", "", _LEFT),
    (f"{HTTP}/lanes.py", "            scope.cancel()  # it may still wait for a thread", "            pass", _LEFT),
    (
        f"{HTTP}/lanes.py",
        "if limiter.statistics().tasks_waiting >= MAX_WAITING:",
        "if False:",
        tests_of("extractions/going_on", "work_of_one_kind_keeps_no_other_waiting_and_too_much_of_it_is_turned_away"),
    ),
    (f"{HTTP}/answers.py", "if is_disk_full(error):", "if False:", _MACHINE),
    (f"{HTTP}/answers.py", "_RETRY_SECONDS.get(status) if after is None else after", "after", _MACHINE),
    (
        f"{HTTP}/resources/queries.py",
        "analyses.count_unique(cursor, selection, target)",
        "len(analyses.unique_values(cursor, selection, target, call.service.config.max_answer_bytes))",
        _UNIQUE,
    ),
    (
        "keen_pipeline/mail.py",
        "and not smtp.starttls and not smtp.insecure_login",
        "and False",
        tests_of("extractions/mail", "a_password_is_not_sent_in_clear_unless_that_is_said"),
    ),
    # Connections.
    (f"{HTTP}/server/connections.py", "            victim.abort()", "            pass", _PLACES),
    (f"{HTTP}/server/connections.py", "if len(neighbours) < self._most_per_address:", "if True:", _PLACES),
    (f"{HTTP}/server/connections.py", "0 if since <= time.monotonic() - self._grace else 2", "2", _JUST_COME),
    (f"{HTTP}/server/connections.py", "0 if since <= time.monotonic() - self._grace else 2", "0", _JUST_COME),
    (f"{HTTP}/server/connections.py", "if len(self) >= self._most else {}", "if False else {}", _PLACES),
    (f"{HTTP}/server/protocol.py", "            self._refuse(408)", "            pass", _HEAD),
    (f"{HTTP}/server/protocol.py", "            self._look_at_body(now)", "            pass", _BODY),
    (
        f"{HTTP}/server/protocol.py",
        "if self.unread_since is not None:",
        "if False:",
        tests_of("http/connections", "a_reader_that_reads_nothing_is_let_go"),
    ),
    (
        f"{HTTP}/server/protocol.py",
        "if self._unread_bytes - self.unread_bytes() < (now",
        "if 0 < (now",
        tests_of("http/connections", "a_slow_but_steady_reader_gets_the_whole_answer"),
    ),
    (f"{HTTP}/server/connections.py", "        self._give_up_unread()", "        pass", _UNREAD),
    (
        f"{HTTP}/server/connections.py",
        "key=lambda one: one.unread_since or 0",
        "key=lambda one: -(one.unread_since or 0)",
        _UNREAD,
    ),
    (f"{HTTP}/resources/events.py", "100_000, 5000", "100_001, 5001", _MANY),
    (
        f"{HTTP}/resources/collections.py",
        "            if size > limit:",
        "            if False:",
        tests_of("http/limits", "schemas_larger_than_an_answer_are_refused_together_and_given_one_by_one"),
    ),
    (
        f"{HTTP}/server/protocol.py",
        "SLOWEST = 1024",
        "SLOWEST = 102_400",
        tests_of("http/connections", "a_slow_but_steady_body_is_taken"),
    ),
    (
        f"{HTTP}/server/protocol.py",
        "status = status if status in _ANSWERS else 400",
        "status = 400",
        tests_of("http/protocol", "what_is_no_request_is_refused_as_everything_else_is"),
    ),
    (
        f"{HTTP}/server/protocol.py",
        "        self._hold_head(0)\n",
        "",
        tests_of("http/connections", "half_heads_are_bounded_together_and_whole_ones_are_answered"),
    ),
    (
        f"{HTTP}/server/serve.py",
        "    os.umask(0o077)",
        "    os.umask(0o022)",
        tests_of("storage/processes", "everything_it_makes_is_its_owners_alone"),
    ),
    (
        f"{HTTP}/server/serve.py",
        "if config.host in _LOOPBACK:",
        "if True:",
        tests_of("storage/processes", "no_link_with_a_key_is_printed_for_other_machines"),
    ),
    (
        f"{HTTP}/resources/discovery.py",
        " frame-ancestors 'none'",
        "",
        tests_of("http/page", "a_browser_gets_the_page_and_others_the_versions"),
    ),
    # One bad neighbour, several processes, clocks.
    (f"{HTTP}/resources/collections.py", "if broken and len(broken) == len(names):", "if False:", _NEIGHBOUR),
    (f"{HTTP}/resources/collections.py", " > MOST_AWAY:", " > 9 * MOST_AWAY:", _AWAY),
    (f"{HTTP}/app.py", ' or b"/"\n', "\n", tests_of("http/protocol", "a_target_in_the_absolute_form_is_its_path_and_its_host")),
    ("keen_pipeline/mail.py", "|relay", "", tests_of("extractions/mail", "a_mail_that_is_refused_for_good_is_tried_once")),
    (
        "keen_pipeline/mail.py",
        "550 <= code < 560",
        "500 <= code",
        tests_of("extractions/mail", "a_mail_that_is_refused_for_good_is_tried_once"),
    ),
    (
        "keen_pipeline/service/http/answers.py",
        "as_text(message[:MAX_MESSAGE_CHARACTERS])",
        "as_text(message)",
        "keen_pipeline_tests/service/http/test_protocol.py -k bounded_part",
    ),
    (
        "keen_pipeline/service/http/answers.py",
        "str(math.ceil(after))",
        "str(int(after))",
        "keen_pipeline_tests/service/http/test_protocol.py -k come_too_early",
    ),
    (
        "keen_pipeline/service/events/analyses.py",
        """        if names == "v2" and path in (CREATED_AT, EVENT_ID):
            continue
""",
        "",
        "keen_pipeline_tests/service/http/test_neighbours.py -k file_of_its_version",
    ),
    (
        "keen_pipeline/service/http/server/protocol.py",
        "            self._body_since += 1  # it is us who do not read",
        "            pass",
        "keen_pipeline_tests/service/http/test_connections.py -k we_do_not_read",
    ),
    (
        "keen_pipeline/service/http/bodies.py",
        """    if announced.isdigit() and int(announced) > limit:
        raise BodyTooLargeError(f"the body has {announced} bytes, the limit is {limit}")
""",
        "",
        "keen_pipeline_tests/service/http/test_connections.py -k announced_too_large",
    ),
    (
        "keen_pipeline/service/config.py",
        "return min(100_000, max(self.max_list, self.max_queue))",
        "return min(100_000, self.max_list)",
        "keen_pipeline_tests/service/http/test_limits.py -k all_that_may_be_open",
    ),
    (
        "keen_pipeline/service/http/parameters.py",
        """        _check_text(found)
        return found""",
        "        return found",
        "keen_pipeline_tests/service/http/test_bad_input.py -k wrong_parameters",
    ),
    (
        "keen_pipeline/service/config.py",
        'high = self.max_body_bytes if one.name == "max_event_bytes" else high',
        "high = high",
        "keen_pipeline_tests/service/http/test_limits.py -k no_event_may",
    ),
    (
        "keen_pipeline/service/events/incoming.py",
        "if header is not None and (not isinstance(header, Mapping) or set(header) - _GIVEN):",
        "if header is not None and not isinstance(header, Mapping):",
        "keen_pipeline_tests/service/http/test_bad_input.py -k v2",
    ),
    (
        "keen_pipeline/service/http/parameters.py",
        "    if not isinstance(names, list) or not 1 <= len(names) <= MAX_PROPERTY_NAMES or not",
        "    if not isinstance(names, list) or not 1 <= len(names) or not",
        "keen_pipeline_tests/service/http/test_bad_input.py -k wrong_parameters",
    ),
    (
        "keen_pipeline/service/events/incoming.py",
        "            self._columns.forget(list(self._columns.new)[seen_before:])\n",
        "",
        "keen_pipeline_tests/service/http/test_bad_input.py -k leaves_no_property",
    ),
    (
        "keen_pipeline/service/http/server/serve.py",
        "if limit is None or self._service.open_requests or time",
        "if limit is None or time",
        "keen_pipeline_tests/service/storage/test_processes.py -k nobody_asks",
    ),
]

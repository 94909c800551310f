"""Small wrong changes of client and transfer, each with a test that must notice it: (file, old text, new text, pytest target)."""

from __future__ import annotations

_CLIENT, _TRANSFER = "keen_pipeline/client", "keen_pipeline/landing/transfer"
_TESTS, _LANDING = "keen_pipeline_tests/client", "keen_pipeline_tests/landing"
_CALLS, _ANSWERS = f"{_TESTS}/test_calls.py", f"{_TESTS}/test_answers.py"
_RESULTS, _ADDRESSES = f"{_TESTS}/test_results.py", f"{_TESTS}/test_addresses.py"
_PROXIES, _TIMES, _WORDS = f"{_TESTS}/test_proxies.py", f"{_TESTS}/test_times.py", f"{_TESTS}/test_words.py"
_REDIRECTS, _DOWNLOAD = f"{_TESTS}/test_redirects.py", f"{_LANDING}/transfer/test_download.py"

MUTANTS: list[tuple[str, str, str, str]] = [
    # What is the rest of the same file.
    (
        f"{_CLIENT}/results/opening.py",
        "int(match[1]) != offset",
        "False",
        f"{_RESULTS}::test_part_that_is_not_the_rest_of_the_same_file_is_refused_by_itself",
    ),
    (
        f"{_CLIENT}/results/opening.py",
        "int(match[2]) + 1 != int(match[3])",
        "False",
        f"{_RESULTS}::test_part_that_is_not_the_rest_of_the_same_file_is_refused_by_itself",
    ),
    (
        f"{_CLIENT}/results/opening.py",
        "found is not None and found != validator",
        "False",
        f"{_RESULTS}::test_part_that_is_not_the_rest_of_the_same_file_is_refused_by_itself",
    ),
    (
        f"{_CLIENT}/results/opening.py",
        'headers["If-Range"] = validator',
        "pass",
        f"{_RESULTS}::test_range_is_asked_for_with_the_validator",
    ),
    (f"{_CLIENT}/results/opening.py", """etag.startswith('"') and""", "", f"{_RESULTS}::test_only_a_strong_validator_is_used"),
    (
        f"{_TRANSFER}/download.py",
        "self._total in (None, stream.total)",
        "True",
        f"{_DOWNLOAD}::test_part_of_another_form_is_never_appended",
    ),
    (
        f"{_TRANSFER}/download.py",
        "stream.encoding == self._content_encoding",
        "True",
        f"{_DOWNLOAD}::test_part_of_another_form_is_never_appended",
    ),
    (
        f"{_TRANSFER}/download.py",
        "stream.start == self._intake.received",
        "True",
        f"{_DOWNLOAD}::test_part_of_another_form_is_never_appended",
    ),
    (
        f"{_TRANSFER}/download.py",
        "received != self._total",
        "False",
        f"{_DOWNLOAD}::test_body_that_is_shorter_than_the_file_is_begun_again",
    ),
    (
        f"{_TRANSFER}/download.py",
        "        self._stage.truncate()\n",
        "",
        f"{_DOWNLOAD}::test_whole_file_instead_of_its_rest_replaces_what_came",
    ),
    (
        f"{_TRANSFER}/download.py",
        "self._validator = None  # its decoder",
        "pass  # its decoder",
        f"{_DOWNLOAD}::test_damaged_coding_is_begun_again",
    ),
    (
        f"{_TRANSFER}/download.py",
        "if self._intake.failed:",
        "if False:",
        f"{_DOWNLOAD}::test_stage_that_fails_is_not_taken_for_a_broken_connection",
    ),
    # What is a whole body.
    (
        f"{_CLIENT}/results/body.py",
        'raise TransferError("results: they ended before their announced length")',
        "return self._end()",
        f"{_RESULTS}::test_body_that_is_not_whole_is_refused_by_itself",
    ),
    (
        f"{_CLIENT}/results/body.py",
        "        if surplus:\n",
        "        if False:\n",
        f"{_RESULTS}::test_body_that_is_not_whole_is_refused_by_itself",
    ),
    (
        f"{_CLIENT}/results/body.py",
        'if not line.endswith(b"\\n"):',
        "if False:",
        f"{_RESULTS}::test_body_that_is_not_whole_is_refused_by_itself",
    ),
    (
        f"{_CLIENT}/results/body.py",
        'if not self._first_chunk and self._line() != b"":',
        "if not self._first_chunk and self._line() is None:",
        f"{_RESULTS}::test_body_that_is_not_whole_is_refused_by_itself",
    ),
    (
        f"{_CLIENT}/results/body.py",
        "for _ in range(_MOST_TRAILERS):",
        "while True:",
        f"{_RESULTS}::test_body_that_is_not_whole_is_refused_by_itself",
    ),
    (
        f"{_CLIENT}/connection.py",
        "self.context.wrap_socket(sock, server_hostname=host, suppress_ragged_eofs=False)",
        "self.context.wrap_socket(sock, server_hostname=host)",
        f"{_TIMES}::test_tls_that_is_cut_without_its_closing_alert_is_no_end",
    ),
    (
        f"{_TRANSFER}/intake.py",
        "if self._gunzip is not None and not self._gunzip.whole:",
        "if False:",
        f"{_LANDING}/transfer/test_faults.py::test_refused_transfer_names_the_error_and_leaves_the_older_file",
    ),
    # Time.
    (
        f"{_CLIENT}/connection.py",
        "self._sock.settimeout(min(self._read_timeout, left))",
        "self._sock.settimeout(self._read_timeout)",
        f"{_TIMES}::test_whole_time_is_over_within_a_wait_for_one_byte",
    ),
    (
        f"{_CLIENT}/connection.py",
        "        if left > 0:\n            self._sock.settimeout(min(self._read_timeout, left))",
        "        left = max(left, 1)\n        if left > 0:\n            self._sock.settimeout(min(self._read_timeout, left))",
        f"{_TIMES}::test_head_without_an_end_is_over_in_time",
    ),
    (
        f"{_CLIENT}/results/opening.py",
        "connection.channel.limit(limits.transfer)",
        "pass",
        f"{_TIMES}::test_transfer_may_take_longer_than_a_call",
    ),
    (
        f"{_CLIENT}/transport.py",
        "connection.channel.limit(self._total_timeout, deadline)",
        "pass",
        f"{_TIMES}::test_head_without_an_end_is_over_in_time",
    ),
    (
        f"{_CLIENT}/connection.py",
        "connection.channel.limit(min(self.limits.connect, deadline - time.monotonic()))",
        "pass",
        f"{_PROXIES}::test_tunnel_that_never_answers_ends_in_time",
    ),
    (
        f"{_CLIENT}/transport.py",
        "if kept.channel.is_idle():",
        "if True:",
        f"{_TIMES}::test_kept_connection_that_the_service_has_closed_is_not_used",
    ),
    (
        f"{_CLIENT}/transport.py",
        "if kept and len(self._idle) < _MOST_IDLE:",
        "if False:",
        f"{_TIMES}::test_connection_is_kept_between_two_calls",
    ),
    (
        f"{_TRANSFER}/download.py",
        "connections >= MOST_CONNECTIONS",
        "False",
        f"{_DOWNLOAD}::test_connections_have_a_bound_though_each_brings_a_byte",
    ),
    (
        f"{_TRANSFER}/download.py",
        "failures = 1 if self._furthest > before else failures + 1",
        "failures = failures + 1",
        f"{_DOWNLOAD}::test_cuts_that_each_bring_a_byte_are_not_in_a_row",
    ),
    # Where a results URL may lead.
    (
        f"{_CLIENT}/results/opening.py",
        'if url.lower().startswith("https:") and not target',
        'if url.lower().startswith("httpx:") and not target',
        f"{_RESULTS}::test_redirect_from_https_to_http_is_not_followed",
    ),
    (
        f"{_CLIENT}/results/opening.py",
        "place == split_url(self.base_url)[1]",
        "True",
        f"{_RESULTS}::test_key_goes_only_to_the_services_own_origin",
    ),
    (
        f"{_CLIENT}/keen.py",
        "is_private_host(split_url(self.base_url)[1].host)",
        "True",
        f"{_ADDRESSES}::test_loopback_is_refused_for_a_public_service_whatever_its_name_resolves_to",
    ),
    (
        f"{_CLIENT}/address.py",
        "if any(is_never_followed(address) for address in addresses):",
        "if False:",
        f"{_ADDRESSES}::test_addresses_of_credentials_are_never_followed",
    ),
    (
        f"{_CLIENT}/address.py",
        "found.extend(address.teredo)",
        "pass",
        f"{_ADDRESSES}::test_which_addresses_are_public_and_which_are_never_followed",
    ),
    (
        f"{_CLIENT}/address.py",
        "without = address.packed[:8] + address.packed[9:]",
        "without = address.packed",
        f"{_ADDRESSES}::test_which_addresses_are_public_and_which_are_never_followed",
    ),
    (
        f"{_CLIENT}/address.py",
        "_is_in(address, _MAYBE_PUBLIC) and ",
        "",
        f"{_ADDRESSES}::test_which_addresses_are_public_and_which_are_never_followed",
    ),
    (f"{_CLIENT}/address.py", "() if by_proxy else ips", "()", f"{_ADDRESSES}::test_connection_goes_to_the_checked_address"),
    (
        f"{_CLIENT}/address.py",
        'return "." not in name or name.endswith(_PRIVATE_SUFFIXES)',
        'return "." not in name',
        f"{_ADDRESSES}::test_private_name_is_refused_though_a_proxy_resolves_it",
    ),
    (
        f"{_CLIENT}/address.py",
        "socket.inet_aton(host)",
        "socket.inet_pton(socket.AF_INET, host)",
        f"{_ADDRESSES}::test_private_address_in_any_spelling_is_refused",
    ),
    # What an answer says.
    (
        f"{_CLIENT}/wire.py",
        "identity = _identity(one, clean)\n        try:",
        "try:\n            identity = _identity(one, clean)",
        f"{_ANSWERS}::test_undocumented_answer_is_unreadable",
    ),
    (
        f"{_CLIENT}/wire.py",
        "RemoteStatus.PENDING, message=",
        "RemoteStatus.FAILED, message=",
        f"{_ANSWERS}::test_entry_of_a_list_that_is_unreadable_waits_and_says_why",
    ),
    (f"{_CLIENT}/wire.py", "or clean(identity) != identity", "", f"{_ANSWERS}::test_undocumented_answer_is_unreadable"),
    (f"{_CLIENT}/wire.py", "not 0 <= number < 2**63", "number < 0", f"{_ANSWERS}::test_undocumented_answer_is_unreadable"),
    (
        f"{_CLIENT}/refusals.py",
        "if known and 400 <= status < 500:",
        "if 400 <= status < 500:",
        f"{_ANSWERS}::test_answer_that_is_not_keens_says_nothing_about_an_extraction",
    ),
    (
        f"{_CLIENT}/refusals.py",
        "if status == 404 and known:",
        "if status == 404:",
        f"{_ANSWERS}::test_answer_that_is_not_keens_says_nothing_about_an_extraction",
    ),
    (
        f"{_CLIENT}/transport.py",
        '(call.method == "GET" and not unread)',
        "not unread",
        f"{_CALLS}::test_post_is_never_repeated_after_an_ambiguous_failure",
    ),
    (
        f"{_CLIENT}/transport.py",
        "if response.length and len(body) <= LARGEST_ANSWER_BYTES:",
        "if False:",
        f"{_ANSWERS}::test_cut_answer_of_a_get_is_repeated",
    ),
    (
        f"{_CLIENT}/transport.py",
        'if split_url(target, f"{subject}: what the service redirects to")[1] != self._place:',
        "if False:",
        f"{_REDIRECTS}::test_key_never_goes_to_another_host",
    ),
    (
        f"{_CLIENT}/transport.py",
        "if len(body) > LARGEST_ANSWER_BYTES:",
        "if False:",
        f"{_ANSWERS}::test_zipped_answer_is_bounded_as_unzipped",
    ),
    (
        f"{_CLIENT}/results/document.py",
        "    if _JSON.match(text) or (whole and _is_json(text)):\n",
        "    if whole and _is_json(text):\n",
        f"{_RESULTS}::test_what_is_no_csv_is_refused_with_its_words",
    ),
    (
        f"{_CLIENT}/results/document.py",
        "    if _DOCUMENTS.match(kind):\n",
        "    if False:\n",
        f"{_RESULTS}::test_what_is_no_csv_is_refused_with_its_words",
    ),
    (
        f"{_CLIENT}/results/document.py",
        "if _COLUMN_OF_KEEN.search(first):",
        "if False:",
        f"{_RESULTS}::test_what_may_be_a_csv_is_taken",
    ),
    # Secrets, words, bounds.
    (
        f"{_CLIENT}/scrub.py",
        "len(secret) >= SHORTEST_SECRET",
        "len(secret) >= 1",
        f"{_WORDS}::test_a_key_of_few_letters_takes_no_words_out",
    ),
    (f"{_CLIENT}/scrub.py", "%(?:25)*", "%(?:26)*", f"{_WORDS}::test_words_are_cleaned_of_what_is_not_for_readers"),
    (f"{_CLIENT}/scrub.py", "else '|$'", "else ''", f"{_WORDS}::test_words_are_cleaned_of_what_is_not_for_readers"),
    (f"{_CLIENT}/scrub.py", "key=len, reverse=True", "key=len", f"{_WORDS}::test_words_are_cleaned_of_what_is_not_for_readers"),
    (f"{_CLIENT}/scrub.py", 'frozenset({"Cc", "Cf", "Cs", "Co", "Cn"})', 'frozenset({"Cc", "Cf"})', f"{_WORDS}"),
    (f"{_CLIENT}/scrub.py", 'key = (key or "").strip()', 'key = key or ""', f"{_CALLS}::test_key_is_stripped_at_the_door"),
    (
        f"{_CLIENT}/scrub.py",
        '"!" <= character <= "~"',
        '"!" <= character',
        f"{_CALLS}::test_key_that_no_header_can_carry_is_refused_by_name",
    ),
    (
        f"{_CLIENT}/wire.py",
        "message=None if message is None else clean(str(message))",
        "message=None if message is None else str(message)",
        f"{_WORDS}::test_messages_of_extractions_are_cleaned",
    ),
    (f"{_CLIENT}/refusals.py", "scrub(code)[:100]", "code", f"{_WORDS}::test_words_of_refusals_are_cleaned"),
    (
        f"{_CLIENT}/keen.py",
        "Scrubber((*keys, *connector.proxies.secrets))",
        "Scrubber(keys)",
        f"{_PROXIES}::test_proxys_password_shows_nowhere",
    ),
    (
        f"{_CLIENT}/proxy.py",
        'return name == "*" or',
        "return",
        f"{_PROXIES}::test_no_proxy_is_read_in_every_usual_form",
    ),
    (
        f"{_CLIENT}/proxy.py",
        "if address is not None:",
        "if False:",
        f"{_PROXIES}::test_no_proxy_is_a_list_of_hosts_and_networks",
    ),
    (
        f"{_CLIENT}/connection.py",
        'headers=proxy.headers | {"Host"',
        'headers={"Host"',
        f"{_PROXIES}::test_tls_goes_through_a_tunnel_end_to_end",
    ),
    (
        f"{_TRANSFER}/intake.py",
        "        check_size(self.bytes)\n",
        "",
        f"{_DOWNLOAD}::test_result_has_a_bound_that_the_error_names",
    ),
    (
        f"{_TRANSFER}/intake.py",
        "        check_size(self.received)\n",
        "",
        f"{_DOWNLOAD}::test_result_has_a_bound_that_the_error_names",
    ),
    (
        f"{_TRANSFER}/download.py",
        "        check_size(stream.total)\n",
        "",
        f"{_DOWNLOAD}::test_bound_is_100_gigabytes_by_default",
    ),
    (
        f"{_TRANSFER}/download.py",
        "wait > LONGEST_WAIT_SECONDS",
        "False",
        f"{_DOWNLOAD}::test_waits_grow_and_a_long_wish_is_the_callers",
    ),
    (
        "keen_pipeline/client/transport.py",
        "max(0.0, deadline - time.monotonic() - answering)",
        "max(0.0, deadline - time.monotonic())",
        "keen_pipeline_tests/client/test_times.py -k time_for_an_answer",
    ),
    (
        "keen_pipeline/client/transport.py",
        'if "@" in parts.netloc or parts.query or parts.fragment:',
        'if "@" in parts.netloc or parts.query:',
        "keen_pipeline_tests/client/test_calls.py -k must_be_plain",
    ),
    (
        "keen_pipeline/client/transport.py",
        'error.args = (f"{call.subject}: {error}",)',
        "pass",
        "keen_pipeline_tests/client/test_calls.py -k no_connection_came_up",
    ),
]

"""Mutations of the service's folder, its connections and its bounds, as those of `service_http`."""

from __future__ import annotations

from keen_pipeline_tests.mutants.groups.service import HTTP, SERVICE, tests_of

MUTANTS: list[tuple[str, str, str, str]] = [
    (
        f"{SERVICE}/endpoint.py",
        "    if there and not ours and load_credentials(data) is None:",
        "    if False:",
        tests_of("storage/processes", "a_folder_that_holds_other_things_is_refused_and_nothing_of_it_is_touched"),
    ),
    (
        f"{SERVICE}/embedded.py",
        "start(data, others=True)",
        "start(data)",
        tests_of("storage/users", "commands_at_once_share_a_service_that_ends_with_the_last_of_them_however_they_end"),
    ),
    (
        f"{SERVICE}/embedded.py",
        "while runs() and not is_used(data):",
        "while runs():",
        tests_of("storage/users", "commands_at_once_share_a_service_that_ends_with_the_last_of_them_however_they_end"),
    ),
    (
        f"{SERVICE}/embedded.py",
        "            left.callback(_leave, data)\n",
        "            pass\n",
        tests_of("storage/users", "commands_at_once_share_a_service_that_ends_with_the_last_of_them_however_they_end"),
    ),
    (
        f"{SERVICE}/embedded.py",
        "if found is not None and not _used_here[data]:",
        "if False:",
        tests_of("storage/users", "a_process_of_dagster_s_keeps_the_service_of_a_command_that_ends_before_it"),
    ),
    (
        f"{HTTP}/server/serve.py",
        "with unused(self._service.config.data):  #",
        "with contextlib.nullcontext():  #",
        tests_of("storage/users", "commands_at_once_share_a_service_that_ends_with_the_last_of_them_however_they_end"),
    ),
    (
        f"{SERVICE}/embedded.py",
        "(written.project_id, data.stat().st_ino)",
        "(written.project_id, _health_at(written.url)[1])",
        tests_of("storage/processes", "a_copy_of_a_running_folder_is_another_service"),
    ),
    (
        f"{SERVICE}/storage/folder/tables.py",
        '    _check_hint(log / "_last_checkpoint")\n',
        "",
        tests_of("storage/tables_of_others", "a_hint_to_a_checkpoint_that_the_copy_lacks_is_no_loss"),
    ),
    (
        f"{SERVICE}/storage/tables.py",
        "state = self._state = read_state(delta)",
        "state = read_state(delta)",
        tests_of("storage/tables", "a_commit_whose_end_can_not_be_seen_is_known_to_the_next_one"),
    ),
    (
        f"{SERVICE}/storage/store.py",
        "if logs and not self._reserved:",
        "if logs:",
        tests_of("http/limits", "many_events_with_a_thousand_properties_are_extracted_at_once"),
    ),
    (
        f"{SERVICE}/events/query.py",
        "if len(made.sql) > MAX_SQL_CHARACTERS:",
        "if False:",
        tests_of("http/bad_input", "filters_that_take_minutes_to_plan_are_refused_and_many_usual_ones_are_not"),
    ),
    (
        f"{HTTP}/server/protocol.py",
        "self._since = time.monotonic() if self.conn.trailing_data[0] else None",
        "self._since = time.monotonic()",
        tests_of("http/connections", "between_two_requests_a_connection_stays_open_and_owes_no_head"),
    ),
    (
        f"{HTTP}/server/protocol.py",
        "        if self._since is None:\n            self._since = time.monotonic()\n",
        "",
        tests_of("http/connections", "between_two_requests_a_connection_stays_open_and_owes_no_head"),
    ),
    (
        f"{HTTP}/server/serve.py",
        "call_later(SHUTDOWN_SECONDS * 0.8, cancel.start)",
        "call_later(SHUTDOWN_SECONDS * 8, cancel.start)",
        tests_of("http/connections", "a_request_that_a_shutdown_cuts_off_is_told_to_come_again"),
    ),
    (
        f"{SERVICE}/storage/folder/event_log.py",
        "        self._presence.check()\n        active",
        "        active",
        tests_of("storage/removed", "what_is_gone_is_named_and_what_is_stored_is_there_when_it_is_put_back"),
    ),
    (
        f"{SERVICE}/storage/folder/state.py",
        "            self._presence.check()\n            return",
        "            return",
        tests_of("storage/removed", "what_is_gone_is_named_and_what_is_stored_is_there_when_it_is_put_back"),
    ),
    (
        f"{SERVICE}/storage/tables.py",
        "if self._state is not None and self._state is not EMPTY:  #",
        "if False:  #",
        tests_of("storage/removed", "what_is_gone_is_named_and_what_is_stored_is_there_when_it_is_put_back"),
    ),
    (
        f"{HTTP}/server/serve.py",
        "if (found := embedded.find(config.data)) is not None:  #",
        "if (found := None) is not None:  #",
        tests_of("storage/removed", "a_lock_that_somebody_removed_lets_no_second_service_in"),
    ),
    (
        f"{SERVICE}/storage/files.py",
        "raise damaged(file) from error",
        "raise",
        tests_of("storage/tables_of_others", "a_damaged_file_is_named_its_events_can_be_given_up_and_others_are_read"),
    ),
    (
        f"{SERVICE}/storage/shared/cache.py",
        "            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)  #",
        "            #",
        tests_of("storage/catalogue", "a_data_folder_that_was_emptied_is_not_taken_for_a_storage_that_has_lost_files"),
    ),
    (
        "keen_pipeline/service/storage/files.py",
        "            _check_number(path, written, events)\n",
        "",
        "keen_pipeline_tests/service/storage/test_engine.py -k fewer_events",
    ),
    (
        "keen_pipeline/service/credentials.py",
        "    if len({made.read_key, made.write_key, made.master_key}) < 3:",
        "    if made.read_key == made.write_key:",
        "keen_pipeline_tests/service/storage/test_processes.py -k no_two_keys",
    ),
    (
        "keen_pipeline/service/storage/files.py",
        "if events > MAX_EVENTS or size > MAX_BYTES or (",
        "if events > MAX_EVENTS or (",
        "keen_pipeline_tests/service/storage/test_engine.py -k beyond_the_largest",
    ),
    (
        "keen_pipeline/service/storage/engine.py",
        "lambda: self._waiting[0] is ticket and self._used + amount <= self._mib",
        "lambda: self._used + amount <= self._mib",
        "keen_pipeline_tests/service/storage/test_engine.py -k order_of_arrival",
    ),
]

"""Mutations of the service's folder, its connections and its bounds, as those of `service_http`."""

from __future__ import annotations

_HTTP, _SERVICE = "keen_pipeline/service/http", "keen_pipeline/service"


def _test(module: str, *names: str) -> str:
    return " ".join(f"keen_pipeline_tests/service/test_{module}.py::test_{name}" for name in names)


MUTANTS: list[tuple[str, str, str, str]] = [
    (
        f"{_SERVICE}/endpoint.py",
        "    _see_that_it_is_ours(data)\n",
        "",
        _test("processes", "a_folder_that_holds_other_things_is_refused_and_nothing_of_it_is_touched"),
    ),
    (
        f"{_SERVICE}/embedded.py",
        "(written.project_id, data.stat().st_ino)",
        "(written.project_id, _health_at(written.url)[1])",
        _test("processes", "a_copy_of_a_running_folder_is_another_service"),
    ),
    (
        f"{_SERVICE}/storage/folder.py",
        '    _check_hint(log / "_last_checkpoint")\n',
        "",
        _test("tables_of_others", "a_hint_to_a_checkpoint_that_the_copy_lacks_is_no_loss"),
    ),
    (
        f"{_SERVICE}/storage/tables.py",
        "state = self._state = read_state(delta)",
        "state = read_state(delta)",
        _test("tables", "a_commit_whose_end_can_not_be_seen_is_known_to_the_next_one"),
    ),
    (
        f"{_SERVICE}/storage/store.py",
        "if logs and not self._reserved:",
        "if logs:",
        _test("limits", "many_events_with_a_thousand_properties_are_extracted_at_once"),
    ),
    (
        f"{_SERVICE}/events/query.py",
        "if len(made.sql) > MAX_SQL_CHARACTERS:",
        "if False:",
        _test("bad_input", "filters_that_take_minutes_to_plan_are_refused_and_many_usual_ones_are_not"),
    ),
    (
        f"{_HTTP}/protocol.py",
        "self._since = time.monotonic() if self.conn.trailing_data[0] else None",
        "self._since = time.monotonic()",
        _test("connections", "between_two_requests_a_connection_stays_open_and_owes_no_head"),
    ),
    (
        f"{_HTTP}/protocol.py",
        "        if self._since is None:\n            self._since = time.monotonic()\n",
        "",
        _test("connections", "between_two_requests_a_connection_stays_open_and_owes_no_head"),
    ),
    (
        f"{_HTTP}/server.py",
        "call_later(SHUTDOWN_SECONDS * 0.8, cancel.start)",
        "call_later(SHUTDOWN_SECONDS * 8, cancel.start)",
        _test("connections", "a_request_that_a_shutdown_cuts_off_is_told_to_come_again"),
    ),
]

"""Mutations of the ledger's landings, its workers, its budget and its scopes."""

from __future__ import annotations

_RULES = "keen_pipeline_tests/contract/ledger/test_rules.py"
_LEDGER = "keen_pipeline_tests/contract/ledger/test_ledger.py"
_WORKERS = "keen_pipeline_tests/contract/ledger/test_workers.py"
_LIMITER = "keen_pipeline_tests/contract/database/test_limiter.py"
_ORDERS = "keen_pipeline_tests/contract/ledger/test_interleaving.py"
_TROUBLE = "keen_pipeline_tests/contract/database/test_trouble.py"
_SCOPES = "keen_pipeline_tests/contract/ledger/test_scopes.py"
_NOTICES = "keen_pipeline_tests/contract/ledger/test_notices.py"
_RULE = f"{_RULES}::test_a_rule_holds_for_every_status_and_claim"
_SCOPE = f"{_RULES}::test_nothing_touches_another_scope"

MUTANTS: list[tuple[str, str, str, str]] = [
    (
        "keen_pipeline/ledger/ledger.py",
        "sa.and_(is_to_land, self._free_for(None))",
        "sa.and_(is_to_land, sa.true())",
        f"{_RULE} -k dispatch",
    ),
    (
        "keen_pipeline/ledger/ledger.py",
        '"landing_tries": entries.c.landing_tries + 1,',
        '"landing_tries": 1,',
        f"{_RULE} -k landing_failed",
    ),
    (
        "keen_pipeline/ledger/ledger.py",
        "at_work = sa.or_(is_publishing, is_landed, sa.and_(is_stale, is_claimed))",
        "at_work = sa.or_(is_publishing, sa.and_(is_stale, is_claimed))",
        f"{_RULE} -k publishing",
    ),
    (
        "keen_pipeline/ledger/ledger.py",
        "at_work = sa.or_(is_publishing, is_landed, sa.and_(is_stale, is_claimed))",
        "at_work = sa.or_(is_publishing, is_landed)",
        f"{_ORDERS} -k swept_while",
    ),
    (
        "keen_pipeline/ledger/ledger.py",
        "at_work = sa.or_(is_publishing, is_landed, sa.and_(is_stale, is_claimed))",
        "at_work = sa.or_(is_landed, sa.and_(is_stale, is_claimed))",
        f"{_ORDERS} -k older_one",
    ),
    (
        "keen_pipeline/ledger/ledger.py",
        "sa.func.coalesce(entries.c.publisher != worker, sa.false())",
        "sa.false()",
        f"{_ORDERS} -k taken_over",
    ),
    (
        "keen_pipeline/ledger/ledger.py",
        "        lock_rows(connection, scopes.c.id, scopes.c.destination == self.scope.destination)\n",
        "",
        "keen_pipeline_tests/contract/ledger/test_scopes.py -k same_moment",
    ),
    (
        "keen_pipeline/ledger/ledger.py",
        "            self._update_one(connection, entry_id, entries.c.publisher == worker, unproven=sa.true())\n",
        "            pass\n",
        f"{_ORDERS} -k swept_while",
    ),
    (
        "keen_pipeline/ledger/ledger.py",
        '"publisher": None, "claimed_by": claimed_by}',
        '"claimed_by": claimed_by}',
        "keen_pipeline_tests/pipeline/killed/test_fences.py -k late_and_dies",
    ),
    (
        "keen_pipeline/ledger/workers.py",
        "            if worker.is_dead:  # what it",
        "            if True:  # what it",
        "keen_pipeline_tests/pipeline/killed/test_fences.py -k known_to_be_dead",
    ),
    ("keen_pipeline/ledger/ledger.py", "        self._supersede_earlier(connection, landed, now)\n", "", f"{_RULE} -k landed"),
    (
        "keen_pipeline/ledger/ledger.py",
        "sa.case((at_path, now), else_=entries.c.removed_at)",
        "entries.c.removed_at",
        f"{_ORDERS} -k in_its_place",
    ),
    (
        "keen_pipeline/ledger/ledger.py",
        "sa.case((at_path, now), else_=entries.c.removed_at)",
        "now",
        f"{_ORDERS} -k in_its_place",
    ),
    (
        "keen_pipeline/ledger/ledger.py",
        "at_work = entries.c.status.in_([Status.COMPLETE.value, Status.LANDED.value])",
        "at_work = entries.c.status.in_([Status.COMPLETE.value])",
        f"{_RULE} -k mark_unproven",
    ),
    (
        "keen_pipeline/ledger/ledger.py",
        "at_work = entries.c.status.in_([Status.COMPLETE.value, Status.LANDED.value])",
        "at_work = entries.c.status.in_([Status.LANDED.value])",
        f"{_ORDERS} -k a_third",
    ),
    (
        "keen_pipeline/ledger/ledger.py",
        "ended = sa.and_(sa.not_(is_open), entries.c.reported_at.is_(None))",
        "ended = entries.c.reported_at.is_(None)",
        f"{_RULE} -k reported",
    ),
    (
        "keen_pipeline/ledger/ledger.py",
        "if row is None or row.status != Status.LANDED.value or row.attempt >= limits.max_attempts:",
        "if row is None or row.status != Status.LANDED.value or row.attempt > limits.max_attempts:",
        f"{_RULE} -k ask_again",
    ),
    (
        "keen_pipeline/ledger/ledger.py",
        "entries.c.status.in_(_SPLITTABLE), self._free_for(worker))",
        "entries.c.status.in_(_SPLITTABLE), self._mine)",
        f"{_RULE} -k split",
    ),
    (
        "keen_pipeline/ledger/ledger.py",
        "entries.c.status.in_(_SPLITTABLE), self._free_for(worker))",
        "self._free_for(worker))",
        f"{_RULE} -k split",
    ),
    (
        "keen_pipeline/ledger/ledger.py",
        "parent_id = row.parent_id or entry_id",
        "parent_id = entry_id",
        f"{_LEDGER} -k goes_with_its_slices",
    ),
    (
        "keen_pipeline/ledger/ledger.py",
        "entries.c.status == Status.SPLIT.value, self._free_for(worker))",
        "entries.c.status == Status.SPLIT.value, self._mine)",
        f"{_RULE} -k joined",
    ),
    (
        "keen_pipeline/ledger/ledger.py",
        "        if connection.execute(in_use).first() is not None:\n            return None\n",
        "",
        f"{_ORDERS} -k never_swept",
    ),
    (
        "keen_pipeline/ledger/ledger.py",
        "        self._doubt(connection, entry)\n        return False",
        "        return False",
        f"{_RULE} -k removed",
    ),
    ("keen_pipeline/ledger/ledger.py", "sa.not_(is_stale), is_old)", "is_old)", f"{_LEDGER} -k means_nothing"),
    ("keen_pipeline/ledger/ledger.py", "sa.not_(is_stale), is_old)", "sa.not_(is_stale))", f"{_LEDGER} -k means_nothing"),
    ("keen_pipeline/ledger/ledger.py", "entries.c.requested_at < before, ", "", f"{_LEDGER} -k means_nothing"),
    (
        "keen_pipeline/ledger/reader.py",
        "free = sa.and_(in_outbox, entries.c.claimed_by.is_(None))",
        "free = in_outbox",
        f"{_LEDGER} -k with_its_proof",
    ),
    (
        "keen_pipeline/ledger/reader.py",
        "rank = sa.case((is_open, 0), (is_word, 1), else_=2)",
        "rank = sa.case((is_word, 0), else_=2)",
        f"{_LEDGER} -k state_of_each",
    ),
    (
        "keen_pipeline/ledger/reader.py",
        "rank = sa.case((is_open, 0), (c.status == Status.LANDED.value, 1), else_=2)",
        "rank = sa.case((c.status == Status.LANDED.value, 0), else_=2)",
        f"{_LEDGER} -k adopted",
    ),
    (
        "keen_pipeline/ledger/reader.py",
        "parents.c.status.in_([Status.SPLIT.value, Status.COMPLETE.value])",
        "parents.c.status.in_([Status.SPLIT.value])",
        f"{_LEDGER} -k goes_with_its_slices",
    ),
    (
        "keen_pipeline/ledger/reader.py",
        "begins >= start",
        "begins > start",
        f"{_LEDGER} -k beginning_of_their",
    ),
    ("keen_pipeline/ledger/rows.py", '.replace("\\0", "")', "", f"{_TROUBLE} -k clean"),
    ("keen_pipeline/ledger/rows.py", 'text.encode("utf-8", "replace").decode("utf-8")', "text", f"{_TROUBLE} -k clean"),
    (
        "keen_pipeline/ledger/workers.py",
        "abs(now - self.heartbeat_at) > timedelta",
        "now - self.heartbeat_at > timedelta",
        f"{_WORKERS} -k lies_ahead",
    ),
    (
        "keen_pipeline/ledger/workers.py",
        "abs(now - self.heartbeat_at) > timedelta",
        "abs(now - self.heartbeat_at) >= timedelta",
        f"{_WORKERS} -k older_than",
    ),
    (
        "keen_pipeline/ledger/workers.py",
        "return self.is_dead or abs(",
        "return abs(",
        f"{_WORKERS} -k killed",
    ),
    (
        "keen_pipeline/ledger/workers.py",
        "still = sa.and_(workers.c.id == worker.worker_id, workers.c.heartbeat_at == worker.heartbeat_at)",
        "still = workers.c.id == worker.worker_id",
        f"{_WORKERS} -k while_the_others",
    ),
    (
        "keen_pipeline/ledger/workers.py",
        "            self._free(connection, worker.worker_id)\n            if",
        "            if",
        f"{_WORKERS} -k older_than",
    ),
    ("keen_pipeline/ledger/workers.py", 'return state not in "ZX" and', "return", f"{_WORKERS} -k whether_a_process"),
    ("keen_pipeline/ledger/workers.py", "(started is None or started == now_started)", "True", f"{_WORKERS} -k whether_a_process"),
    (
        "keen_pipeline/ledger/workers.py",
        "                    self.id = self._table.register(self._doing)\n",
        "",
        f"{_WORKERS} -k registers_anew",
    ),
    (
        "keen_pipeline/ledger/workers.py",
        "        with suppress(LedgerUnavailableError):\n            self._table.retire(self.id)",
        "        self._table.retire(self.id)",
        f"{_WORKERS} -k without_its_ledger",
    ),
    (
        "keen_pipeline/ledger/limiter.py",
        "longer = max(until, known) if _is_believable(known, now) else until",
        "longer = until",
        f"{_LIMITER} -k shorter",
    ),
    (
        "keen_pipeline/ledger/limiter.py",
        "sa.or_(api_requests.c.sent_at <= now - WINDOW, api_requests.c.sent_at > now)",
        "api_requests.c.sent_at <= now - WINDOW",
        f"{_LIMITER} -k ahead",
    ),
    ("keen_pipeline/ledger/limiter.py", "if count >= self._per_minute:", "if count > self._per_minute:", f"{_LIMITER} -k used_up"),
    ("keen_pipeline/ledger/limiter.py", "paused > now and _is_believable(paused, now)", "paused > now", f"{_LIMITER} -k ahead"),
    (
        "keen_pipeline/ledger/limiter.py",
        "mine = api_requests.c.budget == self._budget",
        "mine = sa.true()",
        f"{_LIMITER} -k its_own",
    ),
    (
        "keen_pipeline/ledger/scopes.py",
        "            if not row.path.startswith(prefix):\n                continue\n",
        "",
        f"{_SCOPES} -k belongs",
    ),
    (
        "keen_pipeline/ledger/scopes.py",
        '    return {**values, "fingerprint": request.fingerprint(scope)}',
        "    return values",
        f"{_SCOPES} -k had_landed",
    ),
    (
        "keen_pipeline/ledger/database/transactions.py",
        '    if "locked" in said or "busy" in said:',
        '    if "busy" in said:',
        f"{_TROUBLE} -k locked",
    ),
    (
        "keen_pipeline/ledger/database/transactions.py",
        '    elif "full" in said:',
        '    elif "void" in said:',
        f"{_TROUBLE} -k full",
    ),
    (
        "keen_pipeline/ledger/notices.py",
        "delete(notices).where(notices.c.ended_at < before)",
        "delete(notices)",
        f"{_NOTICES} -k forgotten",
    ),
    (
        "keen_pipeline/ledger/submissions.py",
        "entries.c.run_id.is_not_distinct_from(run_id), sa.not_(replaces))",
        "entries.c.run_id.is_not_distinct_from(run_id))",
        "keen_pipeline_tests/pipeline/test_configuration.py::test_a_run_stopped_right_after_it_asked_otherwise_leaves_no_day_that_nobody_asks_for",
    ),
    (
        "keen_pipeline/ledger/submissions.py",
        "before.c.status == Status.CANCELLED.value, before.c.error == REPLACED)",
        "before.c.status == Status.CANCELLED.value)",
        "keen_pipeline_tests/pipeline/test_configuration.py::test_a_run_stopped_right_after_it_asked_otherwise_leaves_no_day_that_nobody_asks_for",
    ),
    (
        "keen_pipeline/ledger/ledger.py",
        "if known and _landed_at(known[0]) >= _landed_at(group[-1]):",
        "if known:",
        "keen_pipeline_tests/contract/database/test_restore.py -k landed_since",
    ),
    (
        "keen_pipeline/ledger/reader.py",
        "is_word = sa.and_(c.status.in_(words), c.error.is_distinct_from(REPLACED))",
        "is_word = c.status.in_(words)",
        "keen_pipeline_tests/pipeline/test_configuration.py -k never_landed",
    ),
    (
        "keen_pipeline/ledger/submissions.py",
        "entry = self._newest(connection, [request.place])[request.place]",
        "entry = None",
        "keen_pipeline_tests/pipeline/test_configuration.py -k never_landed",
    ),
    (
        "keen_pipeline/ledger/reader.py",
        "sa.and_(is_landed_slice, sa.not_(needed))",
        "is_landed_slice",
        "keen_pipeline_tests/pipeline/test_slices.py::test_a_slice_that_was_cut_at_the_destination_is_not_joined",
    ),
    (
        "keen_pipeline/ledger/database/transactions.py",
        "            _let_go(error)\n",
        "",
        "keen_pipeline_tests/contract/database/test_trouble.py::test_what_a_signal_interrupts_holds_no_lock_while_its_exception_is_handled",
    ),
    (
        "keen_pipeline/ledger/totals.py",
        "_one_where(sa.and_(failed, e.completed_at.is_not(None)))",
        "_one_where(failed)",
        "keen_pipeline_tests/contract/ledger/test_statistics.py::test_a_life_is_counted_at_each_of_its_steps_and_once",
    ),
    (
        "keen_pipeline/ledger/reader.py",
        "entries.c.token, tokens, self._mine)",
        "entries.c.token, tokens, sa.true())",
        "keen_pipeline_tests/contract/database/test_restore.py -k own_scope",
    ),
    (
        "keen_pipeline/ledger/reader.py",
        "sa.or_(is_open, is_landed, is_stale))",
        "sa.or_(is_open, is_landed))",
        "keen_pipeline_tests/contract/ledger/test_scopes.py -k files_of_others",
    ),
    (
        "keen_pipeline/ledger/ledger.py",
        "ended = sa.and_(sa.not_(is_open), entries.c.reported_at.is_(None))",
        "ended = sa.not_(is_open)",
        "keen_pipeline_tests/contract/ledger/test_ledger.py -k comes_back_with_its_proof",
    ),
    (
        "keen_pipeline/ledger/statistics.py",
        "sent = sa.select(sa.func.count()).where(api_requests.c.budget == budget, api_requests",
        "sent = sa.select(sa.func.count()).where(api_requests",
        "keen_pipeline_tests/contract/ledger/test_statistics.py -k budget_and_its_refusals",
    ),
    (
        "keen_pipeline/ledger/totals.py",
        '"abandoned": _one_where(sa.and_(e.status == Status.ABANDONED.value, e.parent_id.is_(None))),',
        '"abandoned": _one_where(e.status == Status.ABANDONED.value),',
        "keen_pipeline_tests/contract/ledger/test_statistics.py -k with_all_its_slices",
    ),
    (
        "keen_pipeline/ledger/submissions.py",
        'own = {} if waits or entry.status is not Status.REQUESTED else {"run_id": run_id}',
        'own = {} if waits else {"run_id": run_id}',
        "keen_pipeline_tests/contract/ledger/test_ledger.py -k who_does_not_wait",
    ),
    (
        "keen_pipeline/ledger/reader.py",
        "alive = sa.or_(is_open, sa.and_(entries.c.status == Status.LANDED.value, sa.not_(entries.c.unproven)))",
        "alive = sa.or_(is_open, entries.c.status == Status.LANDED.value)",
        "keen_pipeline_tests/contract/ledger/test_scopes.py -k others_at_a_path",
    ),
    (
        "keen_pipeline/ledger/statistics.py",
        "            later.c.scope_id == entries.c.scope_id,\n",
        "",
        "keen_pipeline_tests/contract/ledger/test_statistics.py -k another_scope_asks",
    ),
]

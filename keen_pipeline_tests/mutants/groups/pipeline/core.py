"""Mutations of the one decision, and of the ledger's intents, claims and submissions."""

from __future__ import annotations

_RULES = "keen_pipeline_tests/contract/ledger/test_rules.py"
_LEDGER = "keen_pipeline_tests/contract/ledger/test_ledger.py"
_WORKERS = "keen_pipeline_tests/contract/ledger/test_workers.py"
_LIFECYCLE = "keen_pipeline_tests/unit/test_lifecycle.py"
_RULE = f"{_RULES}::test_a_rule_holds_for_every_status_and_claim"
_SCOPE = f"{_RULES}::test_nothing_touches_another_scope"

MUTANTS: list[tuple[str, str, str, str]] = [
    ("keen_pipeline/lifecycle.py", "if entry.waits(now) else Post()", "if not entry.waits(now) else Post()", _LIFECYCLE),
    ("keen_pipeline/lifecycle.py", "if entry.waits(now) else Land()", "if not entry.waits(now) else Land()", _LIFECYCLE),
    ("keen_pipeline/lifecycle.py", "    if not seen.listed:\n        return Poll()\n", "", _LIFECYCLE),
    ("keen_pipeline/lifecycle.py", "<= UNLISTED_GRACE_SECONDS:", "< UNLISTED_GRACE_SECONDS:", _LIFECYCLE),
    ("keen_pipeline/lifecycle.py", "answered = seen.tick - entry.submitted_tick", "answered = seen.tick", _LIFECYCLE),
    (
        "keen_pipeline/lifecycle.py",
        'return Split(reason) if says_too_large(seen.remote.message or "") else _over(entry, reason, limits)',
        "return _over(entry, reason, limits)",
        _LIFECYCLE,
    ),
    (
        "keen_pipeline/lifecycle.py",
        "if answered >= limits.stuck_seconds:",
        "if answered > limits.stuck_seconds:",
        _LIFECYCLE,
    ),
    (
        "keen_pipeline/lifecycle.py",
        "if answered >= limits.stuck_seconds:",
        "if answered >= UNLISTED_GRACE_SECONDS:",
        _LIFECYCLE,
    ),
    ("keen_pipeline/lifecycle.py", "in (Status.ABANDONED, Status.CANCELLED)]", "in (Status.ABANDONED,)]", _LIFECYCLE),
    ("keen_pipeline/lifecycle.py", "if seen.slices and all(", "if all(", _LIFECYCLE),
    (
        "keen_pipeline/lifecycle.py",
        "or entry.request.kind is Kind.SLICE",
        "or entry.request.kind is not Kind.PARTITION",
        _LIFECYCLE,
    ),
    (
        "keen_pipeline/lifecycle.py",
        "if entry.is_whole is False and policy is CountPolicy.FAIL:",
        "if entry.is_whole is False:",
        _LIFECYCLE,
    ),
    (
        "keen_pipeline/lifecycle.py",
        "if entry.attempt < limits.max_attempts else GiveUp(reason)",
        "if entry.attempt <= limits.max_attempts else GiveUp(reason)",
        _LIFECYCLE,
    ),
    (
        "keen_pipeline/lifecycle.py",
        "return bounds[0] <= self.landing.records <= bounds[1]",
        "return bounds[0] <= self.landing.records",
        _LIFECYCLE,
    ),
    ("keen_pipeline/lifecycle.py", "self.counted if self.expected is None else self.expected", "self.counted", _LIFECYCLE),
    ("keen_pipeline/lifecycle.py", "max(tries, 1) - 1", "max(tries, 1)", _LIFECYCLE),
    ("keen_pipeline/lifecycle.py", "(0.5 + 0.5 * jitter)", "jitter", _LIFECYCLE),
    (
        "keen_pipeline/lifecycle.py",
        "Status.LANDED: frozenset({Status.SUPERSEDED, Status.ABANDONED}),",
        "Status.LANDED: frozenset({Status.SUPERSEDED, Status.ABANDONED, Status.FAILED}),",
        _LIFECYCLE,
    ),
    (
        "keen_pipeline/lifecycle.py",
        "Status.COMPLETE: frozenset({Status.LANDED, Status.SPLIT,",
        "Status.COMPLETE: frozenset({Status.LANDED,",
        _LIFECYCLE,
    ),
    ("keen_pipeline/lifecycle.py", "reasons.setdefault(reason, []).append(entry)", "reasons[reason] = [entry]", _LIFECYCLE),
    (
        "keen_pipeline/ledger/submissions.py",
        "if entry is not None and entry.fingerprint == wanted:",
        "if entry is not None:",
        f"{_LEDGER} -k another_question",
    ),
    (
        "keen_pipeline/ledger/submissions.py",
        "entry.status is Status.LANDED and not entry.unproven",
        "entry.status is Status.LANDED",
        f"{_LEDGER} -k unproven",
    ),
    ("keen_pipeline/ledger/submissions.py", "(valid and keep(entry))", "valid", f"{_LEDGER} -k adopted"),
    (
        "keen_pipeline/ledger/submissions.py",
        "            if entry is not None and not entry.status.is_terminal and entry.fingerprint != wanted:\n                self._cancel",
        "            if False:\n                self._cancel",
        f"{_LEDGER} -k another_question",
    ),
    ("keen_pipeline/ledger/submissions.py", "[requests] if is_simple else", "[requests] if True else", f"{_LEDGER} -k named_twice"),
    (
        "keen_pipeline/ledger/submissions.py",
        "self._mine, unposted, entries.c.run_id.is_not_distinct_from(run_id), sa.not_(replaces))",
        "self._mine, unposted, sa.not_(replaces))",
        f"{_LEDGER} -k who_asked_first",
    ),
    ("keen_pipeline/ledger/ledger.py", ", sa.not_(is_needed)", "", f"{_LEDGER} -k given_up_is_kept"),
    (
        "keen_pipeline/ledger/submissions.py",
        "        if same and not own:\n",
        "        if not own:\n",
        f"{_LEDGER} -k another_policy",
    ),
    (
        "keen_pipeline/ledger/submissions.py",
        "entries.c.posted_at.is_(None), entries.c.attempt == 1)",
        "entries.c.attempt == 1)",
        f"{_LEDGER} -k withdrawn",
    ),
    (
        "keen_pipeline/ledger/submissions.py",
        "entries.c.posted_at.is_(None), entries.c.attempt == 1)",
        "entries.c.posted_at.is_(None))",
        f"{_LEDGER} -k withdrawn",
    ),
    (
        "keen_pipeline/ledger/submissions.py",
        "        if connection.execute(alive).first() is None:\n            return []\n",
        "",
        f"{_WORKERS} -k older_than",
    ),
    (
        "keen_pipeline/ledger/submissions.py",
        "self._update(connection, entry_ids, self._free_for(worker), claimed_by=worker, due_at=due_at)",
        "self._update(connection, entry_ids, sa.true(), claimed_by=worker, due_at=due_at)",
        f"{_RULE} -k claim",
    ),
    (
        "keen_pipeline/ledger/submissions.py",
        "mine = sa.and_(self._mine, entries.c.id.in_(chunk), condition)",
        "mine = sa.and_(entries.c.id.in_(chunk), condition)",
        f"{_SCOPE} -k claim",
    ),
    (
        "keen_pipeline/ledger/submissions.py",
        "self._update(connection, entry_ids, entries.c.claimed_by == worker, claimed_by=None)",
        "self._update(connection, entry_ids, sa.true(), claimed_by=None)",
        f"{_RULE} -k release",
    ),
    (
        "keen_pipeline/ledger/submissions.py",
        "sa.case((entries.c.posted_at.is_not(None), 1), else_=0)",
        "sa.case((entries.c.posted_at.is_(None), 1), else_=0)",
        f"{_LEDGER} -k orphan",
    ),
    (
        "keen_pipeline/ledger/submissions.py",
        '{} if ambiguous else {"posted_at": None}',
        '{"posted_at": None}',
        f"{_LEDGER} -k orphan",
    ),
    (
        "keen_pipeline/ledger/submissions.py",
        '"post_tries": entries.c.post_tries + 1}',
        '"post_tries": entries.c.post_tries}',
        f"{_RULE} -k postpone",
    ),
    (
        "keen_pipeline/ledger/submissions.py",
        "entries.c.status == Status.SUBMITTED.value, self._free_for(worker))",
        "entries.c.status.in_([Status.SUBMITTED.value, Status.REQUESTED.value]), self._free_for(worker))",
        f"{_RULE} -k complete",
    ),
    (
        "keen_pipeline/ledger/submissions.py",
        "entries.c.status == Status.SUBMITTED.value, self._free_for(worker))",
        "entries.c.status == Status.SUBMITTED.value, self._mine)",
        f"{_RULE} -k complete",
    ),
    (
        "keen_pipeline/ledger/submissions.py",
        "sa.and_(is_open, self._free_for(worker)), **values)",
        "is_open, **values)",
        f"{_RULE} -k fail",
    ),
    (
        "keen_pipeline/ledger/submissions.py",
        "sa.and_(is_open, self._free_for(worker)), **values)",
        "self._free_for(worker), **values)",
        f"{_RULE} -k fail",
    ),
    (
        "keen_pipeline/ledger/submissions.py",
        "is_last = final or row.attempt >= limits.max_attempts",
        "is_last = row.attempt >= limits.max_attempts",
        f"{_RULE} -k final",
    ),
    (
        "keen_pipeline/ledger/submissions.py",
        "is_last = final or row.attempt >= limits.max_attempts",
        "is_last = final or row.attempt > limits.max_attempts",
        f"{_RULE} -k fail",
    ),
    (
        "keen_pipeline/ledger/submissions.py",
        '        self._cancel(connection, entries.c.parent_id == entry_id, "the extraction it is part of has failed")\n',
        "",
        f"{_LEDGER} -k what_ends_a_split",
    ),
    (
        "keen_pipeline/ledger/submissions.py",
        "self._cancel(connection, entries.c.parent_id.in_(chunk), reason)",
        "pass",
        f"{_LEDGER} -k what_ends_a_split",
    ),
    (
        "keen_pipeline/ledger/submissions.py",
        "open_ = sa.and_(self._mine, which, is_open)",
        "open_ = sa.and_(which, is_open)",
        f"{_SCOPE} -k cancel",
    ),
    (
        "keen_pipeline/ledger/submissions.py",
        '"claimed_by": row.claimed_by, "error": bounded(reason)}',
        '"error": bounded(reason)}',
        f"{_RULE} -k fail",
    ),
    ("keen_pipeline/ledger/submissions.py", "is_open, entries.c.due_at > now)", "is_open)", f"{_LEDGER} -k due_already"),
    (
        "keen_pipeline/ledger/submissions.py",
        "min(max(passed, 0.0), _LONGEST_TICK_SECONDS)",
        "max(passed, 0.0)",
        f"{_LEDGER} -k known_of_a_collection",
    ),
    (
        "keen_pipeline/ledger/submissions.py",
        "min(max(passed, 0.0), _LONGEST_TICK_SECONDS)",
        "min(passed, _LONGEST_TICK_SECONDS)",
        f"{_LEDGER} -k known_of_a_collection",
    ),
    (
        "keen_pipeline/ledger/submissions.py",
        "claimed = sa.and_(entries.c.status.in_([s.value for s in expected]), entries.c.claimed_by == worker)",
        "claimed = entries.c.status.in_([s.value for s in expected])",
        f"{_RULE} -k posting",
    ),
    (
        "keen_pipeline/ledger/submissions.py",
        "mine = sa.and_(self._mine, entries.c.id == entry_id, condition)",
        "mine = sa.and_(entries.c.id == entry_id, condition)",
        f"{_SCOPE} -k posting",
    ),
]

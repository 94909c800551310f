"""Failed runs, told at once: to whom, how often, and in which words."""

import dagster as dg
import pytest
import sqlalchemy as sa
from dagster._core.definitions.dependency import NodeHandle
from dagster._core.events import DagsterEvent
from dagster._core.execution.plan.handle import StepHandle

from keen_pipeline import ExtractionLedger
from keen_pipeline.defs.names import DEFINITIONS_TAG, Names
from keen_pipeline.defs.sensors.notifications import KeenNotifications, _title
from keen_pipeline.ledger.database.tables import notices
from keen_pipeline_tests.defs.conftest import DAYS, MakePlace
from keen_pipeline_tests.defs.notices.office import COLLECTIONS, MORNING, Office, mail_of, part, webhook
from keen_pipeline_tests.service.extractions.test_mail import mail_server


def test_one_cause_is_told_once_a_day_and_another_cause_as_well(make_place: MakePlace, mail_port: int) -> None:
    failing = ("purchases@2026-01-02", "purchases@2026-01-03", "logins@2026-01-02")
    options = [word for one in failing for word in ("--fail-extraction", f"{one}=9")]
    place = make_place(collections=COLLECTIONS, options=options)
    office = Office(place, KeenNotifications(mail_to=["data@example.com"]), MORNING.replace(hour=2))
    both = ["keen/purchases", "keen/logins"]
    # The third has a cause that was told and one that was not.
    asked = (both[1:], 1, 1), (both[1:], 1, 1), (both, 1, 2), (both[:1], 2, 2), (both[:1], 1, 2)
    with mail_server(mail_port, "s3cret-word") as box:
        for (keys, first, last), told in zip(asked, (1, 1, 2, 2, 2), strict=True):
            place.backfill(keys, DAYS[first], DAYS[last])
            office.take_up(office.taken_up)
            office.tick()
            assert len(box.mails) == told
        office.clock.advance(86_400)
        office.take_up()
        assert "keen/failure/2026-01-06/" in office.tick()


def test_a_failed_run_of_other_definitions_is_theirs_to_tell(make_place: MakePlace) -> None:
    place = make_place(collections=COLLECTIONS, read_key="wrong")
    office = Office(place, KeenNotifications(mail_to=["data@example.com"]))
    for name, told in (("eu", 0), ("keen", 1)):
        place.run("keen_submit_extractions", tags={DEFINITIONS_TAG: name})
        office.take_up()
        assert len(office.waiting()) == told


def test_a_failed_run_is_told_at_once(make_place: MakePlace, mail_port: int) -> None:
    place = make_place(collections=COLLECTIONS, options=["--fail-extraction", "purchases@2026-01-02=3"])
    result = place.backfill(["keen/purchases"], DAYS[0], DAYS[1])
    with mail_server(mail_port, "s3cret-word") as box:
        office = Office(
            place, KeenNotifications(mail_to=["data@example.com"], ui_url="http://dagster.test"), MORNING.replace(hour=2)
        )
        for _ in range(2):
            assert office.take_up() == "1 of 1 failed runs are extractions of keen"
        assert office.tick().startswith("sent keen/failure/2026-01-05/")
        mail = mail_of(box)
    assert mail["Subject"].startswith(
        "Keen: 1 of 2 partitions failed: purchases 2026-01-02: the service reports the extraction as failed"
    )
    assert "purchases 2026-01-02: the service reports the extraction as failed" in part(mail, "plain")
    assert part(mail, "plain").startswith("1 of 2 partitions failed\n")
    assert "\n  keen-pipeline retry purchases 2026-01-02\n" in part(mail, "plain")
    assert "<code>  keen-pipeline retry purchases 2026-01-02</code>" in part(mail, "html")
    assert f"http://dagster.test/runs/{result.run_id}" in part(mail, "html")


def test_a_failure_is_told_once_while_the_ledger_is_down(make_place: MakePlace, mail_port: int) -> None:
    place = make_place(collections=COLLECTIONS, options=["--fail-extraction", "purchases@2026-01-02=3"])
    result = place.backfill(["keen/purchases"], DAYS[1], DAYS[1])
    with mail_server(mail_port, "s3cret-word") as box, webhook() as (url, posted, statuses):
        statuses += [500]
        office = Office(place, KeenNotifications(mail_to=["data@example.com"], slack_webhook=url, ui_url="http://dagster.test"))
        office.resources = office.resources | {"keen_ledger": ExtractionLedger(url="sqlite:////dev/null/ledger.db")}
        with pytest.raises(Exception, match=r"not sent: keen/failure/2026-01-05/.* by slack: the Slack webhook answers HTTP 500"):
            office.take_up()
        for _ in range(2):
            office.take_up()
        mail, [slack] = mail_of(box), posted
        office.clock.advance(86_400)
        office.take_up()
        assert (len(box.mails), len(posted)) == (2, 2)
    assert mail["Subject"] == slack["text"]
    assert "\n  keen-pipeline retry purchases 2026-01-02\nTold without the ledger: " in part(mail, "plain")
    assert f"http://dagster.test/runs/{result.run_id}" in part(mail, "plain")
    assert office.waiting() == []


def test_a_configuration_that_keeps_a_run_from_beginning_is_the_subject(make_place: MakePlace, mail_port: int) -> None:
    place = make_place(collections=COLLECTIONS)
    resources = {**(place.defs.resources or {}), "keen_ledger": ExtractionLedger(url="sqlite:////dev/null/ledger.db")}
    place.defs = dg.Definitions(assets=place.defs.assets, resources=resources)
    assert not place.backfill(["keen/purchases"], DAYS[0], DAYS[0]).success
    with mail_server(mail_port, "s3cret-word") as box:
        Office(place, KeenNotifications(mail_to=["data@example.com"])).take_up()
        mail = mail_of(box)
    why = "the ledger sqlite:////dev/null/ledger.db can't be opened: /dev/null: File exists"
    assert mail["Subject"] == f"Keen: landing failed: {why}"
    assert part(mail, "plain").splitlines() == [why, "Told without the ledger"]


def test_a_run_is_told_for_what_failed_of_ours_and_not_for_somebody_elses_step(make_place: MakePlace) -> None:
    @dg.asset(partitions_def=dg.DailyPartitionsDefinition(DAYS[0]))
    def theirs() -> None:
        raise KeyError("a password of theirs")

    place = make_place(collections=COLLECTIONS, options=["--fail-extraction", "purchases@2026-01-02=3"])
    office = Office(place, KeenNotifications(mail_to=["data@example.com"]))
    job = dg.define_asset_job("theirs_and_ours", ["theirs", "keen/purchases"], executor_def=dg.in_process_executor)
    both = dg.Definitions.merge(place.defs, dg.Definitions(assets=[theirs], jobs=[job])).resolve_job_def(job.name)
    for day, told in ((DAYS[0], 0), (DAYS[1], 1)):
        result = both.execute_in_process(instance=place.instance, partition_key=day, raise_on_error=False)
        assert not result.success
        office.take_up()
        assert len(office.waiting()) == told
    with place.ledger.engine.connect() as connection:
        [body] = connection.execute(sa.select(notices.c.body)).scalars()
    assert "purchases 2026-01-02: the service reports the extraction as failed" in body
    assert "password" not in body


@pytest.mark.parametrize(("begun", "told"), [("keen__purchases", 1), ("theirs", 0)])
def test_a_run_of_the_users_own_job_that_was_killed_is_told_if_it_was_in_a_step_of_ours(
    make_place: MakePlace, begun: str, told: int
) -> None:
    @dg.asset(partitions_def=dg.DailyPartitionsDefinition(DAYS[0]))
    def theirs() -> None: ...

    place = make_place(collections=COLLECTIONS)
    job = dg.define_asset_job("theirs_and_ours", ["theirs", "keen/purchases"], executor_def=dg.in_process_executor)
    both = dg.Definitions.merge(place.defs, dg.Definitions(assets=[theirs], jobs=[job])).resolve_job_def(job.name)
    run = place.instance.create_run_for_job(both)
    started = DagsterEvent("STEP_START", job_name=both.name, step_handle=StepHandle(NodeHandle(begun, None)))
    place.instance.report_dagster_event(started, run.run_id)
    place.instance.report_run_failed(run, "the run's process is gone")
    office = Office(place, KeenNotifications(mail_to=["data@example.com"]))
    office.take_up()
    assert len(office.waiting()) == told


def test_a_run_that_dagster_retries_by_itself_is_told_when_its_last_retry_has_failed(make_place: MakePlace) -> None:
    place = make_place(collections=COLLECTIONS)
    job, told = place.defs.resolve_job_def("keen_materialize_csvs"), []
    with dg.DagsterInstance.ephemeral(settings={"run_retries": {"enabled": True}}) as place.instance:
        office = Office(place, KeenNotifications(mail_to=["data@example.com"]))
        for left in ("1", "0"):
            run = place.instance.create_run_for_job(job, tags={**job.tags, "dagster/max_retries": left})
            place.instance.report_run_failed(run, "the run's process is gone")
            told.append(office.take_up(office.taken_up))
    assert told == [f"{number} of 1 failed runs are extractions of keen" for number in (0, 1)]


def test_failures_are_told_again_after_dagsters_events_were_wiped(make_place: MakePlace) -> None:
    place = make_place(collections=COLLECTIONS, options=["--fail-extraction", "purchases@2026-01-02=3"])
    office = Office(place, KeenNotifications(mail_to=["data@example.com"]))
    assert office.take_up("1000000") == "runs that fail from now on are told"  # the next event has a far lower number
    place.backfill(["keen/purchases"], DAYS[1], DAYS[1])
    assert office.take_up(office.taken_up) == "1 of 1 failed runs are extractions of keen"


def test_many_failed_runs_of_others_hold_up_none_of_ours_and_are_left_as_they_are(
    make_place: MakePlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    @dg.job(executor_def=dg.in_process_executor)
    def theirs() -> None:
        @dg.op
        def fail() -> None:
            raise KeyError("a password of theirs")

        fail()

    place = make_place(collections=COLLECTIONS, options=["--fail-extraction", "purchases@2026-01-02=3"])
    office = Office(place, KeenNotifications(mail_to=["data@example.com"]))
    failed = [theirs.execute_in_process(instance=place.instance, raise_on_error=False) for _ in range(6)]
    assert office.take_up(None) == "runs that fail from now on are told"
    begun = office.taken_up
    failed += [theirs.execute_in_process(instance=place.instance, raise_on_error=False) for _ in range(6)]
    place.backfill(["keen/purchases"], DAYS[1], DAYS[1])
    before = [len(place.instance.all_logs(one.run_id)) for one in failed]
    with monkeypatch.context() as patch:
        patch.delattr(dg.DagsterInstance, "get_run_by_id")  # a question for each run, where one is enough for all
        assert office.take_up(begun) == "1 of 7 failed runs are extractions of keen"
    assert office.take_up(office.taken_up) == "0 of 0 failed runs are extractions of keen"
    assert [len(place.instance.all_logs(one.run_id)) for one in failed] == before
    assert len(office.waiting()) == 1


@pytest.mark.parametrize("told", ["extraction ca8f3c13c2c189e4c2d81ce9: ", "extraction refused: ", ""])
def test_a_subject_has_the_reason_and_no_extractions_id(told: str) -> None:
    full = "destination /srv/events/landing/signups/2026-01-02.csv is full"
    story = f"1 of 1 partitions failed\nsignups 2026-01-02: {told}{full}"
    subject = _title(dg.DagsterRun(job_name="keen_materialize_csvs"), Names("keen"), story)
    kept = told if "refused" in told else ""
    assert subject == f"Keen: 1 of 1 partitions failed: signups 2026-01-02: {kept}{full}"
    assert _title(dg.DagsterRun(job_name="shop_submit_extractions"), Names("shop"), full) == f"Keen shop: submitting failed: {full}"

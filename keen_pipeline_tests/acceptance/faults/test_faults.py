"""What the table of faults adds to `landing/test_faults.py`: a redirect to another host, a body that only its count finds short."""

from __future__ import annotations

from pathlib import Path

from keen_pipeline.pipeline.counts import verdict
from keen_pipeline_tests.acceptance.faults import __main__ as fault_table
from keen_pipeline_tests.acceptance.faults.cut_at_a_record import HALF, RECORDS, extract_counted, posted, short
from keen_pipeline_tests.landing.conftest import example
from keen_pipeline_tests.servers import faults
from keen_pipeline_tests.servers.faults import FaultServer


def test_a_body_cut_at_a_record_is_found_by_its_count_and_extracted_again(tmp_path: Path) -> None:
    with FaultServer(body=example(RECORDS)) as server:
        first, second = extract_counted(tmp_path, server, [short(), faults.whole()])
        assert len(posted(server)) == 2
    assert first.entry.landing is not None
    assert (first.entry.landing.records, first.entry.counted, first.entry.is_whole) == (HALF, RECORDS, False)
    assert second.entry.is_whole
    assert (tmp_path / "purchases" / "2026-01-01.csv").read_bytes() == example(RECORDS)


def test_a_body_that_is_always_cut_at_a_record_ends_as_a_failure_with_both_numbers(tmp_path: Path) -> None:
    with FaultServer(body=example(RECORDS)) as server:
        told = extract_counted(tmp_path, server, [short()])
    assert [counted.is_final_failure for counted in told] == [False, False, True]
    assert f"{HALF}" in verdict(told[-1])
    assert f"{RECORDS}" in verdict(told[-1])


def test_the_table_takes_no_wrong_file(tmp_path: Path) -> None:
    rows = [*fault_table.run_cut_at_a_record(tmp_path / "cut"), fault_table.run_redirected(tmp_path / "redirected")]
    assert [row.end for row in rows] == [fault_table.WHOLE, fault_table.ERROR, fault_table.WHOLE]

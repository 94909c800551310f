"""The runner of mutations: the lists fit the code, and it tells caught from survived."""

from __future__ import annotations

from pathlib import Path

import pytest

from keen_pipeline_tests.mutants.__main__ import ROOT, Mutant, groups, main, mutants_of, report

LIFECYCLE = "keen_pipeline/lifecycle.py"


@pytest.mark.parametrize("group", groups())
def test_every_mutation_of_a_list_can_be_applied(group: str) -> None:
    assert [f"{mutant}: {problem}" for mutant in mutants_of(group) if (problem := mutant.problem(ROOT))] == []


@pytest.mark.parametrize(
    ("file", "old", "new", "targets", "problem"),
    [
        ("keen_pipeline/none.py", "a", "b", "", "there is no such file"),
        (LIFECYCLE, "no such text", "b", "", "its old text occurs 0 times"),
        (LIFECYCLE, "return", "b", "", "times"),
        (LIFECYCLE, "def decide(", "def decide(", "", "it changes nothing"),
        (LIFECYCLE, "def decide(", "def (", "", "it isn't Python"),
        (LIFECYCLE, "def decide(", "def chose(", "keen_pipeline_tests/none.py -k a", "isn't a file"),
        (LIFECYCLE, "def decide(", "def chose(", "keen_pipeline_tests/test_mutants.py::test_gone", "has no test_gone"),
        (LIFECYCLE, "def decide(", "def chose(", "keen_pipeline_tests/test_mutants.py", None),
    ],
)
def test_what_is_wrong_with_a_mutation(file: str, old: str, new: str, targets: str, problem: str | None) -> None:
    found = Mutant("core", 1, file, old, new, targets).problem(ROOT)
    assert found == problem if problem is None else problem in (found or "")


def test_fewer_than_nine_of_ten_are_not_enough(capsys: pytest.CaptureFixture[str]) -> None:
    mutant = Mutant("core", 1, LIFECYCLE, "def decide(", "def chose(", "t.py")
    assert report([(mutant, True)] * 9 + [(mutant, False)])
    assert not report([(mutant, True)] * 8 + [(mutant, False)])
    told = capsys.readouterr().out
    assert "core: 9 of 10 caught" in told
    assert "survived: core 1: keen_pipeline/lifecycle.py: def decide( ▶ def chose( [t.py]" in told


@pytest.mark.slow
def test_a_quick_group_of_mutations(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["core", "--only", "1", "7", "13"], Path(ROOT)) == 0
    assert capsys.readouterr().out == "core: 3 of 3 caught\n"

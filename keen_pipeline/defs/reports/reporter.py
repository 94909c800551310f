"""What a run tells Dagster of its partitions, whether it is a step of an asset or the nightly path's landing run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import dagster as dg

from keen_pipeline.collection import Collection
from keen_pipeline.defs.reports.checks import Keys, Targets, evaluation, given_up, landing_checks
from keen_pipeline.defs.reports.metadata import materialization
from keen_pipeline.errors import ConfigurationError, KeenPipelineError, PermanentError
from keen_pipeline.lifecycle import Entry
from keen_pipeline.pipeline import Counted, Pipeline, verdict
from keen_pipeline.pipeline.told import summary

if TYPE_CHECKING:
    Report = dg.AssetMaterialization | dg.AssetObservation | dg.AssetCheckEvaluation


NOT_COUNTED = "what had landed can't be counted"


class Reporter:
    """Makes the events of one run, each once the last has gone out, and keeps what its end has to say.

    `failed`: entries and why. `problems`: of collections, by which the run fails too.
    """

    def __init__(self, context: dg.OpExecutionContext | dg.AssetExecutionContext, pipeline: Pipeline, keys: Keys) -> None:
        self._log = context.log
        self._pipeline = pipeline
        self._landed: dict[str, Entry] = {}
        self._counted: set[int] = set()
        self.targets = Targets(context.instance, keys)
        self.failed: list[tuple[Entry, str]] = []
        self.problems: list[tuple[str, str]] = []

    def landed(self, entry: Entry, *, is_known: bool = False) -> Iterator[Report]:
        """Its materialization, unless Dagster `is_known` to have it; `checks` follow at the end."""
        if entry.is_partition:
            if not is_known:
                yield materialization(entry, self.targets.keys[entry.request.collection], self._pipeline.destination)
            self.targets.landed(entry)
        self._landed[entry.request.path] = entry

    def counted(self, counted: Counted) -> Iterator[Report]:
        """The check `complete`."""
        self._counted.add(counted.entry.entry_id)
        if counted.entry.is_partition:
            yield evaluation(self.targets, counted)
        if counted.entry.is_whole is not True:
            self._log.warning("%s", verdict(counted))
        if counted.is_final_failure:
            self.failed.append((counted.entry, verdict(counted)))

    def given_up(self, entry: Entry) -> Iterator[Report]:
        """The failed check `complete`, and an observation, which is among the events that the partition's page leads to."""
        self.fail(entry, entry.reason)
        if entry.is_partition:
            failed = given_up(self.targets, entry, self._pipeline.scope.name)
            yield dg.AssetObservation(failed.asset_key, partition=failed.partition, description=failed.description)
            yield failed
        self._pipeline.ledger.reported([entry.entry_id])

    def fail(self, entry: Entry, reason: str) -> None:
        """It is named at the end."""
        self.failed.append((entry, reason))
        self._log.error("%s failed: %s", entry.request, reason)

    def hindered(self, collection: str, what: str, error: KeenPipelineError) -> None:
        """A warning; what a person has to fix fails the run at its end too."""
        self._log.warning("%s: %s: %s", collection, what, error)
        if isinstance(error, (ConfigurationError, PermanentError)):
            self.problems.append((collection, f"{error} ({what})"))

    def checks(self, collections: Mapping[str, Collection]) -> Iterator[Report]:
        """`schema_drift` and `unexpected_size` of what has landed, by the policies of `collections`; `complete` of what was told
        again and counted before: a result of its last materialization says nothing of the new one, and what waits for it would
        sleep.

        What landed counts as reported only then: of a run that dies before, the next one evaluates them. So does a landing run if
        Dagster takes for the newest result that of a run which was planned later, be it still queued, cancelled, or about another
        materialization: else whatever waits for blocking checks would sleep.
        """
        for entry in self._landed.values():
            if entry.counted_at is not None and entry.entry_id not in self._counted:
                yield from self.counted(Counted(entry))
        for result in landing_checks(self.targets, self._pipeline.ledger, collections, list(self._landed.values())):
            if not result.passed:
                self._log.warning(
                    "%s[%s]: %s: %s", result.asset_key.path[-1], result.partition, result.check_name, result.description
                )
            yield result
        self._pipeline.ledger.reported(entry.entry_id for entry in self._landed.values())
        failed = {entry.request.path for entry, _ in self.failed}
        self._pipeline.ledger.report_again(self.targets.overtaken([e for path, e in self._landed.items() if path not in failed]))

    def end(self, well: int | None = None) -> None:
        """Raises Failure naming what failed and why; what landed is kept, and it is not tried again as a whole.

        `well`: how many partitions did not fail, unless it is all that landed here.
        """
        landed = len(self._landed)
        if self.failed or self.problems:
            raise dg.Failure(
                description=summary(landed if well is None else well, self.failed, self.problems, self._pipeline.scope.name),
                metadata={"landed": landed, "failed": len(self.failed)},
                allow_retries=False,
            )
        if landed:
            self._log.info("%d landed", landed)

"""A results source that asks for a fresh URL when the old one has died."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from keen_pipeline.errors import ExtractionFailedError, ResultsExpiredError, ServiceUnavailableError
from keen_pipeline.extraction import RemoteStatus, SecretUrl
from keen_pipeline.ports import ExtractionApi, ResultsStream

log = logging.getLogger(__name__)

MOST_RENEWALS = 2
"""How often one `open` asks for a fresh URL before it gives up."""


@dataclass(eq=False, repr=False)
class RenewingResults:
    """The results of one extraction (a ResultsSource), for one thread. `url` saves the first status request when it is known."""

    api: ExtractionApi
    collection: str
    extraction_id: str
    url: SecretUrl | None = None

    def __repr__(self) -> str:
        return f"RenewingResults({self.collection}, {self.extraction_id})"

    def open(self, *, offset: int = 0, validator: str | None = None) -> ResultsStream:
        """Request the results from byte `offset`; an expired URL is renewed up to MOST_RENEWALS times.

        Raises ResultsExpiredError when fresh URLs are refused too, ServiceUnavailableError when the extraction is not
        complete (any more), ExtractionFailedError when it failed, and what `open_results` raises.
        """
        renewals = 0
        while True:
            self.url = self.url or self._fresh()
            try:
                return self.api.open_results(self.url, offset=offset, validator=validator)
            except ResultsExpiredError as error:
                self.url = None
                if renewals == MOST_RENEWALS:
                    raise
                renewals += 1
                log.info("asking for a fresh results URL of extraction %s of %s: %s", self.extraction_id, self.collection, error)

    def _fresh(self) -> SecretUrl:
        remote = self.api.get_extraction(self.collection, self.extraction_id)
        what = f"extraction {self.extraction_id} of {self.collection}"
        if remote.status is RemoteStatus.FAILED:
            raise ExtractionFailedError(f"{what}: the service says that it failed: {remote.message or 'no reason given'}")
        if remote.results_url is None:
            raise ServiceUnavailableError(f"{what}: not complete yet; its results have no URL")
        return remote.results_url

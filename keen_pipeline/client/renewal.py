"""A results source that asks for a fresh URL when the old one has died."""

from __future__ import annotations

import logging

from keen_pipeline.errors import ExtractionFailedError, ResultsExpiredError, ServiceUnavailableError
from keen_pipeline.extraction import RemoteStatus, SecretUrl
from keen_pipeline.ports import ExtractionApi, ResultsStream

log = logging.getLogger(__name__)

MOST_RENEWALS = 2
"""How often one `open` asks for a fresh URL before it gives up."""


class RenewingResults:
    """The results of one extraction (a ResultsSource), for one thread. `url` saves the first status request when it is known."""

    def __init__(self, api: ExtractionApi, collection: str, extraction_id: str, url: SecretUrl | None = None) -> None:
        self._api = api
        self._collection = collection
        self._extraction_id = extraction_id
        self._url = url

    def __repr__(self) -> str:
        return f"RenewingResults({self._collection}, {self._extraction_id})"

    def open(self, *, offset: int = 0, validator: str | None = None) -> ResultsStream:
        """Request the results from byte `offset`; an expired URL is renewed up to MOST_RENEWALS times.

        Raises ResultsExpiredError when fresh URLs are refused too, ServiceUnavailableError when the extraction is not
        complete (any more), ExtractionFailedError when it failed, and what `open_results` raises.
        """
        renewals = 0
        while True:
            self._url = self._url or self._fresh()
            try:
                return self._api.open_results(self._url, offset=offset, validator=validator)
            except ResultsExpiredError as error:
                self._url = None
                if renewals == MOST_RENEWALS:
                    raise
                renewals += 1
                log.info("asking for a fresh results URL of extraction %s of %s: %s", self._extraction_id, self._collection, error)

    def _fresh(self) -> SecretUrl:
        remote = self._api.get_extraction(self._collection, self._extraction_id)
        what = f"extraction {self._extraction_id} of {self._collection}"
        if remote.status is RemoteStatus.FAILED:
            raise ExtractionFailedError(f"{what}: the service says that it failed: {remote.message or 'no reason given'}")
        if remote.results_url is None:
            raise ServiceUnavailableError(f"{what}: not complete yet; its results have no URL")
        return remote.results_url

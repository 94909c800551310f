"""Every error this package raises, grouped by what the caller does next.

`ConfigurationError`: a person has to change something. `RetryableError`: the same call may go through later.
`PermanentError`: this attempt is over; the ledger decides whether another one follows.
`LedgerUnavailableError`: nothing more can be noted; whoever comes next goes on by the ledger.
Messages never hold a key, a password or a results URL.
"""

from __future__ import annotations

import re

_TOO_LARGE = re.compile(
    r"too\s*(?:large|big|many\s+(?:events|results|rows|records))|(?:event|result|size)s?\s+limit|maximum\s+(?:number\s+)?of\s+(?:[\d,]+\s+)?events"
    r"|exceed\w*\s+[^.]*\bevents\b",
    re.IGNORECASE,
)


class KeenPipelineError(Exception):
    """Root of every error raised on purpose by keen_pipeline."""


class ConfigurationError(KeenPipelineError):
    """A setting, a key or an input is wrong; nothing was requested or changed."""


class InvalidInputError(ConfigurationError, ValueError):
    """A value given by a person or a client does not have the documented form.

    `field` names the parameter (for example ``timeframe`` or ``filters[0].operator``).
    """

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class AuthenticationError(ConfigurationError):
    """The service refused the key (HTTP 401 or 403)."""


class PaymentRequiredError(ConfigurationError):
    """The service refuses the project until its plan is paid or raised (HTTP 402)."""


class LedgerVersionError(ConfigurationError):
    """The ledger's schema is newer than this code, or is not a ledger."""


class LedgerUnavailableError(KeenPipelineError):
    """The ledger's database went away and has not come back in time."""


class RetryableError(KeenPipelineError):
    """The same call may succeed later. `retry_after` is how many seconds the service asked to wait, if it said so."""

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ServiceUnavailableError(RetryableError):
    """The service could not be reached, timed out or answered with a 5xx status."""


class UnreadableAnswerError(RetryableError):
    """What came is not the service's documented answer: a page of a proxy, a cut document. It says nothing about an extraction.

    After a POST it is ambiguous: the service may have done what was asked.
    """


class UnreachableError(ServiceUnavailableError):
    """No connection came up, so the service can't have seen the request: safe to repeat, whatever it was."""


class RateLimitedError(RetryableError):
    """The service answered 429, or the configured requests per minute are used up."""


class TransferError(RetryableError):
    """The bytes of a result stopped before their end, or did not match what the service announced."""


class ResultsExpiredError(RetryableError):
    """The results URL is no longer valid; a fresh status request gives a new one."""


class ClaimLostError(RetryableError):
    """Another process holds or took over the claim on an entry, or the entry has moved on; nothing was changed."""


class PermanentError(KeenPipelineError):
    """This attempt can't succeed by repeating the same call."""


class NotFoundError(PermanentError):
    """The service does not know the collection or the extraction (HTTP 404)."""


class RequestRejectedError(PermanentError):
    """The service understood the request and refused it (HTTP 4xx). `status` is the HTTP status."""

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status


class ExtractionTooLargeError(PermanentError):
    """The service refuses the extraction because it holds too many events; a shorter timeframe may fit."""


def says_too_large(text: str) -> bool:
    """Whether a service's words mean that an extraction holds too many events."""
    return _TOO_LARGE.search(text) is not None


class ExtractionFailedError(PermanentError):
    """The extraction ended without a result, or all attempts of it did."""


class VerificationError(PermanentError):
    """The file is not whole: what was received is kept aside and nothing was landed.

    `quarantined` is the URI of what was kept, None if nothing could be kept.
    """

    def __init__(self, message: str, *, quarantined: str | None = None) -> None:
        super().__init__(message)
        self.quarantined = quarantined

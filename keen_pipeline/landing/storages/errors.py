"""The boundary: what the system or a storage's client raises becomes one of our errors, by what the caller does next.

A first line below 200 characters says what failed and why, the next one what fixes it. Foreign text is a code, cleaned and cut.
"""

from __future__ import annotations

import errno
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from keen_pipeline.errors import ConfigurationError, KeenPipelineError, ServiceUnavailableError, TransferError

_LONGEST_NAME = 100
_LONGEST_CODE = 60
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_FOR_A_PERSON = frozenset(
    {
        *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY),
        *(errno.ENAMETOOLONG, errno.ELOOP, errno.EXDEV, errno.EFBIG, errno.EINVAL, errno.ENODEV, errno.ENXIO),
    }
)
# Of a storage's refusals those that may pass: another writer was there, an upload's session ended, bytes came to harm on the way.
_PASSING = frozenset({404, 408, 409, 410, 412, 425, 429})
_PASSING_CODES = frozenset(
    {"RequestTimeout", "IncompleteBody", "BadDigest", "InvalidPart", "InvalidBlockList", "InvalidBlobOrBlock", "Md5Mismatch"}
)


def short(name: str) -> str:
    """A path or URI for a message, its middle left out when it is long."""
    if not name.isprintable():
        name = "".join(letter if letter.isprintable() else "?" for letter in name)
    if len(name) <= _LONGEST_NAME:
        return name
    head = (_LONGEST_NAME - 3) // 2
    return f"{name[:head]}...{name[head + 3 - _LONGEST_NAME :]}"


def cleaned(code: object) -> str:
    """A foreign error's code: letters, digits and a few signs, at most 60."""
    return re.sub(r"[^A-Za-z0-9_. /-]", "?", str(code))[:_LONGEST_CODE]


def for_a_person(target: str, why: str, mend: str = "") -> ConfigurationError:
    """Something has to be changed before the storage can be used."""
    return ConfigurationError(f"destination {short(target)}: {why}" + (f"\n{mend}" if mend else ""))


def unavailable(target: str, why: object, mend: str = "") -> ServiceUnavailableError:
    """The same call may go through later; `why` is a code or an exception, of which only the type is told.

    What was asked may have been done all the same, and its answer lost.
    """
    text = f"destination {short(target)}: the storage failed ({_reason(why)})"
    return ServiceUnavailableError(text + (f"\n{mend}" if mend else ""))


def refused(target: str, status: int, code: str, mend: str, error: Any) -> KeenPipelineError:
    """By the HTTP status of a storage's answer and its own code for it; `error`: its client's, which knows what was asked."""
    request = getattr(getattr(error, "response", None), "request", None)
    asked = getattr(error, "operation_name", "") or getattr(request, "method", "")
    what = f" on {cleaned(asked)}" if asked else ""
    if status in (401, 403):
        return for_a_person(target, f"access was refused ({code}){what}", mend)
    if status in (501, 507) or (400 <= status < 500 and status not in _PASSING and code not in _PASSING_CODES):
        return for_a_person(target, f"the service refuses what it was asked ({code}){what}", mend)
    return unavailable(target, code)


def unreadable(target: str, why: object) -> TransferError:
    """Reading ended before the end of the file; it may be read again from its beginning."""
    return TransferError(f"{short(target)}: reading it failed ({_reason(why)}), or it was replaced meanwhile")


def _reason(why: object) -> str:
    return type(why).__name__ if isinstance(why, BaseException) else cleaned(why)


def of_folder(path: str) -> AbstractContextManager[None]:
    """Translates the system's errors about a file or folder of a local destination."""
    return _of_system(f"destination {short(path)}", "Free some space there.")


def of_temporary_folder() -> AbstractContextManager[None]:
    """Translates the system's errors about this machine's temporary folder, so that no storage is blamed for them."""
    folder = short(tempfile.tempdir or os.environ.get("TMPDIR") or "/tmp")  # noqa: S108 - a name for the message
    mend = "Free some space there, or set TMPDIR to a folder that can hold the files that land at once."
    return _of_system(f"temporary folder {folder} (TMPDIR)", mend)


@contextmanager
def _of_system(where: str, mend: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise of_system(error, where, mend) from error


def of_system(error: OSError, where: str, mend: str) -> KeenPipelineError:
    """The system's word about a place; `mend`: what helps if it is full."""
    reason = cleaned(error.strerror or type(error).__name__)
    if error.errno in _FULL:
        return ConfigurationError(f"{where} is full ({reason}); nothing was published\n{mend}")
    if error.errno in _FOR_A_PERSON:
        return ConfigurationError(f"{where} can't be written ({reason}); nothing was published")
    return ServiceUnavailableError(f"{where} failed ({reason})")

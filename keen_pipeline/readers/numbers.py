"""Which type holds all the numbers of a column exactly: found by looking at each cell, at most once for a range of files."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from keen_pipeline.readers.types import DECIMAL_DIGITS, pyarrow

_WHOLE = r"^(0|-?[1-9][0-9]*)$"
_NUMBER = r"^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]{1,3})?$"
_SAFE = 2**53
"""Up to which a double holds every whole number, and not the rounding of another one."""
_SURE_LENGTH = 15
"""A decimal of so many characters has at most 15 digits, which a double keeps."""
_SHORT = r"^[0-9.-]*$"


class NotANumberError(ValueError):
    """A cell that isn't a JSON number."""


@dataclass(frozen=True)
class Numbers:
    """What holds for all numbers seen. `whole`: whole, and int64 holds them; `exact`: a double holds them; `digits` before the
    point and `scale` behind it, of those that neither may hold. `seen`: whether there was any.
    """

    seen: bool = False
    whole: bool = True
    exact: bool = True
    digits: int = 0
    scale: int = 0

    def __or__(self, other: Numbers) -> Numbers:
        return Numbers(
            self.seen or other.seen,
            self.whole and other.whole,
            self.exact and other.exact,
            max(self.digits, other.digits),
            max(self.scale, other.scale),
        )

    @property
    def arrow_type(self) -> Any:
        """The first of int64, double, decimal and text that holds all of them."""
        pa = pyarrow()
        if self.exact and not (self.seen and self.whole):
            return pa.float64()
        return pa.int64() if self.whole else self.decimal_type

    @property
    def decimal_type(self) -> Any:
        """A decimal that holds all of them; text if they have too many digits together."""
        pa = pyarrow()
        return pa.decimal128(DECIMAL_DIGITS, self.scale) if self.digits + self.scale <= DECIMAL_DIGITS else pa.string()


def numbers_of(cells: Any, *, digits: bool = False) -> Numbers:
    """Of an array as it is stored: text, or a type of numbers.

    `digits`: count them too, which takes a second for a million cells. Raises NotANumberError.
    """
    pa = pyarrow()
    cells = cells.drop_null()
    if not len(cells):
        return Numbers()
    kind = cells.type
    if pa.types.is_integer(kind):
        found = Numbers(True, True, _within(cells) or _all_exact(cells.cast(pa.string())))
        return found | _counted(cells.unique().to_pylist()) if digits else found
    if pa.types.is_floating(kind):
        return _of_doubles(cells, digits)
    if pa.types.is_decimal(kind):
        return _of_texts(pa.array([_plain(cell) for cell in cells.to_pylist()], pa.string()), digits)
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise NotANumberError(str(kind))
    return _of_texts(cells, digits)


def _of_doubles(cells: Any, digits: bool) -> Numbers:
    from pyarrow import compute

    pa = pyarrow()
    whole = bool(compute.all(compute.equal(compute.floor(cells), cells)).as_py()) and _within(cells)
    zeros = cells.filter(compute.equal(cells, 0.0))
    whole = whole and not compute.any(compute.less(compute.divide(1.0, zeros), 0.0)).as_py()  # no whole number is -0.0
    found = Numbers(True, whole, True)
    return found | _counted(cells.unique().cast(pa.string()).to_pylist()) if digits else found


def _of_texts(cells: Any, digits: bool) -> Numbers:
    from pyarrow import compute

    pa = pyarrow()
    has_form = compute.all(compute.match_substring_regex(cells, _WHOLE)).as_py()
    if not has_form and not compute.all(compute.match_substring_regex(cells, _NUMBER)).as_py():
        raise NotANumberError
    whole = exact = False
    if has_form:
        with suppress(pa.ArrowInvalid):  # one is longer
            whole, exact = True, _within(cells.cast(pa.int64()))
    found = Numbers(True, whole, exact or _all_exact(cells))
    return found | _counted(cells.unique().to_pylist()) if digits else found


def _within(cells: Any) -> bool:
    from pyarrow import compute

    lowest, highest = compute.min_max(cells).as_py().values()
    return bool(lowest >= -_SAFE and highest <= _SAFE)


def _all_exact(cells: Any) -> bool:
    """Whether each text is a number that a double holds."""
    from pyarrow import compute

    from keen_pipeline.landing.parquet.cells import are_exact

    short = compute.and_(compute.less_equal(compute.utf8_length(cells), _SURE_LENGTH), compute.match_substring_regex(cells, _SHORT))
    return are_exact(cells.filter(compute.invert(short)))


def _plain(number: Decimal) -> str:
    """The text of a decimal without the zeros that only its column's scale adds."""
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _counted(numbers: Iterable[str | int]) -> Numbers:
    found = Numbers()
    for number in numbers:
        _, digits, exponent = Decimal(number).as_tuple()
        assert isinstance(exponent, int)  # no JSON number is infinite
        zeros = len(digits) - len("".join(map(str, digits)).rstrip("0"))
        found |= Numbers(digits=max(0, len(digits) + exponent), scale=max(0, -exponent - zeros))
    return found

"""The parameters of the operations, each described once, and what reads them: none unknown, given twice or without bound."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from keen_pipeline.errors import InvalidInputError
from keen_pipeline.service.http.bodies import parse_json
from keen_pipeline.service.http.schemas import NAME, ref

MAX_PROPERTY_NAMES = MAX_FIELDS = 1000
_OFTEN_ASKED = ("group_by", "interval", "order_by", "limit", "steps", "analyses", "zero_fill", "force_refresh")


@dataclass(frozen=True)
class Parameter:
    """One parameter. `in_address`: its schema in a query string, if it differs from that in a body; `encoded`: JSON there.

    `hidden`: taken, and not described for a query string.
    """

    name: str
    schema: dict[str, Any]
    required: bool = False
    in_address: dict[str, Any] | None = None
    encoded: bool = False
    hidden: bool = False


FILTERS = Parameter("filters", ref("Filters"), in_address=ref("FiltersInAddress"), encoded=True)
TIMEFRAME = Parameter("timeframe", ref("Timeframe"), in_address=ref("RelativeTimeframe"))
TIMEZONE = Parameter("timezone", ref("Timezone"))
SELECTING = (FILTERS, TIMEFRAME, TIMEZONE)
EMAILS = tuple(Parameter(name, ref("Email"), hidden=True) for name in ("email", "email_address"))
EVENT_COLLECTION = Parameter("event_collection", ref("Collection"), required=True)
TARGET, UNIQUE, DISTINCT = (
    Parameter(name, NAME, required=True) for name in ("target_property", "unique_property", "distinct_property")
)
PERCENTILE = Parameter("percentile", {"type": "number", "minimum": 0, "maximum": 100}, required=True)
LIMIT = Parameter("limit", {"type": "integer", "minimum": 1, "maximum": 100_000})
# What Keen's clients send beside the query and this service has no use for: it answers from the events themselves.
SENT_BY_CLIENTS = (
    Parameter("analysis_type", {"type": "string"}, hidden=True),
    Parameter("include_metadata", {"type": "boolean"}, hidden=True),
    Parameter("max_age", {"type": "integer", "minimum": 0}, hidden=True),
)
EXTRACTING = (
    *SELECTING,
    Parameter("latest", {"type": "integer", "minimum": 1, "maximum": 10**12}),
    *EMAILS,
    Parameter("property_names", {"type": "array", "items": NAME, "minItems": 1}, encoded=True),
    Parameter("content_type", {"enum": ["application/json", "text/csv"]}),
    Parameter("content_encoding", {"const": "gzip"}),
)
BEACON = tuple(Parameter(name, {"type": "string"}, hidden=True) for name in ("data", "modified", "c", "redirect", "_"))
SIGNED = (Parameter("expires", {"type": "string"}), Parameter("signature", {"type": "string"}))


def query_fields(query: bytes) -> list[tuple[str, str]]:
    """The fields of a query string, in order.

    Raises InvalidInputError for too many, which all other requests would wait for, and for one that is not UTF-8: with anything
    else in its place it would ask for, or delete, other events.
    """
    try:
        return parse_qsl(query.decode("latin-1"), keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS)
    except UnicodeDecodeError:
        raise InvalidInputError("query: holds bytes, percent-encoded, that are not UTF-8", field="query") from None
    except ValueError:
        raise InvalidInputError(f"query: more than {MAX_FIELDS} parameters", field="query") from None


def read_parameters(
    query: Sequence[tuple[str, str]], known: Sequence[Parameter], body: bytes | None, most_bytes: int
) -> dict[str, Any]:
    """The parameters of a query string, without the key, and of the JSON object in the body; None: there is none.

    Raises InvalidInputError naming one that is unknown, missing, given twice, or longer than `most_bytes`.
    """
    pairs: list[tuple[str, Any]] = [(name, value) for name, value in query if name != "api_key"]
    if body is not None:
        given = parse_json(body, pairs=_once)
        if not isinstance(given, dict):
            raise InvalidInputError("body: must be a JSON object", field="body")
        pairs += given.items()
    parameters = _once(pairs)
    _check_known(parameters, known)
    _check_text(parameters)
    for name, value in parameters.items():
        size = len(value if isinstance(value, str) else json.dumps(value))
        if size > most_bytes:
            raise InvalidInputError(f"{name}: {size} bytes, the limit is {most_bytes}", field=name)
    return parameters


def _check_text(value: object) -> None:
    """Raises InvalidInputError for half of a surrogate pair in a text inside of a JSON value: it isn't a character."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise InvalidInputError("body: holds half of a surrogate pair, which isn't a character", field="body") from None
    except RecursionError:
        raise InvalidInputError("body: nested too deep", field="body") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for name, value in pairs:
        if name in made:
            raise InvalidInputError(f"{name[:80]}: given twice", field=name[:80])
        made[name] = value
    return made


def _check_known(parameters: dict[str, Any], known: Sequence[Parameter]) -> None:
    names = sorted(parameter.name for parameter in known)
    # What is not offered may stand there empty: some clients send each parameter that they know.
    unknown = sorted(n for n, v in parameters.items() if n not in names and not (n in _OFTEN_ASKED and v in (None, "")))
    if unknown:
        name = unknown[0][:80]
        if name in _OFTEN_ASKED:
            raise InvalidInputError(f"{name}: this service does not offer {name}", field=name)
        listed = f"known are {', '.join(names)}" if names else "none is"
        raise InvalidInputError(f"{name}: this parameter is not known here; {listed}", field=name)
    for parameter in known:
        if parameter.required and parameters.get(parameter.name) in (None, ""):
            raise InvalidInputError(f"{parameter.name}: must be given", field=parameter.name)


def check_analysis_type(value: object, kind: str) -> None:
    """Raises InvalidInputError when a client says that it calls another analysis than it does."""
    if value not in (None, "", kind):
        raise InvalidInputError(f"analysis_type: {str(value)[:40]!r} is not {kind}, which was called", field="analysis_type")


def property_name(value: object, field: str) -> str:
    """One property name: the name, or the JSON array of one. Raises InvalidInputError."""
    value = _names_in(value)
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, str) or not value:
        raise InvalidInputError(f"{field}: must be the name of one property", field=field)
    return value


def property_names(value: object) -> list[str] | None:
    """Property names: one, or a JSON array of them; None and the empty text are none. Raises InvalidInputError."""
    if value is None or value == "":
        return None
    value = _names_in(value)
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not 1 <= len(names) <= MAX_PROPERTY_NAMES or not all(isinstance(n, str) and n for n in names):
        raise InvalidInputError("property_names: must be a JSON array of property names", field="property_names")
    return list(dict.fromkeys(names))


def _names_in(value: object) -> object:
    """The list that the text of a parameter holds as JSON. Any other text is a name itself, one that starts with `[` too."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            found = parse_json(value.encode())
        except InvalidInputError:
            return value
        _check_text(found)
        return found
    return value


def whole_number(value: Any, field: str, most: int) -> int | None:
    """A whole number from 1 to `most`, or its digits; None and the empty text are none. Raises InvalidInputError."""
    if value is None or value == "":
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # JSON does not tell 2.0 from 2
    if not isinstance(value, bool) and re.fullmatch(r"[0-9]{1,13}", str(value)) and 1 <= int(value) <= most:
        return int(value)
    raise InvalidInputError(f"{field}: must be a whole number from 1 to {most}", field=field)

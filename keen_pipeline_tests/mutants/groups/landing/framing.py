"""Of what an answer's end is, what is no CSV, what a proxy leaves out, and what a name or a type means elsewhere."""

from __future__ import annotations

_CLIENT, _STORAGES = "keen_pipeline/client", "keen_pipeline/landing/storages"
_RESULTS, _PROXIES = "keen_pipeline_tests/client/test_results.py", "keen_pipeline_tests/client/test_proxies.py"
_WORDS, _DOWNLOAD = "keen_pipeline_tests/client/test_words.py", "keen_pipeline_tests/landing/transfer/test_download.py"
_FAULTS, _TYPES = "keen_pipeline_tests/landing/transfer/test_faults.py", "keen_pipeline_tests/readers/test_types.py"
_END = f"{_RESULTS}::test_answer_whose_end_nobody_can_tell_is_not_taken_for_whole"
_HINTS = f"{_RESULTS}::test_informational_answers_go_before_the_final_one"
_MEMBERS = f"{_RESULTS}::test_document_in_later_members_of_a_gzip_is_seen"
_CSV, _NOT_CSV = f"{_RESULTS}::test_what_may_be_a_csv_is_taken", f"{_RESULTS}::test_what_is_no_csv_is_refused_with_its_words"
_FORMS = f"{_PROXIES}::test_no_proxy_is_read_in_every_usual_form"
_CLEANED = f"{_WORDS}::test_words_are_cleaned_of_what_is_not_for_readers"
_NAMES = "keen_pipeline_tests/contract/storages/test_destination.py -k '(no_collections_name or no_two) and sftp'"
_ROOTS = "keen_pipeline_tests/contract/storages/test_roots.py::test_root_that_could_mean_two_things_is_refused"

MUTANTS: list[tuple[str, str, str, str]] = [
    (f"{_CLIENT}/connection.py", "if not readable:", "if False:", _END),
    (f"{_CLIENT}/connection.py", 'self.chunked and coding == "chunked"', "True", _END),
    (f"{_CLIENT}/connection.py", "len(lengths) == 1 and ", "", _END),
    (f"{_CLIENT}/connection.py", "self.length = int(min(lengths))", "pass", f"{_RESULTS}::test_length_that_is_said_twice_is_one"),
    (f"{_CLIENT}/connection.py", "while 100 < self.status < 200", "if 100 < self.status < 100", _HINTS),
    (f"{_CLIENT}/connection.py", " and self.status != 101", "", _HINTS),
    (f"{_CLIENT}/connection.py", 'if self.headers.get_payload() != "":', "if False:", _END),
    ("keen_pipeline/gunzip.py", " - len(self._member.unconsumed_tail) - len(self._member.unused_data)", "", _MEMBERS),
    (
        f"{_CLIENT}/results/opening.py",
        'match[3] == "*" or',
        "match[3] != '*' and",
        f"{_RESULTS}::test_part_that_is_not_the_rest_of_the_same_file_is_refused_by_itself",
    ),
    (f"{_CLIENT}/results/document.py", "if _BINARY.match(text):", "if False:", _NOT_CSV),
    (f"{_CLIENT}/results/document.py", "(?!\\Z)", "", _CSV),
    (f"{_CLIENT}/results/document.py", "if not text:", "if False:", _CSV),
    (f"{_CLIENT}/proxy.py", "if port and int(port) != place.port:", "if False:", _FORMS),
    (f"{_CLIENT}/proxy.py", 'name.removeprefix("*")', "name", _FORMS),
    (f"{_CLIENT}/scrub.py", '.replace("\\\\/", "/")', "", _CLEANED),
    (f"{_CLIENT}/scrub.py", "html.unescape(", "str(", _CLEANED),
    (f"{_CLIENT}/scrub.py", '"(?!)", re.IGNORECASE', '"(?!)"', _CLEANED),
    (
        "keen_pipeline/landing/transfer/download.py",
        "self._validator = None  # the last try",
        "pass  # the last try",
        f"{_FAULTS} -k 'always_another_range or always and range'",
    ),
    (
        "keen_pipeline/gunzip.py",
        "given = data[at : at + self._step]",
        "given = data[at:]",
        f"{_DOWNLOAD}::test_many_empty_members_cost_no_more_than_their_bytes",
    ),
    (f"{_STORAGES}/sftp.py", 'plain in (".", "..") or ', "", _NAMES),
    (f"{_STORAGES}/sftp.py", 'for sign in "/\\\\%"', 'for sign in "%"', _NAMES),
    (f"{_STORAGES}/sftp.py", 'for sign in "/\\\\%"', 'for sign in "/"', _NAMES),
    (f"{_STORAGES}/storage.py", "if not path.isprintable():", "if False:", _ROOTS),
    (f"{_STORAGES}/storage.py", 'parts.scheme == "file" and rest', 'parts.scheme == "file"', _ROOTS),
    (
        "keen_pipeline/readers/scan.py",
        'replace_substring_regex(array.cast(pa.string()), "^-0$", "-0.0")',
        "cast(array, pa.string())",
        _TYPES,
    ),
    ("keen_pipeline/readers/scan.py", '(_family(have) != "text" or types.is_boolean(want))', '_family(have) != "text"', _TYPES),
    ("keen_pipeline/readers/numbers.py", "whole = whole and not compute.any", "whole = whole or compute.any", _TYPES),
    (
        "keen_pipeline/landing/parquet/write.py",
        "if written != proven.records or columns.names != proven.columns:",
        "if written > proven.records or columns.names != proven.columns:",
        "keen_pipeline_tests/landing/parquet/test_parquet.py -k sees_fewer",
    ),
    (
        "keen_pipeline/landing/parquet/convert.py",
        "known = {*self._types, *self._earlier_types}.difference(columns)",
        "known = {*self._types}.difference(columns)",
        "keen_pipeline_tests/landing/parquet/test_parquet.py -k earlier_files_alone",
    ),
]

"""Of the CSV grammar, verifying, masking, joining, previewing, Parquet and `load`.

Each is a file, its text, the text that takes its place, and the tests of which one must fail.
"""

from __future__ import annotations

GRAMMAR = "keen_pipeline/landing/csv/grammar.py"
VERIFY = "keen_pipeline/landing/csv/verify.py"
STRUCTURE = "keen_pipeline/landing/csv/structure.py"
JOINED = "keen_pipeline/landing/csv/joined.py"
MASKING = "keen_pipeline/landing/csv/masking.py"
STORED = "keen_pipeline/landing/csv/stored.py"
TYPES = "keen_pipeline/landing/parquet/types.py"
CELLS = "keen_pipeline/landing/parquet/cells.py"
SOURCE = "keen_pipeline/landing/parquet/source.py"
WRITE = "keen_pipeline/landing/parquet/write.py"
CONVERT = "keen_pipeline/landing/parquet/convert.py"
FILES = "keen_pipeline/cli/local/event_files.py"
LOAD = "keen_pipeline/cli/local/load.py"
PREVIEW = "keen_pipeline/defs/reports/preview.py"
LANDING = "keen_pipeline/landing/destination.py"

TEST_VERIFY = "keen_pipeline_tests/landing/csv/test_verify.py"
TEST_JOINED = "keen_pipeline_tests/landing/csv/test_joined.py"
TEST_MASKING = "keen_pipeline_tests/landing/csv/test_masking.py"
TEST_PARQUET = "keen_pipeline_tests/landing/parquet/test_parquet.py"
TEST_FILES = "keen_pipeline_tests/service/events/test_event_files.py"
TEST_PREVIEW = "keen_pipeline_tests/defs/assets/test_preview.py"
MIXTURE = f"{TEST_VERIFY}::test_any_mixture_of_special_bytes_is_judged_as_pythons_csv_does"
WRONG = f"{TEST_VERIFY}::test_what_is_wrong_is_said_with_its_place"
DOCUMENTS = f"{TEST_VERIFY}::test_documents_are_judged_as_pythons_csv_does"
KEPT_BACK = f"{TEST_MASKING}::test_what_belongs_to_no_column_is_kept_back"
SPLIT_DAY = f"{TEST_JOINED}::test_a_split_day_joined_equals_the_day"
NARROWER = f"{TEST_PARQUET}::test_column_never_gets_narrower_from_file_to_file"
NUMBERS = f"{TEST_PARQUET}::test_number_that_a_double_does_not_keep_leaves_its_column_text"
NO_EVENTS = f"{TEST_PARQUET}::test_file_without_events_has_the_collections_columns"
LINE = f"{TEST_FILES}::test_errors_name_the_file_and_the_line"

MUTANTS: list[tuple[str, str, str, str]] = [
    (GRAMMAR, """[] if cells == [b""] and not more else cells""", "cells", MIXTURE),
    (GRAMMAR, "self._sniffed = number > 0", "self._sniffed = False", f"{TEST_VERIFY} -k whole_records"),
    (GRAMMAR, 'found[2] == b"\\r" and not self._last', 'found[2] == b"\\r" and self._last', MIXTURE),
    (GRAMMAR, "if self._data.startswith(BOM):", "if not self._data:", TEST_PREVIEW),
    (GRAMMAR, "if end - self._at > longest:", "if end - self._at > 2 * longest:", WRONG),
    (GRAMMAR, 'return cell in (b"", b"null")', 'return cell == b""', TEST_MASKING),
    (GRAMMAR, """.replace(b'""', b'"')""", "", f"{TEST_VERIFY}::test_header_is_read_as_written"),
    (GRAMMAR, "if found[1] and not found[2]:", "if found[1]:", MIXTURE),
    (VERIFY, "if found is None or (not found[0] and last < end):", "if found is None:", f"{TEST_VERIFY} -k whole_records"),
    (VERIFY, "if after is None or (after == at and doubtful):", "if after is None:", f"{TEST_VERIFY} -k odd_places"),
    (VERIFY, "RecordReader(self.records + 1, before, len(self.columns))", "RecordReader(self.records + 1, before)", WRONG),
    (
        GRAMMAR,
        "if len(cells) != self.width and",
        "if len(cells) > self.width and",
        f"{TEST_JOINED}::test_a_slice_that_is_no_csv_is_named",
    ),
    (GRAMMAR, "{self.width} (at byte {self.offset})", "{self.width} (at byte {self._at})", WRONG),
    (GRAMMAR, "if len(cells) < most:", "if True:", f"{TEST_VERIFY} -k million_columns"),
    (
        VERIFY,
        "if len(joined) > LONGEST_RECORD_BYTES:",
        "if len(joined) > 2 * LONGEST_RECORD_BYTES:",
        f"{TEST_VERIFY} -k has_a_bound",
    ),
    (
        STRUCTURE,
        "return None  # a lone CR ends a record too",
        "pass",
        f"{TEST_VERIFY}::test_documents_are_judged_as_pythons_csv_does",
    ),
    (STRUCTURE, "if self._commas_wanted == 0 and", "if self._commas_wanted < 0 and", MIXTURE),
    (JOINED, "columns.append((name, seen[name]))", "columns.append((name, 1))", TEST_JOINED),
    (JOINED, 'if not last.endswith((b"\\n", b"\\r")):', 'if not last.endswith(b"\\n"):', SPLIT_DAY),
    (JOINED, "union.insert(at, column)", "union.append(column)", TEST_JOINED),
    (JOINED, "return union[:1] + sorted(union[1:])", "return union", TEST_JOINED),
    (JOINED, "reader.width = len(header.cells)", "pass", f"{TEST_JOINED}::test_a_slice_that_is_no_csv_is_named"),
    (JOINED, "if len(batch) >= _PIECE:", "if False:", f"{TEST_JOINED} -k memory"),
    (JOINED, "except OSError as error:", "except ZeroDivisionError as error:", f"{TEST_JOINED} -k breaks_while_it_is_read"),
    (MASKING, "if not is_null(cells[place]):", "if cells[place]:", TEST_MASKING),
    (MASKING, "        except VerificationError:\n", "        except ZeroDivisionError:\n", KEPT_BACK),
    (
        MASKING,
        "        cells = list(compress(cells, self._keeps))\n",
        "",
        f"{TEST_MASKING}::test_columns_that_are_dropped_take_no_other_with_them",
    ),
    (MASKING, """cells[0] or b'""'""", "cells[0]", TEST_MASKING),
    (STORED, "except self._errors as error:", "except ZeroDivisionError as error:", LINE),
    (TYPES, "return kind if kind == before else STRING", "return kind", NARROWER),
    (TYPES, "if BYTES in (kind, before):", "if kind == BYTES:", NARROWER),
    (CELLS, "_LARGEST_WHOLE = 2**53", "_LARGEST_WHOLE = 2**60", NUMBERS),
    (
        CELLS,
        "first >= _FIRST_INSTANT",
        "first >= -(10**18)",
        f"{TEST_PARQUET}::test_instant_that_readers_cannot_show_leaves_its_column_text",
    ),
    (CELLS, 'sure[zeros] &= (behind == end[zeros]) | (_at(data, behind) == ord("."))', "pass", NUMBERS),
    (SOURCE, 'return memory.rfind(b"\\n", 0, end) + 1', "return end", f"{TEST_PARQUET} -k 'odd_records or misfit_in_the_last'"),
    (
        SOURCE,
        """if memory.find(b'"', 0, end) < 0 and memory""",
        "if memory",
        f"{TEST_PARQUET} -k 'within_quotes or misfit_in_the_last'",
    ),
    (
        WRITE,
        "quoted_strings_can_be_null=False",
        "quoted_strings_can_be_null=True",
        f"{TEST_PARQUET}::test_null_of_json_is_null_and_leaves_its_column_typed",
    ),
    (
        WRITE,
        'null_values=["", "null"]',
        'null_values=[""]',
        f"{TEST_PARQUET}::test_null_of_json_is_null_and_leaves_its_column_typed",
    ),
    (WRITE, "_writer(file, columns.empty_schema(), [])", "_writer(file, schema, [])", NO_EVENTS),
    (CONVERT, "self._earlier_types.get(name))", "None)", NARROWER),
    (
        CONVERT,
        "zip(columns, kinds, asked, strict=True) if kind != wish]",
        "zip(columns, kinds, asked, strict=True) if False]",
        NUMBERS,
    ),
    (
        LANDING,
        "for name, word in earlier.items() if not dropped(name)",
        "for name, word in earlier.items()",
        "keen_pipeline_tests/landing/parquet/test_parquet_landed.py::test_dropped_column_is_not_in_a_file_without_events",
    ),
    (FILES, "json.dumps(event, allow_nan=False)", "json.dumps(event)", LINE),
    (
        FILES,
        "        if batch:\n            yield batch\n        raise",
        "        raise",
        f"{TEST_FILES}::test_events_before_a_bad_line_are_given_out",
    ),
    (FILES, "if len(cells) == 1:", "if False:", LINE),
    (FILES, "if not reader.number:", "if False:", LINE),
    (FILES, "if first and not found:", "if not first and not found:", LINE),
    (
        FILES,
        """line += 1 + sum(len(_LINE_END.findall(cell)) for cell in cells if cell.startswith(b'"'))""",
        "line += 1",
        LINE,
    ),
    (FILES, 'not (is_digits or value[0] in "[{")', "True", f"{TEST_FILES} -k without_loss"),
    (FILES, "            if header:\n", "            if not header:\n", f"{TEST_FILES} -k without_loss"),
    (LOAD, "empty.append(name)", "pass", f"{TEST_FILES}::test_a_file_without_events_never_ends_well_and_stops_no_other"),
    (PREVIEW, '"" if is_null(cell) else ', "", TEST_PREVIEW),
    (PREVIEW, "reader.end()  # else the last record may go on", "pass", TEST_PREVIEW),
    (
        "keen_pipeline/landing/transfer/intake.py",
        "        if self._masker is not None and self._masker.stopped:\n",
        "        if False:\n",
        "keen_pipeline_tests/landing/csv/test_masking.py -k no_end_of_the_file",
    ),
    (
        "keen_pipeline/landing/destination.py",
        "        if came.masked:\n",
        "        if False:\n",
        "keen_pipeline_tests/landing/csv/test_masking.py -k kept_aside",
    ),
]

"""Readers, tables and the fixtures for users' tests: wrong lines, and the tests that must fail for each."""

_FRAMES = "keen_pipeline_tests/readers/test_frames.py"
_NUMBERS = "keen_pipeline_tests/readers/test_numbers.py"
_FILES = "keen_pipeline_tests/readers/test_files.py"
_TABLES = "keen_pipeline_tests/defs/assets/test_tables.py"
_TABLE_NAMES = "keen_pipeline_tests/defs/assets/test_table_names.py"
_TESTING = "keen_pipeline_tests/test_testing.py"

MUTANTS: list[tuple[str, str, str, str]] = [
    ("keen_pipeline/readers/copies.py", " or [schema.field(0)])", ")", f"{_FRAMES} -k without_any"),
    ("keen_pipeline/readers/frames.py", "weakref.finalize(part.dataset, id, part.scan)", "", f"{_FRAMES} -k copies_go"),
    (
        "keen_pipeline/readers/reader.py",
        "if file.fingerprint != wanted[key]]",
        "if wanted[key] is None]",
        _FILES,
    ),
    (
        "keen_pipeline/readers/reader.py",
        'keys = [key for key in keys if wanted.get(key, "") is not None]',
        "keys = list(keys)",
        _FILES,
    ),
    ("keen_pipeline/readers/files.py", "if len(by_selection) > 1:", "if len(by_selection) > 2:", _FILES),
    (
        "keen_pipeline/extraction.py",
        "return json.dumps([filters_identity(self.filters), mask, self.mask_key])",
        "return json.dumps([filters_identity(self.filters)])",
        _FILES,
    ),
    (
        "keen_pipeline/readers/reader.py",
        "wrong = [key for key, file in chosen.items() if not file.fingerprint]",
        "wrong = []",
        _FILES,
    ),
    (
        "keen_pipeline/readers/types.py",
        'return {name: "string" if name in masked else _agreed(name, words) for name, words in said.items()}',
        "return {name: _agreed(name, words) for name, words in said.items()}",
        f"{_NUMBERS}::test_one_word_for_all_landings_of_a_column",
    ),
    (
        "keen_pipeline/readers/types.py",
        "    if len(words) != 1:\n",
        "    if not words:\n",
        f"{_NUMBERS}::test_a_type_that_keen_changed_is_text_on_every_day",
    ),
    (
        "keen_pipeline/readers/types.py",
        'frozenset({"", "null"})',
        'frozenset({""})',
        f"{_NUMBERS}::test_one_word_for_all_landings_of_a_column",
    ),
    ("keen_pipeline/readers/numbers.py", "_SAFE = 2**53\n", "_SAFE = 2**54\n", f"{_NUMBERS}::test_a_long_number_is_looked_at"),
    (
        "keen_pipeline/readers/numbers.py",
        "return pa.int64() if self.whole else self.decimal_type",
        "return self.decimal_type",
        f"{_NUMBERS}::test_type",
    ),
    (
        "keen_pipeline/readers/numbers.py",
        "_SURE_LENGTH = 15",
        "_SURE_LENGTH = 18",
        f"{_NUMBERS}::test_a_long_number_is_looked_at",
    ),
    (
        "keen_pipeline/readers/numbers.py",
        "scale=max(0, -exponent - zeros)",
        "scale=max(0, -exponent - 1)",
        f"{_NUMBERS}::test_type",
    ),
    (
        "keen_pipeline/readers/scan.py",
        "return array.cast(pa.string()).cast(kind)  # by its shortest text",
        "return array.cast(kind, safe=False)  # by its shortest text",
        f"{_NUMBERS}::test_a_double_becomes_the_decimal_that_keen_had",
    ),
    (
        "keen_pipeline/readers/scan.py",
        "        or (types.is_floating(have) and types.is_decimal(want))\n",
        "",
        f"{_NUMBERS}::test_files_of_other_encodings_and_types_are_one_column",
    ),
    (
        "keen_pipeline/readers/reader.py",
        "names = list(known) if columns is None",
        "names = list(asked) if columns is None",
        f"{_FRAMES}::test_a_day_without_events_has_the_columns_of_the_collection[csv-pyarrow.Table]",
    ),
    (
        "keen_pipeline/readers/frames.py",
        "if unique == list(names):",
        "if True:",
        f"{_FRAMES}::test_names_that_differ_in_case_never_stand_for_each_other_in_duckdb",
    ),
    (
        "keen_pipeline/readers/reader.py",
        "{key: convert(scan.of(key)) for key in keys}",
        "{key: convert(scan.of(key)) for key in files}",
        f"{_TESTING}::test_a_partition_that_is_missing_is_an_empty_frame",
    ),
    (
        "keen_pipeline/tables/load.py",
        'f"{SOURCE_COLUMN} = {_literal(self.source)} AND {PARTITION_COLUMN}',
        'f"{PARTITION_COLUMN}',
        f"{_TABLES}::test_two_collections_in_one_table_stand_side_by_side[sqlite]",
    ),
    (
        "keen_pipeline/tables/load.py",
        "        if added:\n            _forget_schemas(client)\n",
        "",
        f"{_TABLES}::test_a_table_that_was_dropped_is_made_again[sqlite]",
    ),
    (
        "keen_pipeline/tables/load.py",
        "                    _drop_staging(client)\n",
        "",
        f"{_TABLES}::test_columns_hold_every_day_exactly[duckdb]",
    ),
    (
        "keen_pipeline/tables/load.py",
        "yield _with_marks(scan.schema.empty_table(), columns, self.source, partition_key)  # also for no event",
        "pass",
        f"{_TABLES}::test_an_emptied_partition_loses_its_rows_and_no_other_does[sqlite]",
    ),
    (
        "keen_pipeline/tables/place.py",
        "with self._held(pipeline):\n                yield",
        "yield",
        f"{_TABLES}::test_processes_that_load_at_once_leave_each_partition_once[duckdb] -m slow",
    ),
    (
        "keen_pipeline/tables/place.py",
        'return "parquet" if importlib.util.find_spec("adbc_driver_postgresql") else "insert_values"',
        'return "csv"',
        f"{_TABLES}::test_what_a_load_tells[postgresql]",
    ),
    (
        "keen_pipeline/tables/place.py",
        "    destination: Any = field(repr=False)  # its own shows passwords\n",
        "    destination: Any\n",
        f"{_TABLE_NAMES}::test_a_password_is_never_shown",
    ),
    (
        "keen_pipeline/tables/shape.py",
        'return "num" if self._all_safe(name) else "string"',
        'return "num"',
        f"{_TABLES}::test_columns_hold_every_day_exactly[sqlite]",
    ),
    (
        "keen_pipeline/tables/shape.py",
        'return "num" if numbers.exact else "int" if self._all_whole(name) else "string"',
        'return "num" if numbers.exact else "string"',
        f"{_TABLES}::test_doubles_that_are_whole_become_bigint_when_one_needs_it[sqlite]",
    ),
    (
        "keen_pipeline/tables/shape.py",
        'return f"keen_text({column})"',
        'return f"CAST({column} AS {kind})"',
        f"{_TABLES}::test_columns_hold_every_day_exactly[sqlite]",
    ),
    (
        "keen_pipeline/tables/names.py",
        "if is_plain and len(plain)",
        "if len(plain)",
        f"{_TABLE_NAMES}::test_each_property_has_a_column_of_its_own",
    ),
    (
        "keen_pipeline/readers/frames.py",
        "while name.lower() in clashes and unique.lower() in used:",
        "if name.lower() in clashes and unique.lower() in used:",
        "keen_pipeline_tests/readers/test_frames.py -k stand_for_each_other_in_duckdb",
    ),
    (
        "keen_pipeline/readers/scan.py",
        "            _check_header(file)\n",
        "            pass\n",
        "keen_pipeline_tests/readers/test_frames.py -k by_its_uri_alone",
    ),
    (
        "keen_pipeline/readers/numbers.py",
        "if self.digits + self.scale <= DECIMAL_DIGITS else",
        "if self.digits <= DECIMAL_DIGITS else",
        "keen_pipeline_tests/readers/test_numbers.py -k test_type",
    ),
    (
        "keen_pipeline/tables/load.py",
        "[type(cause).__name__])[0][:_LONGEST_REASON]",
        "[type(cause).__name__])[0]",
        "keen_pipeline_tests/defs/assets/test_table_names.py -k databases_words",
    ),
    (
        "keen_pipeline/tables/load.py",
        "if shape.columns and not {SOURCE_COLUMN, PARTITION_COLUMN} <= set(shape.columns):",
        "if shape.columns and not {PARTITION_COLUMN} <= set(shape.columns):",
        "keen_pipeline_tests/defs/assets/test_tables.py -k somebody_else",
    ),
    (
        "keen_pipeline/readers/files.py",
        "names = others() if not landed else ()",
        "names = others()",
        "keen_pipeline_tests/readers/test_files.py -k misspelt",
    ),
]

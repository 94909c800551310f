"""Definitions: wrong lines, and the tests that must fail for each."""

_TESTS = "keen_pipeline_tests/defs"
_AGAIN = f"{_TESTS}/backfills/test_again.py"
_EACH = f"{_TESTS}/assets/test_one_step_each.py"
_NAMES = f"{_TESTS}/definitions/test_names_and_schedules.py"
_GIVEN_UP = f"{_TESTS}/backfills/test_given_up.py"
_GUEST = f"{_TESTS}/definitions/test_guest.py"
_RESOURCES = f"{_TESTS}/definitions/test_resources.py"

MUTANTS: list[tuple[str, str, str, str]] = [
    (
        "keen_pipeline/defs/assets/run.py",
        "return lambda entry: entry.run_id == run_id or (entry.landed_at is not None and launched_at <= entry.landed_at <= clock.now())",
        "return lambda entry: True",
        f"{_AGAIN}::test_what_was_corrected_at_the_source_arrives_with_an_explicit_materialization",
    ),
    (
        "keen_pipeline/defs/assets/run.py",
        "return lambda entry: entry.run_id == run_id or (entry.landed_at is not None and launched_at <= entry.landed_at <= clock.now())",
        "return lambda entry: False",
        f"{_AGAIN}::test_runs_of_one_backfill_keep_what_it_landed",
    ),
    (
        "keen_pipeline/defs/assets/run.py",
        "    root = run.root_run_id or run.run_id\n",
        "    root = run.run_id\n",
        f"{_AGAIN}::test_a_re_executed_run_keeps_what_it_landed_and_tells_it_once",
    ),
    (
        "keen_pipeline/defs/assets/run.py",
        'if config.get("skip_landed"):',
        'if config.get("skip"):',
        f"{_AGAIN}::test_what_was_corrected_at_the_source_arrives_with_an_explicit_materialization",
    ),
    (
        "keen_pipeline/defs/assets/run.py",
        "is_known=adopted and self._told_before(entry))",
        "is_known=False)",
        f"{_AGAIN}::test_a_re_executed_run_keeps_what_it_landed_and_tells_it_once",
    ),
    (
        "keen_pipeline/defs/assets/run.py",
        "yield _before_start(self.keys[collection.name], collection, partition)",
        "pass",
        f"{_EACH}::test_collections_of_different_start_dates_go_together",
    ),
    (
        "keen_pipeline/defs/assets/run.py",
        "        created = [] if is_one_over else self._submit_for_the_run(pipeline, others, partition_keys, keep, run_id)\n",
        "        created: list[int] = []\n",
        f"{_EACH}::test_the_healthy_ones_downstream_runs_beside_a_failure_and_the_waits_overlap",
    ),
    (
        "keen_pipeline/defs/assets/run.py",
        "                self._keep_for_next_steps(pipeline, partition_keys, run_id)\n",
        "",
        f"{_EACH}::test_the_sensor_leaves_to_the_next_step_what_finishes_meanwhile",
    ),
    (
        "keen_pipeline/defs/reports/reporter.py",
        "yield failed",
        "pass",
        f"{_GIVEN_UP}::test_a_run_of_the_asset_tells_what_it_gave_up",
    ),
    (
        "keen_pipeline/defs/ops.py",
        "yield from self._unreported(entry)",
        "pass",
        f"{_TESTS}/nights/test_nightly.py::test_a_landing_that_nobody_reported_is_reported_once_by_the_next_run",
    ),
    (
        "keen_pipeline/defs/assets/run.py",
        "except KeenPipelineError as error:  # its own step",
        "except AssertionError as error:  # its own step",
        f"{_EACH}::test_a_neighbour_that_cant_be_asked_for_holds_nobody_up",
    ),
    (
        "keen_pipeline/defs/sensors/notifications.py",
        "notices = SqlNotices(ledger.engine, of=_of(ledger), clock=time)",
        "notices = SqlNotices(ledger.engine, clock=time)",
        f"{_TESTS}/notices/test_notifications.py::test_two_projects_on_one_ledger_have_a_digest_each",
    ),
    (
        "keen_pipeline/defs/assets/run.py",
        "selected = [c for name, c in sorted(self.collections.items()) if self.keys[name] in context.selected_asset_keys]",
        "selected = [c for name, c in sorted(self.collections.items())]",
        f"{_EACH}::test_several_collections_in_one_step_of_the_users_own",
    ),
    (
        "keen_pipeline/defs/partitions.py",
        "alike = [one for one in (collection, *together_with) if grain(one) == grain(collection)]",
        "alike = [collection]",
        f"{_EACH}::test_collections_of_different_start_dates_go_together",
    ),
    (
        "keen_pipeline/defs/partitions.py",
        "return partition_key[: len(start)] < start",
        "return partition_key[: len(start)] <= start",
        f"{_EACH}::test_collections_of_different_start_dates_go_together",
    ),
    (
        "keen_pipeline/defs/reports/metadata.py",
        'tags={"dagster/data_version": _data_version(landing)},',
        "tags={},",
        f"{_AGAIN}::test_unchanged_bytes_wake_nobody_who_looks_at_the_data_version",
    ),
    (
        "keen_pipeline/defs/assets/collections.py",
        '"retry_policy": retry_policy, "hooks": hooks}',
        '"retry_policy": retry_policy}',
        f"{_EACH}::test_several_collections_in_one_step_of_the_users_own",
    ),
    (
        "keen_pipeline/defs/assets/collections.py",
        "if len({grain(c) for c in collections}) > 1:",
        "if len({c.granularity for c in collections}) > 1:",
        f"{_EACH}::test_one_step_takes_one_granularity_and_zone_and_at_least_one_collection",
    ),
    (
        "keen_pipeline/defs/names.py",
        'if re.fullmatch(r"[A-Za-z0-9_]+", text) and "__" not in text:\n        return text\n    return f',
        "return f",
        f"{_NAMES}::test_steps_keep_their_names_whatever_else_is_configured",
    ),
    (
        "keen_pipeline/defs/translator.py",
        "        if other != collection.name:\n",
        "        if not other:\n",
        f"{_NAMES}::test_two_collections_of_one_key_are_refused_unless_a_translator_tells_them_apart",
    ),
    (
        "keen_pipeline/defs/reports/reporter.py",
        "        self._landed[entry.request.path] = entry\n",
        "        self._landed[entry.request.path] = entry\n        self._pipeline.ledger.reported([entry.entry_id])\n",
        f"{_TESTS}/nights/test_nightly.py::test_a_run_that_dies_before_its_checks_leaves_them_to_the_next",
    ),
    (
        "keen_pipeline/defs/reports/checks.py",
        " and not one.is_current]",
        " and not one.check_key]",
        f"{_TESTS}/backfills/test_backfill_retried.py",
    ),
    (
        "keen_pipeline/defs/reports/reporter.py",
        "if entry.counted_at is not None and entry.entry_id not in self._counted:",
        "if entry.counted_at is None:",
        f"{_TESTS}/backfills/test_backfill_retried.py",
    ),
    (
        "keen_pipeline/defs/partitions.py",
        " or _windows(given) != _windows(own):",
        ":",
        f"{_NAMES}::test_partitions_whose_keys_stand_for_other_times_are_refused",
    ),
    (
        "keen_pipeline/defs/jobs.py",
        "return _job(names, names.materialize_job, said, op, landing_config(op, collections, keys))",
        "return _job(names, names.materialize_job, said, op, landing_config(op, [], {}))",
        f"{_GIVEN_UP}::test_a_landing_run_that_a_person_launches_tells_the_assets_and_their_checks",
    ),
    (
        "keen_pipeline/defs/jobs.py",
        "default = HOURLY_CRON if collection.granularity is Granularity.HOURLY else cron or DEFAULT_CRON",
        "default = cron or DEFAULT_CRON",
        f"{_NAMES}::test_each_granularity_and_zone_has_its_own_time",
    ),
    (
        "keen_pipeline/defs/jobs.py",
        "return collection.cron or default, timezone or collection.timezone",
        'return collection.cron or default, timezone or "UTC"',
        f"{_NAMES}::test_each_granularity_and_zone_has_its_own_time",
    ),
    (
        "keen_pipeline/defs/jobs.py",
        "return _submit_config(op, collections, format_instant(context.scheduled_execution_time))",
        "return _submit_config(op, collections)",
        f"{_NAMES}::test_a_tick_asks_as_of_its_own_time",
    ),
    (
        "keen_pipeline/defs/sensors/status.py",
        "for e in (*ledger.outbox(limit=MAX_ENTRIES_PER_RUN), *ledger.uncounted())",
        "for e in ledger.uncounted()",
        f"{_GIVEN_UP}::test_so_does_the_night_when_the_sensor_finds_it",
    ),
    (
        "keen_pipeline/defs/jobs.py",
        '"asset_keys": {name: list(key.path) for name, key in keys.items()},',
        '"asset_keys": {},',
        f"{_GIVEN_UP}::test_a_key_of_the_translators_holds_on_the_nightly_path_and_in_the_outbox",
    ),
    (
        "keen_pipeline/defs/sensors/status.py",
        'default_status=sensor_status(running),\n        description="Polls',
        'default_status=dg.DefaultSensorStatus.RUNNING,\n        description="Polls',
        f"{_GUEST}::test_it_loads_beside_everything_and_nothing_of_ours_is_running",
    ),
    (
        "keen_pipeline/defs/ops.py",
        "elif isinstance(error, ConfigurationError) and entry.landing_tries == 1:",
        "elif isinstance(error, ConfigurationError):",
        f"{_GIVEN_UP}::test_a_destination_that_refuses_is_one_red_run",
    ),
    (
        "keen_pipeline/defs/ops.py",
        (
            '        ins={"after": dg.In(dg.Nothing)},\n'
            '        out=dg.Out(dg.Nothing, is_required=False, description="what had finished is landed and reported"),'
        ),
        '        out=dg.Out(dg.Nothing, is_required=False, description="what had finished is landed and reported"),',
        f"{_GIVEN_UP}::test_the_ops_follow_each_other_in_a_graph_of_the_users_own",
    ),
    (
        "keen_pipeline/defs/resources.py",
        'if settings.base_url is None and ("project_id" in values or "read_key" in values):',
        'if settings.base_url is None and "read_key" in values:',
        f"{_RESOURCES}::test_so_is_one_in_fields",
    ),
    (
        "keen_pipeline/defs/resources.py",
        '_FIELDS[name].parse(f"resource field {name}", str(value).strip())',
        '_FIELDS[name].parse("a field", str(value).strip())',
        f"{_RESOURCES}::test_a_wrong_value_is_told_with_its_field",
    ),
    (
        "keen_pipeline/defs/resources.py",
        'Seconds = Annotated[str, BeforeValidator(lambda given: given if given is None or isinstance(given, str) else f"{given}")]',
        "Seconds = float",
        f"{_RESOURCES}::test_the_environment_may_stand_for_every_field",
    ),
    (
        "keen_pipeline/defs/jobs.py",
        'return names.nightly if zone == (timezone or "UTC") else',
        "return names.nightly if zone == collections[0].timezone else",
        f"{_NAMES}::test_a_schedule_that_is_on_keeps_its_name_when_collections_are_added",
    ),
    (
        "keen_pipeline/defs/names.py",
        ' and "__" not in text:',
        ":",
        f"{_NAMES}::test_no_step_of_one_collection_has_the_name_of_a_step_of_several",
    ),
    (
        "keen_pipeline/defs/component.py",
        '    if "name" in discovery.defaults:\n',
        "    if False:\n",
        "keen_pipeline_tests/defs/definitions/test_component.py -k wrong_in_yaml",
    ),
    (
        "keen_pipeline/defs/reports/checks.py",
        "        landed = [e for e in landed if e.request.partition_key in set(partition_keys)]\n",
        "        pass\n",
        "keen_pipeline_tests/defs/assets/test_checks.py -k checks_alone",
    ),
    (
        "keen_pipeline/defs/assets/run.py",
        "step not in ended for",
        "step for",
        "keen_pipeline_tests/defs/assets/test_one_step_each.py -k step_that_is_over",
    ),
    (
        "keen_pipeline/defs/ops.py",
        "        self.reporter.failed += [(entry, entry.reason) for entry in posted.ended]\n",
        "",
        "keen_pipeline_tests/pipeline/test_reasons.py -k night_fails",
    ),
    (
        "keen_pipeline/defs/reports/reporter.py",
        """        if counted.entry.is_whole is not True:
            self._log""",
        """        if counted.entry.is_whole is False:
            self._log""",
        "keen_pipeline_tests/pipeline/test_reasons.py -k log_of_its_run",
    ),
    (
        "keen_pipeline/defs/sensors/status.py",
        ", **posted.problems}",
        "}",
        "keen_pipeline_tests/pipeline/test_reasons.py -k tick_logs",
    ),
    (
        "keen_pipeline/defs/component.py",
        "        if isinstance(resource.read_key, dg.EnvVar):  #",
        "        if False:  #",
        "keen_pipeline_tests/defs/definitions/test_component.py -k variable_holds",
    ),
    (
        "keen_pipeline/defs/assets/run.py",
        "                pipeline.ledger.withdraw(created, run_id=run_id)\n",
        "                pass\n",
        "keen_pipeline_tests/defs/assets/test_one_step_each.py -k breaks_off",
    ),
    (
        "keen_pipeline/defs/ops.py",
        " and entry.request.kind is not Kind.SLICE:",
        ":",
        "keen_pipeline_tests/pipeline/test_reasons.py -k end_of_a_slice",
    ),
    (
        "keen_pipeline/defs/sensors/status.py",
        "return timedelta() <= now - ended < timedelta(seconds=DISPATCH_SECONDS)",
        "return now - ended < timedelta(seconds=DISPATCH_SECONDS)",
        "keen_pipeline_tests/unit/test_dispatched.py -k clock_that_was_ahead",
    ),
    (
        "keen_pipeline/defs/jobs.py",
        'return names.nightly if zone == (timezone or "UTC") else',
        'return names.nightly if zone == "UTC" else',
        "keen_pipeline_tests/defs/definitions/test_names_and_schedules.py -k own_crons_alone",
    ),
    (
        "keen_pipeline/defs/ops.py",
        """except (KeenPipelineError, OSError) as error:
            self.context.log.warning("what dead""",
        """except OSError as error:
            self.context.log.warning("what dead""",
        "keen_pipeline_tests/pipeline/test_reasons.py -k keep_no_night",
    ),
    (
        "keen_pipeline/defs/sensors/freshness.py",
        "for name, said in before.items() if name in known}",
        "for name, said in before.items()}",
        "keen_pipeline_tests/defs/assets/test_checks.py -k freshness_sensor",
    ),
    (
        "keen_pipeline/defs/ops.py",
        " and not (e.status is Status.ABANDONED and e.reported_at is not None)]",
        "]",
        "keen_pipeline_tests/pipeline/test_reasons.py -k told_before",
    ),
    (
        "keen_pipeline/defs/io_managers.py",
        "reader = self.reader.open(collection_of(upstream))",
        "reader = self.reader.open()",
        "keen_pipeline_tests/defs/definitions/test_inputs.py -k configuration_of_its_asset",
    ),
]

"""Small wrongs in the storages, and the tests that must see each: (file, old text, new text, what to run)."""

from __future__ import annotations

_AT = "keen_pipeline/landing/storages/"
_TESTS = "keen_pipeline_tests/contract/storages/"
_LOCAL = _TESTS + "test_local_storage.py"
_ROOTS = _TESTS + "test_roots.py"
_FAULTS = _TESTS + "test_storage_faults.py"
_STORAGES = _TESTS + "test_storages.py"
_LEFTOVERS = _TESTS + "test_leftovers.py"
_REFUSALS = _TESTS + "test_refusals.py"
_SFTP = _TESTS + "test_sftp.py"

MUTANTS: list[tuple[str, str, str, str]] = [
    # Local folder
    (_AT + "local.py", "            os.fsync(stage.fileno())\n", "", f"{_LOCAL} -k synced"),
    (_AT + "local.py", "            _sync_folder(place.parent)\n", "", f"{_LOCAL} -k synced"),
    (_AT + "local.py", "            self._copy(beside)\n", "            raise\n", f"{_LOCAL} -k another_disk"),
    (_AT + "local.py", "        self.seek(0)\n", "", f"{_LOCAL} -k another_disk"),
    (_AT + "local.py", ", src_dir_fd=self.fileno()", "", f"{_LOCAL} -k synced"),
    (
        _AT + "local.py",
        "    folder.mkdir(exist_ok=True)\n    _sync_folder(folder.parent)\n",
        "    folder.mkdir(exist_ok=True)\n",
        f"{_LOCAL} -k synced",
    ),
    (_AT + "local.py", "    folder.mkdir(exist_ok=True)\n", "    folder.mkdir()\n", f"{_LOCAL} -k new_folders"),
    (_AT + "local.py", "            fence()\n            try:\n", "            try:\n", f"{_STORAGES} -k 'fence and local'"),
    (_AT + "local.py", " | os.O_TMPFILE", "", f"{_LOCAL} -k goes_with_the_process"),
    (_AT + "storage.py", "written < oldest", "written > oldest", f"{_LOCAL} -k another_machine"),
    (_AT + "local.py", "            name.unlink(missing_ok=True)\n", "            pass\n", f"{_LOCAL} -k handles_sigterm"),
    (_AT + "local.py", "stat.S_ISREG(found.st_mode) and not", "not", f"{_STORAGES} -k 'symbolic and local'"),
    (_AT + "local.py", "if stat.S_ISREG(found.st_mode):", "if True:", f"{_LEFTOVERS} -k 'own_making and local'"),
    (_AT + "storage.py", "if not isinstance(refused, ConfigurationError):", "if True:", f"{_LEFTOVERS} -k keeps_no_other"),
    (_AT + "local.py", "os.path.commonpath([home, os.path.realpath(folder)]) != home", "False", f"{_LOCAL} -k manifests_folder"),
    (_AT + "local.py", '[0-9a-f]{16}\\.landing"', '.*\\.landing"', f"{_LEFTOVERS} -k 'own_making and local'"),
    (_AT + "local.py", "{name[:_LONGEST_NAME]}", "{name}", f"{_LOCAL} -k longest"),
    # The boundary
    (_AT + "errors.py", "errno.ENOSPC, errno.EDQUOT", "errno.ENOSPC", f"{_FAULTS} -k local_disk"),
    (
        _AT + "errors.py",
        'return re.sub(r"[^A-Za-z0-9_. /-]", "?", str(code))',
        "return str(code)",
        f"{_ROOTS} -k messages",
    ),
    (_AT + "errors.py", "if len(name) <= _LONGEST_NAME:", "if True:", f"{_ROOTS} -k messages"),
    (
        "keen_pipeline/landing/transfer/direct.py",
        "        with of_temporary_folder():\n            return super().write(data)",
        "        return super().write(data)",
        f"{_FAULTS} -k 'full_temporary and s3'",
    ),
    ("keen_pipeline/landing/layout.py", '{"", ".", ".."} &', '{"", "."} &', f"{_STORAGES} -k 'nothing_outside and local'"),
    ("keen_pipeline/landing/layout.py", '{"", ".", ".."} &', '{".", ".."} &', f"{_STORAGES} -k 'nothing_outside and local'"),
    (
        "keen_pipeline/landing/destination.py",
        "        path_below(self._root, target)\n        self._storage.remove",
        "        self._storage.remove",
        f"{_STORAGES} -k 'nothing_outside and local'",
    ),
    (
        "keen_pipeline/landing/destination.py",
        "        path_below(self._root, self.uri_of(folder))\n",
        "",
        f"{_STORAGES} -k 'nothing_outside and local'",
    ),
    # S3
    (_AT + "s3.py", "if is_ours(self._root, uri):", "if True:", f"{_LEFTOVERS} -k root_of_a_bucket"),
    (
        _AT + "s3.py",
        'pinned = {"S3.Client.get_object": {"IfMatch": version}}',
        "pinned: dict[str, dict[str, str]] = {}",
        f"{_FAULTS} -k pinned",
    ),
    (
        _AT + "remote.py",
        "            fence()\n            self._put(target, data)",
        "            self._put(target, data)",
        f"{_STORAGES} -k 'fence and s3'",
    ),
    (
        _AT + "s3.py",
        "except (exceptions.BotoCoreError, ValueError) as error:",
        "except KeyError as error:",
        f"{_FAULTS} -k settings_of_aws",
    ),
    (_AT + "s3.py", "403 if code in _DENIED else status", "status", f"{_REFUSALS} -k word_of_s3"),
    (_AT + "errors.py", "status not in _PASSING", "status != 404", f"{_REFUSALS} -k no_further_try"),
    (_AT + "storage.py", "if written < oldest:", "if True:", f"{_LEFTOVERS} -k no_leftover"),
    (_AT + "s3.py", "            fence()\n", "", f"{_STORAGES} -k 'fence and s3'"),
    (_AT + "s3.py", "        except BaseException:\n", "        except KeyError:\n", f"{_FAULTS} -k upload_is_aborted"),
    (_AT + "remote.py", "max(PART_BYTES, -(-size // most))", "PART_BYTES", f"{_ROOTS} -k parts"),
    (
        _AT + "s3.py",
        'return {"PartNumber": number + 1,',
        'return {"PartNumber": 1,',
        f"{_FAULTS} -k 'first and reset and s3'",
    ),
    # Google
    (_AT + "gcs.py", "                fence()\n", "                pass\n", f"{_STORAGES} -k 'fence and gcs'"),
    (
        _AT + "gcs.py",
        '"retry": DEFAULT_RETRY.with_timeout(RETRY_SECONDS)',
        '"retry": None',
        f"{_FAULTS} -k 'first and 503 and gcs'",
    ),
    # Azure
    (
        _AT + "azure.py",
        "**pinned).readall()",
        ").readall()",
        f"{_STORAGES} -k 'newer_file and azure'",
    ),
    (
        _AT + "azure.py",
        "        fence()\n        blob.commit",
        "        blob.commit",
        f"{_STORAGES} -k 'fence and azure'",
    ),
    (_AT + "azure.py", 'f"{token}-{number:06d}"', 'f"{number:06d}"', f"{_STORAGES} -k 'never_mix and azure'"),
    # SFTP
    (_AT + "sftp.py", "            fence()\n", "", f"{_STORAGES} -k 'fence and sftp'"),
    (_AT + "sftp.py", "if files.stat(staged).st_size != size:", "if False:", f"{_SFTP} -k server_that_loses"),
    (_AT + "sftp.py", "        watchdog.start()\n", "", f"{_SFTP} -k no_channel --timeout 20"),
    (
        _AT + "sftp.py",
        "            transport.set_keepalive(KEEPALIVE_SECONDS)\n",
        "",
        f"{_SFTP} -k kept_alive",
    ),
    (_AT + "sftp.py", "if len(channels) < CHANNELS:", "if True:", f"{_SFTP} -k few_readers"),
    (_AT + "sftp.py", "            if len(pieces[-1]) < asked:", "            if False:", f"{_SFTP} -k asked_for_the_rest"),
    (_AT + "sftp.py", "        end = min(end, start + _WINDOW_BYTES)\n", "", f"{_SFTP} -k many_requests"),
    (_AT + "sftp.py", "max(len(pieces[-1]), _SHORTEST_ANSWER_BYTES)", "len(pieces[-1])", f"{_SFTP} -k asked_for_the_rest"),
    (_AT + "local.py", "            _check_case(Path(self._root), place)\n", "", f"{_LOCAL} -k by_case"),
    (
        _AT + "local.py",
        " and name not in (names := os.listdir(folder))",
        " and (names := os.listdir(folder))",
        f"{_LOCAL} -k by_case",
    ),
    (_AT + "sftp.py", "                files.remove(staged)\n", "                pass\n", f"{_STORAGES} -k 'fence and sftp'"),
    (_AT + "sftp.py", "        elif stat.S_ISREG(entry.st_mode or 0):", "        else:", f"{_STORAGES} -k 'symbolic and sftp'"),
    # Roots and names
    (_AT + "storage.py", '    if host not in ("", "localhost"):', "    if False:", f"{_ROOTS} -k two_things"),
    (_AT + "storage.py", '    if "?" in rest or "#" in rest:', "    if False:", f"{_ROOTS} -k two_things"),
    (_AT + "storage.py", "return home(uri).rstrip", "return uri.rstrip", f"{_ROOTS} -k 'expect or home'"),
    ("keen_pipeline/landing/layout.py", "{quoted[: room - len(digest) - 1]}-{digest}", "{quoted[:room]}", f"{_ROOTS} -k long_name"),
    (
        "keen_pipeline/landing/destination.py",
        "self._storage.publish(stage, target, fence=fence)",
        "self._storage.publish(stage, target)",
        f"{_STORAGES} -k proves_its_claim",
    ),
    (
        "keen_pipeline/landing/destination.py",
        "        except (ConfigurationError, RetryableError) as unkept:",
        "        except KeyError as unkept:",
        f"{_FAULTS} -k quarantine",
    ),
    (
        "keen_pipeline/landing/storages/sftp.py",
        "                if not is_staged(posixpath.basename(path)):\n",
        "                if True:\n",
        "keen_pipeline_tests/contract/storages/test_storages.py -k fence_is_asked_once",
    ),
    (
        "keen_pipeline/landing/layout.py",
        'if not _KEY.fullmatch(partition_key) or ".." in partition_key:',
        "if not _KEY.fullmatch(partition_key):",
        "keen_pipeline_tests/landing/test_layout.py -k no_file_name",
    ),
    (
        "keen_pipeline/landing/destination.py",
        """        if read != written:
            raise""",
        """        if not read:
            raise""",
        "keen_pipeline_tests/contract/storages/test_storage_faults.py -k changes_what",
    ),
    (
        "keen_pipeline/landing/destination.py",
        'if "nothing was published" in first else "; nothing was landed"',
        'if True else ""',
        "keen_pipeline_tests/landing/test_layout.py -k once_that_nothing",
    ),
    (
        "keen_pipeline/landing/storages/remote.py",
        '                if not key.endswith("/"):\n',
        "                if True:\n",
        "keen_pipeline_tests/landing/test_layout.py -k mark_of_a_folder",
    ),
]

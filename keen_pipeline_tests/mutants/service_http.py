"""Mutations of the service's HTTP, extraction queue and mail: (file, old text, new text, the tests of which one has to fail)."""

from __future__ import annotations

_HTTP = "keen_pipeline/service/http"
_TESTS = "keen_pipeline_tests/service"
_CLIENTS, _GOING_ON, _MAIL = f"{_TESTS}/test_clients.py", f"{_TESTS}/test_going_on.py", f"{_TESTS}/test_mail.py"
_CONNECTIONS, _BAD, _OPENAPI = f"{_TESTS}/test_connections.py", f"{_TESTS}/test_bad_input.py", f"{_TESTS}/test_openapi.py"
_PROCESSES, _PAGE, _PROTOCOL = f"{_TESTS}/test_processes.py", f"{_TESTS}/test_page.py", f"{_TESTS}/test_protocol.py"
_LIMITS = f"{_TESTS}/test_limits.py"

MUTANTS: list[tuple[str, str, str, str]] = [
    # Parameters and bodies.
    (f"{_HTTP}/bodies.py", 'if body or request.method == "POST":', 'if request.method == "POST":', _CLIENTS),
    (f"{_HTTP}/bodies.py", "    unknown = sorted(set(parameters) - known)", "    unknown: list[str] = []", _BAD),
    (f"{_HTTP}/bodies.py", "        if name in made:", "        if False:", _CLIENTS),
    (f"{_HTTP}/bodies.py", "given = parse_json(body, pairs=_once)", "given = parse_json(body)", _CLIENTS),
    (f"{_HTTP}/bodies.py", "if size > config.max_parameter_bytes:", "if False:", _GOING_ON),
    (f"{_HTTP}/bodies.py", "reader.decompress(body, limit + 1)", "reader.decompress(body)", _CLIENTS),
    (f"{_HTTP}/bodies.py", "if not reader.eof or reader.unused_data:", "if reader.unused_data:", _CLIENTS),
    (f"{_HTTP}/bodies.py", "if not reader.eof or reader.unused_data:", "if not reader.eof:", _CLIENTS),
    (f"{_HTTP}/app.py", 'self._service.pending_bodies.release(state.get("body_bytes", 0))', "pass", _GOING_ON),
    (f"{_HTTP}/app.py", 'if b"content-length" in names and b"transfer-encoding" in names:', "if False:", _GOING_ON),
    # Keys and the table.
    (f"{_HTTP}/operation.py", "if self.purpose != MASTER and self.purpose not in purposes:", "if False:", _BAD),
    (f"{_HTTP}/operation.py", "        self.allow(*operation.keys)", "        pass", _BAD),
    (
        f"{_HTTP}/operations.py",
        'self._operations["HEAD"] = self._operations["GET"]',
        "pass",
        f"{_OPENAPI} {_TESTS}/test_results.py::test_whole_ranges_head_etag_and_gzip[folder]",
    ),
    (f"{_HTTP}/operations.py", '"this resource does not take this method", headers={"Allow": self.allow}', '"no"', _OPENAPI),
    (f"{_HTTP}/openapi.py", 'if operation.method == "GET":', 'if operation.method == "POST":', _OPENAPI),
    # Clients.
    (f"{_HTTP}/app.py", 'quote(unquote(segment, errors="replace"), safe="")', 'unquote(segment, errors="replace")', _CLIENTS),
    (f"{_HTTP}/app.py", 'allow_origins=["*"]', "allow_origins=[]", _CLIENTS),
    (f"{_HTTP}/app.py", 'allow_headers=["*"]', "allow_headers=[]", _CLIENTS),
    (
        f"{_HTTP}/outcomes.py",
        "        return [_refused(COLLECTION_NAME, str(error))] * len(events)",
        "        raise",
        _CLIENTS,
    ),
    (f"{_HTTP}/outcomes.py", "                return PROPERTY_NAME", "                return PROPERTY_VALUE", _CLIENTS),
    (f"{_HTTP}/outcomes.py", "            if not is_shortage(error):", "            if True:", _CLIENTS),
    (f"{_HTTP}/outcomes.py", "shortage is not None and held_up == len(batch)", "False", _CLIENTS),
    (f"{_HTTP}/outcomes.py", "    doubtful = may_hold_surrogates(body)", "    doubtful = False", _CLIENTS),
    (f"{_HTTP}/beacon.py", '.replace("-", "+").replace("_", "/")', "", _CLIENTS),
    (f"{_HTTP}/beacon.py", ' + "=" * (-len(text) % 4)', "", _CLIENTS),
    (f"{_HTTP}/beacon.py", '.replace(" ", "+")', "", _CLIENTS),
    (f"{_HTTP}/beacon.py", "if parts.username is not None or host not in", "if host not in", _CLIENTS),
    (f"{_HTTP}/beacon.py", "host not in {one.lower() for one in hosts}", "not host", _CLIENTS),
    (f"{_HTTP}/routes_v3.py", "    call.allow(WRITE)", "    pass", _CLIENTS),
    (f"{_HTTP}/routes_v3.py", 'if call.request.method == "HEAD":', "if False:", _CLIENTS),
    (f"{_HTTP}/parameters.py", 'if value not in (None, "", kind):', "if False:", _CLIENTS),
    ("keen_pipeline/service/application.py", 'return None if value == "" else value', "return value", _CLIENTS),
    ("keen_pipeline/service/names.py", "MAX_NAME_CHARACTERS = 64", "MAX_NAME_CHARACTERS = 65", _CLIENTS),
    # Going on.
    (f"{_HTTP}/lanes.py", "            cancellation.cancel()\n", "", _GOING_ON),
    (f"{_HTTP}/lanes.py", "            scope.cancel()  # it may still wait for a thread", "            pass", _GOING_ON),
    (f"{_HTTP}/lanes.py", "if limiter.statistics().tasks_waiting >= MAX_WAITING:", "if False:", _GOING_ON),
    ("keen_pipeline/service/cancellation.py", "                cursor.interrupt()", "                pass", _GOING_ON),
    ("keen_pipeline/service/cancellation.py", "            if self.cancelled:", "            if False:", _GOING_ON),
    (f"{_HTTP}/metrics.py", 'method if method in _METHODS else "other"', "method", _GOING_ON),
    (f"{_HTTP}/answers.py", "if number in _FULL_NUMBERS or", "if", _GOING_ON),
    (f"{_HTTP}/answers.py", "    if after is None and status == 503:", "    if False:", _GOING_ON),
    (f"{_HTTP}/sizes.py", "    if size > most:", "    if False:", _GOING_ON),
    (f"{_HTTP}/sizes.py", "        if found > most:", "        if False:", _GOING_ON),
    (f"{_HTTP}/sizes.py", "FROM (SELECT DISTINCT v FROM ({values}))", "FROM ({values})", _GOING_ON),
    (f"{_HTTP}/queries.py", "isinstance(found, float) and not math.isfinite(found)", "False", _GOING_ON),
    ("keen_pipeline/service/limits.py", "        if self.held + size > self._limit:", "        if False:", _GOING_ON),
    (
        "keen_pipeline/service/extractions/records.py",
        "WHERE collection = ? ORDER BY (finished IS NOT NULL), created DESC",
        "WHERE collection = ? ORDER BY created DESC, (finished IS NOT NULL)",
        _GOING_ON,
    ),
    ("keen_pipeline/service/extractions/records.py", "CASE WHEN characters <= ? THEN filters END", "coalesce(filters, ?)", _GOING_ON),
    (
        "keen_pipeline/service/extractions/worker.py",
        "                except Exception:  # noqa: BLE001 - one record",
        "                except ValueError:  # noqa: BLE001 - one record",
        _GOING_ON,
    ),
    (
        "keen_pipeline/service/extractions/worker.py",
        "        except Exception as error:  # noqa: BLE001 - whatever it is",
        "        except ValueError as error:  # noqa: BLE001 - whatever it is",
        _GOING_ON,
    ),
    (
        "keen_pipeline/service/extractions/results.py",
        "if path.stat().st_mtime < finished_before",
        "if True",
        _GOING_ON,
    ),
    # Mail.
    (
        "keen_pipeline/service/extractions/mail.py",
        "        except Exception as error:  # noqa: BLE001 - an address",
        "        except OSError as error:  # noqa: BLE001 - an address",
        f"{_MAIL}::test_the_mail_thread_outlives_any_mail",
    ),
    (
        "keen_pipeline/service/extractions/mail.py",
        "            except Exception:  # noqa: BLE001 - the database",
        "            except ValueError:  # noqa: BLE001 - the database",
        f"{_MAIL}::test_the_mail_thread_outlives_any_mail",
    ),
    ("keen_pipeline/service/extractions/mail.py", '    message["Auto-Submitted"] = "auto-generated"', "    pass", _MAIL),
    ("keen_pipeline/service/extractions/mail.py", 're.sub(r"[^A-Za-z0-9_.:-]", "_", collection)', "collection", _MAIL),
    ("keen_pipeline/service/addresses.py", "    if len(given) > 1:", "    if False:", _MAIL),
    ("keen_pipeline/service/addresses.py", "        if allowed and not any(", "        if False and not any(", _MAIL),
    ("keen_pipeline/service/addresses.py", 'address.endswith("@" + entry', "address.endswith(entry", _MAIL),
    ("keen_pipeline/service/application.py", "            self.mail_limit.count(MAILS)", "            pass", _MAIL),
    ("keen_pipeline/service/application.py", ", seconds=max(left, 0))", ")", _MAIL),
    ("keen_pipeline/mail.py", "and not smtp.starttls and not smtp.insecure_login", "and False", _MAIL),
    # Connections.
    (f"{_HTTP}/connections.py", "            victim.abort()", "            pass", _CONNECTIONS),
    (f"{_HTTP}/connections.py", "if len(place) >= self._most_per_address:", "if False:", _CONNECTIONS),
    (f"{_HTTP}/connections.py", "next(iter(self.silent or self.idle))", "next(iter(self.idle or self.silent))", _CONNECTIONS),
    (f"{_HTTP}/connections.py", "        elif self._count >= self._most:", "        elif False:", _CONNECTIONS),
    (f"{_HTTP}/protocol.py", "            self._refuse(408)", "            pass", _CONNECTIONS),
    (f"{_HTTP}/protocol.py", "            self._look_at_body(now)", "            pass", _CONNECTIONS),
    (f"{_HTTP}/protocol.py", "if self._unread_since is not None and", "if False and", _CONNECTIONS),
    (f"{_HTTP}/protocol.py", "SLOWEST_BODY = 1024", "SLOWEST_BODY = 10_240", _CONNECTIONS),
    (f"{_HTTP}/protocol.py", "status = status if status in _ANSWERS else 400", "status = 400", f"{_PROTOCOL} {_CONNECTIONS}"),
    # Files and the page.
    (f"{_HTTP}/server.py", "    os.umask(0o077)", "    os.umask(0o022)", _PROCESSES),
    ("keen_pipeline/service/credentials.py", "        folder.chmod(0o700)", "        pass", _PROCESSES),
    (f"{_HTTP}/server.py", "if config.host in _LOOPBACK:", "if True:", _PROCESSES),
    (f"{_HTTP}/routes_operations.py", " frame-ancestors 'none'", "", _PAGE),
]

"""The per-minute limit of the real service, counted over all processes."""

from __future__ import annotations

from keen_pipeline.service.limits import WINDOW_SECONDS, exceeded, refused
from keen_pipeline.service.storage.shared.database import NOW, PostgresDatabase


class SharedRequestsPerMinute:
    """Counts the requests of each kind. After `limit` within a minute, every request of that kind is refused for a minute."""

    def __init__(self, database: PostgresDatabase, limit: int | None) -> None:
        self._database = database
        self._limit = limit

    def count(self, kind: str) -> None:
        """Count one request. Raises RateLimitedError with the seconds to wait."""
        if self._limit is None:
            return
        with self._database.transaction() as connection:
            connection.execute("INSERT INTO request_kinds (kind) VALUES (?) ON CONFLICT DO NOTHING", [kind])
            sql = f"SELECT refused_until - {NOW} AS wait, {NOW} AS now FROM request_kinds WHERE kind = ? FOR UPDATE"  # noqa: S608
            row = connection.execute(sql, [kind]).fetchone()
            assert row is not None
            wait, now = row["wait"], row["now"]
            over = False
            if wait <= 0:
                connection.execute("DELETE FROM requests WHERE kind = ? AND at <= ?", [kind, now - WINDOW_SECONDS])
                counted = connection.execute("SELECT count(*) AS made FROM requests WHERE kind = ?", [kind]).fetchone()
                assert counted is not None
                over = counted["made"] >= self._limit
                if over:
                    connection.execute("DELETE FROM requests WHERE kind = ?", [kind])
                    until = now + WINDOW_SECONDS
                    connection.execute("UPDATE request_kinds SET refused_until = ? WHERE kind = ?", [until, kind])
                else:
                    connection.execute("INSERT INTO requests (kind, at) VALUES (?, ?)", [kind, now])
        if wait > 0:
            raise refused(kind, wait)
        if over:
            raise exceeded(kind, self._limit)

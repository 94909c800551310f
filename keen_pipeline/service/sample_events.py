"""Sample events for a first look: deterministic for a day, and with everything that makes CSV hard.

Commas, quotes, line breaks and unicode in texts; nested properties; lists; nulls; a property that appears late; empty days.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from datetime import date, datetime, timedelta, timezone
from typing import Any

SAMPLE_COLLECTIONS = ("purchases", "logins", "pageviews")
# The first partition of the sample's collections; fixed, so that partitions don't move from one day to the next.
SAMPLE_START_DATE = "2026-01-01"
SAMPLE_DAYS = 14

_ITEMS = (
    ("SKU-100", 'Lamp "Aurora", brass', 49.9),
    ("SKU-101", "Mug, 0.3 l", 12.5),
    ("SKU-102", "Tea towel\nset of two", 18.0),
    ("SKU-103", "Käsemesser, Größe L", 23.75),
    ("SKU-104", "茶碗, handmade", 64.0),
    ("SKU-105", "Poster 50x70 cm", 9.99),
)
_NAMES = ("Ada O'Neill", 'Grace "Amazing" Hopper', "José Álvarez", "Søren, Kierkegaard", "渡辺 直美", "Zoë 🙂")
_PAGES = ("/", "/lamps", "/lamps/aurora?color=brass&size=l", "/about", "/search?q=tea,towel", "/checkout")
_REFERRERS = ("https://search.example/?q=lamp", "https://news.example/", None)


def sample_events(collection: str, day: date, *, today: date) -> list[dict[str, Any]]:
    """The events of one sample collection on one UTC day, in order of time; the same for the same arguments.

    `today` decides which days are the late ones, on which purchases carry a `coupon`.
    """
    seed = int.from_bytes(hashlib.sha256(f"{collection}:{day}".encode()).digest()[:8], "big")
    dice = random.Random(seed)  # noqa: S311 - sample data
    make, count = {
        "purchases": (_purchase, dice.randint(30, 80)),
        # Nobody logs in on every seventh day: an empty file is a result too.
        "logins": (_login, 0 if day.toordinal() % 7 == 0 else dice.randint(60, 120)),
        "pageviews": (_pageview, dice.randint(250, 400)),
    }[collection]
    midnight = datetime(day.year, day.month, day.day, tzinfo=timezone.utc)
    moments = sorted(midnight + timedelta(milliseconds=dice.randrange(86_400_000)) for _ in range(count))
    late = (today - day).days <= 3
    return [{"keen": {"timestamp": _iso(moment)}, **make(dice, late)} for moment in moments]


def sample_days(today: date) -> Iterator[date]:
    """The days of the sample, oldest first; the last one is yesterday."""
    return (today - timedelta(days=ago) for ago in range(SAMPLE_DAYS, 0, -1))


def _iso(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


def _user(dice: random.Random) -> dict[str, Any]:
    number = dice.randint(1, 400)
    return {"id": number, "name": dice.choice(_NAMES), "email": f"user{number}@example.com"}


def _purchase(dice: random.Random, late: bool) -> dict[str, Any]:
    sku, name, price = dice.choice(_ITEMS)
    quantity = dice.randint(1, 4)
    event: dict[str, Any] = {
        "amount": round(price * quantity, 2),
        "currency": dice.choice(("EUR", "EUR", "USD")),
        "quantity": quantity,
        "item": {"sku": sku, "name": name, "price": price},
        "user": _user(dice),
        "gift": dice.random() < 0.1,
    }
    if late:
        event["coupon"] = dice.choice(("WINTER,10", 'SAY "HI"', None))
    return event


def _login(dice: random.Random, late: bool) -> dict[str, Any]:
    return {
        "user": _user(dice),
        "method": dice.choice(("password", "sso", "passkey")),
        "success": dice.random() < 0.93,
        "device": {"os": dice.choice(("iOS", "Android", "Windows", "macOS")), "mobile": dice.random() < 0.5},
    }


def _pageview(dice: random.Random, late: bool) -> dict[str, Any]:
    return {
        "page": {"url": dice.choice(_PAGES), "load_ms": dice.randint(40, 2500)},
        "referrer": dice.choice(_REFERRERS),
        "tags": dice.sample(["new", "promo", "mobile", "a/b:1"], dice.randint(0, 2)),
        "user": {"id": dice.randint(1, 400)},
    }

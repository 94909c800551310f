"""Sample events for a first look: two to three months of a small shop, deterministic for a day.

Weekends are busy in the shop and quiet at the office, nights are quieter than days, and business goes up and down. The events
have everything that makes CSV hard: commas, quotes, line breaks and unicode in texts; nested properties; lists; nulls; days without
events. One property appears late, so that the check `schema_drift` of `purchases` warns once: this is what it is for.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Iterator
from datetime import date, datetime, timedelta, timezone
from typing import Any

from keen_pipeline.service.events.incoming import format_timestamp

SAMPLE_COLLECTIONS = ("purchases", "logins", "pageviews")
SAMPLE_DAYS = 60
"""The least that the sample goes back."""
# Of the events of a usual day, Monday to Sunday. Nobody logs in on Sundays: an empty file is a result too.
_WEEK = {
    "purchases": (0.85, 0.9, 0.95, 1.0, 1.15, 1.3, 1.1),
    "logins": (1.1, 1.1, 1.05, 1.05, 1.0, 0.4, 0.0),
    "pageviews": (0.9, 0.9, 0.95, 1.0, 1.1, 1.2, 1.15),
}
_USUAL = {"purchases": 55, "logins": 90, "pageviews": 320}
_HOURS = (1, 1, 1, 1, 1, 2, 4, 7, 9, 10, 10, 11, 12, 10, 9, 9, 10, 12, 14, 15, 14, 10, 5, 2)
_SEASON_DAYS = 45
# The property `coupon` has been there for so many days.
_COUPON_DAYS = 3

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
    make = {"purchases": _purchase, "logins": _login, "pageviews": _pageview}[collection]
    season = 1 + 0.1 * math.sin(2 * math.pi * day.toordinal() / _SEASON_DAYS)
    count = round(_USUAL[collection] * _WEEK[collection][day.weekday()] * season * dice.uniform(0.93, 1.07))
    midnight = datetime(day.year, day.month, day.day, tzinfo=timezone.utc)
    hours = dice.choices(range(24), _HOURS, k=count)
    moments = sorted(midnight + timedelta(hours=hour, milliseconds=dice.randrange(3_600_000)) for hour in hours)
    late = (today - day).days <= _COUPON_DAYS
    return [{"keen": {"timestamp": format_timestamp(moment)}, **make(dice, late)} for moment in moments]


def sample_start(today: date) -> date:
    """The first partition: the first of the month that lies at least SAMPLE_DAYS before today. It moves once a month.

    >>> sample_start(date(2026, 3, 31)), sample_start(date(2026, 3, 1))
    (datetime.date(2026, 1, 1), datetime.date(2025, 12, 1))
    """
    return (today - timedelta(days=SAMPLE_DAYS)).replace(day=1)


def sample_days(today: date) -> Iterator[date]:
    """The days of the sample, oldest first; the last one is yesterday."""
    return (today - timedelta(days=ago) for ago in range((today - sample_start(today)).days, 0, -1))


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

"""What the landing's benchmark transfers: deterministic CSV files of event data."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from pathlib import Path

HEADER = b"keen.id,user.id,amount,city,url,session,device,keen.timestamp\n"
TYPES = {
    "keen.id": "num",
    "user.id": "string",
    "amount": "num",
    "city": "string",
    "url": "string",
    "session": "num",
    "device": "string",
    "keen.timestamp": "datetime",
}
_BLOCK_RECORDS = 50_000


@dataclass(frozen=True)
class Document:
    """One file under the server's root."""

    name: str
    bytes: int
    records: int
    sha256: str


def write_document(folder: Path, name: str, size: int, *, quoted: bool, seed: int = 1) -> Document:
    """At least `size` bytes of whole records (8 columns, about 97 bytes each); `quoted`: three quoted fields of the eight."""
    block = _block(random.Random(seed), quoted=quoted, records=min(_BLOCK_RECORDS, size // 80 + 1))
    lines = block.count(b"2026-01-01T")
    digest = hashlib.sha256(HEADER)
    total, records = len(HEADER), 0
    with (folder / name).open("wb") as file:
        file.write(HEADER)
        while total < size:
            file.write(block)
            digest.update(block)
            total, records = total + len(block), records + lines
    return Document(name, total, records, digest.hexdigest())


def _block(chance: random.Random, *, quoted: bool, records: int) -> bytes:
    city, device = ("Köln {}", "desktop")
    if quoted:
        city, device = ('"Köln, ""{}"""', '"two\nlines"')
    rows = []
    for number in range(records):
        place = city.format(chance.randrange(50))
        url = f"https://example.com/p?ref={chance.randrange(100)}"
        url = f'"{url},x"' if quoted else url
        rows.append(
            f"{chance.randrange(10**6)},user-{chance.randrange(10**5)},{chance.randrange(1000)}.5,{place},{url},"
            f"{chance.randrange(10**7)},{device},2026-01-01T00:00:{number % 60:02d}.000Z\n"
        )
    return "".join(rows).encode()

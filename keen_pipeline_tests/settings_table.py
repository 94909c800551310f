"""The table of `keen-pipeline docs settings`, made from `keen_pipeline.settings.VARIABLES`.

`python -m keen_pipeline_tests.settings_table` writes it into the page.
"""

from __future__ import annotations

import re
from pathlib import Path

import keen_pipeline
from keen_pipeline.settings import VARIABLES

PAGE = Path(keen_pipeline.__file__).parent / "docs" / "settings.md"
_HEAD = "| variable | meaning |\n|---|---|\n"


def table() -> str:
    """The table as it should stand in the page."""
    return _HEAD + "".join(f"| `{one.name}` | {one.meaning} |\n" for one in VARIABLES)


def table_of(page: str) -> str:
    """The table as it stands in the page: the first one with this head."""
    found = re.search(re.escape(_HEAD) + r"(\|.*\n)*", page)
    assert found is not None, "the page has no table of settings"
    return found[0]


if __name__ == "__main__":
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(text.replace(table_of(text), table(), 1), encoding="utf-8")

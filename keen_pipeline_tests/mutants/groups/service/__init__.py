"""Lists of the embedded service."""

from __future__ import annotations

HTTP, SERVICE = "keen_pipeline/service/http", "keen_pipeline/service"


def tests_of(module: str, *names: str) -> str:
    """Tests of a module, such as `http/limits`, for pytest."""
    folder, _, file = module.partition("/")
    return " ".join(f"keen_pipeline_tests/service/{folder}/test_{file}.py::test_{name}" for name in names)

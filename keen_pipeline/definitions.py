"""The code location of workspace.yaml: the collections file, or the sample if nothing is configured."""

import dagster as dg

from keen_pipeline.collections_file import read_collections_file
from keen_pipeline.defs.build import build_keen_definitions
from keen_pipeline.settings import Settings
from keen_pipeline.wiring import check_named


def _definitions() -> dg.Definitions:
    settings = Settings.from_environment()
    if settings.collections_file is not None:
        ours = build_keen_definitions(
            read_collections_file(settings.collections_file), name=settings.name, running=settings.running
        )
        # The steps of a run wait together anyway, and a Celery worker's processes can't have any of their own.
        return dg.Definitions.merge(ours, dg.Definitions(executor=dg.in_process_executor))
    check_named(settings)
    from keen_pipeline.defs.sample import sample_definitions

    return sample_definitions(settings.name)


defs = _definitions()

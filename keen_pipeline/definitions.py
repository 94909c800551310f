"""The code location of workspace.yaml: the collections file, or the sample where nothing is configured."""

import dagster as dg

from keen_pipeline.collections_file import read_collections_file
from keen_pipeline.defs.build import build_keen_definitions
from keen_pipeline.errors import ConfigurationError
from keen_pipeline.settings import Settings


def _definitions() -> dg.Definitions:
    settings = Settings.from_environment()
    if settings.collections_file is not None:
        return build_keen_definitions(read_collections_file(settings.collections_file))
    if settings.base_url is not None:
        raise ConfigurationError(
            "KEEN_BASE_URL is set but KEEN_PIPELINE_COLLECTIONS is not: write a YAML file that names the collections "
            "(collections: [{name: ..., start_date: ...}]) and point the variable at it"
        )
    from keen_pipeline.defs.sample import sample_definitions

    return sample_definitions()


defs = _definitions()

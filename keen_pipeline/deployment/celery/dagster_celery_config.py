"""The Celery workers' configuration. dagster_celery.app imports it from the first folder of PYTHONPATH that has it.

Addresses come from the environment, which `dagster-celery worker start -y` would write into a file instead.
"""

import os

broker_url = os.environ["DAGSTER_CELERY_BROKER_URL"]
result_backend = os.environ["DAGSTER_CELERY_BACKEND_URL"]
broker_connection_retry_on_startup = True

# Longer than a run may take: without its "started" in the backend a run counts as dead. Seconds.
result_expires = 259_200
# No run waits behind another one in a worker that has taken it from the queue.
worker_prefetch_multiplier = 1
worker_disable_prefetch = True
# A message that a dying worker took and did not begin comes back after this many seconds (Redis, Valkey). One that it began does
# not: it is acknowledged at the beginning, and the run monitor starts another run instead.
broker_transport_options = {"visibility_timeout": 120}
# A process for a few runs: memory that one run needed is given back, code that it imported is used again.
worker_max_tasks_per_child = 20

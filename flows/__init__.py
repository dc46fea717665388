"""Prefect flows: each a thin wrapper on one function of `satfuse.pipeline`.

Values in and out are plain text. Prefect owns stages, with retries, timeouts, tags and artifacts;
Dask owns tiles and chunks inside them.
"""

import os

# before prefect is imported: no telemetry leaves this machine
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("DO_NOT_TRACK", "1")

#!/usr/bin/env bash
# Work pool, concurrency limits per service, and the scheduled deployments, on the server of $PREFECT_API_URL.
# Safe to run again.
set -euo pipefail
cd "$(dirname "$0")/.."
prefect work-pool create satfuse --type process --overwrite
# what one service takes at a time over all runs; the tags are set by flows/retries.py
prefect concurrency-limit create service:cdse 2
prefect concurrency-limit create service:dlr 2
prefect concurrency-limit create service:earth-search 4
prefect concurrency-limit create service:earth-search-c1 4
prefect concurrency-limit create service:planetary-computer 4
prefect --no-prompt deploy --all --prefect-file deploy/prefect.yaml

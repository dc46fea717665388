"""Which failures are worth another try: a service that is down, not a wrong argument."""

from satfuse.errors import AccessError, CatalogError, ReadError, SchedulerError, StoreError

NETWORK = {"retries": 3, "retry_delay_seconds": [10, 60, 300], "timeout_seconds": 3600}


def is_transient(task, run, state) -> bool:
    """Retry condition: True for errors of the network, services and stores, and for timeouts."""
    error = state.result(raise_on_failure=False)
    return isinstance(
        error, AccessError | CatalogError | ReadError | SchedulerError | StoreError | TimeoutError
    )


def service_tags(catalog: str) -> list[str]:
    """Tags that concurrency limits are set on, one per service: `service:cdse`."""
    return [f"service:{name.strip()}" for name in catalog.split(",") if "/" not in name]

"""Which failures are retried: those of a service that is down, not a wrong argument."""

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from prefect import Task, task
from prefect.client.schemas.objects import TaskRun
from prefect.states import State

from satfuse.errors import AccessError, CatalogError, ReadError, SchedulerError, StoreError

TRANSIENT = AccessError | CatalogError | ReadError | SchedulerError | StoreError | TimeoutError
DELAYS_S = [10.0, 60.0, 300.0]  # before the first, second and third retry

P = ParamSpec("P")
R = TypeVar("R")


def is_transient(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Retry condition: True for errors of the network, services and stores, and for timeouts."""
    return isinstance(state.result(raise_on_failure=False), TRANSIENT)


def network_task(
    name: str, *, timeout_seconds: int = 3600
) -> Callable[[Callable[P, R]], Task[P, R]]:
    """Decorator of a function that needs a service: transient failures are retried."""
    return task(
        name=name,
        retries=len(DELAYS_S),
        retry_delay_seconds=DELAYS_S,
        retry_condition_fn=is_transient,
        timeout_seconds=timeout_seconds,
    )


def service_tags(catalog: str) -> list[str]:
    """Tags that concurrency limits are set on, one per service: `service:cdse`.

    Catalogues that are files have none.
    """
    return [f"service:{name.strip()}" for name in catalog.split(",") if "/" not in name]

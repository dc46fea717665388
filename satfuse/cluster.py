"""Dask clusters: connect to a running scheduler, or start workers on this machine for a while."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from satfuse.errors import SchedulerError

if TYPE_CHECKING:  # distributed takes half a second to import
    from distributed import Client

log = logging.getLogger(__name__)

TIMEOUT_S = 20
DASHBOARD = "127.0.0.1:8787"  # distributed takes a free port where this one is in use


@contextmanager
def connect(scheduler: str) -> Iterator["Client"]:
    """Connect to a running scheduler; the client is not made the process's default.

    A default client would outlive a failed connection, and every later computation would wait for
    it. The caller's own Dask work goes on as before.

    Parameters
    ----------
    scheduler : address, such as "tcp://host:8786".

    Raises
    ------
    SchedulerError
        The address is malformed, or nothing answers there within `TIMEOUT_S` seconds.
    """
    from distributed import Client

    _check_address(scheduler)
    try:
        client = Client(scheduler, timeout=TIMEOUT_S, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise SchedulerError(
            f"no Dask scheduler answers at {scheduler} ({type(error).__name__}); check the "
            "address, or omit it to use this machine alone"
        ) from error
    with client:
        log.debug("connected to %s, dashboard %s", scheduler, client.dashboard_link)
        yield client


@contextmanager
def local_cluster(workers: int, memory_limit: str) -> Iterator["Client"]:
    """Start a cluster of single-threaded processes on this machine; it ends with the block.

    Parameters
    ----------
    workers : number of processes.
    memory_limit : of one worker, such as "2GiB"; "auto" shares the machine's memory.
    """
    from distributed import Client, LocalCluster

    with (
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            memory_limit=memory_limit,
            host="127.0.0.1",
            dashboard_address=DASHBOARD,
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        log.info("Dask dashboard: %s", client.dashboard_link)
        yield client


def _check_address(scheduler: str) -> None:
    # before a `Client` is made: one that fails on its address prints a traceback when it is dropped
    parts = urlsplit(scheduler if "://" in scheduler else f"tcp://{scheduler}")
    try:
        complete = parts.scheme not in ("tcp", "tls") or (parts.hostname and parts.port)
    except ValueError:  # the port is no number below 65536
        complete = False
    if not complete:
        raise SchedulerError(
            f"{scheduler!r} is not the address of a Dask scheduler; write tcp://host:port"
        )

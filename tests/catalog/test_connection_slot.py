"""Quotas hold over a whole Dask cluster, not only in one process."""

import time
from dataclasses import replace

from distributed import Client, LocalCluster

from satfuse.catalog.access import connection_slot
from satfuse.catalog.specs import load_catalog


def hold(spec, _):
    with connection_slot(spec):
        start = time.time()
        time.sleep(0.15)
        return start, time.time()


def most_at_once(intervals):
    edges = sorted([(start, 1) for start, _ in intervals] + [(end, -1) for _, end in intervals])
    now = most = 0
    for _, step in edges:
        now += step
        most = max(most, now)
    return most


def test_workers_share_the_connections_of_a_catalogue():
    spec = replace(load_catalog("cdse"), name="quota-test", max_connections=2)
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=3, processes=True, dashboard_address=None
        ) as cluster,
        Client(cluster) as client,
    ):
        free = client.gather(
            client.map(hold, [replace(spec, name="free", max_connections=6)] * 6, range(6))
        )
        limited = client.gather(client.map(hold, [spec] * 6, range(6)))
    assert most_at_once(free) > 2  # else the test below proves nothing
    assert most_at_once(limited) == 2

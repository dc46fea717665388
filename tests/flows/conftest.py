"""A real Prefect server on loopback, in a folder of its own."""

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.ports import free_port

BIN = Path(sys.executable).parent


@pytest.fixture(scope="session")
def prefect_env(tmp_path_factory):
    """Environment of a running Prefect server; every `prefect` command of a test takes it."""
    home = tmp_path_factory.mktemp("prefect")
    port = free_port()
    log_path = home / "server.log"
    env = {
        **os.environ,
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "2",
        "PREFECT_WORKER_QUERY_SECONDS": "2",
        "PREFECT_CLI_COLORS": "false",
    }
    log = log_path.open("w")
    command = [BIN / "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    server = subprocess.Popen(command, env=env, stdout=log, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 90
        while True:
            try:
                urllib.request.urlopen(f"{env['PREFECT_API_URL']}/health", timeout=2).close()
                break
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                if server.poll() is not None or time.monotonic() > deadline:
                    last_lines = log_path.read_text()[-3000:]
                    pytest.fail(f"the Prefect server did not start:\n{last_lines}")
                time.sleep(0.5)
        yield env
    finally:
        server.terminate()
        server.wait(30)
        log.close()

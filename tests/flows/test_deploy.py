"""The shipped deployments on a real Prefect server, with a worker that completes a run."""

import json
import os
import shlex
import subprocess
import time
from pathlib import Path

import psutil
import pytest
import yaml

from satfuse.model_names import DEFAULT

pytest.importorskip("prefect")
pytestmark = [pytest.mark.flows, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
SCHEDULED_WITHIN_S = 180


def run(env, *command, check=True):
    """A command in the repository's root; its output."""
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def api(env, path, body=None):
    """One call of the server's REST API."""
    import urllib.request

    request = urllib.request.Request(
        f"{env['PREFECT_API_URL']}{path}", data=json.dumps(body or {}).encode()
    )
    request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.load(answer)


@pytest.fixture(scope="module")
def deployed(prefect_env, tmp_path_factory):
    """Environment after `deploy/deploy.sh`, run twice: it must be safe to run again."""
    work = tmp_path_factory.mktemp("deployed")
    env = prefect_env | {
        "SATFUSE_HOME": str(ROOT),
        "SATFUSE_STORE": str(work / "store"),
        "SATFUSE_WORK": str(work),
    }
    run(env, "bash", "deploy/deploy.sh")
    run(env, "bash", "deploy/deploy.sh")
    return env


def test_both_fields_are_deployed_with_a_schedule_and_one_run_at_a_time(deployed):
    deployments = {d["name"]: d for d in api(deployed, "/deployments/filter")}
    assert set(deployments) == {"algeria-5", "mauritania-1"}
    for name, deployment in deployments.items():
        assert deployment["parameters"]["field"] == name
        assert deployment["parameters"]["store"] == deployed["SATFUSE_STORE"]
        assert deployment["parameters"]["model"] == DEFAULT
        assert [s["schedule"]["cron"] for s in deployment["schedules"]]
        assert deployment["schedules"][0]["active"]
        assert deployment["global_concurrency_limit"]["limit"] == 1
        assert deployment["work_pool_name"] == "satfuse"


def test_services_have_concurrency_limits_on_the_tags_that_the_flows_set(deployed):
    from flows.retries import service_tags

    limits = {
        limit["tag"]: limit["concurrency_limit"]
        for limit in api(deployed, "/concurrency_limits/filter")
    }
    services = "cdse,dlr,earth-search,earth-search-c1,planetary-computer"
    assert set(service_tags(services)) == set(limits)
    assert all(value > 0 for value in limits.values())
    assert service_tags("/a/path/local.toml") == []


def test_a_scheduled_run_is_picked_up_by_a_worker_and_publishes(
    deployed, small_catalog, small_recipe, tmp_path
):
    """The shipped deployment, apart from its field and a schedule of seconds."""
    plan = yaml.safe_load((ROOT / "deploy/prefect.yaml").read_text())
    deployment = plan["deployments"][0] | {"name": "small", "schedules": [{"interval": 15}]}
    deployment["parameters"] |= {
        "field": small_recipe.field,
        "catalog": small_catalog,
        "store": str(tmp_path / "store"),
        "work": str(tmp_path / "work"),
        "start": str(small_recipe.day),
        "end": str(small_recipe.cloudy_day),
    }
    path = ROOT / "deploy" / f"prefect-test-{os.getpid()}.yaml"
    try:
        path.write_text(yaml.safe_dump(plan | {"deployments": [deployment]}))
        command = shlex.split("prefect --no-prompt deploy --all --prefect-file")
        run(deployed, *command, str(path.relative_to(ROOT)))
    finally:
        path.unlink()
    log = (tmp_path / "worker.log").open("w")
    command = shlex.split("prefect worker start --pool satfuse --type process --limit 1")
    worker = subprocess.Popen(command, env=deployed, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
    try:
        state = wait_for_a_finished_run(deployed)
    finally:
        # asked to end, a worker waits for its next run, which has begun by now
        for process in (*psutil.Process(worker.pid).children(recursive=True), worker):
            process.kill()
        worker.wait()
        log.close()
    assert state["type"] == "COMPLETED", (tmp_path / "worker.log").read_text()[-4000:]
    assert list((tmp_path / "store" / "items").glob("small_*.json"))
    kinds = {a["key"]: a["type"] for a in api(deployed, "/artifacts/filter")}
    assert kinds["pairs"] == "table"
    assert kinds["quicklook"] == "image"
    assert kinds["validation-metrics"] == "markdown"
    (tiles,) = [a for a in api(deployed, "/artifacts/filter") if a["key"] == "tiles"]
    assert tiles["type"] == "progress"
    assert float(tiles["data"]) == 100


def wait_for_a_finished_run(env):
    """State of the first scheduled run of the flow `pipeline` that ends."""
    deadline = time.monotonic() + SCHEDULED_WITHIN_S
    query = {
        "flow_runs": {"state": {"type": {"any_": ["COMPLETED", "FAILED", "CRASHED"]}}},
        "deployments": {"name": {"any_": ["small"]}},
    }
    while time.monotonic() < deadline:
        if done := api(env, "/flow_runs/filter", query):
            assert done[0]["auto_scheduled"]
            return done[0]["state"]
        time.sleep(1)
    pytest.fail(f"no scheduled run ended within {SCHEDULED_WITHIN_S} s")

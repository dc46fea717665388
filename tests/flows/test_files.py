"""Deployment files, checked as far as possible without a container engine."""

import re
from pathlib import Path

import pytest
import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"


@pytest.fixture(scope="module")
def compose():
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())


def test_compose_binds_every_port_to_loopback_by_default(compose):
    ports = [p for service in compose["services"].values() for p in service.get("ports", [])]
    assert ports
    assert all(p.startswith("${SATFUSE_BIND:-127.0.0.1}:") for p in ports)


def test_compose_has_the_whole_stack_and_no_password(compose):
    services = compose["services"]
    assert {"database", "prefect", "worker", "scheduler", "dask-worker", "objects"} <= set(services)
    text = (DEPLOY / "compose.yaml").read_text()
    secrets = re.findall(r"^ +\w*(?:PASSWORD|SECRET|KEY|AUTH)\w*: (\S+)", text, re.M)
    assert len(secrets) > 8
    assert all(value.startswith("${") for value in secrets)
    for service in services.values():
        for other in service.get("depends_on", []):
            assert other in services
    assert services["prefect"]["environment"]["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"


def test_compose_gives_the_deployments_every_variable_that_prefect_yaml_names(compose):
    variables = set(re.findall(r"\{\{ \$(\w+) \}\}", (DEPLOY / "prefect.yaml").read_text()))
    assert variables <= set(compose["services"]["deployments"]["environment"])


def test_kubernetes_workers_reach_the_scheduler_by_its_service():
    documents = list(yaml.safe_load_all((DEPLOY / "kubernetes/satfuse.yaml").read_text()))
    service = next(d for d in documents if d["kind"] == "Service")
    ports = {p["name"]: p["port"] for p in service["spec"]["ports"]}
    pods = {
        d["metadata"]["name"]: d["spec"]["template"] for d in documents if d["kind"] == "Deployment"
    }
    labels = pods["dask-scheduler"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()
    command = pods["dask-worker"]["spec"]["containers"][0]["command"]
    assert f"tcp://{service['metadata']['name']}:{ports['comm']}" in command
    for name, pod in pods.items():
        assert pod["metadata"]["labels"]["role"] == name


def test_the_image_installs_what_it_copies():
    text = (DEPLOY / "Dockerfile").read_text()
    ignored = (DEPLOY.parent / ".dockerignore").read_text()
    for source in re.findall(r"^COPY ([^\n]+) \S+$", text, re.M):
        for name in source.split():
            assert (DEPLOY.parent / name).exists()
            assert f"!{name}" in ignored
    assert "USER satfuse" in text
    assert "-c constraints.txt" in text


def test_dask_settings_are_settings_that_dask_knows():
    import dask
    import distributed  # noqa: F401  its defaults are the known keys

    def keys(tree, prefix=""):
        for key, value in tree.items():
            yield from (
                keys(value, f"{prefix}{key}.") if isinstance(value, dict) else [f"{prefix}{key}"]
            )

    for key in keys(yaml.safe_load((DEPLOY / "dask.yaml").read_text())):
        assert dask.config.get(key, default="unknown") != "unknown", key

"""The files of deploy/ for a fleet: valid by each tool's own schema, and consistent with settings and image."""

import re
import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import orjson
import pytest
import yaml

from poller.app.build import check_build
from poller.app.environment import Environment
from poller.config import Settings, load
from poller.sinks import is_shared, make_sink
from tests.support.makers import sink_environment

DEPLOY = Path(__file__).parents[2] / "deploy"
CONFIG = (DEPLOY / "fleet.toml").read_text("utf-8")
COMMAND = ["run", "-c", "/etc/poller/fleet.toml"]
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "fleet-compose.yaml").read_text("utf-8"))
REPLICAS: dict[str, Any] = {name: each for name, each in COMPOSE["services"].items() if name != "postgres"}
MANIFESTS: list[dict[str, Any]] = list(yaml.safe_load_all((DEPLOY / "fleet-kubernetes.yaml").read_text("utf-8")))
BY_KIND: dict[str, dict[str, Any]] = {each["kind"]: each for each in MANIFESTS}
POD: dict[str, Any] = BY_KIND["StatefulSet"]["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]
MIGRATION_S = 3600  # that a large state may take before the first health check
GRACE_S = 16  # after a drain: a lease to leave the fleet, and `CLOSE_WITHIN_S` to commit


def settings_of(environ: dict[str, str], folder: Path) -> Settings:
    file = folder / "fleet.toml"
    file.write_text(CONFIG)
    return load(file, {}, environ, secrets_dir=folder / "none")


def compose_environ(replica: str) -> dict[str, str]:
    return {name: re.sub(r"\$\{[^}]*\}", "secret", text) for name, text in REPLICAS[replica]["environment"].items()}


def pod_environ() -> dict[str, str]:
    named = {each["name"]: each.get("value") for each in CONTAINER["env"]}
    return {name: value or f"postgresql://host/{name.lower()}" for name, value in named.items()} | {
        "POLLER_REPLICA": "poller-fleet-0"
    }


def test_compose_is_valid_by_its_own_schema() -> None:
    schema = files("check_jsonschema") / "builtin_schemas" / "vendor" / "compose-spec.json"
    jsonschema.validate(COMPOSE, orjson.loads(schema.read_bytes()))


@pytest.mark.parametrize("number", range(len(MANIFESTS)))
def test_each_manifest_is_valid_by_kubernetes_own_schema(number: int) -> None:
    kubernetes_validate.validate(MANIFESTS[number], kubernetes_validate.latest_version(), strict=True)


def test_three_replicas_of_compose_have_names_and_ports_of_their_own(tmp_path: Path) -> None:
    all_of_them = [settings_of(compose_environ(replica), tmp_path) for replica in REPLICAS]
    assert [settings.replica for settings in all_of_them] == ["poller-1", "poller-2", "poller-3"]
    assert len({settings.state for settings in all_of_them}) == 1
    assert all(settings.fleet and settings.state.startswith("postgresql://") for settings in all_of_them)
    assert len({port for each in REPLICAS.values() for port in each["ports"]}) == 3
    for each in REPLICAS.values():
        assert each["command"] == COMMAND
        assert int(each["stop_grace_period"].rstrip("s")) >= all_of_them[0].shutdown_s + GRACE_S
        assert (each["read_only"], each["cap_drop"], each["init"]) == (True, ["ALL"], True)


def test_a_pod_has_its_own_name_as_replica_and_the_state_from_the_secret(tmp_path: Path) -> None:
    settings = settings_of(pod_environ(), tmp_path)
    given = {each["name"]: each.get("valueFrom") for each in CONTAINER["env"]}
    assert given["POLLER_REPLICA"] == {"fieldRef": {"fieldPath": "metadata.name"}}
    assert given["POLLER_STATE"]["secretKeyRef"]["key"] == "state_url"
    assert settings.fleet
    assert CONTAINER["args"] == COMMAND
    assert POD["terminationGracePeriodSeconds"] >= settings.shutdown_s + GRACE_S
    assert POD["shareProcessNamespace"] is True


def test_pods_are_replaced_one_by_one_and_a_drained_node_takes_one_at_a_time() -> None:
    spec, budget = BY_KIND["StatefulSet"]["spec"], BY_KIND["PodDisruptionBudget"]["spec"]
    assert spec["replicas"] == 3
    assert spec["updateStrategy"] == {"type": "RollingUpdate"}
    startup = CONTAINER["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] >= MIGRATION_S
    assert budget["maxUnavailable"] == 1
    labels = spec["template"]["metadata"]["labels"]
    assert budget["selector"]["matchLabels"] == spec["selector"]["matchLabels"] == labels
    assert BY_KIND["Service"]["spec"]["selector"] == labels


def test_the_config_map_holds_the_settings_that_compose_uses() -> None:
    assert tomllib.loads(BY_KIND["ConfigMap"]["data"]["fleet.toml"]) == tomllib.loads(CONFIG)
    assert (DEPLOY / COMPOSE["configs"]["settings"]["file"]).read_text("utf-8") == CONFIG


async def test_its_sink_is_delivered_by_any_replica(tmp_path: Path) -> None:
    environ = compose_environ("poller-1") | {"HUBSPOT_TOKEN": "token"}
    settings = settings_of({"POLLER_STATE": environ["POLLER_STATE"]}, tmp_path)
    await check_build(settings, Environment(environ=environ, connections=lambda _: pytest.fail("opens nothing")))
    (spec,) = settings.sink_specs
    assert is_shared(make_sink(spec, sink_environment(OUTCOMES_URL=environ["OUTCOMES_URL"])))

"""The files of deploy/: valid by each tool's own schema, and consistent with program, image and settings."""

import re
import shutil
import signal
import subprocess
import tomllib
import urllib.error
import urllib.request
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import orjson
import promql_parser
import pytest
import yaml
from prometheus_client.core import CounterMetricFamily
from prometheus_client.parser import text_string_to_metric_families

from poller.config import Settings, load
from poller.core.accounts import Pause
from poller.core.errors import Exit
from poller.core.model import Kind
from poller.reports.fleet import MEMBER_STATES
from poller.web.metrics import METRICS, OUTCOMES, STARTS
from tests.support.processes import TOKEN, Running, environ, hubspot, run, running, wait_until

pytestmark = pytest.mark.default_ports

HOUSE = Path(__file__).parents[2]
DEPLOY = HOUSE / "deploy"
DOCKERFILE = (HOUSE / "Dockerfile").read_text("utf-8")
USER = re.findall(r"(?m)^USER (\d+):(\d+)", DOCKERFILE)[-1]
COMMAND = ["run", "-c", "/etc/poller/config.toml"]
MIGRATION_S = 3600  # that a large state may take before the first health check
GRACE_S = 5  # between the end of a drain and the kill


def config(text: str, environ: dict[str, str], folder: Path) -> Settings:
    """Load settings as the service would; raises where a key is unknown or a value is wrong."""
    file = folder / "config.toml"
    file.write_text(text)
    return load(file, {}, environ, secrets_dir=folder / "none")


def seconds(text: str) -> int:
    match = re.fullmatch(r"(\d+)s", text)
    assert match is not None
    return int(match[1])


# --- the settings ----------------------------------------------------------------------------------------------------

CONFIG = (DEPLOY / "config.toml").read_text("utf-8")


def test_the_settings_are_known_and_make_a_service_that_never_ends_by_itself(tmp_path: Path) -> None:
    settings = config(CONFIG, {}, tmp_path)
    assert settings.follow
    assert settings.sinks
    assert settings.log.format == "json"


@pytest.mark.real_time
def test_the_service_starts_with_them_shows_its_health_requires_its_token_and_drains(tmp_path: Path) -> None:
    shutil.copy(DEPLOY / "config.toml", tmp_path)
    (tmp_path / "hubspot_token").write_text(TOKEN)
    (tmp_path / "listen_token").write_text("listen-token-of-this-test")
    files = {"POLLER_TOKEN_FILE": "hubspot_token", "POLLER_LISTEN_TOKEN_FILE": "listen_token"}
    env = environ(**files, POLLER_LISTEN="127.0.0.1:0", POLLER_BASE_URL="http://127.0.0.1:9")
    with running("run", "-c", "config.toml", folder=tmp_path, env=env) as service:
        wait_until(service.logged("web.started"), "the server")
        (started,) = (event for event in service.events() if event["event"] == "web.started")
        assert [status_of(started["url"], path) for path in ("healthz", "readyz", "metrics")] == [200, 200, 401]
        assert status_of(started["url"], "metrics", "listen-token-of-this-test") == 200
        assert run("healthcheck", folder=tmp_path, env=env).returncode == 0
        service.signal(signal.SIGTERM)
        assert service.ended() == Exit.ALL_COMPLETE
        assert "Traceback" not in service.log()


def status_of(url: str, path: str, token: str = "") -> int:
    """Return the status of an answer."""
    request = urllib.request.Request(f"{url.rstrip('/')}/{path}", headers={"Authorization": f"Bearer {token}"})  # noqa: S310 - loopback
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - loopback
            return int(answer.status)
    except urllib.error.HTTPError as refusal:
        refusal.close()
        return refusal.code


# --- Docker Compose --------------------------------------------------------------------------------------------------

COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))
SERVICE: dict[str, Any] = COMPOSE["services"]["poller"]


def test_compose_is_valid_by_its_own_schema() -> None:
    schema = files("check_jsonschema") / "builtin_schemas" / "vendor" / "compose-spec.json"
    jsonschema.validate(COMPOSE, orjson.loads(schema.read_bytes()))


def test_compose_runs_the_image_s_command_as_its_user_without_privileges_on_a_read_only_root() -> None:
    assert SERVICE["command"] == COMMAND
    assert SERVICE["user"] == ":".join(USER)
    assert SERVICE["read_only"] is True
    assert SERVICE["cap_drop"] == ["ALL"]
    assert SERVICE["init"] is True  # the poller is not process 1, which must reap orphans
    assert "no-new-privileges:true" in SERVICE["security_opt"]


def test_compose_keeps_the_state_in_a_named_volume_and_restarts_by_itself() -> None:
    assert SERVICE["volumes"] == ["data:/data"]
    assert "data" in COMPOSE["volumes"]
    assert SERVICE["restart"] == "unless-stopped"


def test_compose_waits_longer_than_a_drain_takes(tmp_path: Path) -> None:
    settings = config(CONFIG, SERVICE["environment"], tmp_path)
    assert seconds(SERVICE["stop_grace_period"]) >= settings.shutdown_s + GRACE_S


def test_compose_hands_settings_and_secrets_to_where_they_are_read(tmp_path: Path) -> None:
    settings = config(CONFIG, SERVICE["environment"], tmp_path)
    given = {f"/run/secrets/{name}" for name in SERVICE["secrets"]}
    assert {str(settings.token_file), str(settings.listen_token_file)} == given
    assert set(SERVICE["secrets"]) == COMPOSE["secrets"].keys()
    assert [each["target"] for each in SERVICE["configs"]] == [COMMAND[-1]]
    assert (DEPLOY / COMPOSE["configs"]["settings"]["file"]).read_text("utf-8") == CONFIG


def test_no_secret_of_compose_has_a_name_that_is_read_as_a_setting() -> None:
    assert [name for name in SERVICE["secrets"] if name.startswith("poller_")] == []


def test_compose_publishes_the_port_that_is_listened_on_to_this_host_only(tmp_path: Path) -> None:
    port = config(CONFIG, SERVICE["environment"], tmp_path).listen.rpartition(":")[2]
    assert SERVICE["ports"] == [f"127.0.0.1:{port}:{port}"]


def test_compose_s_secrets_are_not_for_the_repository() -> None:
    ignored = (DEPLOY / ".gitignore").read_text("utf-8").split()
    assert {secret["file"] for secret in COMPOSE["secrets"].values()} <= set(ignored)


# --- Kubernetes ------------------------------------------------------------------------------------------------------

MANIFESTS: list[dict[str, Any]] = list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text("utf-8")))


def manifest(kind: str) -> dict[str, Any]:
    (found,) = (each for each in MANIFESTS if each["kind"] == kind)
    return found


SET = manifest("StatefulSet")["spec"]
POD: dict[str, Any] = SET["template"]["spec"]
(CONTAINER,) = POD["containers"]
VARIABLES: dict[str, str] = {each["name"]: each["value"] for each in CONTAINER["env"]}


@pytest.mark.parametrize("number", range(len(MANIFESTS)))
def test_each_manifest_is_valid_by_kubernetes_own_schema(number: int) -> None:
    kubernetes_validate.validate(MANIFESTS[number], kubernetes_validate.latest_version(), strict=True)


def test_the_config_map_holds_the_settings_that_the_other_ways_use() -> None:
    assert tomllib.loads(manifest("ConfigMap")["data"]["config.toml"]) == tomllib.loads(CONFIG)


def test_there_is_one_pod_and_it_is_never_there_twice() -> None:
    assert SET["replicas"] == 1
    assert manifest("StatefulSet")["kind"] == "StatefulSet"
    (claim,) = SET["volumeClaimTemplates"]
    assert claim["spec"]["accessModes"] == ["ReadWriteOnce"]


def test_the_pod_has_no_privilege_and_a_read_only_root() -> None:
    pod, container = POD["securityContext"], CONTAINER["securityContext"]
    assert (str(pod["runAsUser"]), str(pod["runAsGroup"])) == USER
    assert pod["runAsNonRoot"] is True
    assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["readOnlyRootFilesystem"] is True
    assert container["allowPrivilegeEscalation"] is False
    assert container["capabilities"] == {"drop": ["ALL"]}
    assert POD["automountServiceAccountToken"] is False
    assert POD["shareProcessNamespace"] is True  # as `init` in Compose


def test_the_pod_is_given_longer_than_a_drain_takes(tmp_path: Path) -> None:
    assert POD["terminationGracePeriodSeconds"] >= config(CONFIG, VARIABLES, tmp_path).shutdown_s + GRACE_S


def test_the_pod_s_settings_volume_and_secrets_are_where_they_are_read(tmp_path: Path) -> None:
    settings = config(CONFIG, VARIABLES, tmp_path)
    mounts = {mount["name"]: mount["mountPath"] for mount in CONTAINER["volumeMounts"]}
    volumes = {volume["name"] for volume in POD["volumes"]} | {
        claim["metadata"]["name"] for claim in SET["volumeClaimTemplates"]
    }
    assert mounts.keys() == volumes
    assert CONTAINER["args"] == COMMAND == ["run", "-c", f"{mounts['settings']}/config.toml"]
    assert mounts["data"] == re.findall(r"(?m)^VOLUME (\S+)", DOCKERFILE)[-1]
    for file in (settings.token_file, settings.listen_token_file):
        assert str(file).startswith(f"{mounts['secrets']}/")


def test_the_pod_is_asked_for_its_health_where_it_listens(tmp_path: Path) -> None:
    listen = config(CONFIG, VARIABLES, tmp_path).listen
    (port,) = CONTAINER["ports"]
    assert listen == f"0.0.0.0:{port['containerPort']}"
    probes = {name: CONTAINER[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")}
    assert {probe["port"] for probe in probes.values()} == {port["name"]}
    assert {name: probe["path"] for name, probe in probes.items()} == {
        "startup": "/healthz",
        "liveness": "/healthz",
        "readiness": "/readyz",
    }
    startup = CONTAINER["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] >= MIGRATION_S
    (served,) = manifest("Service")["spec"]["ports"]
    assert (served["port"], served["targetPort"]) == (port["containerPort"], port["name"])


def test_a_pod_that_never_gets_ready_is_replaced_by_its_repair() -> None:
    assert SET["podManagementPolicy"] == "Parallel"


def test_the_labels_find_the_pod() -> None:
    labels = SET["template"]["metadata"]["labels"]
    assert SET["selector"]["matchLabels"] == manifest("Service")["spec"]["selector"] == labels


# --- systemd ---------------------------------------------------------------------------------------------------------

UNIT = (DEPLOY / "poller.service").read_text("utf-8")


def unit(key: str) -> list[str]:
    return re.findall(rf"(?m)^{key}=(.*)$", UNIT)


@pytest.fixture
def installed_unit(tmp_path: Path) -> Path:
    """Return the unit as on a machine where the program is installed."""
    file = tmp_path / "poller.service"
    file.write_text(UNIT.replace("/opt/poller/bin/poller", shutil.which("true") or "/bin/true"))
    return file


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze")
def test_systemd_finds_nothing_wrong_with_the_unit(installed_unit: Path) -> None:
    done = subprocess.run(  # noqa: S603 - our own file
        ["systemd-analyze", "verify", str(installed_unit)],  # noqa: S607 - whichever there is
        capture_output=True,
        text=True,
        check=False,
    )
    complaints = [line for line in done.stderr.splitlines() if "poller.service" in line]
    assert (done.returncode, complaints) == (0, [])


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze")
def test_systemd_calls_the_unit_s_exposure_low(installed_unit: Path) -> None:
    done = subprocess.run(  # noqa: S603 - our own file
        ["systemd-analyze", "security", "--offline=true", "--threshold=20", str(installed_unit)],  # noqa: S607
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout.splitlines()[-1]


def test_the_unit_runs_the_service_in_its_own_folder_with_the_token_as_a_credential(tmp_path: Path) -> None:
    environ = dict(line.split("=", 1) for line in unit("Environment") if line.startswith("POLLER_"))
    settings = config(CONFIG, environ, tmp_path)
    assert unit("ExecStart") == [f"/opt/poller/bin/poller {' '.join(COMMAND)}"]
    assert unit("StateDirectory") == ["poller"]
    assert "state" not in environ | settings.model_dump(exclude_unset=True)  # the default: in the folder it runs in
    assert unit("WorkingDirectory") == ["%S/poller"]
    assert str(settings.token_file) == f"%d/{unit('LoadCredential')[0].partition(':')[0]}"


def test_the_unit_waits_longer_than_a_drain_takes_and_reloads_on_sighup(tmp_path: Path) -> None:
    assert int(unit("TimeoutStopSec")[0]) >= config(CONFIG, {}, tmp_path).shutdown_s + GRACE_S
    assert unit("ExecReload")[0].endswith("-HUP $MAINPID")


def test_the_unit_hides_no_file_that_metrics_of_the_process_come_from() -> None:
    assert not unit("ProcSubset")


# --- Prometheus and Grafana ------------------------------------------------------------------------------------------

RULES: list[dict[str, Any]] = yaml.safe_load((DEPLOY / "prometheus-alerts.yaml").read_text("utf-8"))["groups"]
ALERTS = [rule for group in RULES for rule in group["rules"]]
ALERT_TESTS, PROMTOOL = Path(__file__).with_name("alerts.test.yaml"), shutil.which("promtool")
DASHBOARD: dict[str, Any] = orjson.loads((DEPLOY / "grafana-dashboard.json").read_bytes())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
ADDED = {"job", "instance"}  # by Prometheus

Series = dict[str, set[str]]  # labels by the name of the series


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Series:
    """Return what the server of a run at work exports."""
    folder = tmp_path_factory.mktemp("exported")
    with (
        hubspot("--daily", "100000", "--fault", "503=0.5", imports=20) as simulated,
        running(
            "run", str(simulated.ids_file(folder, 20)), "--follow", *listening(simulated.url), folder=folder
        ) as run,
    ):
        wait_until(lambda: has_failures(run), "some outcomes that are not complete, and troubles on the way")
        (started,) = (event for event in run.events() if event["event"] == "web.started")
        with urllib.request.urlopen(f"{started['url'].rstrip('/')}/metrics", timeout=10) as answer:  # noqa: S310 - loopback
            text = answer.read().decode()
    series: Series = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            series.setdefault(sample.name, set()).update(sample.labels)
    return series | of_fleet() | {"up": set()}


def of_fleet() -> Series:
    """Return what a run alone does not export: the metrics of a fleet."""
    found = {name: METRICS[name] for name in METRICS if name.startswith("fleet_")}
    total = {name: "_total" if family is CounterMetricFamily else "" for name, (family, _, _) in found.items()}
    return {f"poller_{name}{total[name]}": set(labels) for name, (_, labels, _) in found.items()}


def has_failures(run: Running) -> bool:
    kinds = [event["kind"] for event in run.events() if event["event"] == "task.finished"]
    return len(kinds) > 5 and set(kinds) != {"complete"}


def listening(url: str) -> tuple[str, ...]:
    return ("--base-url", url, "--listen", "127.0.0.1:0")


def queries() -> list[tuple[str, str]]:
    """Return every query of alerts and dashboard, with its name; Grafana's variables have a value."""
    found = [(rule["alert"], rule["expr"]) for rule in ALERTS]
    found += [(panel["title"], target["expr"]) for panel in PANELS for target in panel["targets"]]
    found += [(each["name"], each["expr"]) for each in DASHBOARD["annotations"]["list"]]
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            found.append((variable["name"], re.sub(r"label_values\((.*), \w+\)", r"\1", variable["query"]["query"])))
    return [(where, filled(query)) for where, query in found]


def filled(query: str) -> str:
    """Return a query with a value for each of Grafana's variables of time."""
    return re.sub(r"\$__\w+", "5m", query)


def selectors(query: str) -> list[tuple[str, dict[str, str]]]:
    """Return each metric that a query selects, with the labels it selects by. Raises where it is not PromQL."""
    found: list[tuple[str, dict[str, str]]] = []

    def visit(node: object) -> None:
        if isinstance(node, promql_parser.MatrixSelector):
            node = node.vector_selector
        if isinstance(node, promql_parser.VectorSelector):
            found.append((str(node.name), {each.name: each.value for each in node.matchers.matchers}))

    promql_parser.walk(promql_parser.parse(query), visit)
    return found


@pytest.mark.real_time
def test_every_query_asks_for_metrics_and_labels_that_the_server_exports(exported: Series) -> None:
    for where, query in queries():
        selected = selectors(query)
        assert selected, f"{where}: {query}"
        for metric, labels in selected:
            assert metric in exported, f"{where}: no metric {metric}"
            assert labels.keys() - ADDED <= exported[metric], f"{where}: labels of {metric}"
        grouped = re.findall(r"(?:by|without|ignoring|on) \(([^)]*)\)", query)
        named = {name.strip() for names in grouped for name in names.split(",")} - ADDED
        assert named <= set().union(*(exported[metric] for metric, _ in selected)), f"{where}: {query}"


def test_every_value_of_a_label_that_a_query_names_exists() -> None:
    known = {
        "kind": {kind.value for kind in Kind},
        "reason": {pause.value for pause in Pause},
        "outcome": {*OUTCOMES, *STARTS},
        "state": {"waiting", "finished", *MEMBER_STATES},
    }
    for where, query in queries():
        for _, labels in selectors(query):
            for name in labels.keys() - ADDED:
                assert set(labels[name].split("|")) <= known[name], where


@pytest.mark.real_time
def test_every_label_that_an_alert_s_text_or_a_legend_shows_is_there(exported: Series) -> None:
    texts = [(rule["expr"], str(rule["annotations"]), r"\$labels\.(\w+)") for rule in ALERTS]
    texts += [(t["expr"], t["legendFormat"], r"{{(\w+)}}") for panel in PANELS for t in panel["targets"]]
    for query, text, pattern in texts:
        there = set().union(*(exported[metric] for metric, _ in selectors(filled(query))))
        assert set(re.findall(pattern, text)) <= there | ADDED, text


def test_the_alerts_are_rules_as_prometheus_wants_them() -> None:
    assert [group.keys() for group in RULES] == [{"name", "rules"}]
    assert len({rule["alert"] for rule in ALERTS}) == len(ALERTS)
    for rule in ALERTS:
        assert rule.keys() - {"for"} == {"alert", "expr", "labels", "annotations"}
        assert re.fullmatch(r"Poller[A-Za-z]+", rule["alert"])
        assert rule["labels"] in ({"severity": "page"}, {"severity": "ticket"})
        assert rule["annotations"].keys() == {"summary", "description"}
        assert re.fullmatch(r"\d+[smh]", rule.get("for", "0s"))


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed")
def test_the_alerts_fire_on_the_series_of_their_trouble_and_on_no_others() -> None:
    tested = subprocess.run([str(PROMTOOL), "test", "rules", ALERT_TESTS], capture_output=True, text=True, check=False)  # noqa: S603 - fixed arguments
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_every_alert_has_series_on_which_it_fires_and_then_stops() -> None:
    stopped = set()
    for test in yaml.safe_load(ALERT_TESTS.read_text("utf-8"))["tests"]:
        firing = [
            {name for sample in at["exp_samples"] for name in re.findall(r'^{alertname="(\w+)"}', sample["labels"])}
            for at in test["promql_expr_test"]
        ]
        stopped |= {name for at, later in pairwise(firing) for name in at - later if name not in firing[-1]}
    assert stopped == {rule["alert"] for rule in ALERTS}


def test_every_pause_that_needs_a_person_pages() -> None:
    (query,) = (rule["expr"] for rule in ALERTS if rule["alert"] == "PollerAccountRefused")
    ((_, labels),) = selectors(query)
    assert '!~"' in query
    assert set(labels["reason"].split("|")) == {pause.value for pause in Pause if not pause.needs_person}


def test_every_panel_describes_what_it_shows() -> None:
    assert [panel["title"] for panel in PANELS if not str(panel.get("description", "")).endswith(".")] == []


def test_every_metric_of_the_tasks_has_a_panel() -> None:
    targets = [target for panel in PANELS for target in panel["targets"]]
    shown = {metric for target in targets for metric, _ in selectors(filled(target["expr"]))}
    tasks = {"poller_tasks", "poller_tasks_finished_total", "poller_tasks_landed_total", "poller_tasks_by_reason"}
    assert tasks | {"poller_oldest_waiting_age_seconds"} <= shown


def test_the_dashboard_s_panels_do_not_overlap_and_share_one_data_source() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24, panel["title"]
        assert not cells & taken, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    assert {target["datasource"]["uid"] for panel in PANELS for target in panel["targets"]} == {"${datasource}"}
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    assert set(re.findall(r"\$(\w+)", orjson.dumps(PANELS).decode())) - {"__rate_interval", "__range"} <= variables

"""The OpenAPI description: openapi.json lists the paths; the schemas are made from the types that handlers use."""

from collections.abc import Sequence
from pathlib import Path

import orjson
from msgspec.json import schema_components

from poller.core.model import JsonObject
from poller.reports.status import AccountView
from poller.reports.task import TaskView
from poller.reports.task_list import TaskList
from poller.web.act import DeadLetters, DeadLettersQuery, Retried, RetryRequest
from poller.web.add_tasks import FeedFailure, FeedQuery, FeedResult, ImportQuery
from poller.web.dashboard.snapshot import RunSnapshot
from poller.web.find import FindQuery, ResubmitQuery
from poller.web.health import Alive, Readiness
from poller.web.responses import ErrorBody
from poller.web.tasks import AmbiguousTask, FinishedQuery, TaskQuery

BODIES = (
    *(AccountView, Alive, AmbiguousTask, DeadLetters, ErrorBody, FeedFailure, FeedResult, Readiness, Retried),
    *(RunSnapshot, TaskList, TaskView),
)
REQUESTS = (RetryRequest,)
QUERIES = (DeadLettersQuery, FeedQuery, FindQuery, FinishedQuery, ImportQuery, ResubmitQuery, TaskQuery)
REF = "#/components/schemas/{name}"


def describe(*, version: str = "0", accounts: Sequence[str] = ()) -> JsonObject:
    """Return the description; `accounts` are those that the server has."""
    described: JsonObject = orjson.loads((Path(__file__).parent / "openapi.json").read_bytes())
    described["info"]["version"] = version
    queries = schema_components(QUERIES)[1]
    for operation in (operation for path in described["paths"].values() for operation in path.values()):
        if "parameters" in operation:
            operation["parameters"] = _parameters(operation["parameters"], queries)
    schemas = schema_components(BODIES, ref_template=REF)[1]
    for schema in schemas.values():
        _require_all(schema)
    schemas |= schema_components(REQUESTS, ref_template=REF)[1]
    schemas["Account"] = {"type": "string", "description": "A configured account."}
    if accounts:
        schemas["Account"]["enum"] = [*accounts]
    described["components"]["schemas"] = schemas
    return described


def _parameters(listed: Sequence[JsonObject | str], queries: JsonObject) -> list[JsonObject]:
    """Return the parameters with each name of a query type replaced by its fields."""
    parameters: list[JsonObject] = []
    for each in listed:
        if not isinstance(each, str):
            parameters.append(each)
            continue
        for name, schema in queries[each]["properties"].items():
            shown = {"$ref": REF.format(name="Account")} if name == "account" else schema
            parameters.append({"name": name, "in": "query", "description": schema.pop("description"), "schema": shown})
    return parameters


def _require_all(schema: JsonObject) -> None:
    """Mark the fields with a default as required: they are always sent. Only `UNSET` fields may be absent."""
    if "required" in schema:
        properties, required = schema["properties"], schema["required"]
        schema["required"] = [name for name in properties if name in required or "default" in properties[name]]
        for each in properties.values():
            each.pop("default", None)

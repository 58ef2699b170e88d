"""The OpenAPI description of the server: its paths here, its schemas made from the types of the responses."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

from msgspec import Struct
from msgspec.json import schema_components

from poller.core.model import JsonObject
from poller.reports.task import TaskView
from poller.web.add_tasks import FeedFailure, FeedQuery, FeedResult
from poller.web.dashboard.overview import RunSnapshot
from poller.web.health import Alive, Readiness
from poller.web.responses import ErrorBody
from poller.web.tasks import AmbiguousTask, FinishedQuery, TaskQuery

REF = "#/components/schemas/{name}"
BODIES = (Alive, AmbiguousTask, ErrorBody, FeedFailure, FeedResult, Readiness, RunSnapshot, TaskView)
QUERIES = (FeedQuery, FinishedQuery, TaskQuery)
STRING: JsonObject = {"type": "string"}
INTEGER: JsonObject = {"type": "integer"}


def _response(description: str, content: Mapping[str, JsonObject], **headers: JsonObject) -> JsonObject:
    named = {name.replace("_", "-"): {"required": True, "schema": schema} for name, schema in headers.items()}
    response: JsonObject = {
        "description": description,
        "content": {kind: {"schema": it} for kind, it in content.items()},
    }
    return response | ({"headers": named} if named else {})


def _json(description: str, body: type[Struct], **headers: JsonObject) -> JsonObject:
    return _response(description, {"application/json": {"$ref": REF.format(name=body.__name__)}}, **headers)


UNAUTHORIZED = _json("The token is missing or wrong.", ErrorBody, WWW_Authenticate=STRING)
FORBIDDEN = _json("Without a token: not asked as localhost, or by another site's page.", ErrorBody)
NOT_FED = _json("The request cannot be accepted; nothing of it is stored.", FeedFailure)


def _operation(name: str, summary: str, responses: Mapping[int, JsonObject], **more: Any) -> JsonObject:
    """Return one operation. Each one may also be refused."""
    every = {401: UNAUTHORIZED, 403: FORBIDDEN} | dict(responses)
    texts = {str(code): response for code, response in sorted(every.items())}
    return {"operationId": name, "summary": summary} | more | {"responses": texts}


def _probe(name: str, summary: str, responses: Mapping[int, JsonObject]) -> JsonObject:
    """Return an operation that needs no token."""
    operation = _operation(name, summary, responses, security=[])
    del operation["responses"]["401"]
    return operation


FEED_BODY: JsonObject = {
    "text/plain": {"schema": STRING, "example": "AAAAEZ6whGI\nAAAAEZ6whGJ\n"},
    "application/x-ndjson": {
        "schema": STRING,
        "example": '{"task_id": "AAAAEZ6whGI", "url": "https://example.com/a.png"}\n',
    },
    "text/csv": {
        "schema": STRING
        | {"description": "The header names the id's column.", "pattern": r"^(task_id|taskId|id)(,[a-z]+)*\n"},
        "example": "task_id,url\nAAAAEZ6whGI,https://example.com/a.png\n",
    },
    "application/json": {
        "schema": {
            "description": "An array; each element is one JSON line. Any other value is an array of one.",
            "anyOf": [
                {"type": "array", "items": {"type": ["string", "integer", "object"]}, "maxItems": 10_000},
                {"type": ["string", "integer", "object", "number", "boolean", "null"]},
            ],
        },
        "example": [{"task_id": "AAAAEZ6whGI", "url": "https://example.com/a.png"}, "AAAAEZ6whGJ"],
    },
}

PATHS: Mapping[str, Mapping[str, JsonObject]] = {
    "/healthz": {"get": _probe("healthz", "The event loop runs.", {200: _json("alive", Alive)})},
    "/readyz": {
        "get": _probe(
            "readyz",
            "Each component; 503 while the state cannot be written, an account is refused, or the run ends.",
            {200: _json("ready", Readiness), 503: _json("not ready", Readiness)},
        )
    },
    "/metrics": {
        "get": _operation(
            "metrics",
            "Prometheus metrics; see docs/metrics.md.",
            {
                200: _response(
                    "text or OpenMetrics, as Accept asks",
                    {"text/plain": STRING, "application/openmetrics-text": STRING},
                )
            },
        )
    },
    "/v1/tasks": {
        "post": _operation(
            "feed",
            "Feed tasks: up to 10,000 lines in up to 16 MiB, gzip allowed. Answered once all of them are on disk.",
            {
                200: _json("Each line is stored or rejected.", FeedResult),
                **dict.fromkeys((400, 408, 413, 415), NOT_FED),
                503: _json(
                    "The run ends, or the state cannot be written: the lines counted as `accepted` and `duplicate` are "
                    "on disk all the same, the `pending` ones may still be stored.",
                    FeedFailure,
                    Retry_After=INTEGER,
                ),
            },
            description="Lines are read as in files. A request that is refused (4xx) has stored nothing. Send it again "
            "after a 503 or a lost response: known ids count as duplicates.",
            parameters=FeedQuery,
            requestBody={"required": True, "content": FEED_BODY},
        )
    },
    "/v1/tasks/{task_id}": {
        "get": _operation(
            "task",
            "Everything that the state holds of one task.",
            {
                200: _json("the task", TaskView),
                404: _json("No such task.", ErrorBody),
                409: _json("Several accounts have a task with this id.", AmbiguousTask),
            },
            parameters=TaskQuery,
        )
    },
    "/v1/finished": {
        "get": _operation(
            "finished",
            "Finished tasks in the order in which they finished, page by page.",
            {
                200: _response(
                    "One record a line, as every sink gets it. Link has rel=next.",
                    {"application/x-ndjson": STRING},
                    X_Next_After=INTEGER,
                    Link=STRING,
                ),
                400: _json("A parameter cannot be used.", ErrorBody),
            },
            description="Start with after=0 and continue with X-Next-After of each response. A page may be shorter "
            "than `limit`; an empty one means that nothing more has finished yet.",
            parameters=FinishedQuery,
        )
    },
    "/v1/overview": {
        "get": _operation(
            "overview",
            "What the live page shows. Made for the page: it may change with any version.",
            {200: _json("the run now", RunSnapshot)},
        )
    },
    "/v1/overview/stream": {
        "get": _operation(
            "overview_stream",
            "The same as server-sent events, every 2 s.",
            {
                200: _response("events", {"text/event-stream": STRING}),
                503: _json("Too many pages are open.", ErrorBody),
            },
        )
    },
    "/v1/openapi.json": {
        "get": _operation(
            "openapi",
            "This description.",
            {200: _response("OpenAPI 3.1", {"application/json": {"type": "object"}})},
        )
    },
    "/": {
        "get": _operation(
            "page",
            "The live page.",
            {
                200: _response("the page", {"text/html": STRING}),
                401: _response("The page, which holds no data and asks for the token.", {"text/html": STRING}),
            },
        )
    },
}


def describe(*, version: str = "0", accounts: Sequence[str] = ()) -> JsonObject:
    """Return the description; `accounts` are those that the server has."""
    _, schemas = schema_components((*BODIES, *QUERIES), ref_template=REF)
    queries = {query: schemas.pop(query.__name__) for query in QUERIES}
    for schema in schemas.values():
        _require_all(schema)
    schemas["Account"] = STRING | {"description": "A configured account."} | ({"enum": [*accounts]} if accounts else {})
    paths: dict[str, dict[str, JsonObject]] = deepcopy({path: dict(methods) for path, methods in PATHS.items()})
    for path, methods in paths.items():
        for operation in methods.values():
            query = queries[operation["parameters"]] if "parameters" in operation else {"properties": {}}
            operation["parameters"] = [*_path_parameters(path), *_query_parameters(query)]
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "hubspot-import-poller",
            "version": version,
            "description": "The admin server of one run: feeding, tasks, health and metrics. Errors are JSON with "
            "`error`, one word, and `message`, a sentence for people.",
        },
        "security": [{}, {"token": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "Required by all but /healthz and /readyz once a token is set (listen_token_file, "
                    "listen_token_env).",
                }
            },
            "schemas": schemas,
        },
    }


def _require_all(schema: JsonObject) -> None:
    """Mark the fields with a default as required: they are always sent. Only `UNSET` fields may be absent."""
    if "required" in schema:
        properties, required = schema["properties"], schema["required"]
        schema["required"] = [name for name in properties if name in required or "default" in properties[name]]
        for each in properties.values():
            each.pop("default", None)


def _path_parameters(path: str) -> list[JsonObject]:
    if "{task_id}" not in path:
        return []
    return [{"name": "task_id", "in": "path", "required": True, "schema": STRING | {"minLength": 1}}]


def _query_parameters(query: JsonObject) -> list[JsonObject]:
    return [_query_parameter(name, schema) for name, schema in query["properties"].items()]


def _query_parameter(name: str, schema: JsonObject) -> JsonObject:
    described = {"name": name, "in": "query", "description": schema.pop("description")}
    return described | {"schema": {"$ref": REF.format(name="Account")} if name == "account" else schema}

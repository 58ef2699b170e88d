"""The record of a finished task as JSON Schema. A test holds the records of a run against it."""

from typing import Any, Final

from poller.core.model import Kind

_INSTANT = ["string", "null"]

SCHEMA: Final[dict[str, Any]] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "A finished HubSpot import task",
    "description": (
        "One JSON object on one line, the same for every sink. `account` and `task_id` together identify it; every "
        "field but `note` is always present."
    ),
    "type": "object",
    "properties": {
        "task_id": {"type": "string", "description": "HubSpot's id of the task, as it was fed"},
        "account": {"type": "string", "description": "the account whose token asked for it"},
        "kind": {
            "type": "string",
            "enum": [kind.value for kind in Kind],
            "description": "what became of the task: " + ", ".join(f"`{kind.value}`" for kind in Kind),
        },
        "landed": {
            "type": "boolean",
            "description": (
                "whether a file is there: `result` names one, by an `id` or a `url`, or is a URL itself (an export). A "
                "task can land with errors. Records of versions before this field lack it"
            ),
        },
        "status": {
            "type": ["string", "null"],
            "description": "HubSpot's last word: `COMPLETE`, `CANCELED`, or the last one before the deadline",
        },
        "num_errors": {"type": ["integer", "null"], "description": "HubSpot's `numErrors`, or the number of `errors`"},
        "errors": {"description": "HubSpot's own `errors`, untouched; null where it sent none"},
        "result": {"description": "HubSpot's own `result`, untouched: the file; null where it sent none"},
        "requested_at": {"type": _INSTANT, "description": "as HubSpot wrote it"},
        "started_at": {"type": _INSTANT, "description": "as HubSpot wrote it"},
        "completed_at": {"type": _INSTANT, "description": "as HubSpot wrote it"},
        "seen_at": {"type": "string", "format": "date-time", "description": "when the last poll was made, UTC"},
        "polls": {
            "type": "integer",
            "minimum": 0,
            "description": "how many status requests the task cost; 0 only for a row that got no task",
        },
        "ref": {
            "type": ["object", "null"],
            "description": "what you fed with the id: the other columns or keys of its line, untouched",
        },
        "correlation_id": {"type": ["string", "null"], "description": "HubSpot's support asks for it"},
        "message": {"type": "string", "description": "HubSpot's own words, with `not_found` and `not_started`"},
        "http_status": {
            "type": "integer",
            "description": "HubSpot's status, 400 or 404, with `not_found`; records of older versions lack it",
        },
        "note": {"type": "string", "description": "with `timed_out` and `start_unknown`: what is not known"},
        "row": {"type": "string", "description": "only of `poller import`, as the next three: what identifies the row"},
        "starts": {"type": "integer", "minimum": 0, "description": "start calls that may have reached HubSpot"},
        "existing": {
            "type": "boolean",
            "description": "the file was there before, as a duplicate check returns it",
        },
        "earlier": {
            "type": "array",
            "items": {"type": "string"},
            "description": "task ids of earlier attempts at the row",
        },
    },
    "required": [
        "task_id",
        "account",
        "kind",
        "landed",
        "status",
        "num_errors",
        "errors",
        "result",
        "requested_at",
        "started_at",
        "completed_at",
        "seen_at",
        "polls",
        "ref",
        "correlation_id",
    ],
    "additionalProperties": False,
}

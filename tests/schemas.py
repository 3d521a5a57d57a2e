"""Records against the published schemas."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from jsonschema import Draft202012Validator, FormatChecker

from edgecls.artifact.schemas import schema

FORMATS = FormatChecker(formats=())
"""A format is an annotation unless it is checked, as here: a time is one in ISO 8601 with its offset."""


@FORMATS.checks("date-time", raises=ValueError)
def _is_time(value: object) -> bool:
    return not isinstance(value, str) or datetime.fromisoformat(value).tzinfo is not None


def closed(part: Any) -> Any:
    """A schema in which each object that describes its fields allows no others."""
    if isinstance(part, list):
        return [closed(each) for each in part]
    if not isinstance(part, dict):
        return part
    inner = {key: closed(each) for key, each in part.items()}
    if "object" in str(part.get("type")) and "properties" in part and "additionalProperties" not in part:
        inner["unevaluatedProperties"] = False
    return inner


def assert_described(name: str, record: Any) -> None:
    """A record is what its schema says, and has no field that the schema does not describe."""
    written = json.loads(json.dumps(record, allow_nan=False))
    for error in Draft202012Validator(closed(schema(name)), format_checker=FORMATS).iter_errors(written):
        raise AssertionError(f"{error.json_path}: {error.message}")


def allows(name: str, record: Any) -> bool:
    """Whether a schema allows a record, as somebody's validator would tell."""
    return bool(Draft202012Validator(schema(name)).is_valid(record))

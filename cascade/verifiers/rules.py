"""Which answers are never served, whatever a model thinks of them: the rules, free of cost."""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import Any

import jsonschema
import referencing
import referencing.exceptions
from pydantic import BaseModel, ConfigDict, Field, field_validator

from cascade.errors import InputError
from cascade.grade import parse_json
from cascade.trace import Answer, Query


class RulesConfig(BaseModel):
    """Which answers are never served, whatever the model's confidence."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    min_characters: int = Field(default=1, ge=0)
    check_schema: bool = True
    """Require JSON that fits the query's schema, where the query has one."""
    refusal_markers: tuple[str, ...] = (
        "i'm sorry",
        "i am sorry",
        "i cannot",
        "i can't",
        "i'm not able to",
        "i am not able to",
        "i'm unable to",
        "i am unable to",
        "i don't know",
        "i do not know",
        "i'm not sure",
        "i am not sure",
        "as an ai",
        "as a language model",
    )
    """Phrases that mark refusal or doubt, in lower case; looked for in the first `refusal_window` characters
    of answers that are not JSON (in JSON they may be a customer's words)."""
    refusal_window: int = Field(default=120, gt=0)
    require: tuple[str, ...] = ()
    """Regular expressions (Python's `re`) each of which must be found somewhere in the answer, `(?i)` for any case."""
    forbid: tuple[str, ...] = ()
    """Regular expressions none of which may be found in the answer."""

    @field_validator("require", "forbid")
    @classmethod
    def _compiles(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                where = "" if error.pos is None else f" at position {error.pos}"
                raise ValueError(f"{pattern!r} is not a regular expression: {error.msg}{where}") from None
        return patterns


def rule_reasons(query: Query, answer: Answer, rules: RulesConfig) -> tuple[str, ...]:
    """Why `answer` may not be served, each reason with its rule's name; () when it may.

    Empty, too short, cut off, not JSON, not of the schema, a refusal, without a required pattern, with a forbidden
    one. Raises InputError when the query's schema is itself not a JSON Schema.
    """
    if len(answer.text.strip()) < max(1, rules.min_characters):
        return ("empty" if not answer.text.strip() else f"shorter than {rules.min_characters} characters",)
    reasons = []
    if answer.finish_reason != "stop":
        reasons.append("cut off" if answer.finish_reason == "length" else f"finish reason {answer.finish_reason}")
    parsed, value = parse_json(answer.text)
    if query.schema is not None and rules.check_schema:
        reasons += _schema_reasons(query, parsed, value)
    if not parsed:
        start = answer.text.lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")[: rules.refusal_window]
        reasons += [f"refusal: {marker}" for marker in rules.refusal_markers if marker in start][:1]
    reasons += [f"require: {pattern}" for pattern in rules.require if not re.search(pattern, answer.text)]
    reasons += [f"forbid: {pattern}" for pattern in rules.forbid if re.search(pattern, answer.text)]
    return tuple(reasons)


def schema_problem(schema: dict[str, Any]) -> str | None:
    """What keeps `schema` from being a JSON Schema, in a few words; None when it is one."""
    try:
        _first_error(_validator(json.dumps(schema, sort_keys=True)), {})
    except _BadSchemaError as error:
        return str(error)
    return None


class _BadSchemaError(ValueError):
    """A schema that nothing can be checked against."""


def _schema_reasons(query: Query, parsed: bool, value: Any) -> list[str]:
    try:
        # Also when the answer is not JSON: a bad schema is the traffic's fault, not the model's.
        validator = _validator(json.dumps(query.schema, sort_keys=True))
        if not parsed:
            return ["not JSON"]
        broken = _first_error(validator, value)
    except _BadSchemaError as error:
        reason = f"the schema of query {query.id} is not a JSON Schema: {error}; correct the traffic"
        raise InputError(reason) from error
    if broken is None:
        return []
    where = ".".join(str(part) for part in broken.absolute_path)
    return [f"schema: {broken.validator} at {where or 'the top'}"]


@lru_cache(maxsize=1024)
def _validator(schema_text: str) -> Any:
    schema = json.loads(schema_text)
    if not isinstance(schema.get("$schema", ""), str):
        raise _BadSchemaError(f"its $schema is {schema['$schema']!r}, not a URL")
    kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    try:
        kind.check_schema(schema)
    except jsonschema.SchemaError as error:
        raise _BadSchemaError(_short(error.message)) from error
    except RecursionError as error:
        raise _BadSchemaError("it is nested too deeply") from error
    # Without a registry of its own the library would fetch a schema's remote references over the network.
    return kind(schema, registry=referencing.Registry())


def _first_error(validator: Any, value: Any) -> Any:
    """The first violation or None; what the meta-schema cannot see (patterns, references) shows only here."""
    try:
        return next(iter(validator.iter_errors(value)), None)
    except re.error as error:
        raise _BadSchemaError(f"a pattern in it is not a regular expression: {error}") from error
    except referencing.exceptions.Unresolvable as error:
        raise _BadSchemaError(f"it refers to {error.ref!r}, which is not in it") from error
    except RecursionError as error:
        raise _BadSchemaError("it refers to itself without end") from error


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 200 else f"{text[:200]}..."

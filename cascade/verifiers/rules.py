"""Which answers are never served, whatever a model thinks of them: the rules, free of cost."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

import jsonschema
from pydantic import BaseModel, ConfigDict, Field

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


def rule_reasons(query: Query, answer: Answer, rules: RulesConfig) -> tuple[str, ...]:
    """Why `answer` may not be served: empty, cut off, a refusal, not JSON, not of the schema; () when it may.

    Raises InputError when the query's schema is itself not a JSON Schema.
    """
    if len(answer.text.strip()) < max(1, rules.min_characters):
        return ("empty" if not answer.text.strip() else f"shorter than {rules.min_characters} characters",)
    reasons = []
    if answer.finish_reason != "stop":
        reasons.append("cut off" if answer.finish_reason == "length" else f"finish reason {answer.finish_reason}")
    parsed, value = parse_json(answer.text)
    if query.schema is not None and rules.check_schema:
        reasons += _schema_reasons(query.schema, parsed, value)
    if not parsed:
        start = answer.text.lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")[: rules.refusal_window]
        reasons += [f"refusal: {marker}" for marker in rules.refusal_markers if marker in start][:1]
    return tuple(reasons)


def _schema_reasons(schema: dict[str, Any], parsed: bool, value: Any) -> list[str]:
    if not parsed:
        return ["not JSON"]
    error = next(iter(_validator(json.dumps(schema, sort_keys=True)).iter_errors(value)), None)
    if error is None:
        return []
    where = ".".join(str(part) for part in error.absolute_path)
    return [f"schema: {error.validator} at {where or 'the top'}"]


@lru_cache(maxsize=1024)
def _validator(schema_text: str) -> Any:
    schema = json.loads(schema_text)
    kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    try:
        kind.check_schema(schema)
    except jsonschema.SchemaError as error:
        raise InputError(f"a query's schema is not a JSON Schema: {error.message}; correct the traffic") from error
    return kind(schema)

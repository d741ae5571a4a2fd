"""The loopback flagship as a judge: it compares a marked answer with its book and gives a verdict.

A request is one for a judge when its last user message holds parts marked <<<QUERY mark>>> and <<<ANSWER mark>>>.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

from lab.flagship_book import AnswerBook, FlagshipOptions

_PART = re.compile(r"<<<(QUERY|ANSWER) ([0-9a-f]+)>>>\n(.*?)\n<<<END \1 \2>>>", re.DOTALL)
PROSE = "The answer looks fine to me, I would accept it."


def judge_reply(body: dict[str, Any], content: str, book: AnswerBook, options: FlagshipOptions) -> str | None:
    """The verdict (JSON text), or planted prose, on the answer in `content`; None when it asks for no judgement."""
    parts = {name: text for name, _, text in _PART.findall(content)}
    if parts.keys() != {"QUERY", "ANSWER"}:
        return None
    messages = json.loads(parts["QUERY"])
    question = next(message["content"] for message in reversed(messages) if message["role"] == "user")
    digest = hashlib.sha256(f"{options.seed}:judge:{question}:{parts['ANSWER']}".encode()).digest()
    if _share(digest[:8]) < options.judge_prose_rate:
        return PROSE
    right = _same(parts["ANSWER"], book.gold(question))
    if _share(digest[8:16]) < options.judge_error_rate:
        right = not right
    # The word of the verdict asked for: in the structured format, or in the instructions.
    asked = json.dumps([body.get("response_format"), body["messages"][0]])
    name, value = ("p_right", 0.97 if right else 0.03) if "p_right" in asked else ("score", 5 if right else 1)
    return json.dumps({"reason": "as the book has it" if right else "the book has another answer", name: value})


def _share(digest: bytes) -> float:
    return int.from_bytes(digest, "big") / 2**64


def _same(answer: str, gold: str | None) -> bool:
    if gold is None:
        return False
    try:
        return bool(json.loads(answer) == json.loads(gold))
    except ValueError:
        return answer.strip() == gold.strip()

"""From an endpoint's reply to an Answer with its usage and the confidence of its tokens."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from cascade.confidence import summarise_tokens
from cascade.trace import Answer, TokenConfidence

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletion


def to_answer(reply: ChatCompletion, model: str, latency_s: float | None, index: int = 0) -> Answer:
    """An Answer of a reply's choice; raises ValueError where it holds none (the SDK does not check what is sent)."""
    choices = getattr(reply, "choices", None)
    if not choices or getattr(choices[index], "message", None) is None:
        raise ValueError("no choices in it")
    choice = choices[index]
    text = choice.message.content
    if text is None:
        text = getattr(choice.message, "refusal", None)
    if not isinstance(text, str):
        raise ValueError("no text in it")  # noqa: TRY004 - one error kind for all malformed replies
    usage = getattr(reply, "usage", None)
    return Answer(
        text=text,
        model=model,
        tokens_in=_count(usage, "prompt_tokens"),
        tokens_out=_count(usage, "completion_tokens"),
        latency_s=latency_s,
        finish_reason=choice.finish_reason or "unknown",
        confidence=_token_confidence(choice),
    )


def _token_confidence(choice: Any) -> TokenConfidence | None:
    """Summary of a choice's tokens; None where the endpoint sent none, or not in the form of the API.

    OpenAI leaves the end-of-turn token out, vLLM puts it in, as the local tier does.
    """
    tokens = getattr(getattr(choice, "logprobs", None), "content", None)
    try:
        chosen = [float(token.logprob) for token in tokens or []]
        margins = [_margin(token) for token in tokens or []]
    except (AttributeError, TypeError, ValueError):
        return None
    known = [margin for margin in margins if margin is not None]
    return summarise_tokens(chosen, known if len(known) == len(margins) else None)


def _margin(token: Any) -> float | None:
    """p1 - p2 of the two likeliest tokens at this step, whichever was chosen; None where the second is not told.

    OpenAI lists the likeliest in order. vLLM lists the chosen token first, in a place of the same list: of a pair
    whose first is the less likely, the second likeliest may be missing. A sampled answer therefore asks for three.
    """
    listed = [float(entry.logprob) for entry in token.top_logprobs or []]
    if len(listed) < 2 or (len(listed) == 2 and listed[0] < listed[1]):
        return None
    first, second = sorted(listed, reverse=True)[:2]
    return math.exp(first) - math.exp(second)


def _count(usage: Any, name: str) -> int | None:
    value = getattr(usage, name, None)
    return value if isinstance(value, int) and value >= 0 else None


def logprobs_problem(answer: Answer, model: str, url: str) -> str | None:
    """One sentence when an answer lacks the log-probabilities that were asked for; None when it has both of a token."""
    if answer.confidence is not None and answer.confidence.margin is not None:
        return None
    what, effect = (
        ("no log-probabilities", "token confidence cannot judge its answers, and none is accepted by it")
        if answer.confidence is None
        else ("log-probabilities of one choice only (top_logprobs: 2 was asked)", "there is no margin to judge by")
    )
    return (
        f"{url} returned {what} for {model!r}, so {effect}: use an endpoint that returns them "
        "(vLLM: --max-logprobs 2 or more), or judge by another score"
    )

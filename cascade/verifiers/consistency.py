"""Self-consistency: how many fresh samples of the cheap tier agree with the answer that would be served.

Wang, Wei, Schuurmans, Le, Chi, Narang, Chowdhery and Zhou 2022, "Self-Consistency Improves Chain of Thought Reasoning
in Language Models": samples of a model agree more where it is right. There the most frequent answer is served; here the
answer is given, and its share of the votes is its score.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from cascade.cost import PriceTable
from cascade.errors import ConfigError
from cascade.grade import grade, parse_json
from cascade.tiers import Failure, SamplingConfig, SamplingTier
from cascade.trace import Answer, Query
from cascade.verifiers.pricing import outcome_usd, require_price
from cascade.verifiers.score import Score

Normaliser = Callable[[str], str | None]
"""From an answer's text to what is compared; None where the text holds no such thing."""

_NUMBER = re.compile(r"(?:(?<!\w)-)?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?")
"""A minus after a digit or a letter is a dash; commas count as separators of thousands only."""


class ConsistencyConfig(BaseModel):
    """How many samples, and when two answers agree."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    samples: int = Field(default=5, ge=1)
    """Each costs as much as the cheap answer itself."""
    match: Literal["json_fields", "json", "text", "number"] = "json_fields"
    """json_fields: F1 of equal JSON leaves; json: equal JSON (both compare as text where neither is JSON); text: equal
    but for case, white space and a full stop; number: the last number in the text, as in worked problems."""
    sampling: SamplingConfig = SamplingConfig()


class SelfConsistency:
    """A Scorer: mean agreement (0..1) of an answer with `config.samples` samples of `tier`.

    A caller's `normalise` takes the place of `config.match`: answers agree when it makes equal, known texts of them.
    All samples are drawn for each answer, so the cost per answer does not depend on a threshold. Raises ConfigError
    where the tier's model has no price, before anything is drawn; `prices_file` is named in it.
    """

    name = "consistency"

    def __init__(
        self,
        tier: SamplingTier,
        config: ConsistencyConfig,
        prices: PriceTable,
        *,
        prices_file: Path | None = None,
        normalise: Normaliser | None = None,
        progress: bool = True,
    ) -> None:
        require_price(prices, tier.price_name, "self-consistency samples", prices_file)
        self.tier, self.config, self.prices, self.progress = tier, config, prices, progress
        self._own = normalise is not None
        self._normalise = normalise or {"text": normalise_text, "number": last_number}.get(config.match)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form. Raises ConfigError with a caller's normaliser, which is code and cannot be stored."""
        if self._own:
            raise ConfigError("self-consistency with a caller's normaliser cannot be stored: use one of config.match")
        return {"kind": self.name, "config": self.config.model_dump(mode="json")}

    def score(self, queries: Sequence[Query], answers: Sequence[Answer]) -> list[Score]:
        """Scores in order; None where a sample failed, or where the answer holds nothing to compare.

        Latency is the longest of a query's samples: they are drawn together. Cost is the sum of all samples, None when
        any is unknown. Raises TierError when the tier as a whole cannot answer.
        """
        drawn = self.tier.sample(queries, self.config.samples, self.config.sampling, progress=self.progress)
        return [self._score(answer, samples) for answer, samples in zip(answers, drawn, strict=True)]

    def agreement(self, served: str, sample: str) -> float | None:
        """Agreement of two texts, 0..1; None where the served one holds nothing to compare."""
        if self._normalise is not None:
            wanted = self._normalise(served)
            return None if wanted is None else float(self._normalise(sample) == wanted)
        if not parse_json(served)[0] and not parse_json(sample)[0]:
            return float(normalise_text(served) == normalise_text(sample))
        return grade(sample, served, "json_f1" if self.config.match == "json_fields" else "json_exact")

    def _score(self, answer: Answer, samples: Sequence[Answer | Failure]) -> Score:
        costs = [outcome_usd(sample, self.prices) for sample in samples]
        times = [sample.latency_s if isinstance(sample, Answer) else None for sample in samples]
        cost_usd = None if None in costs else sum(cost for cost in costs if cost is not None)
        latency_s = None if None in times else max((spent for spent in times if spent is not None), default=None)
        value, reason = self._judge(answer, samples)
        return Score(value, reason, cost_usd, latency_s)

    def _judge(self, answer: Answer, samples: Sequence[Answer | Failure]) -> tuple[float | None, str | None]:
        failed = [sample.reason for sample in samples if isinstance(sample, Failure)]
        if failed or not samples:
            # Agreement with fewer samples is another scale than the one that the threshold was set on.
            return None, f"{len(failed)} of {len(samples)} samples failed: {failed[0]}" if failed else "no samples"
        if not answer.text.strip():
            return None, "empty answer"
        shares = [self.agreement(answer.text, sample.text) for sample in samples if isinstance(sample, Answer)]
        known = [share for share in shares if share is not None]
        if len(known) < len(shares):
            return None, "nothing to compare in the answer"
        value = sum(known) / len(known)
        return value, None if value == 1.0 else f"{sum(share == 1.0 for share in known)} of {len(known)} samples agree"


def normalise_text(text: str) -> str:
    """The text in lower case, with single spaces and without a full stop at its end."""
    return " ".join(text.casefold().split()).removesuffix(".").rstrip()


def last_number(text: str) -> str | None:
    """The last number of a text in one spelling ("1,200.50" and "1200.5" are equal); None where there is none."""
    found = _NUMBER.findall(text)
    if not found:
        return None
    value = found[-1].replace(",", "")
    if re.fullmatch(r"-?\d+", value):
        return str(int(value))  # not through a float, which would round long order numbers to the same one
    number = float(value)
    if not math.isfinite(number):
        return None
    return repr(int(number) if number.is_integer() else number)

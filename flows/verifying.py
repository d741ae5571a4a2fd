"""How a run and serving fit, keep and open verifiers: the configured scorers with this state's embedder and files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cascade.cost import PriceTable
from cascade.tiers import SamplingTier
from cascade.trace import Answer, Query, Trace, Verdict
from cascade.verifiers import AnswerBank, Embed, LearnedScorer, Verifier, scorer_accounts, store_part
from cascade.verifiers.config import Toolbox
from cascade.verifiers.parts import Part
from cascade.verifiers.traffic import TrafficAnswers
from clustering.embed import embed_texts
from flows.config import RunConfig


def embedder(config: RunConfig) -> Embed:
    """The configured embedder; what it has embedded it remembers, in this process and in the state folder."""
    known: dict[str, NDArray[np.float32]] = {}

    def embed(texts: list[str]) -> NDArray[np.float32]:
        missing = list(dict.fromkeys(text for text in texts if text not in known))
        if missing:
            vectors = embed_texts(missing, config.embed, config.state / "embeddings.db", progress=len(missing) > 1000)
            known.update(zip(missing, vectors, strict=True))
        return np.stack([known[text] for text in texts]) if texts else np.zeros((0, 0), np.float32)

    return embed


def toolbox(config: RunConfig, sampler: Callable[[], SamplingTier]) -> Toolbox:
    """What the configured scorers need. `sampler` opens the cheap tier that they judge."""
    prices = PriceTable.from_yaml(config.prices)
    return Toolbox(config.verifier, embedder(config), config.state / "verifiers", prices, sampler, config.router)


def answer_bank(queries: Sequence[Query], answers: Mapping[str, Answer], embed: Embed) -> AnswerBank:
    """Those of the queries that have a usable flagship answer. Neither calibration nor held-out queries belong in it; a
    verifier adds the answers that it learns from itself."""
    usable = {i: answer for i, answer in answers.items() if answer.text.strip() and answer.finish_reason == "stop"}
    known = [query for query in queries if query.id in usable]
    return AnswerBank.build(known, [usable[query.id].text for query in known], embed)


def traffic_answers(traces: Iterable[Trace], version: str, tools: Toolbox) -> TrafficAnswers | None:
    """What one version answered to these traces, ungraded, for a verifier that compares with it."""
    learned = tools.config.learned
    if tools.config.kind != "learned" or "traffic" not in learned.blocks:
        return None
    own = [(t.query, t.cheap) for t in traces if t.cheap is not None and t.cheap_version == version]
    queries, answers = [query for query, _ in own], [answer for _, answer in own]
    return TrafficAnswers.build(queries, answers, tools.embed, learned.traffic, learned.answer_form)


def keep(verifier: Verifier, tools: Toolbox) -> dict[str, Any]:
    """The verifier's JSON record, its learned parts stored first: a record never names what is not there."""
    scorers = [link.scorer for link in verifier.links] + ([verifier.router.model] if verifier.router else [])
    parts: list[Part] = [scorer for scorer in scorers if isinstance(scorer, LearnedScorer)]
    if verifier.groups is not None:
        parts.append(verifier.groups)
    for part in parts:
        store_part(part, tools.parts_root)
    return verifier.to_dict()


class Recalled:
    """Verdicts given before, by query id: what a paid scorer has judged once is not paid again."""

    def __init__(self, verdicts: Mapping[str, Verdict]) -> None:
        self._verdicts = verdicts

    def judge(self, queries: Sequence[Query], answers: Sequence[Answer]) -> list[Verdict]:
        """The verdicts of these queries, whatever the answers."""
        return [self._verdicts[query.id] for query, _ in zip(queries, answers, strict=True)]


def account_rows(verdicts: Iterable[Verdict]) -> list[dict[str, Any]]:
    """The verifier's accounts, JSON-ready."""
    return [asdict(account) for account in scorer_accounts(verdicts)]


def describe(verifier: Verifier) -> dict[str, Any]:
    """What a manifest says of a fitted verifier."""
    scorers = [getattr(link.scorer, "why", "") or link.scorer.name for link in verifier.chain]
    return {
        "threshold": verifier.calibration.why,
        "scorers": scorers,
        "left_out": dict(verifier.left_out),
        "verifier_auroc": verifier.calibration.auroc,
        "router": verifier.router.why if verifier.router else None,
        "groups_shifted": len(verifier.calibration.groups.shifts) if verifier.groups else None,
    }

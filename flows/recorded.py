"""`replay --recorded`: a cascade over recorded answers, its cost-quality frontier, and no model run.

The queries are cut into fit, calibration and test (half, quarter, quarter): by time where the record has times, else by
a hash of the query's id. Policies learn on the first, options and thresholds are chosen on the second, and the third
is used once: for the tables, and to serve through the cascade itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cascade.calibration import Calibration, CalibrationConfig, CalibrationExample, fit_calibration
from cascade.cascade import Cascade, ServeReport
from cascade.cost import PriceTable
from cascade.errors import ConfigError, InputError
from cascade.recorded import Recording, Usage, read_recording
from cascade.sql_store import SqlTraceStore
from cascade.traffic import write_rejected
from cascade.verifiers import Embed, Link, Verifier, rule_reasons
from cascade.verifiers.verifier import CHAIN
from clustering.embed import EmbedConfig, embed_texts
from evaluation.crossfit import FAMILIES, ROUTERS, Choice, Option, choose, options
from evaluation.frontier import (
    PairOutcomes,
    Served,
    cheapest,
    floor_points,
    oracle,
    random_mixing,
    saving_over_random,
    serve,
    thresholds,
)
from evaluation.intervals import Interval
from evaluation.recorded import RIGHT_AT, RULES, RecordedPair, Rows, load_pair, rank
from flows.charts import FrontierLine, frontier_picture
from flows.rundir import write_json

LEAST = 40
"""Queries below which nothing can be fitted, chosen and tested apart."""
CURVE_POINTS = 25


@dataclass(frozen=True, slots=True)
class RecordedSettings:
    """What `replay --recorded` was asked for."""

    cheap: str
    flagship: str
    peers: tuple[str, ...] = ()
    """Other recorded models that a verifier may ask; each is charged on every query that it judges."""
    verifier: str = "auto"
    """"auto", or the start of a policy's name: rules, arithmetic, brevity, peers, learned, mean_logprob, ..."""
    router: bool = False
    quality: float = 0.95
    """Share of the flagship's quality to be reached."""
    seed: int = 0


@dataclass(frozen=True, slots=True)
class PolicyResult:
    """One policy at the quality asked for; shares are of the flagship's quality and of always-flagship's cost."""

    name: str
    quality: float
    cost: float
    usd_per_1000: float
    escalated: float | None
    saving: Interval | None
    """Over random mixing of the same quality; None where it is not a policy of its own or there is no line."""


@dataclass(frozen=True, slots=True)
class RecordedReplay:
    """All that the command prints."""

    settings: RecordedSettings
    n_fit: int
    n_calibration: int
    n_test: int
    split: str
    usage: tuple[Usage, ...]
    n_rejected: int
    n_unshared: int
    """Recorded queries left out because one of the models has no answer to them."""
    qualities: tuple[float, float, float]
    """Cheap, flagship, oracle, on the test part."""
    policies: tuple[PolicyResult, ...]
    chosen: str
    frontier: tuple[dict[str, float], ...]
    """The chosen policy on the test part: kept share, quality, cost share."""
    served: ServeReport
    served_quality: float
    """Mean grade of what the cascade itself served to the test part."""
    calibration: Calibration | None
    picture: Path


def replay_recorded(
    path: Path, settings: RecordedSettings, prices: PriceTable, out: Path, embedder: str | None = None
) -> RecordedReplay:
    """Replay a record; writes frontier.png, frontier.json, the test part's traces and rejected rows into `out`.

    Prices are the newest of each model, whatever the record's times: what the cascade would cost, not what it did.
    Raises InputError for a record or model that cannot be used, ConfigError for a setting that is out of range.
    """
    if not 0 < settings.quality <= 1:
        raise ConfigError(f"quality is {settings.quality:g}; use a share of the flagship's quality, such as 0.95")
    prices = prices.undated()
    recording = read_recording(path)
    pair = load_pair(recording, settings.cheap, settings.flagship, prices, settings.peers)
    fit, calibration, test = split_parts(recording, pair, settings.seed)
    policies = rank(pair, prices, fit, test, calibration, embed=_embed(embedder), seed=settings.seed)
    chosen_on, tested = pair.outcomes.part(calibration), pair.outcomes.part(test)
    families = {family: options(policies, family) for family in FAMILIES}
    wanted = _wanted(families, settings)
    choice = choose(chosen_on, wanted, settings.quality)
    choices = [
        (option, choose(chosen_on, [option], settings.quality))
        for family in ("rules", "single", "learned", *ROUTERS)
        for option in families[family]
    ]
    if choice.option.choose_direct is not None:
        choices.append((choice.option, choice))
    out.mkdir(parents=True, exist_ok=True)
    if recording.rejected:
        write_rejected(out / "rejected.jsonl", recording.rejected)
    verifier = _verifier(pair, calibration, choice, settings)
    served, grade = _serve(pair, test, choice, verifier, prices, out)
    result = RecordedReplay(
        settings=settings,
        n_fit=len(fit),
        n_calibration=len(calibration),
        n_test=len(test),
        split="time" if recording.timed else f"a hash of the id (seed {settings.seed})",
        usage=pair.usage,
        n_rejected=len(recording.rejected),
        n_unshared=len(recording.queries) - len(pair.queries),
        qualities=(tested.cheap_quality, tested.flagship_quality, tested.oracle_quality),
        policies=(*_references(tested, settings.quality), *(_result(tested, option, c) for option, c in choices)),
        chosen=choice.option.name,
        frontier=tuple(_frontier(tested, choice.option)),
        served=served,
        served_quality=grade,
        calibration=None if verifier is None else verifier.calibration,
        picture=out / "frontier.png",
    )
    frontier_picture(result.picture, f"{settings.cheap} -> {settings.flagship}", _lines(tested, choices, choice))
    write_json(out / "frontier.json", _json_ready(result))
    return result


def split_parts(recording: Recording, pair: RecordedPair, seed: int) -> tuple[Rows, Rows, Rows]:
    """Positions of the fit, calibration and test part. Raises InputError where the record is too small."""
    n = len(pair.queries)
    if n < LEAST:
        raise InputError(
            f"{n} queries were answered by all models: at least {LEAST} are needed to fit, choose and test"
        )
    order = list(range(n))
    if not recording.timed:
        order.sort(key=lambda i: hashlib.sha256(f"{seed}:{pair.queries[i].id}".encode()).digest())
    cuts = [n // 2, n // 2 + n // 4]
    fit, calibration, test = np.split(np.array(order, dtype=np.intp), cuts)
    return fit, calibration, test


def _embed(folder: str | None) -> Embed | None:
    if folder is None:
        return None
    config = EmbedConfig(model=folder)
    return lambda texts: embed_texts(list(texts), config, progress=False)


def _wanted(families: dict[str, list[Option]], settings: RecordedSettings) -> list[Option]:
    """The options that the chosen cascade may consist of."""
    verifiers = [option for family in ("rules", "single", "learned") for option in families[family]]
    if not verifiers:
        if settings.verifier != "auto":
            raise InputError(f"no text of {settings.cheap} is recorded, so nothing can judge its answers: use --router")
        return [option for family in ROUTERS for option in families[family]]
    known = [option.name for option in verifiers]
    if settings.verifier != "auto":
        verifiers = [option for option in verifiers if option.name.startswith(settings.verifier)]
    if not verifiers:
        raise ConfigError(f"no verifier {settings.verifier!r} for this record; use auto or one of: {'; '.join(known)}")
    if not settings.router:
        return verifiers
    kept = {option.name for option in verifiers}
    routed = [option for option in families["both"] if option.choose_direct is not None]
    return [*verifiers, *(option for option in routed if option.policy is not None and option.policy.name in kept)]


def _references(tested: PairOutcomes, target: float) -> list[PolicyResult]:
    quality = target * tested.flagship_quality
    always, cheap = float(tested.flagship_usd.mean()), float(tested.cheap_usd.mean())

    def row(name: str, share: float, usd: float | None, escalated: float | None) -> list[PolicyResult]:
        return [] if usd is None else [PolicyResult(name, share, usd / always, 1000 * usd, escalated, None)]

    return [
        *row("always flagship", 1.0, always, 1.0),
        *row("never flagship", tested.cheap_quality / tested.flagship_quality, cheap, 0.0),
        *row("random mixing", target, random_mixing(tested, quality), None),
        *row("oracle", target, oracle(tested, quality), None),
    ]


def _result(tested: PairOutcomes, option: Option, choice: Choice) -> PolicyResult:
    served = serve(tested, option.test, choice.threshold, option.test_direct)
    kept = option.test.keep >= choice.threshold
    if option.test_direct is not None:
        kept &= ~option.test_direct
    usd = float(served.usd.mean())
    return PolicyResult(
        option.name,
        float(served.grade.mean()) / tested.flagship_quality,
        usd / float(tested.flagship_usd.mean()),
        1000 * usd,
        float(1 - kept.mean()),
        saving_over_random(tested, served),
    )


def _curve(tested: PairOutcomes, option: Option) -> Served:
    return serve(tested, option.test, thresholds(option.test), option.test_direct)


def _frontier(tested: PairOutcomes, option: Option) -> list[dict[str, float]]:
    """The chosen policy's cost at round shares of the flagship's quality, thresholds read off the test part."""
    curve, always = _curve(tested, option), float(tested.flagship_usd.mean())
    rows = []
    for share in (0.9, 0.95, 0.97, 0.98, 0.99, 1.0):
        level = cheapest(curve, share * tested.flagship_quality)
        mixed = random_mixing(tested, share * tested.flagship_quality)
        best = oracle(tested, share * tested.flagship_quality)
        if level is not None and mixed is not None and best is not None:
            usd = float(curve.usd[level].mean())
            rows.append({"quality": share, "cost": usd / always, "random": mixed / always, "oracle": best / always})
    return rows


def _lines(tested: PairOutcomes, choices: Sequence[tuple[Option, Choice]], choice: Choice) -> list[FrontierLine]:
    always = float(tested.flagship_usd.mean())
    low, high = tested.cheap_quality, tested.flagship_quality
    lines = [FrontierLine("random mixing", (float(tested.cheap_usd.mean()) / always, 1.0), (low, high), "reference")]
    grid = np.linspace(min(low, high), max(low, tested.oracle_quality), CURVE_POINTS)
    best = [(oracle(tested, float(q)), float(q)) for q in grid]
    lines.append(FrontierLine("oracle", *_points([(u / always, q) for u, q in best if u is not None]), "reference"))
    floor = [(usd / always, q) for usd, q in floor_points(tested)]
    lines.append(FrontierLine("floor (flagship never wrong)", *_points(floor), "floor"))
    for option, _ in choices:
        curve = _curve(tested, option)
        points = list(zip(curve.usd.mean(axis=1) / always, curve.grade.mean(axis=1), strict=True))
        lines.append(FrontierLine(option.name, *_points(points), "chosen" if option is choice.option else "policy"))
    served = serve(tested, choice.option.test, choice.threshold, choice.option.test_direct)
    at = (float(served.usd.mean()) / always, float(served.grade.mean()))
    lines.append(FrontierLine("as chosen on the calibration part", (at[0],), (at[1],), "point"))
    lines.append(FrontierLine("always flagship", (1.0,), (high,), "point"))
    return lines


def _points(points: Sequence[tuple[float, float]]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return tuple(float(x) for x, _ in points), tuple(float(y) for _, y in points)


def _verifier(pair: RecordedPair, calibration: Rows, choice: Choice, settings: RecordedSettings) -> Verifier | None:
    """The product's verifier around the chosen scorer, at the chosen threshold; None where a router decides alone."""
    policy = choice.option.policy
    if policy is None or policy.scorer is None:
        return None
    examples = [
        CalibrationExample(
            {CHAIN: float(score)},
            passes_rules=not rule_reasons(pair.queries[i], pair.answers[i], RULES),
            correct=bool(pair.outcomes.cheap_grade[i] >= RIGHT_AT),
        )
        for i, score in zip(calibration, policy.choose.keep, strict=True)
    ]
    fitted = fit_calibration(examples, CalibrationConfig(seed=settings.seed), signal=CHAIN)
    why = f"reaches {settings.quality:.0%} of the flagship's quality on {len(calibration)} calibration queries"
    finite = float(choice.threshold) if np.isfinite(choice.threshold) else None
    threshold = -1e9 if choice.threshold == -np.inf else finite
    return Verifier(RULES, replace(fitted, threshold=threshold, why=why), (Link(policy.scorer),))


def _serve(
    pair: RecordedPair, test: Rows, choice: Choice, verifier: Verifier | None, prices: PriceTable, out: Path
) -> tuple[ServeReport, float]:
    """Serve the test part through the cascade; what the router takes out goes to a cascade that escalates all."""
    sent = choice.option.test_direct
    if verifier is None:  # the router decides alone
        sent = choice.option.test.keep < choice.threshold
    direct = np.zeros(len(test), dtype=bool) if sent is None else sent
    flagship, cheap = pair.recording.tier(pair.flagship), pair.recording.tier(pair.cheap)
    path = out / "traces.sqlite"
    path.unlink(missing_ok=True)
    store = SqlTraceStore(path)
    cascade = Cascade(cheap, verifier, flagship, prices, f"recorded: {choice.option.name}", audit_rate=0.0)
    tried = [pair.queries[i] for i in test[~direct]]
    report = cascade.serve(tried, store, progress=False)
    by_id = {trace.query.id: trace for trace in store.between(None, None)}
    store.close()
    escalated = [not direct[k] and by_id[pair.queries[i].id].escalated for k, i in enumerate(test)]
    outcomes = pair.outcomes.part(test)
    at_flagship = direct | np.array(escalated, dtype=bool)
    grade = float(np.where(at_flagship, outcomes.flagship_grade, outcomes.cheap_grade).mean())
    extra = float(outcomes.flagship_usd[direct].sum())
    cost = None if report.cost_usd is None else report.cost_usd + extra
    n_direct = int(direct.sum())
    return replace(
        report, n=len(test), n_escalated=report.n_escalated + n_direct, n_routed=n_direct, cost_usd=cost
    ), grade


def _json_ready(result: RecordedReplay) -> dict[str, Any]:
    row = asdict(replace(result, calibration=None))
    row["calibration"] = None if result.calibration is None else result.calibration.to_dict()
    return {**row, "picture": result.picture.name, "usage": [str(kind) for kind in result.usage]}

"""An extraction cascade on BC5CDR: what it costs at equal entity F1, in both accounts.

    python -m benchmarks.extraction

A small tagger is the cheap tier, its answer is JSON with the chemicals and diseases of a sentence, and confidence comes
from its label probabilities. The verifier's own calibration turns it into P(wrong); the largest P(wrong) that still
meets an F1 target on a second part of the data is the threshold (UCCI's protocol, Kotte 2026, equation 7); the table is
made on the test split alone. Two flagships: the gold answers, and gold answers corrupted to an F1 of about 0.90, as
large models reach on this data, with errors that fall on sentences at random.
"""

from __future__ import annotations

import argparse
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from benchmarks.extraction_tagger import Entity, Sentence, Tagged
    from cascade.trace import Answer, Query
    from cascade.verifiers import Verifier

FOLDER = Path(__file__).parents[1] / "../shared/datasets/bc5cdr"
CACHE = Path(__file__).parents[1] / ".lab/bc5cdr"
TARGETS = (0.95, 0.97, 0.99, 1.0)
NOISE = 0.053
"""Chance of each gold entity to be missed, and to have a wrong end; with as many invented: an F1 of about 0.90."""
RESAMPLES = 1000
Counts = NDArray[np.float64]
"""(n, 3): true positives, false positives, false negatives per sentence."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One split of the data, as both tiers answered it."""

    small: Counts
    large: Counts
    p_wrong: NDArray[np.float64]
    wrong: NDArray[np.bool_]
    """The cheap answer differs from gold."""
    raw: NDArray[np.float64]
    """UCCI's u, before calibration."""


def main() -> None:
    """Tag, calibrate, route and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1,2", help="of the tagger's training part, the splits and the flagship")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="train.tsv, devel.tsv and test.tsv of BC5CDR")
    parser.add_argument("--cost-ratio", type=float, default=3.02, help="flagship over cheap; UCCI measured 3.02")
    given = parser.parse_args()
    if not (given.folder / "train.tsv").is_file():
        raise SystemExit(f"BC5CDR is not at {given.folder}: name its folder with --folder")
    from flows.console import say, table

    seeds = [int(seed) for seed in given.seeds.split(",")]
    worlds = {kind: [load(given.folder, seed, kind) for seed in seeds] for kind in ("gold", "simulated")}
    quality, routed = [], []
    for kind, parts in worlds.items():
        quality += quality_rows(kind, [test for _, test in parts])
        routed += routing_rows(kind, parts, given.cost_ratio)
    n = len(worlds["gold"][0][1].wrong)
    table(f"Tiers and calibration on {n} test sentences, {len(seeds)} seeds", quality)
    table(f"Cost at equal F1; flagship / cheap = {given.cost_ratio:g}; 95 % intervals", routed)
    say(f"made by: python -m benchmarks.extraction --seeds {given.seeds} --cost-ratio {given.cost_ratio:g}")


def load(folder: Path, seed: int, flagship: str) -> tuple[Measured, Measured]:
    """(threshold part, test part) of one seed: the tagger learns on train, calibrates on half of devel."""
    rng = np.random.default_rng(seed)
    devel, test, tagged_devel, tagged_test = tagged(folder, seed)
    order = rng.permutation(len(devel))
    parts = [([devel[i] for i in part], [tagged_devel[i] for i in part]) for part in np.array_split(order, 2)]
    verifier = calibrated(*parts[0], seed)
    return (
        measure(*parts[1], verifier, flagship, rng),
        measure(test, tagged_test, verifier, flagship, rng),
    )


def tagged(folder: Path, seed: int) -> tuple[list[Sentence], list[Sentence], list[Tagged], list[Tagged]]:
    """Devel and test sentences, and the answers of a tagger trained on nine tenths of train; kept in the cache."""
    from benchmarks.extraction_tagger import read_sentences, train_tagger

    devel, test = read_sentences(folder / "devel.tsv"), read_sentences(folder / "test.tsv")
    cache = CACHE / f"tagged-{seed}.pkl"
    if not cache.exists():
        train = read_sentences(folder / "train.tsv")
        kept = np.random.default_rng(seed).permutation(len(train))[: int(0.9 * len(train))]
        tagger = train_tagger([train[i] for i in kept], CACHE / f"tagger-{seed}.pkl")
        cache.write_bytes(pickle.dumps((tagger.tag(devel), tagger.tag(test))))
    return devel, test, *pickle.loads(cache.read_bytes())


def calibrated(sentences: Sequence[Sentence], tagged: Sequence[Tagged], seed: int) -> Verifier:
    """The product's verifier, fitted to graded answers."""
    from cascade.calibration import CalibrationConfig
    from cascade.verifiers import RulesConfig, fit_verifier

    queries, answers, gold = as_traffic(sentences, tagged)
    return fit_verifier(queries, answers, gold, RulesConfig(), CalibrationConfig(max_error_accepted=0.1, seed=seed))


def as_traffic(sentences: Sequence[Sentence], tagged: Sequence[Tagged]) -> tuple[list[Query], list[Answer], list[str]]:
    """Queries, cheap answers and right answers, as the cascade has them."""
    from benchmarks.extraction_tagger import KINDS, as_json
    from cascade.confidence import summarise_tokens
    from cascade.trace import Answer, Query

    schema = {"type": "object", "required": list(KINDS)}
    time = datetime(2026, 1, 1, tzinfo=UTC)
    queries, answers = [], []
    for at, (sentence, found) in enumerate(zip(sentences, tagged, strict=True)):
        message = {"role": "user", "content": " ".join(sentence.tokens)}
        queries.append(Query(f"s{at}", time, "extract", (message,), schema))
        confidence = summarise_tokens(found.logprobs, found.margins)
        n = len(sentence.tokens)
        answers.append(Answer(as_json(sentence, found.entities), "tagger", n, n, None, "stop", confidence))
    return queries, answers, [as_json(sentence, sentence.entities) for sentence in sentences]


def measure(
    sentences: Sequence[Sentence],
    tagged: Sequence[Tagged],
    verifier: Verifier,
    flagship: str,
    rng: np.random.Generator,
) -> Measured:
    """Answers of both tiers, scored."""
    from cascade.confidence import confidence_score

    _, answers, gold = as_traffic(sentences, tagged)
    calibration = verifier.calibration
    scores = [confidence_score(answer, calibration.signal) for answer in answers]
    p_wrong = [1.0 if s is None else calibration.p_wrong_at(s) or 0.0 for s in scores]
    best = [s.entities if flagship == "gold" else corrupted(s, rng) for s in sentences]
    return Measured(
        small=np.array([counts(t.entities, s.entities) for t, s in zip(tagged, sentences, strict=True)]),
        large=np.array([counts(b, s.entities) for b, s in zip(best, sentences, strict=True)]),
        p_wrong=np.array(p_wrong),
        wrong=np.array([answer.text != right for answer, right in zip(answers, gold, strict=True)]),
        raw=np.array([1.0 - float(np.mean(t.margins)) for t in tagged]),
    )


def corrupted(sentence: Sentence, rng: np.random.Generator) -> frozenset[Entity]:
    """What a flagship that is not perfect would answer: entities missed, cut or stretched by a token, invented."""
    found = set()
    n = len(sentence.tokens)
    for kind, start, end in sentence.entities:
        draw = rng.random()
        if draw < NOISE:
            continue
        if draw < 2 * NOISE:
            found.add((kind, start, end + 1 if end < n else max(start + 1, end - 1)))
        else:
            found.add((kind, start, end))
        if rng.random() < NOISE:
            at = int(rng.integers(n))
            found.add((kind, at, at + 1))
    return frozenset(found)


def counts(found: frozenset[Entity], gold: frozenset[Entity]) -> tuple[int, int, int]:
    """(true positives, false positives, false negatives), exact span and kind."""
    right = len(found & gold)
    return right, len(found) - right, len(gold) - right


def micro_f1(total: NDArray[np.float64]) -> NDArray[np.float64]:
    """F1 of summed counts, (..., 3) -> (...)."""
    doubled = 2 * total[..., 0]
    return np.asarray(doubled / np.maximum(doubled + total[..., 1] + total[..., 2], 1e-12))


def routed_counts(part: Measured, escalated: NDArray[np.bool_]) -> Counts:
    """Counts of what the cascade serves."""
    return np.where(escalated[:, None], part.large, part.small)


def choose_threshold(part: Measured, target_f1: float) -> float:
    """Largest P(wrong) to accept so that the routed F1 is at least the target; -1 escalates everything."""
    grid = np.unique(part.p_wrong)
    fine = [t for t in grid if micro_f1(routed_counts(part, part.p_wrong > t).sum(axis=0)) >= target_f1]
    return float(fine[-1]) if fine else -1.0


def random_rate(part: Measured, target_f1: float) -> float:
    """Share that must escalate at random for the same F1."""
    rates = np.linspace(0, 1, 1001)
    small, large = part.small.sum(axis=0), part.large.sum(axis=0)
    f1 = micro_f1((1 - rates)[:, None] * small + rates[:, None] * large)
    return float(rates[np.argmax(f1 >= target_f1)]) if (f1 >= target_f1).any() else 1.0


def quality_rows(kind: str, tests: Sequence[Measured]) -> list[dict[str, Any]]:
    """F1 of both tiers and the calibration error of the cheap one, mean over seeds."""
    from cascade.calibration import auroc, expected_calibration_error

    def mean(values: Sequence[float | None]) -> str:
        return f"{np.mean([v for v in values if v is not None]):.3f}"

    return [
        {
            "flagship": kind,
            "cheap F1": mean([float(micro_f1(t.small.sum(axis=0))) for t in tests]),
            "flagship F1": mean([float(micro_f1(t.large.sum(axis=0))) for t in tests]),
            "cheap answers exact": mean([1 - float(t.wrong.mean()) for t in tests]),
            "ECE of u": mean([expected_calibration_error(t.raw, t.wrong) for t in tests]),
            "ECE calibrated": mean([expected_calibration_error(t.p_wrong, t.wrong) for t in tests]),
            "worst seed": f"{max(expected_calibration_error(t.p_wrong, t.wrong) for t in tests):.3f}",
            "AUROC": mean([auroc(t.p_wrong, t.wrong) for t in tests]),
        }
    ]


def routing_rows(kind: str, parts: Sequence[tuple[Measured, Measured]], ratio: float) -> list[dict[str, Any]]:
    """One row per F1 target: the cascade's saving against always asking the flagship, both accounts."""
    from cascade.cost import sequential_cost, uncharged_cost

    rows = []
    for share in TARGETS:
        rates, f1, relative, chance = [], [], [], []
        for seed, (validation, test) in enumerate(parts):
            target = share * float(micro_f1(validation.large.sum(axis=0)))
            escalated = test.p_wrong > choose_threshold(validation, target)
            served = routed_counts(test, escalated)
            draws = np.random.default_rng(seed).multinomial(len(served), [1 / len(served)] * len(served), RESAMPLES)
            rates.append(np.concatenate([[escalated.mean()], draws @ escalated / len(served)]))
            f1.append(np.concatenate([[micro_f1(served.sum(axis=0))], micro_f1(draws @ served)]))
            relative.append(f1[-1] / np.concatenate([[micro_f1(test.large.sum(axis=0))], micro_f1(draws @ test.large)]))
            chance.append(random_rate(test, float(f1[-1][0])))
        saving = [[1 - sequential_cost(1, 0, ratio, r) / ratio for r in each] for each in rates]
        router = [[1 - uncharged_cost(1, ratio, r) / ratio for r in each] for each in rates]
        rows.append(
            {
                "flagship": kind,
                "F1 target": f"{share:.0%} of its",
                "F1": _interval(f1),
                "of flagship's": _interval(relative),
                "escalated": _interval(rates),
                "random, same F1": f"{np.mean(chance):.3f}",
                "saved, sequential": _interval(saving),
                "saved, UCCI's account": _interval(router),
                "random, sequential": f"{np.mean([1 - sequential_cost(1, 0, ratio, r) / ratio for r in chance]):.3f}",
            }
        )
    return rows


def _interval(draws: Sequence[Any]) -> str:
    """Mean over seeds of the value, with the quantiles of all seeds' bootstrap draws together."""
    values = [float(each[0]) for each in draws]
    low, high = np.quantile(np.concatenate([np.asarray(each)[1:] for each in draws]), [0.025, 0.975])
    return f"{np.mean(values):.3f} [{low:.3f}, {high:.3f}]"


if __name__ == "__main__":
    main()

"""Does a learned verifier keep its promise when the answers that it learns from also test its threshold?

    python -m benchmarks.learned_promise

`split`: a part of the graded answers teaches the classifier, the rest tests the threshold; the promise is proven.
`cross-fitted` (the default): all of them teach it, and the threshold is tested on the scores that each answer gets from
models which have not seen it; the promise is then a matter of measurement, which this is. Real queries, answered by the
locally trained base models; a draw takes 1,500 of a seed's queries at random, and counts wrong ones among the accepted
of all others. Before them stand 1,500 older ones, of which the verifier sees the ungraded answers alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from cascade.calibration import CalibrationConfig
    from cascade.trace import Answer, Query
    from cascade.verifiers import Embed

TRAFFIC = {
    "clinc150": {"early_queries": 0, "drifted_queries": 7500, "new_share": 0.276, "out_of_scope_share": 0.08},
    "banking77": {"early_queries": 0, "drifted_queries": 6500, "new_share": 0.325, "out_of_scope_share": 0.0},
}
"""The mixes of configs/clinc150.yaml and banking77.yaml, about as many queries as the data sets give."""
TOKENS = {"clinc150": 16, "banking77": 32}
OLDER = 1500
CALIBRATION = 1500
WAYS = {"split": False, "cross-fitted": True}


@dataclass(frozen=True, slots=True)
class World:
    """One seed's answered queries, oldest first, and what tells about them."""

    queries: list[Query]
    answers: list[Answer]
    right: NDArray[np.bool_]
    """(n,)."""
    embed: Embed


@dataclass(frozen=True, slots=True)
class Drawn:
    """What one calibration did to the queries that it has not seen: three arrays (n,)."""

    taken: NDArray[np.bool_]
    p_wrong: NDArray[np.float64]
    wrong: NDArray[np.bool_]


def main() -> None:
    """Fit every draw both ways and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", default="clinc150,banking77")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--draws", type=int, default=20, help="calibrations per set, seed and way")
    parser.add_argument("--targets", default="0.05,0.1", help="highest share of wrong answers among accepted")
    parser.add_argument("--confidence", type=float, default=0.95)
    given = parser.parse_args()
    from tqdm import tqdm

    from flows.console import say, table

    seeds = [int(seed) for seed in given.seeds.split(",")]
    rows = []
    for name in given.sets.split(","):
        worlds = {seed: open_world(name, seed) for seed in seeds}
        ways = [(float(target), way) for target in given.targets.split(",") for way in WAYS]
        found: dict[tuple[float, str], list[Drawn]] = {each: [] for each in ways}
        with tqdm(total=len(seeds) * given.draws * len(ways), desc=name, unit="fit") as bar:
            for seed, number in ((seed, number) for seed in seeds for number in range(given.draws)):
                for target, way in ways:
                    config = settings(target, given.confidence, WAYS[way], number)
                    found[target, way].append(draw(worlds[seed], config, 1000 * seed + number))
                    bar.update()
        rows += [summary(name, target, way, drawn) for (target, way), drawn in found.items()]
    table(f"{given.draws} calibrations per seed, {len(seeds)} seeds, {given.confidence:.0%} confidence", rows)
    say(
        f"made by: python -m benchmarks.learned_promise --sets {given.sets} --seeds {given.seeds} --draws {given.draws}"
        f" --targets {given.targets}"
    )


def open_world(name: str, seed: int) -> World:
    """Traffic of a seed, answered by the base model (from the cache where it has answered before), graded."""
    from benchmarks.calibration import graded_traffic
    from clustering.embed import EmbedConfig, embed_texts

    found = graded_traffic(name, seed, TRAFFIC[name], TOKENS[name])
    texts = list(dict.fromkeys(query.text for query in found.queries))
    vectors = embed_texts(texts, EmbedConfig(model=str(found.prepared.embedder_path)), None)
    place = {text: i for i, text in enumerate(texts)}
    return World(found.queries, found.answers, np.array(found.right), lambda asked: vectors[[place[t] for t in asked]])


def settings(target: float, confidence: float, cross_fit: bool, seed: int) -> CalibrationConfig:
    """The calibration of configs/clinc150.yaml at this target."""
    from cascade.calibration import CalibrationConfig

    return CalibrationConfig(
        max_error_accepted=target, confidence=confidence, signal="mean_logprob", cross_fit=cross_fit, seed=seed
    )


def draw(world: World, config: CalibrationConfig, seed: int) -> Drawn:
    """Calibrate on queries drawn at random, and judge all others that are not older."""
    from cascade.verifiers import LearnedConfig, LearnedTrainer, RulesConfig, fit_verifier
    from cascade.verifiers.traffic import TrafficAnswers

    learned = LearnedConfig()
    traffic = TrafficAnswers.build(world.queries[:OLDER], world.answers[:OLDER], world.embed, learned.traffic)
    order = OLDER + np.random.default_rng(seed).permutation(len(world.queries) - OLDER)
    first, rest = order[:CALIBRATION].tolist(), order[CALIBRATION:].tolist()
    queries, answers = [world.queries[i] for i in first], [world.answers[i] for i in first]
    verifier = fit_verifier(
        queries,
        answers,
        [str(query.reference) for query in queries],
        RulesConfig(),
        config,
        grade_kind="exact",
        scorers=[LearnedTrainer(learned, world.embed, None, traffic)],
    )
    verdicts = verifier.judge([world.queries[i] for i in rest], [world.answers[i] for i in rest])
    taken = np.array([verdict.accepted for verdict in verdicts])
    p_wrong = np.array([1.0 if verdict.p_wrong is None else verdict.p_wrong for verdict in verdicts])
    return Drawn(taken, p_wrong, ~world.right[rest])


def summary(name: str, target: float, way: str, drawn: Sequence[Drawn]) -> dict[str, Any]:
    """One row of the table."""
    from cascade.calibration import auroc, expected_calibration_error

    some = [each for each in drawn if each.taken.any()]
    errors = np.array([each.wrong[each.taken].mean() for each in some])
    broken = int((errors > target).sum())
    return {
        "queries": name,
        "target": f"{target:.0%}",
        "way": way,
        "calibrations": len(drawn),
        "nothing proven": len(drawn) - len(some),
        "promise broken": f"{broken} ({broken / len(drawn):.1%})",
        "error among accepted": f"{errors.mean():.4f}" if len(errors) else "-",
        "accepted": f"{np.mean([each.taken.mean() for each in drawn]):.3f}",
        "AUROC": f"{np.mean([auroc(-each.p_wrong, ~each.wrong) or np.nan for each in drawn]):.4f}",
        "ECE": f"{np.mean([expected_calibration_error(each.p_wrong, each.wrong) for each in drawn]):.4f}",
    }


if __name__ == "__main__":
    main()

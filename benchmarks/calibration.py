"""How good P(wrong) is on CLINC150, and whether the promised bound on accepted errors holds.

    python -m benchmarks.calibration                     # CLINC150 with the locally trained base model
    python -m benchmarks.calibration --simulate 2000     # power and validity where the true risk is known

The base model is one for all seeds; a seed draws the traffic, the clusters and the splits. Clusters are k-means cells
of the queries' embeddings, made on the first part of the traffic without labels.
"""

from __future__ import annotations

import argparse
import importlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from cascade.calibration import CalibrationExample
    from cascade.trace import Answer, Query
    from lab.world import Prepared

CACHE = Path(__file__).parents[1] / ".lab/calibration"
TRAFFIC = {"early_queries": 0, "drifted_queries": 7500, "new_share": 0.276, "out_of_scope_share": 0.08}
"""The mix of configs/clinc150.yaml, as many queries as the data set gives."""
CLUSTERED = 1500
"""Oldest queries: clusters are made of them, and they are used for nothing else."""
CALIBRATION = 1700
"""Graded answers to calibrate with, as in configs/clinc150.yaml."""
N_CLUSTERS = 40
SIGNAL = "mean_logprob"
CELLS = tuple(f"cell-{cell}" for cell in range(N_CLUSTERS))


@dataclass(frozen=True, slots=True)
class World:
    """One seed's graded answers, in time order, without the clustered part."""

    examples: tuple[CalibrationExample, ...]
    raw: dict[str, NDArray[np.float64]]
    """Raw P(wrong) by name: one minus the mean token probability, and UCCI's u."""
    base: str

    @property
    def wrong(self) -> NDArray[np.bool_]:
        return np.array([not example.correct for example in self.examples])


def main() -> None:
    """Run what was asked for and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--resamples", type=int, default=67, help="re-drawn calibrations per seed and setting")
    parser.add_argument("--targets", default="0.05,0.10", help="highest share of wrong answers among accepted")
    parser.add_argument("--simulate", type=int, metavar="N", help="N simulated calibrations per scenario, nothing else")
    parser.add_argument("--pictures", type=Path, help="folder for a reliability diagram and a risk-coverage curve")
    given = parser.parse_args()
    from flows.console import say, table

    if given.simulate:
        from benchmarks.calibration_simulated import rows

        table(f"{given.simulate} simulated calibrations per scenario", rows(given.simulate))
        say(f"made by: python -m benchmarks.calibration --simulate {given.simulate}")
        return
    seeds = [int(seed) for seed in given.seeds.split(",")]
    worlds = {seed: open_world(seed) for seed in seeds}
    say(f"one base model for all seeds: {next(iter(worlds.values())).base}")
    table(f"P(wrong) on test data, {CALIBRATION} graded answers to calibrate", quality_rows(worlds))
    targets = [float(target) for target in given.targets.split(",")]
    table(
        f"The promise over {given.resamples} re-drawn calibrations per seed, {len(seeds)} seeds",
        promise_rows(worlds, targets, given.resamples),
    )
    if given.pictures:
        draw(worlds[seeds[0]], given.pictures, targets[0])
        say(f"pictures: {given.pictures}")
    say(f"made by: python -m benchmarks.calibration --seeds {given.seeds} --resamples {given.resamples}")


def open_world(seed: int) -> World:
    """Traffic of a seed, answered by the base model (from the cache where it has answered before), graded."""
    from cascade.calibration import CalibrationExample
    from cascade.confidence import confidence_features

    found = graded_traffic("clinc150", seed, TRAFFIC, 16)
    clusters = cluster([query.text for query in found.queries], found.prepared.embedder_path, seed)
    examples = tuple(
        CalibrationExample(confidence_features(answer), True, right, group)
        for answer, right, group in zip(found.answers, found.right, clusters, strict=True)
    )[CLUSTERED:]
    raw = {
        "1 - mean token probability": np.array([1 - np.exp(e.features["mean_logprob"]) for e in examples]),
        "u (UCCI)": np.array([-e.features["margin"] for e in examples]),
    }
    return World(examples, raw, found.prepared.base_model_path.name)


@dataclass(frozen=True, slots=True)
class GradedTraffic:
    """One seed's queries, oldest first, with the base model's answers and whether they are right."""

    prepared: Prepared
    queries: list[Query]
    answers: list[Answer]
    right: list[bool]


def graded_traffic(world: str, seed: int, traffic: Mapping[str, Any], max_new_tokens: int) -> GradedTraffic:
    """Traffic of a seed, answered by the base model of `world` and graded against the data set's labels."""
    from cascade.grade import grade
    from cascade.trace import answer_from_dict, query_from_dict
    from lab.traffic import TrafficConfig
    from lab.world import WORLDS, LabConfig

    config = LabConfig(world=world, seed=seed, traffic=TrafficConfig.model_validate(traffic))
    prepare = importlib.import_module(WORLDS[world]).prepare
    prepared: Prepared = prepare(config, CACHE.parent / f"{world}-graded-{config.traffic.drifted_queries}-{seed}")
    lines = prepared.traffic_path.read_text(encoding="utf-8").splitlines()
    queries = [query_from_dict(json.loads(line)) for line in lines]
    stored = answer_all(queries, prepared.base_model_path, max_new_tokens)
    answers = [answer_from_dict(stored[query.text]) for query in queries]
    right = [grade(a.text, str(q.reference), "exact") >= 1.0 for q, a in zip(queries, answers, strict=True)]
    return GradedTraffic(prepared, queries, answers, right)


def answer_all(queries: Sequence[Query], base: Path, max_new_tokens: int) -> dict[str, Any]:
    """Answers by text; those that are not in the cache are made and added to it."""
    from cascade.local import LocalTier, LocalTierConfig

    path = CACHE / f"answers-{base.name}.jsonl"
    stored: dict[str, Any] = {}
    if path.exists():
        rows = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
        stored = {row["text"]: row["answer"] for row in rows}
    asked = list({query.text: query for query in queries if query.text not in stored}.values())
    if asked:
        tier = LocalTier(LocalTierConfig(base_model=str(base), name="lab-student", max_new_tokens=max_new_tokens))
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            for query, answer in zip(asked, tier.answer(asked), strict=True):
                stored[query.text] = asdict(answer)
                file.write(json.dumps({"text": query.text, "answer": stored[query.text]}) + "\n")
    return stored


def cluster(texts: Sequence[str], embedder: Path, seed: int) -> list[str]:
    """Cluster of each text by the nearest centre of the oldest part's k-means cells."""
    from sklearn.cluster import KMeans

    from clustering.embed import EmbedConfig, embed_texts

    vectors = embed_texts(list(texts), EmbedConfig(model=str(embedder)), None)
    cells = KMeans(N_CLUSTERS, n_init=3, random_state=seed).fit(vectors[:CLUSTERED])
    return [CELLS[cell] for cell in cells.predict(vectors)]


def quality_rows(worlds: dict[int, World]) -> list[dict[str, Any]]:
    """Raw and calibrated P(wrong), per seed, on what was not calibrated with."""
    from cascade.calibration import CalibrationConfig, calibration_metrics, fit_calibration

    rows = []
    for seed, world in worlds.items():
        order = np.random.default_rng(seed).permutation(len(world.examples))
        first, test = order[:CALIBRATION], order[CALIBRATION:]
        chosen = [world.examples[i] for i in first]
        predictions = {name: values[test] for name, values in world.raw.items()}
        for name, by_group in (("isotonic", False), ("isotonic, by cluster", True)):
            fitted = fit_calibration(chosen, CalibrationConfig(signal=SIGNAL, by_group=by_group, seed=seed))
            tested = [world.examples[i] for i in test]
            predictions[name] = np.array([fitted.p_wrong_at(e.features[SIGNAL], e.group) for e in tested])
        wrong = world.wrong[test]
        for name, p in predictions.items():
            found = calibration_metrics(p, wrong)
            low, high = error_interval(p, wrong, seed)
            rows.append(
                {
                    "seed": seed,
                    "P(wrong) from": name,
                    "n": found.n,
                    "wrong": f"{wrong.mean():.3f}",
                    "ECE, equal mass": f"{found.ece_mass:.4f} [{low:.4f}, {high:.4f}]",
                    "ECE, equal width": f"{found.ece_width:.4f}",
                    "Brier": f"{found.brier:.4f}",
                    "AUROC": f"{found.auroc or float('nan'):.4f}",
                    "AURC": f"{found.aurc:.4f}",
                }
            )
    return rows


def error_interval(p: NDArray[np.float64], wrong: NDArray[np.bool_], seed: int) -> tuple[float, float]:
    """95 % bootstrap interval of the ECE (equal mass); resampling adds noise, so it leans upwards."""
    from cascade.calibration import expected_calibration_error

    rng = np.random.default_rng(seed)
    draws = [expected_calibration_error(p[i], wrong[i]) for i in (rng.integers(0, len(p), len(p)) for _ in range(300))]
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(low), float(high)


Thresholds = dict[str, float]
"""Lowest accepted score by cluster; infinity accepts none."""
Rule = Callable[[Sequence["CalibrationExample"], float, int], Thresholds]


def promise_rows(worlds: dict[int, World], targets: Sequence[float], resamples: int) -> list[dict[str, Any]]:
    """Calibrate on a draw, count wrong answers among the accepted of another; both drawn from the whole pool."""
    rules: dict[str, Rule] = {"one for all": one_rule, "shifted by cluster": shifted_rule, "tested apart": apart_rule}
    return [_promise_row(worlds, name, rule, target, resamples) for target in targets for name, rule in rules.items()]


def one_rule(examples: Sequence[CalibrationExample], target: float, seed: int) -> Thresholds:
    """A single threshold for all."""
    return _thresholds(examples, target, seed, by_group=False)


def shifted_rule(examples: Sequence[CalibrationExample], target: float, seed: int) -> Thresholds:
    """Scores shifted by cluster, then a single threshold on the shifted score."""
    return _thresholds(examples, target, seed, by_group=True)


def _thresholds(
    examples: Sequence[CalibrationExample], target: float, seed: int, *, by_group: bool, confidence: float = 0.95
) -> Thresholds:
    from cascade.calibration import CalibrationConfig, fit_calibration

    config = CalibrationConfig(
        max_error_accepted=target, confidence=confidence, signal=SIGNAL, by_group=by_group, seed=seed
    )
    fitted = fit_calibration(examples, config)
    found = {name: fitted.threshold_for(name) for name in CELLS}
    return {name: np.inf if threshold is None else threshold for name, threshold in found.items()}


def apart_rule(examples: Sequence[CalibrationExample], target: float, seed: int) -> Thresholds:
    """The other way: a threshold tested for each cluster that has the data, the level split among them."""
    from cascade.calibration import least_accepted

    by_cell: dict[str, list[CalibrationExample]] = {}
    for example in examples:
        by_cell.setdefault(str(example.group), []).append(example)
    large = {name: own for name, own in by_cell.items() if len(own) >= 2 * least_accepted(target, 0.95)}
    rest = [e for name, own in by_cell.items() if name not in large for e in own]
    level = 1 - 0.05 / (len(large) + 1)
    found = _thresholds(rest, target, seed, by_group=False, confidence=level)
    for name, own in large.items():
        found[name] = _thresholds(own, target, seed, by_group=False, confidence=level)[name]
    return found


def _promise_row(worlds: dict[int, World], name: str, rule: Rule, target: float, resamples: int) -> dict[str, Any]:
    found, rates, errors, worst = [], [], [], []
    kept = true_kept = 0
    for seed, world in worlds.items():
        rng, n, wrong = np.random.default_rng(seed + 100), len(world.examples), world.wrong
        cells = np.array([CELLS.index(str(example.group)) for example in world.examples])
        scores = np.array([example.features[SIGNAL] for example in world.examples])
        for draw_seed in range(resamples):
            thresholds = rule([world.examples[i] for i in rng.integers(0, n, CALIBRATION)], target, draw_seed)
            by_cell = np.array([thresholds[cell] for cell in CELLS])
            taken = scores >= by_cell[cells]
            found.append(bool(np.isfinite(by_cell).any()))
            fresh = rng.integers(0, n, n)
            fresh = fresh[taken[fresh]]
            kept += not len(fresh) or bool(wrong[fresh].mean() <= target)
            true_kept += not taken.any() or bool(wrong[taken].mean() <= target)
            rates.append(taken.mean())
            if taken.any():
                errors.append(wrong[taken].mean())
                worst.append(_worst_cell(wrong, taken, cells))
    total = len(found)
    return {
        "target": f"{target:.0%}",
        "thresholds": name,
        "fits": total,
        "kept, fresh data": f"{kept} ({kept / total:.1%})",
        "kept, pool": f"{true_kept} ({true_kept / total:.1%})",
        "nothing proven": f"{total - sum(found)} ({1 - np.mean(found):.1%})",
        "accepted": f"{np.mean(rates):.3f}",
        "error": f"{np.mean(errors):.4f}" if errors else "-",
        "worst cluster": f"{np.mean(worst):.3f}" if worst else "-",
    }


def _worst_cell(wrong: NDArray[np.bool_], taken: NDArray[np.bool_], cells: NDArray[Any]) -> float:
    """Highest error among the accepted of a cluster with at least 30 accepted answers."""
    rates = [
        wrong[taken & (cells == cell)].mean() for cell in np.unique(cells) if (taken & (cells == cell)).sum() >= 30
    ]
    return float(max(rates, default=0.0))


def draw(world: World, folder: Path, target: float) -> None:
    """Reliability diagram and risk-coverage curve of one seed, as SVG."""
    from cascade.calibration import CalibrationConfig, fit_calibration, reliability_bins, risk_coverage
    from flows.charts import reliability_diagram, risk_coverage_curve

    order = np.random.default_rng(0).permutation(len(world.examples))
    first, test = order[:CALIBRATION], order[CALIBRATION:]
    fitted = fit_calibration([world.examples[i] for i in first], CalibrationConfig(signal=SIGNAL))
    p = np.array([fitted.p_wrong_at(world.examples[i].features[SIGNAL]) for i in test])
    wrong, raw = world.wrong[test], world.raw["1 - mean token probability"][test]
    folder.mkdir(parents=True, exist_ok=True)
    reliability = reliability_diagram({"raw": reliability_bins(raw, wrong), "isotonic": reliability_bins(p, wrong)})
    (folder / "reliability.svg").write_text(reliability, encoding="utf-8")
    curve = risk_coverage_curve({"base model": risk_coverage(-raw, wrong)}, target)
    (folder / "risk-coverage.svg").write_text(curve, encoding="utf-8")


if __name__ == "__main__":
    main()

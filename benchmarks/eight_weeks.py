"""Eight weeks of a cascade that runs itself: `python -m benchmarks.eight_weeks`.

The lab's shop, served day by day through the real cascade (the base model in this process, a flagship over HTTP). A
Prefect server and `cascade-distill serve-flows` run beside it: after every day the server runs the monitor's
deployment, and the drift alarm's event starts the improvement deployment through the automation, as in production.
New product lines arrive in weeks 3 and 6; the flagship's price rises in week 5; somebody replaces the verifier by a
lenient one in week 7 and by one that rejects more in week 8, and a verifier alarm is answered by a rollback on the same
day. An interrupted simulation goes on where it was.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Collection
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.eight_weeks_server import InProcess, Operator, deployed
from benchmarks.eight_weeks_world import ARRIVE, LENIENT_IN, NAME, STRICT_IN, plant, settings, write_prices
from flows.cli import ENVIRONMENT

if TYPE_CHECKING:
    from cascade.trace import Trace
    from flows.config import RunConfig
    from flows.context import State
    from lab.traffic import Arrivals

CURED = {"the traffic changed", "the answers got worse"}
"""What the event is sent for; of other causes the channel notes that it had nothing to send."""


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
    baseline: float | None = None
    """Escalation rate of the monitor's reference; None while there is none, and without a look."""
    causes: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    dated: list[str] = field(default_factory=list)
    """Week of the deployment in which each of `causes` is said to have begun."""
    done: str = ""
    alarmed: bool = False
    """Whether the look sent the event that starts a run."""
    look_s: float = 0.0
    """Seconds from asking for the look to its end."""


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
    parser.add_argument("--look-days", default="1,2,3,4,5,6,7", help="days of a week after which the monitor looks")
    parser.add_argument("--in-process", action="store_true", help="call the flows in this process: no Prefect server")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # else the server and what it serves outlive a stop
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    folder = given.folder or Path("runs") / f"eight-weeks-{given.seed}-{given.queries_per_day}"
    began = time.perf_counter()
    look_days = frozenset(int(day) for day in given.look_days.split(","))
    size = (given.queries_per_day, given.weeks)
    progress = simulate(folder, given.seed, *size, given.max_error, look_days, in_process=given.in_process)
    minutes = (time.perf_counter() - began) / 60

    from benchmarks.eight_weeks_picture import draw, week_rows
    from flows.console import say, table

    table(f"{given.queries_per_day:,} queries a day, seed {given.seed}", week_rows(progress.days))
    for run in progress.runs:
        say(
            f"week {run['week']}: run {run['run']}, started by {run['by']}, took {run['minutes']:.1f} min,"
            f" {run['outcome']}: {run['why']}"
        )
    picture = given.picture or folder / "eight-weeks.png"
    draw(picture, progress.days)
    looks = sorted(day.look_s for day in progress.days if day.look_s)
    say(f"picture: {picture}; a look took {looks[len(looks) // 2]:.0f} s (median), this start {minutes:.1f} min")
    say(
        f"made by: python -m benchmarks.eight_weeks --queries-per-day {given.queries_per_day} --seed {given.seed} "
        f"--max-error {given.max_error:g} --look-days {given.look_days}" + (" --in-process" if given.in_process else "")
    )


def simulate(
    folder: Path,
    seed: int,
    per_day: int,
    weeks: int,
    max_error: float = 0.03,
    look_days: Collection[int] = range(1, 8),
    *,
    in_process: bool = False,
) -> Progress:
    """Serve and act, day by day; look after the days of each week that `look_days` names."""
    import yaml

    from flows.config import build_config
    from flows.rundir import write_jsonl, write_text
    from lab.flagship import serve_flagship
    from lab.flagship_book import FlagshipOptions
    from lab.shop import answer_rows, base_training_texts
    from lab.traffic import Arrivals, generate_weeks

    folder = folder.resolve()
    plan = Arrivals(weeks=weeks, queries_per_week=7 * per_day, arrive=ARRIVE)
    manifest = Path(__file__).parents[1] / "lab" / "models" / "manifest.json"
    traffic = generate_weeks(plan, seed, avoid=base_training_texts(manifest))
    for week, rows in enumerate(traffic, 1):
        for day in range(7):
            write_jsonl(folder / "traffic" / f"{week}-{day + 1}.jsonl", rows[day * per_day : (day + 1) * per_day])
    write_jsonl(folder / "answers.jsonl", answer_rows(row for rows in traffic for row in rows))
    write_prices(folder / "prices.yaml", plan)
    options = FlagshipOptions(models=("lab-flagship",), error_rate=0.005)
    with ExitStack() as stack:
        url = stack.enter_context(serve_flagship(folder / "answers.jsonl", options, ledger=folder / "ledger.jsonl"))
        values, path = settings(folder, url, seed, max_error), folder / f"{NAME}.yaml"
        write_text(path, yaml.safe_dump(values))
        config = build_config(values, str(path))
        server = deployed(path, NAME, folder / "prefect")
        operator: Operator = InProcess(config) if in_process else stack.enter_context(server)
        return live(config, operator, plan, look_days, folder)


def live(config: RunConfig, operator: Operator, plan: Arrivals, look_days: Collection[int], folder: Path) -> Progress:
    """The days that have not been lived yet."""
    from tqdm import tqdm

    from flows.context import open_state

    state, kept = open_state(config), folder / "progress.json"
    progress = Progress.load(kept)
    bar = tqdm(total=7 * plan.weeks, initial=len(progress.days), desc="days", unit="day")
    while True:
        last = progress.days[-1] if progress.days else None
        if last is not None and last.alarmed and "run" not in last.done:
            run = improved(config, state, operator, [run["run"] for run in progress.runs])
            progress.runs.append({"week": last.week, "day": last.day, **run})
            last.done = "; ".join(filter(None, [last.done, f"run: {run['outcome']}"]))
            progress.save(kept)
        if len(progress.days) == 7 * plan.weeks:
            bar.close()
            return progress
        week, day = divmod(len(progress.days), 7)
        looker = operator if day + 1 in look_days else None
        progress.days.append(one_day(config, state, looker, plan, week + 1, day + 1, folder))
        progress.save(kept)
        bar.update()


def one_day(
    config: RunConfig, state: State, looker: Operator | None, plan: Arrivals, week: int, day: int, folder: Path
) -> Day:
    """Plant what the week brings and serve; with somebody to look, look and roll back what a verifier alarm names."""
    from cascade.grade import grade
    from cascade.verifiers.config import VerifierConfig
    from flows.serve import replay_traffic

    if day == 1 and week in (LENIENT_IN, STRICT_IN):
        plant(state, "lenient" if week == LENIENT_IN else "strict", week)
    champion = state.registry.aliases().get("champion")
    # A cold start has 700 graded answers, and would learn a verifier from 210 of them: it takes the plain confidence.
    serving = config if champion is not None else config.model_copy(update={"verifier": VerifierConfig()})
    replay_traffic(serving, folder / "traffic" / f"{week}-{day}.jsonl", progress=False)
    start = plan.start + timedelta(days=7 * (week - 1) + day - 1)
    traces: list[Trace] = state.traces.between(start, start + timedelta(days=1))
    lived = Day(
        week=week,
        day=day,
        n=len(traces),
        escalated=sum(trace.escalated for trace in traces),
        right=sum(grade(t.served_text, t.query.reference or "", config.grade) >= 1 for t in traces),
        usd=sum(trace.cost_usd or 0.0 for trace in traces),
        champion=champion or "cold start",
    )
    if looker is not None:
        look(lived, state, looker, plan)
    return lived


def look(lived: Day, state: State, looker: Operator, plan: Arrivals) -> None:
    """Note what a look at the end of a day says, and roll back what a verifier alarm names."""
    from flows.alarms import EVENT, READER
    from flows.rundir import read_json
    from flows.watching import folder_of

    lived.look_s = looker.look()
    watch, told = (read_json(folder_of(state) / name) for name in ("watch.json", "told.json"))
    findings, escalation, first = watch["findings"], watch["checks"][0], plan.start.date()
    now = {channel: [c for c, at in told[channel].items() if at == watch["at"]] for channel in (READER, EVENT)}
    lived.baseline = escalation["baseline"] if escalation["name"] == "escalation rate" else None
    lived.causes, lived.told = [finding["cause"] for finding in findings], now[READER]
    lived.dated = [f"{1 + (datetime.fromisoformat(f['began']).date() - first).days // 7}" for f in findings]
    lived.alarmed = bool(set(now[EVENT]) & CURED)
    verifier = [cause for cause in lived.causes if cause.startswith("the verifier")]
    if verifier:
        state.registry.rollback(who="eight weeks", why=verifier[0])
        lived.done = "rollback"


def improved(config: RunConfig, state: State, operator: Operator, known: Collection[str]) -> dict[str, Any]:
    """The improvement run that the alarm starts, on the days up to now."""
    from flows.context import open_run
    from flows.records import load_decision

    began = time.perf_counter()
    run_id, by = operator.improve(known)
    found = load_decision(open_run(config.runs / run_id))
    open_checks = [f"{check.name}: {check.sentence}" for check in found.checks if check.status != "pass"]
    return {
        "run": run_id,
        "by": by,
        "minutes": (time.perf_counter() - began) / 60,
        "outcome": str(found.outcome),
        "why": "; ".join(open_checks) or f"all checks passed, {state.registry.aliases()['champion']} serves",
    }


if __name__ == "__main__":
    main()

"""How often does `monitor` cry wolf, and how soon does it see a rise? `python -m benchmarks.false_alarms`.

Two quiet weeks of the lab's shop are served for real (as in `benchmarks.eight_weeks`); from them quiet weeks are drawn:
fresh questions of the same mix, each with the outcome (escalated or not, right or not, what it cost) of a served
question of its skill. The reference is drawn the same way, so its own chance errors count. Every check looks every day.
"""

from __future__ import annotations

import argparse
import os
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.cli import ENVIRONMENT

if TYPE_CHECKING:
    import numpy as np

    from monitoring.drift import Areas, Embed
    from monitoring.policy import MonitorPolicy
    from monitoring.reference import Reference
    from monitoring.tally import Tally

START = datetime(2026, 1, 5, tzinfo=UTC)
AUDIT = 0.02
ON_QUERIES = {"query drift (AUC)", "queries in new clusters"}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one served question."""

    escalated: bool
    wrong: bool
    """The cheap answer, against the traffic's own reference."""
    usd: float
    flagship_usd: float


def main() -> None:
    """Serve, draw, look, and print three tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weeks", type=int, default=50)
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--queries-per-day", default="714,5000", help="sizes of the drawn traffic")
    parser.add_argument("--served", type=Path, help="folder of a finished `benchmarks.eight_weeks`, to draw from")
    parser.add_argument("--repetitions", type=int, default=200, help="of each rise (default: 200)")
    given = parser.parse_args()
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)

    from flows.console import say, table
    from monitoring.policy import MonitorPolicy

    policy, folder = MonitorPolicy(sample=1000), given.served
    if folder is None:
        from benchmarks.eight_weeks import simulate

        folder = Path("runs") / "false-alarms"
        simulate(folder, seed=31, per_day=714, weeks=2, in_process=True)
    outcomes = served_outcomes(folder)
    seeds = [int(seed) for seed in given.seeds.split(",")]
    sizes = [int(size) for size in given.queries_per_day.split(",")]
    rows = [quiet(outcomes, size, seed, given.weeks, policy) for size in sizes for seed in seeds]
    n = sum(len(o) for o in outcomes.values())
    table(f"{given.weeks} quiet weeks, a look every day; outcomes of {n:,} served questions", rows)
    table("A lasting rise of the escalation rate", power(outcomes, sizes, given.repetitions, policy))
    table("New product lines arrive", arrivals(outcomes, sizes[0], seeds, policy))
    say(
        f"made by: python -m benchmarks.false_alarms --weeks {given.weeks} --seeds {given.seeds} "
        f"--queries-per-day {given.queries_per_day} --repetitions {given.repetitions}"
        + (f" --served {given.served}" if given.served else "")
    )


def served_outcomes(folder: Path) -> dict[str, list[Outcome]]:
    """Outcomes by skill of the first two weeks of a served deployment."""
    from cascade.cost import PriceTable
    from cascade.grade import grade
    from cascade.store import open_traces
    from flows.rundir import read_jsonl

    prices = PriceTable.from_yaml(folder / "prices.yaml")
    rows = [row for path in sorted((folder / "traffic").glob("[12]-*.jsonl")) for row in read_jsonl(path)]
    skills = {row["id"]: row["tags"]["skill"] for row in rows}
    found: dict[str, list[Outcome]] = {}
    traces = open_traces(folder / "state" / "traces.db").between(None, START + timedelta(weeks=2))
    flagship = {t.query.id: prices.cost_usd(t.flagship, t.query.time) for t in traces if t.flagship is not None}
    known = [usd for usd in flagship.values() if usd is not None]
    for trace in traces:
        if trace.cheap is None or trace.cost_usd is None:
            continue
        wrong = grade(trace.cheap.text, trace.query.reference or "", "json_exact") < 1
        usd = flagship.get(trace.query.id) or sum(known) / len(known)
        found.setdefault(skills[trace.query.id], []).append(Outcome(trace.escalated, wrong, trace.cost_usd, usd))
    return found


class World:
    """Draws days of traffic from served outcomes."""

    def __init__(self, outcomes: dict[str, list[Outcome]], per_day: int, seed: int, sample: int) -> None:
        import numpy as np

        from lab.skills import OUT_OF_SCOPE

        self.names = sorted(outcomes)
        rest = 0.94 / (len(self.names) - 1)
        self.shares = [0.06 if name == OUT_OF_SCOPE else rest for name in self.names]
        self.tables = [
            np.array([(o.escalated, o.wrong, o.usd, o.flagship_usd) for o in outcomes[name]]) for name in self.names
        ]
        self.per_day, self.rng, self.words = per_day, np.random.default_rng(seed), random.Random(seed)
        self.texts_per_day = min(per_day, sample // 7 + 1)

    def day(self, number: int, rise: float = 0.0, new: float = 0.0, texts: bool = True) -> Tally:
        """One day; `rise` lifts the escalation rate by so much, `new` is the share of texts of new product lines."""
        import numpy as np

        from monitoring.tally import Audited, Tally

        skills = self.rng.multinomial(self.per_day, self.shares)
        rows = np.concatenate([t[self.rng.integers(0, len(t), n)] for t, n in zip(self.tables, skills, strict=True)])
        escalated, wrong, usd, large = rows[:, 0] > 0, rows[:, 1] > 0, rows[:, 2], rows[:, 3]
        if rise:
            lifted = ~escalated & (self.rng.random(len(rows)) < rise / (1 - escalated.mean()))
            escalated, usd = escalated | lifted, np.where(lifted, usd + large, usd)
        audited = ~escalated & (self.rng.random(len(rows)) < AUDIT)
        paid = large[escalated]
        return Tally(
            n=len(rows),
            n_escalated=int(escalated.sum()),
            n_priced=len(rows),
            usd=float(usd.sum()),
            usd_squared=float((usd**2).sum()),
            flagship_usd=[float(len(paid)), float(paid.sum()), float((paid**2).sum())],
            audited=[Audited(1 / AUDIT, bool(wrong[i]), float(large[i])) for i in np.flatnonzero(audited)],
            then_usd=float(usd.sum()),
            now_usd=float(usd.sum()),
            texts=self._texts(number, new) if texts else {},
        )

    def _texts(self, number: int, new: float) -> dict[str, str]:
        from lab.skills import KNOWN, NEW, draw_out_of_scope, draw_query

        found = {}
        for i in range(self.texts_per_day):
            lot = self.words.random()
            if lot < new:
                query = draw_query(self.words.choice(NEW), self.words)
            elif lot < new + (1 - new) * 0.06:
                query = draw_out_of_scope(self.words)
            else:
                query = draw_query(self.words.choice(KNOWN), self.words)
            found[f"{number}-{i}"] = query.text
        return found

    def reference(self, policy: MonitorPolicy, texts: bool = True) -> Reference:
        """A week, measured."""
        from monitoring.reference import Reference
        from monitoring.tally import merged

        week = merged([self.day(-day, texts=texts) for day in range(1, 8)], policy.sample)
        return Reference("base", "v1", "drawn", START, week.n, week.n_escalated, {}, week.texts, ())


def lab_embedder() -> Embed:
    """The lab's embedder, which remembers."""
    import numpy as np

    from clustering.embed import EmbedConfig, embed_texts

    config = EmbedConfig(model=str(Path(__file__).parents[1] / "lab" / "models" / "embedder"))
    known: dict[str, np.ndarray] = {}

    def embed(texts: list[str]) -> np.ndarray:
        missing = list(dict.fromkeys(text for text in texts if text not in known))
        if missing:
            known.update(zip(missing, embed_texts(missing, config, progress=False), strict=True))
        return np.stack([known[text] for text in texts])

    return embed


def checks_of(
    days: dict[date, Tally], reference: Reference, embed: Embed, policy: MonitorPolicy, areas: Areas
) -> list[str]:
    """The checks that fire on this look: all that rest on samples."""
    from monitoring.drift import check_drift
    from monitoring.rates import check_cost, check_escalation, check_quality
    from monitoring.records import Status
    from monitoring.tally import by_week

    weeks = dict(list(by_week(days, policy.sample).items())[-4:])
    found = [check_escalation(weeks, reference, policy), check_quality(weeks, 0.04, policy), check_cost(weeks, policy)]
    found += check_drift(weeks, list(reference.texts.values()), embed, policy, areas)
    return [str(check.name) for check in found if check.status is Status.ALARM]


def quiet(
    outcomes: dict[str, list[Outcome]], per_day: int, seed: int, weeks: int, policy: MonitorPolicy
) -> dict[str, Any]:
    """Quiet weeks, looked at every day: an alarm counts once, however many looks it lasts."""
    from tqdm import tqdm

    world = World(outcomes, per_day, seed, policy.sample)
    embed, reference = lab_embedder(), world.reference(policy)
    days: dict[date, Tally] = {}
    areas: Areas = {}
    counted: Counter[str] = Counter()
    before: set[str] = set()
    for number in tqdm(range(7 * weeks), desc=f"{per_day} a day, seed {seed}", unit="look"):
        days[(START + timedelta(days=number)).date()] = world.day(number)
        days = dict(list(days.items())[-28:])
        now = set(checks_of(days, reference, embed, policy, areas))
        counted.update(now - before)
        before = now
    names = ("escalation rate", "wrong among accepted", "cost, share of always-flagship", "query drift (AUC)",
             "queries in new clusters")  # fmt: skip
    row: dict[str, Any] = {"queries a day": f"{per_day:,}", "seed": seed, "looks": 7 * weeks}
    return row | {name: counted[name] for name in names} | {"all": sum(counted.values())}


def power(
    outcomes: dict[str, list[Outcome]], sizes: Sequence[int], repetitions: int, policy: MonitorPolicy
) -> list[dict[str, Any]]:
    """Days until a rise is seen, with a look every day and a reference of one week."""
    from tqdm import tqdm

    rows = []
    for per_day in sizes:
        for rise in (0.0, 0.05, 0.06, 0.07, 0.10, 0.15):
            bar = tqdm(range(repetitions), desc=f"+{100 * rise:.0f} points, {per_day} a day", unit="deployment")
            days = [first_alarm(World(outcomes, per_day, 1000 + seed, 0), rise, policy) for seed in bar]
            seen = sorted(day for day in days if day is not None)
            rows.append(
                {
                    "queries a day": f"{per_day:,}",
                    "rise, points": f"+{100 * rise:.0f}",
                    **{f"seen in week {w}": f"{sum(d <= 7 * w for d in seen) / repetitions:.1%}" for w in (1, 2, 4, 8)},
                    "median day": seen[repetitions // 2] if len(seen) > repetitions // 2 else "-",
                }
            )
    return rows


def first_alarm(world: World, rise: float, policy: MonitorPolicy, weeks: int = 8) -> int | None:
    """Day (from 1) on which the escalation check fires; None when it does not within `weeks`."""
    from monitoring.rates import check_escalation
    from monitoring.records import Status
    from monitoring.tally import by_week

    reference = world.reference(policy, texts=False)
    days: dict[date, Tally] = {}
    for number in range(7 * weeks):
        days[(START + timedelta(days=number)).date()] = world.day(number, rise=rise, texts=False)
        newest = dict(list(by_week(days).items())[-4:])
        if check_escalation(newest, reference, policy).status is Status.ALARM:
            return number + 1
    return None


def arrivals(
    outcomes: dict[str, list[Outcome]], per_day: int, seeds: Sequence[int], policy: MonitorPolicy
) -> list[dict[str, Any]]:
    """First day on which drift is seen after two quiet weeks, by the share of new lines."""
    from statistics import median

    embed = lab_embedder()
    rows = []
    for share in (0.05, 0.1, 0.2, 0.3):
        found = []
        for seed in seeds:
            world = World(outcomes, per_day, 500 + seed, policy.sample)
            reference = world.reference(policy)
            days = {(START + timedelta(days=d)).date(): world.day(d) for d in range(14)}
            areas: Areas = {}
            for number in range(14, 28):
                days[(START + timedelta(days=number)).date()] = world.day(number, new=share)
                if ON_QUERIES & set(checks_of(days, reference, embed, policy, areas)):
                    found.append(number - 13)
                    break
        rows.append(
            {
                "new lines' share": f"{share:.0%}",
                "seen within two weeks": f"{len(found)} of {len(seeds)}",
                "median day": median(found) if found else "-",
            }
        )
    return rows


if __name__ == "__main__":
    main()

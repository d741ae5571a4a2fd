"""Seeded, time-ordered traffic of the shop: early weeks of known skills, then weeks with new product lines."""

from __future__ import annotations

import random
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from lab.skills import KNOWN, NEW, Query, draw_out_of_scope, draw_query

ROUTE = "support"
SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["intent"],
    "properties": {"intent": {"type": "string"}},
    "additionalProperties": {"type": ["string", "integer"]},
}
WEEK = timedelta(days=7)


class TrafficConfig(BaseModel):
    """Sizes are numbers of queries over all early or all drifted weeks; shares are in 0..1.

    New skills come with the drifted weeks; out-of-scope queries have always come.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    early_queries: int = Field(800, ge=0)
    early_weeks: int = Field(1, ge=1)
    drifted_queries: int = Field(4500, ge=0)
    drifted_weeks: int = Field(3, ge=1)
    new_share: float = Field(0.33, ge=0, le=1)
    out_of_scope_share: float = Field(0.06, ge=0, le=1)
    users: int = Field(400, ge=1)
    start: datetime = datetime(2026, 1, 5, tzinfo=UTC)


class Arrivals(BaseModel):
    """A deployment of several weeks in which product lines arrive, a few at a time."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    weeks: int = Field(8, ge=1)
    queries_per_week: int = Field(5000, ge=7)
    arrive: dict[int, int] = Field(default_factory=dict)
    """New lines by the week that brings them, counted from 1; the lines come in the order of their definition."""
    share_per_line: float = Field(0.055, ge=0, le=1)
    """Of the traffic, once a line is there."""
    out_of_scope_share: float = Field(0.06, ge=0, le=1)
    users: int = Field(400, ge=1)
    start: datetime = datetime(2026, 1, 5, tzinfo=UTC)

    def lines(self, week: int) -> int:
        """How many new lines there are in a week."""
        return min(len(NEW), sum(n for first, n in self.arrive.items() if first <= week))


def generate_weeks(config: Arrivals, seed: int, *, avoid: Collection[str] = ()) -> list[list[dict[str, Any]]]:
    """Rows as those of `generate_traffic`, one list per week; spread evenly over the week, so that days are alike."""
    rng, banned = random.Random(f"weeks-{seed}"), frozenset(avoid)
    users = [f"user-{number:04d}" for number in range(config.users)]
    weights = [1 / (rank + 10) for rank in range(config.users)]
    weeks = []
    for week in range(1, config.weeks + 1):
        rows = []
        for number in range(config.queries_per_week):
            query = _draw_line(config, week, rng)
            while query.text in banned:
                query = _draw_line(config, week, rng)
            moment = config.start + (week - 1) * WEEK + number / config.queries_per_week * WEEK
            row = _row(number, moment, week, query, rng.choices(users, weights)[0])
            rows.append({**row, "id": f"w{week:02d}-{number:06d}"})
        weeks.append(rows)
    return weeks


def _draw_line(config: Arrivals, week: int, rng: random.Random) -> Query:
    lot, lines = rng.random(), config.lines(week)
    if lot < config.out_of_scope_share:
        return draw_out_of_scope(rng)
    if lot < config.out_of_scope_share + lines * config.share_per_line:
        return draw_query(rng.choice(NEW[:lines]), rng)
    return draw_query(rng.choice(KNOWN), rng)


def generate_traffic(config: TrafficConfig, seed: int, *, avoid: Collection[str] = ()) -> list[dict[str, Any]]:
    """Rows {id, time, route, user, messages, schema, reference, tags}, ordered by time; weeks count from 1.

    No query text is in `avoid` (the base model's training texts). The tags are for the lab's own scoring only.
    """
    rng, banned = random.Random(f"traffic-{seed}"), frozenset(avoid)
    users = [f"user-{number:04d}" for number in range(config.users)]
    # A few users write much and most write little, as in any support queue.
    weights = [1 / (rank + 10) for rank in range(config.users)]
    drawn: list[tuple[datetime, int, Query, str]] = []
    for week, drifted in _weeks_of_queries(config, rng):
        query = _draw(config, drifted, rng)
        while query.text in banned:
            query = _draw(config, drifted, rng)
        moment = config.start + (week - 1) * WEEK + timedelta(seconds=rng.randrange(int(WEEK.total_seconds())))
        drawn.append((moment, week, query, rng.choices(users, weights)[0]))
    drawn.sort(key=lambda item: item[0])
    return [_row(number, *item) for number, item in enumerate(drawn, 1)]


def _weeks_of_queries(config: TrafficConfig, rng: random.Random) -> list[tuple[int, bool]]:
    """(week, drifted) of each query."""
    early = [(rng.randint(1, config.early_weeks), False) for _ in range(config.early_queries)]
    first, last = config.early_weeks + 1, config.early_weeks + config.drifted_weeks
    return early + [(rng.randint(first, last), True) for _ in range(config.drifted_queries)]


def _draw(config: TrafficConfig, drifted: bool, rng: random.Random) -> Query:
    lot = rng.random()
    if lot < config.out_of_scope_share:
        return draw_out_of_scope(rng)
    if drifted and lot < config.out_of_scope_share + config.new_share:
        # Product lines differ in popularity by a factor of about three.
        return draw_query(rng.choices(NEW, [3 / (rank + 3) for rank in range(len(NEW))])[0], rng)
    return draw_query(rng.choice(KNOWN), rng)


def _row(number: int, moment: datetime, week: int, query: Query, user: str) -> dict[str, Any]:
    return {
        "id": f"q{number:06d}",
        "time": moment.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "route": ROUTE,
        "user": user,
        "messages": [{"role": "user", "content": query.text}],
        "schema": SCHEMA,
        "reference": query.gold,
        "tags": {"skill": query.skill, "week": week, "new": query.new},
    }

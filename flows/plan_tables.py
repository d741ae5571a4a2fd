"""A plan in the terminal: what a run would buy and take, and how that stands to its budget."""

from __future__ import annotations

from typing import Any

from flows.console import say, table
from flows.plan import Plan, Planned


def print_plan(plan: Plan, compare: bool) -> None:
    """What a run would buy and take, and how that stands to its budget."""
    say(
        f"traces from {plan.since:%Y-%m-%d} to {plan.until:%Y-%m-%d}: {plan.n_pool} in the pool, {plan.n_calibration}"
        f" to calibrate, {plan.n_heldout} held out; token counts from {plan.usage.n} flagship answers"
    )
    table("What a run would buy", [_planned_row(row) for row in (*plan.purchases, *(plan.arms if compare else ()))])
    table(
        "What a run would take (past runs of this configuration, on this state or another)",
        [
            {
                "stage": time.stage,
                "seconds": "unknown" if time.seconds is None else f"{time.seconds:.0f}",
                "from": "no past run"
                if time.longest is None
                else f"median of {time.runs}, longest {time.longest:.0f} s",
            }
            for time in plan.times
        ],
    )
    total = _span(plan.low_usd, plan.high_usd)
    say(f"total: {total} USD expected, of a budget of {plan.budget_usd:g} USD; {_verdict(plan)}")
    compute = "unknown" if plan.training_usd is None else f"{plan.training_usd:.4f} USD"
    say(f"training on own compute, not under the budget: {compute}")
    took = "unknown" if plan.seconds is None else f"about {plan.seconds / 60:.0f} minutes"
    say(f"time: {took}")


def _planned_row(row: Planned) -> dict[str, Any]:
    return {
        "what": row.what,
        "answers": "?" if row.asked is None else row.asked,
        "there": "?" if row.held is None else row.held,
        "to buy": str(row.most) if row.fewest == row.most else f"{row.fewest} to {row.most}",
        "USD expected": _span(row.low_usd, row.high_usd),
        "USD at most": f"{row.at_most_usd:.4f}",
        "why": row.why,
    }


def _span(low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return "unknown"
    return f"{high:.4f}" if abs(high - low) < 5e-5 else f"{low:.4f} to {high:.4f}"


def _verdict(plan: Plan) -> str:
    if plan.at_most_usd <= plan.budget_usd:
        return "even the longest answers stay within it"
    if plan.high_usd is not None and plan.high_usd <= plan.budget_usd:
        return f"within it, unless answers are much longer (at most {plan.at_most_usd:.4f} USD; the run stops at it)"
    return "the run may stop at it, and goes on from there with a larger one"

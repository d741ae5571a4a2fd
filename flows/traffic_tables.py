"""What replays, imports and canaries of traffic print."""

from __future__ import annotations

from typing import Any

from cascade.cost import cost_per_completed
from cascade.ingest import Ingested
from cascade.recorded import Usage
from flows.canary import CanaryResult
from flows.console import say, table
from flows.recorded import PolicyResult, RecordedReplay
from flows.serve import Replay
from flows.summary import scorer_rows


def print_replay(done: Replay) -> None:
    """What a replay did, in a few lines."""
    served = done.served
    if done.n_cold_start:
        say(f"cold start: {done.n_cold_start} queries went to both tiers to calibrate the verifier of {done.champion}")
    if done.n_rejected:
        say(f"{done.n_rejected} unusable rows, with their reasons: {done.rejected_path}")
    rate = served.escalation_rate
    routed = f", {served.n_routed} of them routed" if served.n_routed else ""
    shown = "" if rate is None else f", {rate:.1%} escalated{routed}"
    cost = "unknown" if served.cost_usd is None else f"{served.cost_usd:.4f} USD"
    say(
        f"served {served.n} queries with {done.champion}{shown}, {served.n_audited} audited, cost {cost}"
        f" ({served.n_skipped} served before, {served.n_failed} failed)"
    )
    if len(served.accounts) > 2 or any(account.cost_usd != 0 for account in served.accounts):
        table("What the verifier did", scorer_rows(served.accounts))
    each = cost_per_completed(served.cost_usd, served.n)
    if each is not None:
        say(f"cost per completed query: {each:.6f} USD")
    if served.failure:
        say(f"first failure: {served.failure}; run the same command again to retry")


def print_recorded(done: RecordedReplay) -> None:
    """A replay of recorded answers: policies at the quality asked for, the chosen one's frontier, what was served."""
    asked, (cheap, flagship, best) = done.settings, done.qualities
    if done.n_rejected:
        say(f"{done.n_rejected} unusable rows, with their reasons: {done.picture.with_name('rejected.jsonl')}")
    if done.n_unshared:
        say(f"{done.n_unshared} queries left out: not answered by all of the models")
    table(
        f"{asked.cheap} -> {asked.flagship}, thresholds for {asked.quality:.0%} of the flagship's quality, "
        f"on {done.n_test} test queries",
        [_recorded_row(row, row.name == done.chosen) for row in done.policies],
    )
    table(
        f"Frontier of {done.chosen} on the test part (cost in % of always-flagship, thresholds read off the test)",
        [
            {"at quality": f"{row['quality']:.0%}"}
            | {name: f"{100 * row[name]:.1f}" for name in ("cost", "random", "oracle")}
            for row in done.frontier
        ],
    )
    say(f"quality on the test part: cheap {cheap:.1%}, flagship {flagship:.1%}, oracle {best:.1%}")
    rate, cost = done.served.escalation_rate, done.served.cost_usd
    shown = "unknown" if cost is None or not done.served.n else f"{1000 * cost / done.served.n:.4f} USD per 1,000"
    say(
        f"the cascade itself served {done.served.n} test queries with {done.chosen}: {rate or 0:.1%} to the flagship, "
        f"quality {done.served_quality:.1%}, cost {shown}"
    )
    say(f"split by {done.split}: {done.n_fit} to fit, {done.n_calibration} to choose, {done.n_test} to test, used once")
    kinds = [str(kind) for kind in done.usage if kind is not Usage.RECORDED]
    if kinds:
        say(f"token counts are {' and '.join(kinds)}, so costs are too")
    say(f"\npicture: {done.picture.resolve()}")


def _recorded_row(row: PolicyResult, chosen: bool) -> dict[str, Any]:
    saving = row.saving
    return {
        "policy": f"{row.name} *" if chosen else row.name,
        "quality, % of flagship's": f"{100 * row.quality:.1f}",
        "cost, % of always-flagship": f"{100 * row.cost:.1f}",
        "USD per 1,000": f"{row.usd_per_1000:.4f}",
        "escalated": "-" if row.escalated is None else f"{row.escalated:.1%}",
        "saving over random, points (90 %)": "-"
        if saving is None
        else f"{100 * saving.value:+.1f} [{100 * saving.low:+.1f}, {100 * saving.high:+.1f}]",
    }


def print_ingested(done: Ingested) -> None:
    """What an ingest did, in a few lines."""
    if done.resumed_at:
        say(f"read on from byte {done.resumed_at:,}: what lies before is stored")
    say(f"{done.n_new} new traces, {done.n_known} known before, {done.n_rejected} rejected rows")
    if done.n_rejected:
        say(f"rejected rows with their reasons: {done.rejected_path}")
    if done.n_other:
        say("left out: " + ", ".join(f"{n} x {what}" for what, n in done.n_other.items()))
    if done.n_waiting:
        say(
            f"{done.n_waiting} queries of the log's last minutes wait for their other call: ingest the log again when"
            " it has grown, or with --complete when it is final"
        )


def print_canary(done: CanaryResult) -> None:
    """How a candidate did on its share of the traffic."""
    say(f"{done.n_candidate} queries went to {done.candidate}, {done.n_champion} to {done.champion}: {done.sentence}")
    if done.taken_back_after is not None:
        say(f"[bold red]taken back[/] after {done.taken_back_after} queries: {done.champion} served the rest")
    elif done.standing == "not worse":
        say(f"[bold green]not worse[/]: `promote {done.candidate}` gives it all traffic")
    else:
        say("nothing is shown yet: give it more traffic")

"""Escalation, cost, prices and quality of the newest weeks, from counts alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import date, datetime

from scipy.special import ndtri

from cascade.cost import PriceTable
from evaluation.intervals import newcombe_difference, weighted_rate
from monitoring.policy import MonitorPolicy
from monitoring.records import Check, Name, Point, Status, unknown
from monitoring.reference import Reference
from monitoring.tally import Tally
from monitoring.weekly import Estimate, began, check_weeks

Weeks = Mapping[date, Tally]


def check_escalation(weeks: Weeks, reference: Reference, policy: MonitorPolicy) -> Check:
    """The escalation rate against that of the last promotion, whose own uncertainty counts.

    The rate is an SLO: noise around the baseline must not page, so the lower bound of the *difference* has to exceed
    the margin.
    """
    base = reference.n_escalated / reference.n

    def measure(span: Tally) -> Estimate | None:
        if span.n < policy.min_queries:
            return None
        gap = newcombe_difference(span.n_escalated, span.n, reference.n_escalated, reference.n, policy.confidence)
        # Shown as rates: the baseline's uncertainty widens the interval of this week's.
        return Estimate(base + gap.value, base + gap.low, base + gap.high, span.n)

    def say(found: Estimate) -> str:
        return f"{found.value:.1%} of {found.n:,} queries escalated; {base:.1%} of {reference.n:,} at the reference"

    return check_weeks(
        Name.ESCALATION, weeks, measure, policy, bar=base + policy.escalation_margin, baseline=base, say=say,
        too_little=f"fewer than {policy.min_queries} queries in the newest weeks",
    )  # fmt: skip


def check_quality(weeks: Weeks, promised: float, policy: MonitorPolicy) -> Check:
    """Wrong answers among the accepted, from the audit slice, against the verifier's promise and a margin."""

    def measure(span: Tally) -> Estimate | None:
        if not span.audited:
            return None
        rows = [(float(audit.wrong), audit.weight) for audit in span.audited]
        rate = weighted_rate([wrong for wrong, _ in rows], [weight for _, weight in rows], policy.confidence)
        return Estimate(rate.value, rate.low, rate.high, len(rows))

    def say(found: Estimate) -> str:
        return f"{found.value:.1%} of accepted answers are wrong by {found.n} audits; {promised:.1%} are promised"

    return check_weeks(
        Name.QUALITY, weeks, measure, policy, bar=promised + policy.quality_margin, baseline=promised, say=say,
        too_little="no accepted answer of the newest weeks was audited: set serve.audit_rate",
    )  # fmt: skip


def check_cost(weeks: Weeks, policy: MonitorPolicy) -> Check:
    """Cost over that of sending everything to the flagship; what unaudited answers would have cost is estimated."""

    def say(found: Estimate) -> str:
        return f"{found.value:.1%} of what always asking the flagship would cost, over {found.n:,} queries"

    return check_weeks(
        Name.COST, weeks, lambda span: _cost_share(span, policy), policy, bar=policy.cost_share, say=say,
        baseline=policy.cost_share,  # it began where it passed the bar
        too_little="the newest weeks hold too few queries of known cost",
    )  # fmt: skip


def _cost_share(span: Tally, policy: MonitorPolicy) -> Estimate | None:
    """Ratio of two means with its normal interval; None where more than a tenth of the costs is unknown.

    The flagship's mean is that of the escalated queries and, by their propensity, of the audited ones, each for its
    part of the traffic. The two means share queries, and what escalates costs more: leaving their covariance out makes
    the interval wider, not narrower.
    """
    count, usd, squares = span.flagship_usd
    if span.n_priced < max(policy.min_queries, 0.9 * span.n) or not count:
        return None
    escalated = usd / count
    accepted, accepted_variance = escalated, 0.0
    audits = [(audit.weight, audit.flagship_usd) for audit in span.audited if audit.flagship_usd is not None]
    if audits:
        total = sum(weight for weight, _ in audits)
        accepted = sum(weight * value for weight, value in audits) / total
        accepted_variance = sum((weight * (value - accepted)) ** 2 for weight, value in audits) / total**2
    share = span.n_escalated / span.n
    always = share * escalated + (1 - share) * accepted
    mean = span.usd / span.n_priced
    variance = max(0.0, span.usd_squared / span.n_priced - mean**2) / span.n_priced
    always_variance = share**2 * max(0.0, squares / count - escalated**2) / count
    always_variance += (1 - share) ** 2 * accepted_variance
    ratio = mean / always
    half = float(ndtri(1 - policy.alpha)) * math.sqrt(variance + ratio**2 * always_variance) / always
    return Estimate(ratio, ratio - half, ratio + half, span.n_priced)


def check_price(weeks: Weeks, reference: Reference, prices: PriceTable, policy: MonitorPolicy, at: datetime) -> Check:
    """What the newest week's tokens cost, over what they would have cost at the reference's prices. No sampling.

    `at` is the time whose prices are named.
    """
    points = [
        Point(week, ratio, ratio, ratio, span.n)
        for week, span in sorted(weeks.items())
        if span.then_usd > 0 and (ratio := span.now_usd / span.then_usd - 1) is not None
    ]
    if not points:
        return unknown(Name.PRICE, "no answer of the newest weeks has a known cost", bar=policy.price_rise)
    last = points[-1]
    fired = last.value > policy.price_rise
    risen = "; ".join(changed_prices(reference, prices, at)) if fired else "no price moved it further"
    return Check(
        name=Name.PRICE,
        status=Status.ALARM if fired else Status.OK,
        sentence=f"the same tokens cost {last.value:+.1%} against the reference: {risen}",
        bar=policy.price_rise, value=last.value, low=last.low, high=last.high, n=last.n,
        began=began([p for p in points if p.value > policy.price_rise / 2], 0.0) if fired else None,
        series=tuple(points), baseline=0.0,
    )  # fmt: skip


def changed_prices(reference: Reference, prices: PriceTable, at: datetime) -> list[str]:
    """The models whose prices moved between the reference and a time, in words."""
    found = []
    for model, (cost_in, cost_out) in reference.prices.items():
        if model not in prices.prices:
            continue
        now = prices.price(model, at)
        if (now.input_per_million, now.output_per_million) != (cost_in, cost_out):
            day = f" from {now.date}" if now.date else ""
            found.append(
                f"{model} {cost_in:g}/{cost_out:g} -> {now.input_per_million:g}/{now.output_per_million:g} USD per "
                f"million tokens in/out{day}"
            )
    return found

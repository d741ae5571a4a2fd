"""The gate promotes savings, refuses harm, and asks for data when it cannot tell."""

from dataclasses import replace

import numpy as np
import pytest

from cascade.errors import ConfigError
from cascade.trace import Answer
from evaluation.audit import AuditSlice
from evaluation.intervals import tango_difference, weighted_rate
from evaluation.judge import JudgedDifference
from evaluation.metrics import MetricsConfig
from evaluation.replay import PairedRow, Side
from evaluation.report import SolvedCluster, build_report
from promotion.gate import Check, Decision, GateOutcome, GatePolicy, Status, decide

FLAGSHIP = Answer("x", "large", 400, 60, None, "stop")
CHEAP = Answer("x", "small", 400, 60, None, "stop")


def simulated_rows(rng, n, *, escalate=(0.4, 0.3), wrong=(0.03, 0.03), churn=0.15, clusters=0, harm=None):
    """Paired rows: `escalate` and `wrong` (served, among accepted) are (champion, candidate) rates.

    The same draw decides for both sides except on a `churn` share, where they are independent. In the
    cluster `harm` the candidate accepts everything and is wrong in 30 %.
    """
    hard = rng.random(n)
    own = np.where(rng.random(n) < churn, rng.random(n), hard)
    cluster = rng.integers(0, clusters, n) if clusters else np.full(n, -1)
    luck = rng.random(n)
    own_luck = np.where(rng.random(n) < 0.7, rng.random(n), luck)
    accepted = np.stack([hard >= escalate[0], own >= escalate[1]])
    failed = np.stack([luck < wrong[0], own_luck < wrong[1]])
    if harm is not None:
        accepted[1, cluster == harm] = True
        failed[1] |= (cluster == harm) & (rng.random(n) < 0.3)
    large = 0.004 * rng.lognormal(0, 0.4, n)
    small = 0.0002 * rng.lognormal(0, 0.2, n)

    def side(i, who):
        yes = bool(accepted[who, i])
        right = float(not failed[who, i])
        cost = float(small[i] + (0 if yes else large[i]))
        return Side(CHEAP, True, 0.5, yes, right, right if yes else 1.0, cost)

    return [
        PairedRow(str(i), "", int(cluster[i]), "x", side(i, 0), side(i, 1), FLAGSHIP, float(large[i])) for i in range(n)
    ]


def report_of(rows, *, alpha=0.05, resamples=200, seed=0, **more):
    config = MetricsConfig(alpha=alpha, resamples=resamples, seed=seed)
    names = {
        "run_id": "r1",
        "champion": "v1",
        "candidate": "v2",
        "reference_kind": "flagship",
        "grade_kind": "exact",
    }
    return build_report(rows, config=config, **names, **more)


def outcomes(repetitions, n, seed, policy=None, **simulation):
    rng = np.random.default_rng(seed)
    policy = policy or GatePolicy()
    counts = dict.fromkeys(GateOutcome, 0)
    for r in range(repetitions):
        rows = simulated_rows(rng, n, **simulation)
        counts[decide(report_of(rows, seed=r), policy).outcome] += 1
    return {outcome: count / repetitions for outcome, count in counts.items()}


def check_named(decision, name) -> Check:
    return next(check for check in decision.checks if check.name == name)


def test_no_saving_is_promoted_in_at_most_five_percent():
    # The two sides are alike in distribution, and differ on some rows.
    shares = outcomes(500, 320, seed=1, escalate=(0.35, 0.35), wrong=(0.01, 0.01))
    assert shares[GateOutcome.PROMOTE] <= 0.05, shares


def test_quality_at_the_margin_is_promoted_in_at_most_five_percent():
    # A large saving bought with exactly the loss that is not allowed: 0.7 x 6.86 % - 0.6 x 3 % = 3 points.
    policy = GatePolicy(quality_margin=0.03, max_false_accept=None, cluster_margin=0.5)
    shares = outcomes(500, 400, seed=2, policy=policy, escalate=(0.4, 0.3), wrong=(0.03, 0.0686))
    assert shares[GateOutcome.PROMOTE] <= 0.05, shares
    assert shares[GateOutcome.INCONCLUSIVE] > 0.5


def test_a_real_saving_is_promoted():
    shares = outcomes(40, 1500, seed=3, escalate=(0.4, 0.28), wrong=(0.03, 0.03))
    assert shares[GateOutcome.PROMOTE] >= 0.8, shares
    assert shares[GateOutcome.REJECT] == 0


def test_clear_harm_is_rejected():
    shares = outcomes(40, 600, seed=4, escalate=(0.4, 0.1), wrong=(0.02, 0.12))
    assert shares[GateOutcome.REJECT] >= 0.9, shares
    assert shares[GateOutcome.PROMOTE] == 0


def test_a_dearer_candidate_is_rejected():
    shares = outcomes(40, 600, seed=5, escalate=(0.3, 0.4), wrong=(0.02, 0.02))
    assert shares[GateOutcome.REJECT] >= 0.9, shares


def test_harm_hidden_in_one_cluster_is_not_promoted():
    # 1 of 12 clusters loses 30 points: 2.5 points overall, within a margin of 5.
    policy = GatePolicy(quality_margin=0.05)
    rng = np.random.default_rng(6)
    decisions = [
        decide(
            report_of(
                simulated_rows(rng, 1500, clusters=12, harm=7, escalate=(0.4, 0.25), wrong=(0.02, 0.02), churn=0.1),
                cluster_names={7: "returns, label"},
            ),
            policy,
        )
        for _ in range(20)
    ]
    assert sum(d.outcome is GateOutcome.REJECT for d in decisions) >= 18
    assert all(d.outcome is not GateOutcome.PROMOTE for d in decisions)
    failed = [check_named(d, "no cluster regresses") for d in decisions]
    assert sum("returns, label" in c.sentence for c in failed if c.status is Status.FAIL) >= 18
    assert sum(check_named(d, "quality not inferior").status is Status.PASS for d in decisions) >= 15


def test_clusters_that_do_not_regress_rarely_stop_a_promotion():
    shares = outcomes(40, 800, seed=8, escalate=(0.4, 0.25), wrong=(0.03, 0.03), clusters=12, policy=GatePolicy())
    assert shares[GateOutcome.REJECT] <= 0.05


def test_too_few_rows_is_inconclusive_with_the_rows_needed():
    rng = np.random.default_rng(9)
    rows = simulated_rows(rng, 120, escalate=(0.5, 0.2), wrong=(0.0, 0.0))
    decision = decide(report_of(rows), GatePolicy())
    assert decision.outcome is GateOutcome.INCONCLUSIVE
    assert decision.n_needed >= 300
    assert check_named(decision, "enough rows").status is Status.UNSURE


def test_rows_needed_are_enough_four_times_in_five():
    policy = GatePolicy(max_false_accept=None, cluster_margin=0.5)
    truth = {"escalate": (0.4, 0.3), "wrong": (0.04, 0.034), "churn": 0.5}
    rng = np.random.default_rng(10)
    needed = []
    while len(needed) < 15:
        decision = decide(report_of(simulated_rows(rng, 400, **truth)), policy)
        if decision.outcome is GateOutcome.INCONCLUSIVE and decision.n_needed:
            needed.append(decision.n_needed)
    enough = int(np.median(needed))
    assert 400 < enough < 5000
    shares = outcomes(40, enough, seed=11, policy=policy, **truth)
    assert shares[GateOutcome.PROMOTE] >= 0.65, (enough, shares)


def test_an_identical_candidate_is_rejected_for_saving_nothing():
    rng = np.random.default_rng(12)
    rows = simulated_rows(rng, 600, escalate=(0.3, 0.3), churn=0.0, wrong=(0.02, 0.02))
    same = [
        PairedRow(r.query_id, r.text, r.cluster, r.reference, r.champion, r.champion, r.flagship, 1.0) for r in rows
    ]
    decision = decide(report_of(same), GatePolicy())
    assert decision.outcome is GateOutcome.REJECT
    assert check_named(decision, "cost lower").status is Status.FAIL
    assert check_named(decision, "quality not inferior").status is Status.PASS


def good_rows(n=900):
    return simulated_rows(np.random.default_rng(13), n, escalate=(0.45, 0.2), wrong=(0.01, 0.01))


def test_a_lenient_verifier_is_caught():
    rows = good_rows()
    decision = decide(report_of(rows), GatePolicy(max_false_accept=0.001))
    check = check_named(decision, "accepted answers right")
    assert check.status is Status.FAIL
    assert decision.outcome is GateOutcome.REJECT
    assert decide(report_of(rows), GatePolicy(max_false_accept=0.03)).outcome is GateOutcome.PROMOTE


def test_unknown_costs_are_never_a_saving():
    rows = good_rows()
    blank = [
        r
        if i % 10
        else PairedRow(
            r.query_id,
            r.text,
            r.cluster,
            r.reference,
            r.champion,
            Side(CHEAP, True, 0.5, r.candidate.accepted, 1.0, 1.0, None),
            r.flagship,
            None,
        )
        for i, r in enumerate(rows)
    ]
    decision = decide(report_of(blank), GatePolicy())
    assert decision.outcome is GateOutcome.INCONCLUSIVE
    assert decision.n_needed is None
    assert "10.0% of the rows have no cost" in check_named(decision, "cost lower").sentence


def test_a_worn_out_slice_does_not_promote():
    rows = good_rows()
    assert decide(report_of(rows), GatePolicy()).outcome is GateOutcome.PROMOTE
    again = decide(report_of(rows, heldout_uses=2), GatePolicy())
    assert again.outcome is GateOutcome.INCONCLUSIVE
    shared = GatePolicy(heldout_decisions=2)
    assert shared.alpha_at(2) == pytest.approx(0.05 / 4 / 1.25)
    second = report_of(rows, alpha=shared.alpha_at(2), heldout_uses=2)
    assert decide(second, shared).outcome is GateOutcome.PROMOTE
    with pytest.raises(ConfigError, match="decision 1 of this held-out slice"):
        decide(report_of(rows, alpha=shared.alpha_at(2)), shared)


def test_a_report_at_another_level_is_refused():
    with pytest.raises(ConfigError, match=r"evaluate again with alpha=0\.05"):
        decide(report_of(good_rows(), alpha=0.1), GatePolicy())


def test_exit_codes_and_round_trip():
    decision = decide(report_of(good_rows()), GatePolicy())
    assert decision.exit_code == 0
    assert (GateOutcome.REJECT.exit_code, GateOutcome.INCONCLUSIVE.exit_code) == (3, 4)
    assert Decision.from_dict(decision.to_dict()) == decision


def test_decide_is_pure():
    report = report_of(good_rows())
    before = report.to_dict()
    assert decide(report, GatePolicy()) == decide(report, GatePolicy())
    assert report.to_dict() == before


def test_a_cascade_dearer_than_the_flagship_is_refused():
    rows = good_rows()
    dear = [replace(r, flagship_cost_usd=(r.candidate.cost_usd or 0) * 0.9) for r in rows]
    check = check_named(decide(report_of(dear), GatePolicy()), "cheaper than always the flagship")
    assert check.status is Status.FAIL
    assert decide(report_of(dear), GatePolicy()).outcome is GateOutcome.REJECT
    assert decide(report_of(dear), GatePolicy(beat_flagship=False)).outcome is GateOutcome.PROMOTE
    unknown = [replace(r, flagship_cost_usd=None) for r in rows]
    assert (
        check_named(decide(report_of(unknown), GatePolicy()), "cheaper than always the flagship").status
        is Status.UNSURE
    )


@pytest.mark.parametrize(
    ("cost", "status"), [(0.5, Status.PASS), (1.1, Status.UNSURE), (5.0, Status.FAIL), (None, Status.UNSURE)]
)
def test_payback_limit(cost, status):
    # The candidate saves about 1.06 USD per 1,000 queries.
    rows = good_rows()
    saved = report_of(rows).overall.paired.saved_per_1000_usd
    assert saved.low < 1.1 < saved.high
    decision = decide(report_of(rows, run_cost_usd=cost), GatePolicy(max_payback_queries=1000))
    assert check_named(decision, "pays back in time").status is status
    assert all(c.name != "pays back in time" for c in decide(report_of(rows), GatePolicy()).checks)


def solved_report(rows, harm):
    """A solved cluster of 80 rows, in which the candidate escalates `harm` of what the champion no longer did."""
    members = [f"{i}" for i in range(80)]
    changed = []
    for i, row in enumerate(rows):
        if i < 80:
            fine = Side(CHEAP, True, 0.9, True, 1.0, 1.0, 0.0002)
            again = Side(CHEAP, True, 0.2, False, 1.0, 1.0, 0.0042)
            changed.append(replace(row, champion=fine, candidate=again if i < 80 * harm else fine))
        else:
            changed.append(row)
    return report_of(changed, solved=[SolvedCluster("L7", "returns, label", tuple(members))])


def test_solved_clusters_must_stay_solved():
    rows = good_rows()
    assert all(c.name != "solved clusters stay solved" for c in decide(report_of(rows), GatePolicy()).checks)
    kept = decide(solved_report(rows, 0.0), GatePolicy())
    assert check_named(kept, "solved clusters stay solved").status is Status.PASS
    assert kept.outcome is GateOutcome.PROMOTE
    lost = decide(solved_report(rows, 0.5), GatePolicy())
    check = check_named(lost, "solved clusters stay solved")
    assert check.status is Status.FAIL
    assert "returns, label (-50.0 points): it escalates again" in check.sentence
    assert lost.outcome is GateOutcome.REJECT
    some = check_named(decide(solved_report(rows, 0.15), GatePolicy()), "solved clusters stay solved")
    assert some.status is Status.UNSURE
    assert some.n_needed > len(rows)


def audit(n_wrong, n, weights=None):
    hits = [1.0] * n_wrong + [0.0] * (n - n_wrong)
    return AuditSlice("v1", 50 * n, n, n_wrong, 0, weighted_rate(hits, weights or [50.0] * n, 0.9))


def test_audit_bound():
    rows = good_rows()
    asked = GatePolicy(max_audit_false_accept=0.1)
    for slice_, status in (
        (audit(2, 100), Status.PASS),
        (audit(8, 100), Status.UNSURE),
        (audit(30, 100), Status.FAIL),
        (AuditSlice("v1", 0, 0, 0, 0, None), Status.UNSURE),
        (None, Status.UNSURE),
    ):
        decision = decide(report_of(rows, audit=slice_), asked)
        assert check_named(decision, "audited answers right").status is status
    assert decide(report_of(rows, audit=audit(30, 100)), GatePolicy()).outcome is GateOutcome.PROMOTE


def judged(better, worse, n, missing=0):
    found = tango_difference(better, worse, n - missing, 0.9)
    return JudgedDifference("judge", n, better, worse, n - better - worse - missing, 0, missing, found, 0.1)


@pytest.mark.parametrize(
    ("preference", "status"),
    [
        (judged(60, 50, 900), Status.PASS),
        (judged(40, 75, 900), Status.UNSURE),
        (judged(20, 150, 900), Status.FAIL),
        (judged(60, 50, 900, missing=200), Status.UNSURE),
    ],
)
def test_a_judge_that_prefers_the_champion_is_heard(preference, status):
    decision = decide(report_of(good_rows(), judged=preference), GatePolicy())
    assert check_named(decision, "judge prefers no less").status is status
    assert (decision.outcome is GateOutcome.PROMOTE) == (status is Status.PASS)


def test_harm_to_a_cluster_is_seen_as_well_on_a_worn_slice():
    rows = simulated_rows(np.random.default_rng(6), 1500, clusters=12, harm=7, escalate=(0.4, 0.25), wrong=(0.02, 0.02))
    worn = GatePolicy(quality_margin=0.05, heldout_decisions=12)
    decision = decide(report_of(rows, alpha=worn.alpha_at(12), heldout_uses=12), worn)
    assert check_named(decision, "no cluster regresses").status is Status.FAIL

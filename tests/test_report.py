"""The report keeps its numbers through JSON and shows them on its page."""

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from cascade.errors import InputError
from cascade.trace import Answer
from evaluation.metrics import MetricsConfig
from evaluation.replay import PairedRow, Side
from evaluation.report import EvaluationReport, build_report, report_markdown

ANSWER = Answer("x", "m", 1, 1, None, "stop")


def rows():
    def side(accepted, correct):
        cost = 0.001 if accepted else 0.011
        return Side(ANSWER, True, 0.9 if correct else 0.4, accepted, correct, correct if accepted else 1.0, cost)

    return [
        PairedRow(
            f"q{i}",
            "",
            i % 2,
            "x",
            side(i % 10 > 3, float(i % 50 != 9)),
            side(i % 10 > 1, float(i % 50 != 9)),
            ANSWER,
            0.01,
        )
        for i in range(200)
    ]


def report(**more):
    values = {
        "run_id": "2026-w30",
        "champion": "v1",
        "candidate": "v2",
        "reference_kind": "flagship",
        "grade_kind": "json_exact",
        "config": MetricsConfig(resamples=300),
        "cluster_names": {0: "refund | order"},
        "run_cost_usd": 4.0,
        "created": datetime(2026, 7, 20, tzinfo=UTC),
    }
    return build_report(rows(), **{**values, **more})


def test_round_trip_through_json():
    made = report(notes=["adopted"])
    assert EvaluationReport.from_dict(json.loads(json.dumps(made.to_dict(), allow_nan=False))) == made


def test_payback():
    # 20 % of queries no longer escalate, 0.01 USD each: 2 USD per 1,000 queries.
    assert report().payback_queries == 2000
    assert report(run_cost_usd=None).payback_queries is None
    swapped = build_report(
        [replace(r, champion=r.candidate, candidate=r.champion) for r in rows()],
        run_id="r",
        champion="v2",
        candidate="v1",
        reference_kind="flagship",
        grade_kind="exact",
        run_cost_usd=4.0,
    )
    assert swapped.payback_queries is None
    assert "never: nothing is saved" in report_markdown(swapped)


def test_page_shows_the_numbers():
    page = report_markdown(report(heldout_uses=3, notes=["small sample"]))
    for text in (
        "# v2 against v1",
        "200 held-out queries",
        "90 % intervals",
        "| escalation rate | 40.0% [",
        "| 20.0% [",
        "| served quality | +0.0 points [",
        "| served better / worse | 0 / 0 of 200 |",
        "| cost saving | 40.0% [",
        "| saved per 1,000 queries | $2.000 [",
        "2,000 (the run cost $4.0000 and saves $2.0000 per 1,000)",
        "| refund / order | 100 |",
        "served 3 decisions",
        "- small sample",
    ):
        assert text in page, page
    assert "None" not in page
    assert "nan" not in page


def test_unknown_costs_are_named_unknown():
    blank = [replace(r, champion=replace(r.champion, cost_usd=None)) for r in rows()]
    kinds = {"reference_kind": "flagship", "grade_kind": "exact"}
    page = report_markdown(build_report(blank, run_id="r", champion="v1", candidate="v2", **kinds))
    assert "| cost saving | unknown |" in page
    assert "200 of 200 rows have an unknown cost" in page
    assert "unknown: the run's cost is not known" in page


def test_a_wrong_record_is_one_sentence():
    row = report().to_dict()
    del row["overall"]["paired"]["n_worse"]
    with pytest.raises(InputError, match=r"overall\.paired\.n_worse") as error:
        EvaluationReport.from_dict(row)
    assert "\n" not in str(error.value)

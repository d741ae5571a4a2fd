"""A report can be made again from its rows and its stored inputs, and is the same to the last digit."""

import json

import pytest
from test_report import rows

from cascade.errors import InputError
from evaluation.audit import AuditSlice
from evaluation.inputs import ReportInputs
from evaluation.intervals import clopper_pearson, tango_difference
from evaluation.judge import JudgedDifference
from evaluation.metrics import MetricsConfig
from evaluation.replay import paired_row_from_dict, paired_row_to_dict
from evaluation.report import SolvedCluster

INPUTS = ReportInputs(
    run_id="r1",
    champion="v1",
    candidate="r1/targeted",
    reference_kind="flagship",
    grade_kind="json_exact",
    created="2026-07-20T00:00:00+00:00",
    config=MetricsConfig(alpha=0.03, resamples=300, seed=4),
    cluster_names={0: "refund", 1: "returns"},
    heldout_uses=2,
    run_cost_usd=3.5,
    solved=(SolvedCluster("c-0001", "old", ("q1", "q5", "q9")),),
    audit=AuditSlice("v1", 900, 20, 1, 0, clopper_pearson(1, 20, 0.94)),
    judged=JudgedDifference("judge", 200, 9, 4, 180, 150, 7, tango_difference(9, 4, 193, 0.94), 0.2),
)


def test_through_json_the_report_is_the_same():
    stored = json.loads(json.dumps({"rows": [paired_row_to_dict(r) for r in rows()], "inputs": INPUTS.to_dict()}))
    again = ReportInputs.from_dict(stored["inputs"])
    assert again == INPUTS
    made = again.build([paired_row_from_dict(row) for row in stored["rows"]])
    assert made == INPUTS.build(rows())
    assert made.solved_clusters[0].paired.n == 3
    assert (made.alpha, made.heldout_uses, made.audit, made.judged) == (0.03, 2, INPUTS.audit, INPUTS.judged)


def test_what_is_missing_is_named():
    row = INPUTS.to_dict()
    del row["heldout_uses"]
    with pytest.raises(InputError, match="heldout_uses"):
        ReportInputs.from_dict(row)

"""The model card says what a version is, and says "not recorded" where nothing is known."""

from test_report import report

from promotion.card import CardFacts, model_card
from promotion.gate import GatePolicy, decide
from promotion.versions import Lineage, Version

VERSION = Version("v3", "support", "tiny-base", None, "abcdef0123456789", None, "report.json", "r1", "2026-07-20T08:00")


def test_a_full_card():
    found = report(notes=["Half of the week was a holiday."])
    facts = CardFacts(
        lineage=Lineage("d" * 64, "c0ffee", "main", "e" * 64, "f" * 64),
        report=found,
        decision=decide(found, GatePolicy(min_pairs=100)),
        data={"training_examples": 812, "replayed": 400},
        teacher="flagship-3-15",
        teacher_permission="contract of 2026-01",
        base_licence="Apache-2.0",
    )
    page = model_card(VERSION, facts)
    assert page.startswith("# support-v3-abcdef01\n")
    for part in ("d" * 64, "c0ffee", "training examples: 812", "contract of 2026-01", "Apache-2.0", "n = 200",
                 "Half of the week was a holiday.", "json_exact", "## Limits"):  # fmt: skip
        assert part in page, part
    assert "not recorded" not in page
    for check in facts.decision.checks:
        assert check.sentence in page


def test_what_is_not_known_is_said():
    page = model_card(VERSION, CardFacts(lineage=Lineage()))
    assert "permission to train on them: not recorded" in page
    assert "| base revision | not recorded |" in page
    assert "Not evaluated." in page
    assert "No gate has judged it." in page
    assert "None" not in page

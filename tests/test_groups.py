"""Parts of the traffic whose answers are wrong more often than their score says."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from cascade.calibration import CalibrationConfig
from cascade.errors import InputError
from cascade.trace import Answer, Outcome, Query, TokenConfidence
from cascade.verifiers import QueryGroups, RulesConfig, TooLittleData, Verifier, fit_verifier, read_groups, store_part
from cascade.verifiers.verifier import load_free_scorer

NOW = datetime(2026, 11, 1, tzinfo=UTC)
WORDS = {"parcel": (1.0, 0.0), "invoice": (0.0, 1.0)}


def embed(texts: list[str]) -> np.ndarray:
    """A direction per first word, and a little of the number that follows."""
    rows = [(*WORDS[text.split()[0]], 0.001 * int(text.split()[1])) for text in texts]
    return np.array(rows, np.float32)


def query(word: str, number: int) -> Query:
    return Query(f"{word}-{number}", NOW, "r", ({"role": "user", "content": f"{word} {number}"},))


def answer(text: str, score: float) -> Answer:
    return Answer(text, "m", 5, 2, 0.1, "stop", TokenConfidence(2, score, score, score, None))


def graded(n: int, start: int, seed: int) -> tuple[list[Query], list[Answer], list[str]]:
    """Sure answers on parcels are right; on invoices half of them are wrong, at the same score."""
    rng = np.random.default_rng(seed)
    queries, answers = [], []
    for i in range(n):
        word = ("parcel", "invoice")[i % 2]
        score = -float(rng.exponential(0.5))
        wrong = rng.random() < (0.5 if word == "invoice" else 0.3 * (score < -0.6))
        queries.append(query(word, start + i))
        answers.append(answer("no" if wrong else "yes", score))
    return queries, answers, ["yes"] * n


def earlier() -> list[Query]:
    return [query(word, i) for word in WORDS for i in range(80)]


def test_groups_hold_back_the_part_that_over_claims() -> None:
    groups = QueryGroups.fit(earlier(), embed, cells=2)
    data = graded(1600, 1000, 0)
    plain = CalibrationConfig(max_error_accepted=0.08, signal="mean_logprob")
    shared = fit_verifier(*data, RulesConfig(), plain, grade_kind="exact")
    grouped = fit_verifier(
        *data, RulesConfig(), plain.model_copy(update={"by_group": True}), grade_kind="exact", groups=groups
    )
    queries, answers, _ = graded(2000, 9000, 1)
    accepted = {}
    for name, verifier in (("shared", shared), ("grouped", grouped)):
        verdicts = verifier.judge(queries, answers)
        taken = [v.outcome is Outcome.ACCEPT for v in verdicts]
        wrong = [t and a.text == "no" for t, a in zip(taken, answers, strict=True)]
        accepted[name] = sum(taken)
        assert sum(wrong) <= 0.08 * max(sum(taken), 1) + 0.02 * len(queries)
        if name == "grouped":
            by_word = {w: sum(t for t, q in zip(taken, queries, strict=True) if q.text.startswith(w)) for w in WORDS}
            assert by_word["invoice"] < 0.05 * by_word["parcel"]
    assert accepted["grouped"] > accepted["shared"] + 300


def test_groups_are_kept_with_the_verifier(tmp_path: Path) -> None:
    groups = QueryGroups.fit(earlier(), embed, cells=2)
    config = CalibrationConfig(max_error_accepted=0.08, signal="mean_logprob", by_group=True)
    verifier = fit_verifier(*graded(1600, 1000, 0), RulesConfig(), config, grade_kind="exact", groups=groups)
    path = store_part(groups, tmp_path)
    row = verifier.to_dict()
    again = Verifier.from_dict(row, load_free_scorer, lambda digest: read_groups(tmp_path, digest, embed))
    queries, answers, _ = graded(200, 5000, 3)
    assert again.judge(queries, answers) == verifier.judge(queries, answers)
    with pytest.raises(InputError, match="groups queries"):
        Verifier.from_dict(row)
    path.write_bytes(b"x" + path.read_bytes())
    with pytest.raises(InputError, match="digest differs"):
        read_groups(tmp_path, groups.digest, embed)


def test_too_few_earlier_queries_make_no_groups() -> None:
    with pytest.raises(TooLittleData, match="10 different earlier queries"):
        QueryGroups.fit(earlier()[:10], embed, cells=2)


def test_without_groups_the_setting_changes_nothing() -> None:
    data = graded(600, 1000, 0)
    config = CalibrationConfig(max_error_accepted=0.2, signal="mean_logprob")
    on = fit_verifier(*data, RulesConfig(), config.model_copy(update={"by_group": True}), grade_kind="exact")
    assert on == fit_verifier(*data, RulesConfig(), config, grade_kind="exact")

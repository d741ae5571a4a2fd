"""The generated shop traffic: seeded, ordered, with one gold answer per text and none of the base model's texts."""

from __future__ import annotations

import json
import random
from collections import Counter

import jsonschema
import pytest

from lab.score import score_clusters, score_skills
from lab.shop import base_training_texts
from lab.skills import KNOWN, NEW, OUT_OF_SCOPE, draw_out_of_scope, draw_query
from lab.traffic import SCHEMA, TrafficConfig, generate_traffic
from lab.world import LabConfig

CONFIG = TrafficConfig(early_queries=300, drifted_queries=1200)


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    return generate_traffic(CONFIG, 3)


def test_the_same_seed_gives_the_same_rows_and_another_seed_gives_others(rows: list[dict]) -> None:
    assert generate_traffic(CONFIG, 3) == rows
    assert generate_traffic(CONFIG, 4) != rows


def test_rows_are_ordered_and_satisfy_their_own_schema(rows: list[dict]) -> None:
    assert [row["time"] for row in rows] == sorted(row["time"] for row in rows)
    assert len({row["id"] for row in rows}) == len(rows) == 1500
    validator = jsonschema.Draft202012Validator(SCHEMA)
    assert all(row["schema"] == SCHEMA and validator.is_valid(json.loads(row["reference"])) for row in rows)


def test_new_skills_come_with_the_drifted_weeks_in_the_configured_shares(rows: list[dict]) -> None:
    early = [row["tags"] for row in rows if row["tags"]["week"] == 1]
    drifted = Counter(
        "oos" if row["tags"]["skill"] == OUT_OF_SCOPE else row["tags"]["new"] for row in rows if row["tags"]["week"] > 1
    )
    assert not any(tags["new"] for tags in early)
    assert drifted[True] / 1200 == pytest.approx(0.33, abs=0.05)
    assert drifted["oos"] / 1200 == pytest.approx(0.06, abs=0.03)


def test_a_text_has_one_gold_answer_whoever_draws_it() -> None:
    rng, gold = random.Random(0), {}
    for _ in range(400):
        for query in [draw_query(skill, rng) for skill in KNOWN + NEW] + [draw_out_of_scope(rng)]:
            assert gold.setdefault(query.text, query.gold) == query.gold


def test_queries_vary() -> None:
    rng = random.Random(0)
    for skill in KNOWN + NEW:
        texts = {draw_query(skill, rng).text for _ in range(200)}
        assert len(texts) > 150, skill.name


def test_no_traffic_text_was_used_to_train_the_base_model() -> None:
    seen = base_training_texts(LabConfig().models / "manifest.json")
    traffic = generate_traffic(CONFIG, 0, avoid=seen)
    assert len(seen) > 10_000
    assert not seen & {row["messages"][0]["content"] for row in traffic}


def test_scores_count_by_skill_and_leave_noise_out_of_the_rand_index(rows: list[dict]) -> None:
    names = sorted({row["tags"]["skill"] for row in rows})
    labels = {row["id"]: names.index(row["tags"]["skill"]) for row in rows}
    for row in rows[:300]:
        labels[row["id"]] = -1
    score = score_clusters(labels, rows)
    assert (score.adjusted_rand, score.noise_share, score.n) == (1.0, pytest.approx(0.2), 1500)
    right = {row["id"]: row["reference"] for row in rows[:100]}
    assert all(skill.exact_match == 1.0 for skill in score_skills(right, rows))
    assert sum(skill.n for skill in score_skills(right, rows)) == 100

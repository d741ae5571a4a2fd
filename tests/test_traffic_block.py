"""The cheap tier's own answers around a query, as a learned verifier sees them."""

from dataclasses import replace

import numpy as np
import pytest
from answered_topics import TOPICS, auroc, embed, world
from loopback import make_query

from cascade.errors import InputError
from cascade.verifiers import LearnedConfig, LearnedTrainer, forget_entries, held_banks, read_learned, store_part
from cascade.verifiers.bank import answer_fields
from cascade.verifiers.traffic import TRAFFIC_NAMES, TrafficAnswers


def scattered(n, seed):
    """As `world`, but where the cheap model knows nothing it answers anything, and sounds as sure as ever."""
    queries, answers, references = world(n, seed)
    rng = np.random.default_rng(100 + seed)
    guessed = [
        answer if answer.text == reference else replace(answer, text=f"label {rng.integers(TOPICS)}")
        for answer, reference in zip(answers, references, strict=True)
    ]
    return queries, guessed, references


def traffic_of(n=600, seed=7, most=5000):
    queries, answers, _ = scattered(n, seed)
    return TrafficAnswers.build(queries, answers, embed, most)


def fitted(traffic, **settings):
    queries, answers, references = scattered(300, seed=8)
    right = np.array([a.text == r for a, r in zip(answers, references, strict=True)])
    config = LearnedConfig(blocks=("confidence", "traffic"), folds=3, **settings)
    return LearnedTrainer(config, embed, traffic=traffic).fit(queries, answers, references, right)[0]


def test_it_sees_where_the_cheap_model_guesses_without_one_graded_answer_around():
    queries, answers, references = scattered(600, seed=9)
    right = np.array([a.text == r for a, r in zip(answers, references, strict=True)])
    found = {name: fitted(traffic) for name, traffic in (("blind", None), ("seeing", traffic_of()))}
    scores = {name: auroc(scorer.predict(queries, answers), right) for name, scorer in found.items()}
    assert scores["blind"] < 0.8
    assert scores["seeing"] > 0.93
    assert "no cheap answers" in found["blind"].features.left_out["traffic"]
    assert [f"traffic.{name}" for name in TRAFFIC_NAMES] == list(found["seeing"].features.names[-len(TRAFFIC_NAMES) :])


def test_an_answer_is_no_neighbour_of_its_own():
    queries, answers, _ = scattered(200, seed=7)
    traffic = TrafficAnswers.build(queries, answers, embed, 5000)
    fields = [answer_fields(answer.text) for answer in answers]
    inside = traffic.features(queries[:20], embed([q.text for q in queries[:20]]), fields[:20], 5)
    for i in range(20):
        others = traffic.without([queries[i].id])
        outside = others.features([queries[i]], embed([queries[i].text]), [fields[i]], 5)[0]
        # All but the share by sureness: ranks are among other answers without it.
        assert inside[i, :3] == pytest.approx(outside[:3])


def test_the_features_are_what_they_say():
    _, answers, _ = scattered(3, seed=7)
    same = [make_query(i, f"topic 1 number {i}") for i in (1, 2)]
    said = [
        replace(answer, text=text, confidence=replace(answer.confidence, mean_logprob=value))
        for answer, text, value in zip(answers, ("label 1", "label 2"), (-0.1, -0.9), strict=False)
    ]
    traffic = TrafficAnswers.build(same, said, embed, 10)
    asked = make_query(3, "topic 1 number 3")
    logprob, entropy, agreement, sure = traffic.features([asked], embed([asked.text]), [{"": "label 1"}], 2)[0]
    assert logprob == pytest.approx(-0.5)
    assert entropy == pytest.approx(np.log(2), abs=0.02)
    assert agreement == pytest.approx(0.5, abs=0.05)
    assert sure == pytest.approx(0.75)  # ranks 0.75 and 0.25


def test_no_more_than_are_wanted_are_kept_evenly_and_none_without_confidence():
    queries, answers, _ = scattered(100, seed=7)
    answers = [replace(a, confidence=None) if i % 2 else a for i, a in enumerate(answers)]
    kept = TrafficAnswers.build(queries, answers, embed, 10).bank.ids
    assert len(kept) == 10 and kept[0] == queries[0].id and kept[-1] == queries[98].id
    with pytest.raises(InputError, match="2 answers of the traffic and 1"):
        TrafficAnswers(TrafficAnswers.build(queries[:4], answers[:4], embed, 9).bank, np.zeros(1))


def test_it_is_stored_read_back_and_forgotten(tmp_path):
    traffic = traffic_of(100)
    scorer = fitted(traffic)
    store_part(scorer, tmp_path)
    queries, answers, _ = scattered(50, seed=10)
    again = read_learned(tmp_path, scorer.digest, embed)
    assert again.predict(queries, answers) == pytest.approx(scorer.predict(queries, answers), abs=1e-9)
    gone = list(traffic.bank.ids[:3])
    (held,) = held_banks(tmp_path, [*gone, "unknown"])
    assert (held.ids, held.n_entries, held.usable) == (frozenset(gone), 100, True)
    forget_entries(tmp_path, held)
    assert held_banks(tmp_path, gone) == []
    left = read_learned(tmp_path, scorer.digest, embed)
    assert left.features.traffic.bank.ids == traffic.bank.ids[3:]
    expected = replace(scorer, features=replace(scorer.features, traffic=traffic.without(gone)))
    assert left.predict(queries, answers) == pytest.approx(expected.predict(queries, answers), abs=1e-9)
    (nearly_all,) = held_banks(tmp_path, traffic.bank.ids[3:-5])
    assert not nearly_all.usable

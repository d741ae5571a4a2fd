"""The learned verifier over texts and peers, and the committee."""

import numpy as np
import pytest
from recorded_world import CHEAP, FLAGSHIP, PEER, rows

from cascade.cost import PriceTable
from cascade.errors import ConfigError, TierError
from cascade.recorded import recording_from_rows
from cascade.verifiers import Trainable
from cascade.verifiers.answer_learner import AnswerLearner
from cascade.verifiers.answer_text import N_FORM, query_features, text_features
from cascade.verifiers.peers import PeerScorer
from cascade.verifiers.score import TooLittleData

RECORDING = recording_from_rows("world", rows(300))
QUERIES = list(RECORDING.queries)
ANSWERS = RECORDING.tier(CHEAP).answer(QUERIES)
RIGHT = np.array([RECORDING.answers[CHEAP][q.id].grade == 1 for q in QUERIES])
PRICES = PriceTable.model_validate({"prices": {PEER: {"input_per_million": 10, "output_per_million": 20}}})


def auroc(values, right) -> float:
    better = np.array(values)[right][:, None] - np.array(values)[~right][None, :]
    return float((better > 0).mean() + 0.5 * (better == 0).mean())


def test_it_learns_from_texts_and_its_own_training_scores_do_not_flatter() -> None:
    learner = AnswerLearner()
    assert isinstance(learner, Trainable)
    scorer, own = learner.fit(QUERIES[:200], ANSWERS[:200], [""] * 200, RIGHT[:200])
    fresh = [score.value for score in scorer.score(QUERIES[200:], ANSWERS[200:])]
    refitted = [score.value for score in scorer.score(QUERIES[:200], ANSWERS[:200])]
    assert auroc(fresh, RIGHT[200:]) > 0.8
    assert auroc([score.value for score in own], RIGHT[:200]) < auroc(refitted, RIGHT[:200])


def test_it_gives_the_same_scores_again() -> None:
    first, second = (AnswerLearner().fit(QUERIES[:100], ANSWERS[:100], [""] * 100, RIGHT[:100]) for _ in range(2))
    assert [s.value for s in first[1]] == [s.value for s in second[1]]


def test_a_committee_scores_agreement_and_is_paid_for_every_answer() -> None:
    peers = PeerScorer({PEER: RECORDING.tier(PEER)}, PRICES)
    scores = peers.score(QUERIES[:50], ANSWERS[:50])
    theirs = RECORDING.tier(PEER).answer(QUERIES[:50])
    assert {score.value for score in scores} == {0.0, 1.0}
    assert [score.cost_usd for score in scores] == pytest.approx([PRICES.cost_usd(answer) for answer in theirs])
    scorer, _ = AnswerLearner(peers=peers).fit(QUERIES[:100], ANSWERS[:100], [""] * 100, RIGHT[:100])
    assert scorer.score(QUERIES[:1], ANSWERS[:1])[0].cost_usd == scores[0].cost_usd


def test_a_committee_needs_peers_that_answered() -> None:
    with pytest.raises(ConfigError, match="no peers"):
        PeerScorer({}, PRICES)
    partly = recording_from_rows("r", [r for r in rows(5) if (r["id"], r["model"]) != ("q1", PEER)])
    with pytest.raises(TierError, match="'q1'"):
        PeerScorer({PEER: partly.tier(PEER)}, PRICES).score(
            partly.queries, partly.tier(FLAGSHIP).answer(partly.queries)
        )


def test_nothing_to_learn_from() -> None:
    with pytest.raises(TooLittleData):
        AnswerLearner().fit([], [], [], np.array([], dtype=bool))
    scorer, own = AnswerLearner().fit(QUERIES[:9], ANSWERS[:9], [""] * 9, np.ones(9, dtype=bool))
    assert len({score.value for score in scorer.score(QUERIES[:9], ANSWERS[:9])} | {s.value for s in own}) <= 3


def test_features_are_named_and_finite() -> None:
    for query, answer in zip(QUERIES[:5], ANSWERS[:5], strict=True):
        assert np.isfinite(list(text_features(query, answer).values())).all()
        assert len(query_features(query)) == N_FORM

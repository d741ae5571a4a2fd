"""The committee, alone and as a feature of the learned verifier; the learned verifier over texts."""

import json
from functools import cache

import numpy as np
import pytest
from recorded_world import CHEAP, FLAGSHIP, PEER, rows

from cascade.cost import PriceTable
from cascade.errors import ConfigError, InputError, TierError
from cascade.recorded import recording_from_rows
from cascade.trace import Answer
from cascade.verifiers import LearnedConfig, LearnedTrainer, TooLittleData, Trainable, read_learned, store_part
from cascade.verifiers.answer_text import FORM_NAMES, TEXT_NAMES, query_features, text_features
from cascade.verifiers.peers import PeerScorer

RECORDING = recording_from_rows("world", rows(300))
QUERIES = list(RECORDING.queries)
ANSWERS = RECORDING.tier(CHEAP).answer(QUERIES)
RIGHT = np.array([RECORDING.answers[CHEAP][q.id].grade == 1 for q in QUERIES])
PRICES = PriceTable.model_validate({"prices": {PEER: {"input_per_million": 10, "output_per_million": 20}}})
PEERS = PeerScorer({PEER: RECORDING.tier(PEER)}, PRICES)
TEXTS = LearnedConfig(blocks=("form", "text"), folds=3)
ASKING = LearnedConfig(blocks=("form", "text", "peers"), folds=3)


def auroc(values, right) -> float:
    better = np.array(values)[right][:, None] - np.array(values)[~right][None, :]
    return float((better > 0).mean() + 0.5 * (better == 0).mean())


@cache
def fit(config=TEXTS, committee=False, n=200):
    return LearnedTrainer(config, peers=PEERS if committee else None).fit(QUERIES[:n], ANSWERS[:n], [""] * n, RIGHT[:n])


def test_it_learns_from_texts_and_its_own_training_scores_do_not_flatter() -> None:
    assert isinstance(LearnedTrainer(TEXTS), Trainable)
    scorer, own = fit()
    assert {name.split(".")[0] for name in scorer.features.names} == {"form", "text"}
    fresh = [score.value for score in scorer.score(QUERIES[200:], ANSWERS[200:])]
    refitted = [score.value for score in scorer.score(QUERIES[:200], ANSWERS[:200])]
    assert auroc(fresh, RIGHT[200:]) > 0.8
    assert auroc([score.value for score in own], RIGHT[:200]) < auroc(refitted, RIGHT[:200])


def test_it_gives_the_same_scores_again() -> None:
    first, second = (fit.__wrapped__(n=100) for _ in range(2))
    assert [s.value for s in first[1]] == [s.value for s in second[1]]


def test_a_committee_scores_agreement_and_is_paid_for_every_answer() -> None:
    scores = PEERS.score(QUERIES[:50], ANSWERS[:50])
    theirs = RECORDING.tier(PEER).answer(QUERIES[:50])
    assert {score.value for score in scores} == {0.0, 1.0}
    assert [score.cost_usd for score in scores] == pytest.approx([PRICES.cost_usd(answer) for answer in theirs])


def test_the_learned_verifier_weighs_its_peers_and_charges_for_them() -> None:
    alone, (asking, own) = fit()[0], fit(ASKING, committee=True)
    assert (alone.name, asking.name) == ("learned", f"learned with {PEERS.name}")
    fresh = asking.score(QUERIES[200:], ANSWERS[200:])
    opinions = PEERS.score(QUERIES[200:], ANSWERS[200:])
    assert [score.cost_usd for score in fresh] == [opinion.cost_usd for opinion in opinions]
    assert all(score.cost_usd for score in own)
    better = auroc([score.value for score in fresh], RIGHT[200:])
    assert better > auroc([score.value for score in alone.score(QUERIES[200:], ANSWERS[200:])], RIGHT[200:])


def test_peers_are_asked_only_where_they_are_looked_at() -> None:
    scorer, own = fit(TEXTS, committee=True)
    assert (scorer.name, scorer.peers, {score.cost_usd for score in own}) == ("learned", None, {0.0})
    lonely, _ = fit(ASKING)
    assert lonely.features.left_out["peers"] == "no peers to ask"


@pytest.mark.parametrize("peers", [None, PEERS], ids=["alone", "with peers"])
def test_it_is_kept_and_read_back_with_its_peers(tmp_path, peers) -> None:
    scorer, _ = fit(TEXTS if peers is None else ASKING, peers is not None)
    store_part(scorer, tmp_path)
    again = read_learned(tmp_path, scorer.digest, None, peers)
    before = scorer.score(QUERIES[200:], ANSWERS[200:])
    after = again.score(QUERIES[200:], ANSWERS[200:])
    assert [score.value for score in after] == pytest.approx([score.value for score in before], abs=1e-9)
    assert [score.cost_usd for score in after] == [score.cost_usd for score in before]
    assert (again.digest, again.name) == (scorer.digest, scorer.name)
    assert json.loads(json.dumps(scorer.to_dict()))["digest"] == scorer.digest


def test_without_its_peers_it_cannot_be_read_back(tmp_path) -> None:
    scorer, _ = fit(ASKING, committee=True)
    store_part(scorer, tmp_path)
    for given in (None, PeerScorer({FLAGSHIP: RECORDING.tier(FLAGSHIP)}, PRICES)):
        with pytest.raises(InputError, match="asks other-small for their answers: give it those very peers"):
            read_learned(tmp_path, scorer.digest, None, given)


def test_a_committee_needs_peers_that_answered() -> None:
    with pytest.raises(ConfigError, match="no peers"):
        PeerScorer({}, PRICES)
    partly = recording_from_rows("r", [r for r in rows(5) if (r["id"], r["model"]) != ("q1", PEER)])
    with pytest.raises(TierError, match="'q1'"):
        PeerScorer({PEER: partly.tier(PEER)}, PRICES).score(
            partly.queries, partly.tier(FLAGSHIP).answer(partly.queries)
        )


def test_an_answer_that_comes_to_nothing_is_still_judged() -> None:
    scorer, _ = fit(ASKING, committee=True)
    empty = Answer("no idea", CHEAP, 1, 1, 0.0, "stop")
    nothing, right = scorer.score([QUERIES[0]] * 2, [empty, ANSWERS[int(np.flatnonzero(RIGHT)[0])]])
    assert nothing.value is not None and right.value is not None


def test_nothing_to_learn_from() -> None:
    with pytest.raises(TooLittleData, match="no graded answers"):
        LearnedTrainer(TEXTS).fit([], [], [], np.array([], dtype=bool))
    with pytest.raises(TooLittleData, match="at least 10 of each"):
        fit(n=9)


def test_features_are_named_and_finite() -> None:
    for query, answer in zip(QUERIES[:5], ANSWERS[:5], strict=True):
        features = text_features(query, answer)
        assert np.isfinite(list(features.values())).all()
        assert (tuple(features), tuple(query_features(query))) == (TEXT_NAMES, FORM_NAMES)

"""The learned verifier on a world of known answers: what it learns, what it must not see, how it is kept."""

import json
import re
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from answered_topics import auroc, embed, world
from loopback import make_query

from cascade.calibration import CalibrationConfig
from cascade.errors import InputError
from cascade.trace import Answer, TokenConfidence
from cascade.verifiers import (
    AnswerBank,
    LearnedConfig,
    LearnedTrainer,
    RulesConfig,
    TooLittleData,
    Verifier,
    fit_verifier,
    forget_entries,
    held_banks,
    read_learned,
    standing,
    store_part,
)
from cascade.verifiers.bank import Neighbourhood, answer_fields, text_digest
from cascade.verifiers.choice import choose_model
from cascade.verifiers.models import RECIPES, TREES, Recipe, fit_model, model_from_arrays


@cache
def fit(n=400, seed=1, **settings):
    queries, answers, references = world(n, seed)
    right = np.array([a.text == r for a, r in zip(answers, references, strict=True)])
    trainer = LearnedTrainer(LearnedConfig(**settings), embed)
    scorer, scores = trainer.fit(queries, answers, references, right)
    return scorer, np.array([score.value for score in scores]), right


def test_it_tells_right_from_wrong_better_than_confidence_on_answers_it_has_not_seen():
    scorer, crossed, right = fit()
    queries, answers, references = world(600, seed=2)
    fresh = np.array([a.text == r for a, r in zip(answers, references, strict=True)])
    values = np.array([score.value for score in scorer.score(queries, answers)])
    confidence = np.array([a.confidence.mean_logprob for a in answers])
    assert auroc(confidence, fresh) < 0.8
    assert auroc(values, fresh) > 0.93
    # Cross-fitted scores say what fresh answers will show.
    assert auroc(crossed, right) == pytest.approx(auroc(values, fresh), abs=0.04)
    assert {score.cost_usd for score in scorer.score(queries[:3], answers[:3])} == {0.0}
    assert "cross-validated log-loss" in scorer.why


def test_cross_fitted_scores_of_noise_claim_nothing():
    queries, answers, references = world(300, seed=3)
    right = np.random.default_rng(0).random(300) < 0.5
    _, scores = LearnedTrainer(LearnedConfig(), embed).fit(queries, answers, references, right)
    assert auroc(np.array([score.value for score in scores]), right) == pytest.approx(0.5, abs=0.1)


def test_a_verifier_with_it_accepts_more_at_the_same_target():
    queries, answers, references = world(1000, seed=4)
    config = CalibrationConfig(max_error_accepted=0.06, seed=1)
    plain = fit_verifier(queries, answers, references, RulesConfig(), config, grade_kind="exact")
    trainer = LearnedTrainer(LearnedConfig(), embed)
    learned = fit_verifier(queries, answers, references, RulesConfig(), config, grade_kind="exact", scorers=[trainer])
    assert learned.calibration.acceptance_rate > (plain.calibration.acceptance_rate or 0.0) + 0.1
    fresh_queries, fresh_answers, fresh_references = world(1000, seed=5)
    verdicts = learned.judge(fresh_queries, fresh_answers)
    wrong = [a.text != r for v, a, r in zip(verdicts, fresh_answers, fresh_references, strict=True) if v.accepted]
    assert len(wrong) > 450
    assert sum(wrong) / len(wrong) < 0.08


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_models_predict_as_scikit_learn_and_survive_as_arrays(recipe):
    from sklearn.ensemble import GradientBoostingClassifier
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    rows = rng.normal(size=(300, 5))
    right = rows[:, 0] + rows[:, 1] * rows[:, 2] + 0.5 * rng.normal(size=300) > 0
    model = fit_model(rows, right, recipe, seed=3)
    fresh = rng.normal(size=(200, 5))
    if recipe.kind == "logistic":
        mean, scale = rows.mean(axis=0), rows.std(axis=0)
        theirs = LogisticRegression(C=recipe.strength, max_iter=5000).fit((rows - mean) / scale, right)
        expected = theirs.predict_proba((fresh - mean) / scale)[:, 1]
    else:
        theirs = GradientBoostingClassifier(
            learning_rate=recipe.strength, max_depth=recipe.depth, min_samples_leaf=5, subsample=0.7,
            n_estimators=TREES, max_features="sqrt", random_state=3,
        ).fit(rows, right)  # fmt: skip
        expected = theirs.predict_proba(fresh)[:, 1]
    assert model.predict(fresh) == pytest.approx(expected, abs=1e-9)
    again = model_from_arrays(model.arrays())
    assert type(again) is type(model)
    assert (again.predict(fresh) == model.predict(fresh)).all()


def test_the_mean_of_two_models_is_taken_in_log_odds_and_survives_as_arrays():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(300, 5))
    right = rows[:, 0] + rows[:, 1] * rows[:, 2] + 0.5 * rng.normal(size=300) > 0
    line, trees = RECIPES[1], RECIPES[3]
    both = Recipe("mean", parts=(line, trees))
    fresh = rng.normal(size=(200, 5))
    model = fit_model(rows, right, both, seed=3)
    odds = [np.log(p / (1 - p)) for p in (fit_model(rows, right, part, 3).predict(fresh) for part in (line, trees))]
    assert model.predict(fresh) == pytest.approx(1 / (1 + np.exp(-(odds[0] + odds[1]) / 2)))
    assert both.name == "mean of logistic C=0.3 and trees of depth 2"
    again = model_from_arrays(model.arrays())
    assert type(again) is type(model)
    assert (again.predict(fresh) == model.predict(fresh)).all()


def test_the_mean_is_chosen_where_a_line_and_trees_each_see_a_part():
    rng = np.random.default_rng(4)
    rows = rng.normal(size=(600, 6))
    right = rows[:, :4].sum(axis=1) + 3 * (rows[:, 4] * rows[:, 5] > 0) - 1.5 + rng.normal(size=600) > 0
    folds = np.arange(600) % 5
    choice = choose_model(rows, right, folds, [f"text.{i}" for i in range(6)], seed=0)
    assert choice.recipe.kind == "mean"
    losses = dict(re.findall(r"(logistic|trees|mean) (0\.\d+)[,)]", choice.why))
    assert losses["mean"] == min(losses.values())


def test_it_is_kept_by_its_digest_and_reads_back_to_the_same_scores(tmp_path):
    scorer, _, _ = fit()
    path = store_part(scorer, tmp_path)
    assert path.parent.name == scorer.digest
    again = read_learned(tmp_path, scorer.digest, embed)
    queries, answers, _ = world(200, seed=2)
    before = [score.value for score in scorer.score(queries, answers)]
    assert [score.value for score in again.score(queries, answers)] == pytest.approx(before, abs=1e-9)
    assert again.digest == scorer.digest
    assert store_part(again, tmp_path) == path
    assert fit.__wrapped__()[0].digest == scorer.digest


def holds(root, text):
    return any(text.encode() in path.read_bytes() for path in root.rglob("*") if path.is_file())


def test_what_is_forgotten_is_in_no_verifier_and_the_rest_is_compared_with(tmp_path):
    whole, _, _ = fit()
    bank = whole.features.bank
    answers = (*bank.answers[:-3], "secret one", "secret two", "secret three")
    space = replace(whole.features, bank=replace(bank, answers=answers))
    scorer = replace(whole, features=space)
    other = replace(
        whole, features=replace(space, bank=replace(bank, ids=tuple(f"other {n}" for n in range(len(bank)))))
    )
    store_part(scorer, tmp_path)
    store_part(other, tmp_path)
    first, second = [*bank.ids[-3:-1], "q-unknown"], [bank.ids[-1]]
    (held,) = held_banks(tmp_path, first)
    assert (held.digest, held.ids, held.n_entries, held.usable) == (scorer.digest, {*first[:2]}, 400, True)
    forget_entries(tmp_path, held)
    assert held_banks(tmp_path, first) == []
    assert not holds(tmp_path, "secret one") and not holds(tmp_path, first[0]) and holds(tmp_path, "secret three")
    again = read_learned(tmp_path, scorer.digest, embed)
    assert again.features.bank.ids == bank.ids[:-3] + bank.ids[-1:]
    assert again.digest == standing(tmp_path, scorer.digest)[0] != scorer.digest
    kept = bank.without(first)
    fields = tuple(answer_fields(text) for text in (*kept.answers[:-1], "secret three"))
    expected = replace(whole, features=replace(space, bank=kept, bank_fields=fields))
    queries, given, _ = world(100, seed=2)
    assert again.predict(queries, given) == pytest.approx(expected.predict(queries, given), abs=1e-9)
    # Once more, from what stands for it; and the whole one does not come back.
    forget_entries(tmp_path, held_banks(tmp_path, second)[0])
    store_part(scorer, tmp_path)
    assert not holds(tmp_path, "secret")
    assert read_learned(tmp_path, scorer.digest, embed).features.bank.ids == bank.ids[:-3]
    assert read_learned(tmp_path, other.digest, embed).digest == other.digest


def test_forgetting_that_was_killed_is_ended_by_the_next(tmp_path):
    scorer, _, _ = fit()
    path = store_part(scorer, tmp_path)
    content, gone = path.read_bytes(), scorer.features.bank.ids[:5]
    forget_entries(tmp_path, held_banks(tmp_path, gone)[0])
    path.write_bytes(content)  # killed before its file was deleted
    assert read_learned(tmp_path, scorer.digest, embed).features.bank.ids == scorer.features.bank.ids[5:]
    forget_entries(tmp_path, held_banks(tmp_path, gone)[0])
    assert held_banks(tmp_path, gone) == [] and not path.exists()
    path.write_bytes(content[:-1])
    with pytest.raises(InputError, match="is damaged: delete its folder"):
        held_banks(tmp_path, gone)


def test_a_verifier_with_too_little_left_to_compare_with_is_withdrawn(tmp_path):
    scorer, _, _ = fit()
    store_part(scorer, tmp_path)
    ids = scorer.features.bank.ids
    assert held_banks(tmp_path, ids[: len(ids) - 20])[0].usable
    (held,) = held_banks(tmp_path, ids[: len(ids) - 19])
    assert not held.usable
    forget_entries(tmp_path, held)
    assert not holds(tmp_path, ids[0])
    with pytest.raises(InputError, match=r"was withdrawn \(381 of the 400 answers .* fit the verifier again"):
        read_learned(tmp_path, scorer.digest, embed)


def test_a_missing_or_altered_file_is_one_clear_sentence(tmp_path):
    scorer, _, _ = fit()
    path = store_part(scorer, tmp_path)
    with pytest.raises(InputError, match="give it the run's embedder"):
        read_learned(tmp_path, scorer.digest, None)
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(InputError, match="is not what was stored"):
        read_learned(tmp_path, scorer.digest, embed)
    store_part(scorer, tmp_path)
    assert read_learned(tmp_path, scorer.digest, embed).digest == scorer.digest
    path.unlink()
    with pytest.raises(InputError, match="cannot read the verifier's part"):
        read_learned(tmp_path, scorer.digest, embed)


def test_a_verifier_with_it_survives_json(tmp_path):
    queries, answers, references = world(500, seed=4)
    trainer = LearnedTrainer(LearnedConfig(), embed)
    fitted = fit_verifier(
        queries, answers, references, RulesConfig(), CalibrationConfig(max_error_accepted=0.08), grade_kind="exact",
        scorers=[trainer],
    )  # fmt: skip
    store_part(fitted.links[0].scorer, tmp_path)
    row = json.loads(json.dumps(fitted.to_dict()))
    again = Verifier.from_dict(row, lambda spec: read_learned(tmp_path, spec["digest"], embed))
    fresh, given, _ = world(100, seed=6)
    assert [v.outcome for v in again.judge(fresh, given)] == [v.outcome for v in fitted.judge(fresh, given)]
    with pytest.raises(InputError, match="kind 'learned'"):
        Verifier.from_dict(row)


def test_no_query_is_its_own_neighbour_by_id_or_by_text():
    queries, _, references = world(50, seed=1)
    bank = AnswerBank.build(queries, references, embed)
    twin = replace(queries[7], id="twin")
    for query in (queries[7], twin, replace(queries[8], id=queries[7].id)):
        places, near = bank.nearest([query], embed([query.text]), 50)
        own = {i for i, q in enumerate(queries) if q.id == query.id or text_digest(q.text) == text_digest(query.text)}
        assert own
        assert not own & set(places[0].tolist())
        assert (places[0] == -1).sum() == len(own)
        assert (np.diff(near[0][places[0] >= 0]) <= 0).all()
    stranger, _, _ = world(1, seed=9)
    assert (bank.nearest(stranger, embed([stranger[0].text]), 50)[0] >= 0).all()


def test_the_answer_under_test_does_not_vote_for_itself():
    """Where every answer is unlike all others there is no agreement, though the bank holds the query's own."""
    queries, _, _ = world(300, seed=1)
    own = [f"only {i}" for i in range(300)]
    bank = AnswerBank.build(queries, own, embed)
    around = Neighbourhood.around(
        bank, tuple(answer_fields(text) for text in own), queries, embed([q.text for q in queries]), 10
    )
    assert not around.answer_features([answer_fields(text) for text in own])[:, :2].any()


def test_what_the_neighbours_say():
    bank = AnswerBank(
        ids=("a", "b", "c"),
        digests=("1", "2", "3"),
        embeddings=np.array([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]], np.float32),
        answers=('{"intent": "refund", "id": 1}', '{"intent": "refund", "id": 2}', '{"intent": "delay"}'),
    )
    fields = tuple(answer_fields(text) for text in bank.answers)
    around = Neighbourhood.around(bank, fields, [make_query(1)], np.array([[1.0, 0.0]], np.float32), 2)
    assert around.places.tolist() == [[0, 1]]
    nearest, density, entropy, kinds = around.query_features()[0]
    assert (nearest, density, kinds) == (pytest.approx(1.0), pytest.approx(0.8), pytest.approx(0.0))
    assert entropy == pytest.approx(-(0.625 * np.log(0.625) + 0.375 * np.log(0.375)))
    same, top, plurality, some, kind = around.answer_features([answer_fields('{"id": 2, "intent": "refund"}')])[0]
    assert (same, top, plurality, kind) == (pytest.approx(0.375), 0.0, 0.0, pytest.approx(1.0))
    assert some == pytest.approx(0.375 + 0.625 / 2)


@pytest.mark.parametrize(
    ("text", "form", "expected"),
    [
        ('{"a": {"b": [1, true]}, "c": "x"}', "json", {".a.b[0]": "1", ".a.b[1]": "true", ".c": "x"}),
        ("Book  a Flight", "json", {"": "book a flight"}),
        ("7", "json", {"": "7"}),
        ("3 + 4 = 7, so she has $1,207.50.", "final_number", {"": "1207.5"}),
        ("none at all", "final_number", {"": "none at all"}),
        ("The answer is (C).", "final_choice", {"": "C"}),
        ("no letter", "final_choice", {"": "no letter"}),
    ],
)
def test_answers_as_fields(text, form, expected):
    assert answer_fields(text, form) == expected


def test_blocks_without_data_are_left_out_with_the_reason():
    queries, answers, references = world(400, seed=1, logprobs=False)
    right = np.array([a.text == r for a, r in zip(answers, references, strict=True)])
    scorer, _ = LearnedTrainer(LearnedConfig(folds=2)).fit(queries, answers, references, right)
    left_out = scorer.features.left_out
    assert left_out["confidence"] == "the answers carry no log-probabilities"
    assert left_out["query"] == left_out["neighbours"] == "no embedder"
    assert all(name.startswith("answer.") for name in scorer.features.names)
    some, _ = LearnedTrainer(LearnedConfig(blocks=("neighbours",), folds=2), embed).fit(
        queries, answers, references, right
    )
    assert {name.split(".")[0] for name in some.features.names} == {"neighbours"}
    with pytest.raises(TooLittleData, match="nothing to learn from"):
        LearnedTrainer(LearnedConfig(blocks=("confidence",))).fit(queries, answers, references, right)


def test_an_answer_without_log_probabilities_is_not_judged_by_one_that_learnt_from_them():
    scorer, _, _ = fit(blocks=("confidence",))
    queries, answers, _ = world(2, seed=2)
    scores = scorer.score(queries, [answers[0], replace(answers[1], confidence=None)])
    assert scores[0].value is not None
    assert (scores[1].value, "missing" in scores[1].reason) == (None, True)


def test_where_all_answers_are_right_confidence_takes_over():
    queries, _, references = world(200, seed=1)
    answers = [Answer(r, "small", 1, 1, 0.0, "stop", TokenConfidence(1, -0.1, -0.1, -0.1, None)) for r in references]
    trainer = LearnedTrainer(LearnedConfig(), embed)
    fitted = fit_verifier(
        queries, answers, references, RulesConfig(), CalibrationConfig(), grade_kind="exact", scorers=[trainer]
    )
    assert fitted.links == ()
    assert "0 of the rarer kind" in fitted.left_out["learned"]
    assert fitted.judge(queries[:1], answers[:1])[0].accepted

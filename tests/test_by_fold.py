"""A learned verifier that keeps a model per fold: it judges fresh answers just as those that tested its threshold."""

from dataclasses import replace

import numpy as np
import pytest
from answered_topics import embed, world

from cascade.calibration import CalibrationConfig
from cascade.verifiers import (
    LearnedConfig,
    LearnedTrainer,
    RulesConfig,
    TokenConfidenceScorer,
    fit_verifier,
    read_learned,
    store_part,
)
from cascade.verifiers.choice import choose_model, fit_by_fold, fixed_folds


def by_fold(n=400, seed=1):
    queries, answers, references = world(n, seed)
    right = np.array([a.text == r for a, r in zip(answers, references, strict=True)])
    scorer, scores = LearnedTrainer(LearnedConfig(), embed).fit(queries, answers, references, right, by_fold=True)
    return queries, answers, scorer, np.array([score.value for score in scores])


def test_a_scorer_by_fold_judges_what_it_learnt_from_as_it_was_tested(tmp_path):
    queries, answers, scorer, tested = by_fold()
    values = [score.value for score in scorer.score(queries, answers)]
    assert len(scorer.models) == LearnedConfig().folds
    assert values == pytest.approx(tested, abs=1e-9)
    assert np.ptp(values) > 0.9
    store_part(scorer, tmp_path)
    again = read_learned(tmp_path, scorer.digest, embed)
    assert [score.value for score in again.score(queries, answers)] == values


def test_the_fold_of_a_query_is_that_of_its_text_whatever_comes_with_it():
    queries, answers, scorer, _ = by_fold()
    alone = [scorer.score([q], [a])[0].value for q, a in zip(queries[:20], answers[:20], strict=True)]
    assert alone == pytest.approx([score.value for score in scorer.score(queries[:20], answers[:20])], abs=1e-12)
    folds = fixed_folds(queries, 5, seed=0)
    assert folds.tolist() == fixed_folds([replace(q, id=f"other {i}") for i, q in enumerate(queries)], 5, 0).tolist()
    assert folds.tolist() != fixed_folds(queries, 5, seed=1).tolist()
    assert np.bincount(folds, minlength=5).min() > 50


def test_a_fold_without_which_all_are_right_gets_a_model_that_says_how_many_are():
    rows = np.random.default_rng(0).normal(size=(60, 2))
    right, folds = np.arange(60) >= 20, np.repeat([0, 1, 2], 20)
    choice = choose_model(rows, right, folds, ["text.a", "text.b"], seed=0)
    columns, models = fit_by_fold(choice, rows, right, folds, 3, seed=0)
    predicted = np.concatenate([m.predict(rows[folds == k][:, columns]) for k, m in enumerate(models)])
    assert predicted == pytest.approx(choice.predicted)
    assert models[0].predict(rows[:5, columns]) == pytest.approx(2 / 3)


def test_all_teach_where_the_classifier_is_all_there_is_and_a_part_where_bounds_are_picked():
    queries, answers, references = world(500, seed=4)
    config = CalibrationConfig(max_error_accepted=0.08)

    def fitted(scorers, **settings):
        return fit_verifier(
            queries, answers, references, RulesConfig(), config.model_copy(update=settings), grade_kind="exact",
            scorers=scorers,
        )  # fmt: skip

    trainer = LearnedTrainer(LearnedConfig(), embed)
    for verifier, n_models, n_learnt, n_tested in (
        (fitted([trainer]), 5, 500, 425),
        (fitted([trainer], cross_fit=False), 1, 200, 300),
    ):
        scorer = verifier.links[0].scorer
        assert (len(scorer.models), len(scorer.features.bank)) == (n_models, n_learnt)
        assert verifier.calibration.n_tested == n_tested
    chain = fitted([TokenConfidenceScorer("mean_logprob"), trainer])
    assert len(chain.links[1].scorer.models) == 1
    assert len(chain.links[1].scorer.features.bank) <= 200
    assert chain.calibration.n_tested == 300

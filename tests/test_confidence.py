import math

import pytest

from cascade.confidence import NOT_LISTED, missing_logprobs, summarise_tokens
from cascade.trace import Answer


def answer(text="x", confidence=None):
    return Answer(text, "small", 5, 3, 0.0, "stop", confidence)


def test_the_numbers_are_those_reckoned_by_hand():
    """p = 0.9, 0.5, 0.8 with second choices 0.05, 0.3, 0.2; the quantile lies a fifth of the way up from the least."""
    found = summarise_tokens([math.log(p) for p in (0.9, 0.5, 0.8)], [0.9 - 0.05, 0.5 - 0.3, 0.8 - 0.2])
    assert found.n_tokens == 3
    assert found.mean_logprob == pytest.approx((-0.1053605157 - 0.6931471806 - 0.2231435513) / 3)
    assert found.min_logprob == pytest.approx(-0.6931471806)
    assert found.p10_logprob == pytest.approx(-0.6931471806 + 0.2 * (0.6931471806 - 0.2231435513))
    assert found.margin == pytest.approx(1 - (0.85 + 0.2 + 0.6) / 3)


def test_certain_tokens_have_no_uncertainty():
    found = summarise_tokens([0.0, 0.0], [1.0, 1.0])
    assert (found.mean_logprob, found.margin) == (0.0, 0.0)


def test_what_is_not_told_is_not_reckoned_with():
    assert summarise_tokens([-0.1, NOT_LISTED], [0.9, 0.9]) is None
    assert summarise_tokens([-0.1, -math.inf], [0.9, 0.9]) is None
    assert summarise_tokens([-0.1, -0.2], [0.9, math.nan]).margin is None
    assert summarise_tokens([-0.1, -0.2], None).margin is None


def test_missing_log_probabilities_are_told_in_one_sentence():
    full, partial = summarise_tokens([-0.1], [0.9]), summarise_tokens([-0.1], None)
    assert missing_logprobs([answer(), answer(confidence=full)], "margin") is None
    assert missing_logprobs([], "margin") is None
    assert missing_logprobs([answer(" ")], "margin") is None, "an empty answer has no tokens to tell of"
    assert missing_logprobs([answer(confidence=partial)], "mean_logprob") is None
    said = missing_logprobs([answer(), answer("y")], "margin")
    assert said.startswith("small sent no log-probabilities with its first 2 answers")
    assert "top_logprobs" in missing_logprobs([answer(confidence=partial)], "margin")
    assert "\n" not in said

"""Stated calculations, worked out again."""

import pytest

from cascade.trace import Answer
from cascade.verifiers.arithmetic import ArithmeticScorer, Calculations, check_calculations


@pytest.mark.parametrize(
    ("text", "n", "n_wrong"),
    [
        ("9 eggs * $2/egg = $18", 1, 0),
        ("She makes 9 * 2 = $<<9*2=18>>19", 1, 0),
        ("1,200 - 300 = 900 and 3 x 4 = 13", 2, 1),
        ("(2 + 3) * 4 = 20.00", 1, 0),
        ("20% of it: 20% * 50 = 10", 1, 0),
        ("1/3 + 1/3 = 0.67", 1, 0),
        ("16 - 3 - 4 = 9, then 10 / 4 = 3", 2, 1),
        ("5 + 2 * 5 = 5 + 10 = 15", 1, 0),
        ("2x + 3 = 11", 0, 0),
        ("3r + 5r = 42", 0, 0),
        ("7 / 0 = 3", 0, 0),
        ("no numbers here", 0, 0),
    ],
)
def test_calculations_are_found_and_checked(text: str, n: int, n_wrong: int) -> None:
    assert check_calculations(text) == Calculations(n, n_wrong)


def test_an_answer_without_calculations_has_no_score() -> None:
    answers = [Answer(text, "m", 1, 1, None, "stop") for text in ("2 + 2 = 4. 2 + 3 = 6", "four")]
    scores = ArithmeticScorer().score([], answers)
    assert [score.value for score in scores] == [0.5, None]
    assert [score.reason for score in scores] == ["1 of 2 calculations are wrong", "no calculation to check"]
    assert all(score.cost_usd == 0 for score in scores)


def test_a_long_run_of_digits_and_operators_ends_soon() -> None:
    assert check_calculations("1 + " * 400 + "= 3").n_wrong <= 1
    assert check_calculations("(" * 3000 + "1" + ")" * 3000 + " + 1 = 2").n in (0, 1)

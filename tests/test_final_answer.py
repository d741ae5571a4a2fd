"""What an answer comes down to."""

import pytest

from cascade.final_answer import final_answer


@pytest.mark.parametrize(
    ("text", "final"),
    [
        ("so 3 + 4 = 7.\n#### 7", "7"),
        ("#### 1,200.50", "1200.5"),
        ('{"reasoning": "12 in all", "answer": "$18"}', "18"),
        ('{"answer": 42}', "42"),
        ("thus \\boxed{{982}} holds", "982"),
        ("The answer is (C).", "c"),
        ('{"answer": "[(4, 1), (2, 3)]"}', "[(4,1),(2,3)]"),
        ("It is 5, no, 6 apples", "6"),
        ("I cannot say.", None),
        ("", None),
    ],
)
def test_final_answers(text: str, final: str | None) -> None:
    assert final_answer(text) == final

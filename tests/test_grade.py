import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascade.errors import ConfigError
from cascade.grade import grade


@pytest.mark.parametrize(
    ("answer", "reference", "expected"),
    [
        ('{"a": 1, "b": [2]}', '{"b":[2],"a":1.0}', 1.0),
        ('{"a": 1}', '{"a": 2}', 0.0),
        ('{"a": true}', '{"a": 1}', 0.0),
        ('{"a": [1, 2]}', '{"a": [2, 1]}', 0.0),
        ("  yes ", "yes", 1.0),
        ("yes", "no", 0.0),
        ("yes", '{"a": 1}', 0.0),
        ('{"a": 1}', "yes", 0.0),
        ("NaN", "NaN", 1.0),
    ],
)
def test_json_exact(answer, reference, expected):
    assert grade(answer, reference, "json_exact") == expected


def test_exact_does_not_parse():
    assert grade('{"a":1}', '{"a": 1}', "exact") == 0.0
    assert grade(" x\n", "x", "exact") == 1.0


def test_json_f1_gives_a_part_for_right_fields():
    assert grade('{"a": 1, "b": 2}', '{"a": 1, "b": 3}', "json_f1") == pytest.approx(0.5)
    assert grade('{"a": 1}', '{"a": 1, "b": 3}', "json_f1") == pytest.approx(2 / 3)
    assert grade('{"a": true}', '{"a": 1}', "json_f1") == 0.0
    assert grade('{"a": 1}', '{"a": 1.0}', "json_f1") == 1.0
    assert grade('{"a": 90071992547409921}', '{"a": 90071992547409922}', "json_f1") == 0.0
    assert grade("{}", "{}", "json_f1") == 1.0
    assert grade("{}", '{"a": 1}', "json_f1") == 0.0
    assert grade("words", '{"a": 1}', "json_f1") == 0.0


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(JSON, JSON)
def test_graders_agree_that_equal_is_right_and_stay_within_bounds(first, second):
    import json

    a, b = json.dumps(first), json.dumps(second)
    assert grade(a, json.dumps(first, indent=2, sort_keys=True), "json_exact") == 1.0
    assert grade(a, a, "json_f1") == 1.0
    score = grade(a, b, "json_f1")
    assert 0.0 <= score <= 1.0
    if grade(a, b, "json_exact") == 1.0:
        assert score == 1.0


def test_unknown_kind():
    with pytest.raises(ConfigError, match="json_exact"):
        grade("a", "a", "rouge")

from pathlib import Path

import pytest

from cascade.cost import (
    Price,
    PriceTable,
    blog_break_even_rate,
    blog_cost,
    break_even_rate,
    escalation_floor,
    sequential_cost,
)
from cascade.errors import ConfigError
from cascade.trace import Answer


def answer(model, tokens_in=1200, tokens_out=350):
    return Answer("x", model, tokens_in, tokens_out, None, "stop")


def test_worked_example_of_the_design():
    small = Price(3, 15).usd(1200, 350)
    large = Price(10, 50).usd(1200, 350)
    assert small == pytest.approx(0.00885)
    assert large == pytest.approx(0.0295)
    assert blog_break_even_rate(small, small, large) == pytest.approx(0.538, abs=5e-4)
    assert break_even_rate(small, small, large) == pytest.approx(0.400, abs=5e-4)
    assert break_even_rate(small, 0.0, large) == pytest.approx(0.700, abs=5e-4)


def test_at_break_even_the_cascade_costs_what_the_flagship_costs():
    small, verifier, large = 0.001, 0.0005, 0.02
    assert sequential_cost(small, verifier, large, break_even_rate(small, verifier, large)) == pytest.approx(large)
    assert blog_cost(small, verifier, large, blog_break_even_rate(small, verifier, large)) == pytest.approx(large)
    assert sequential_cost(small, verifier, large, 0.3) > blog_cost(small, verifier, large, 0.3)


def test_a_cascade_that_cannot_pay_has_break_even_zero():
    assert break_even_rate(0.03, 0.0, 0.02) == 0.0
    with pytest.raises(ConfigError, match="positive"):
        break_even_rate(0.01, 0.0, 0.0)


def test_escalation_floor():
    assert escalation_floor(0.24, 0.05) == pytest.approx(0.2)
    assert escalation_floor(0.03, 0.05) == 0.0
    with pytest.raises(ConfigError):
        escalation_floor(0.2, 1.0)


def test_unknown_tokens_make_the_cost_unknown_and_unknown_models_are_named():
    table = PriceTable(prices={"a": Price(3, 15), "b": Price(1, 2)})
    assert table.cost_usd(answer("a")) == pytest.approx(0.00885)
    assert table.cost_usd(answer("a", tokens_out=None)) is None
    with pytest.raises(ConfigError, match=r"'c'.*known: a, b"):
        table.cost_usd(answer("c"))


def test_the_shipped_table_reads_and_dates_every_price():
    table = PriceTable.from_yaml(Path(__file__).parents[1] / "configs" / "prices.yaml")
    assert all(price.date and price.source for price in table.prices.values())
    student, flagship = table.price("lab-student"), table.price("lab-flagship")
    assert flagship.usd(1000, 100) / student.usd(1000, 100) == pytest.approx(25)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("prices: {a: {input_per_million: -1, output_per_million: 1}}", "prices.a.input_per_million"),
        ("prices: {a: {input_per_million: 1}}", "output_per_million"),
        ("prices: {a: {input_per_million: 1, output_per_million: 1, currency: EUR}}", "currency"),
        ("prices: [", "not YAML"),
        ("", "wrong at its top"),
    ],
)
def test_a_wrong_table_is_a_config_error(tmp_path, content, message):
    path = tmp_path / "prices.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=message):
        PriceTable.from_yaml(path)
    with pytest.raises(ConfigError, match="cannot read"):
        PriceTable.from_yaml(tmp_path / "none.yaml")

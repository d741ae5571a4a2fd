from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from cascade.cost import (
    ComputePrices,
    Price,
    PriceTable,
    blog_break_even_rate,
    blog_cost,
    break_even_rate,
    cost_per_completed,
    escalation_floor,
    payback,
    ratio_to_flagship,
    sequential_cost,
    uncharged_cost,
)
from cascade.errors import ConfigError
from cascade.trace import Answer


def answer(model, tokens_in=1200, tokens_out=350):
    return Answer("x", model, tokens_in, tokens_out, None, "stop")


def test_worked_example_of_the_design():
    small = Price(3, 15).usd(1200, 350)
    large = Price(10, 50).usd(1200, 350)
    assert f"{small:.5f}" == "0.00885"
    assert f"{large:.4f}" == "0.0295"
    assert f"{blog_break_even_rate(small, small, large):.4f}" == "0.5385"
    assert f"{break_even_rate(small, small, large):.4f}" == "0.4000"
    assert f"{break_even_rate(small, 0.0, large):.4f}" == "0.7000"
    assert f"{sequential_cost(small, small, large, 0.25):.6f}" == "0.025075"
    assert f"{blog_cost(small, small, large, 0.25):.6f}" == "0.018437"  # 26 % less than is paid


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
    for entries in table.prices.values():
        assert all(price.source and (price.date or "read 2026-" in price.source) for price in entries)
    assert table.compute.usd(3600, "gpu") == table.compute.usd_per_gpu_hour > 0
    student, flagship = table.price("lab-student"), table.price("lab-flagship")
    assert flagship.usd(1000, 100) / student.usd(1000, 100) == pytest.approx(25)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("prices: {a: {input_per_million: -1, output_per_million: 1}}", "prices.a.0.input_per_million"),
        ("prices: {a: {input_per_million: 1}}", "output_per_million"),
        ("prices: {a: {input_per_million: 1, output_per_million: 1, currency: EUR}}", "currency"),
        ("prices: {a: [{input_per_million: 1, output_per_million: 1}]}", "list of a needs `from`"),
        ("prices: {a: [{from: soon, input_per_million: 1, output_per_million: 1}]}", "prices.a.0.date"),
        ("prices: {a: 3}", "a needs a price or a list of dated prices"),
        ("prices: {a: []}", "a needs a price or a list of dated prices"),
        ("prices: {}\ncompute: {usd_per_gpu_hour: -1}", "compute.usd_per_gpu_hour"),
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


DATED = """
prices:
  flagship:
    - {from: 2026-06-01, input_per_million: 2, output_per_million: 8, source: price list}
    - {from: 2026-01-01, input_per_million: 4, output_per_million: 16, cached_input_per_million: 1}
  flat: {input_per_million: 1, output_per_million: 1, date: 2026-11-24, source: bill}
"""


def test_the_price_in_force_at_the_time_is_used(tmp_path):
    path = tmp_path / "prices.yaml"
    path.write_text(DATED)
    table = PriceTable.from_yaml(path)
    used = answer("flagship", 1_000_000, 0)
    assert table.cost_usd(used, datetime(2026, 5, 31, 23, 59, tzinfo=UTC)) == 4
    assert table.cost_usd(used, datetime(2026, 6, 1, tzinfo=UTC)) == 2
    # Days are those of UTC, wherever the clock that wrote the trace stood.
    assert table.cost_usd(used, datetime(2026, 6, 1, 1, tzinfo=timezone(timedelta(hours=2)))) == 4
    assert table.cost_usd(used) == 2  # the newest
    assert table.cost_usd(answer("flat", 1_000_000, 0), datetime(2020, 1, 1, tzinfo=UTC)) == 1
    with pytest.raises(
        ConfigError, match=r"'flagship' on 2025-12-31 in .*prices.yaml: its first entry is from 2026-01"
    ):
        table.cost_usd(used, datetime(2025, 12, 31, tzinfo=UTC))
    with pytest.raises(
        ConfigError, match=r"no price for model 'new' in .*prices.yaml: add input_per_million .*known: fl"
    ):
        table.price("new")


def test_cached_prompt_tokens_have_their_own_price():
    assert Price(4, 16, cached_input_per_million=1).usd(1000, 0, tokens_cached=400) == pytest.approx(0.0028)
    assert Price(4, 16).usd(1000, 0, tokens_cached=400) == pytest.approx(0.004)


def test_a_failed_query_is_paid_for_but_not_completed():
    assert cost_per_completed([0.01, 0.02, 0.03], [True, False, True]) == pytest.approx(0.03)
    assert cost_per_completed([0.01, None], [True, True]) is None
    assert cost_per_completed([0.01], [False]) is None
    with pytest.raises(ValueError, match="zip"):
        cost_per_completed([0.01], [])


def test_the_uncharged_account_flatters_by_the_cheap_calls_of_escalations():
    small, large, rate = 1.0, 3.02, 0.537
    assert 1 - uncharged_cost(small, large, rate) / large == pytest.approx(0.31, abs=5e-4)  # UCCI's figure
    assert 1 - sequential_cost(small, 0, large, rate) / large == pytest.approx(0.132, abs=5e-4)
    assert ratio_to_flagship(0.5, 2.0) == 0.25
    assert ratio_to_flagship(None, 2.0) is ratio_to_flagship(0.5, 0.0) is None


def test_a_run_pays_for_itself_or_says_why_not():
    assert payback(1.0, 0.003).queries == 334
    assert payback(0.3, 0.1).queries == 3
    assert payback(0.0, 0.1).queries == 0
    assert (payback(1.0, 0.0).queries, payback(1.0, 0.0).why) == (None, "never: nothing is saved")
    assert payback(None, 0.1).why == "unknown: the run's cost is not known"
    assert payback(1.0, None).why == "unknown: the saving per query is not known"


def test_compute_costs_by_the_hour_or_are_unknown():
    assert ComputePrices(usd_per_gpu_hour=2.5).usd(1800, "gpu", units=2) == pytest.approx(2.5)
    assert ComputePrices(usd_per_gpu_hour=2.5).usd(1800, "cpu") is None

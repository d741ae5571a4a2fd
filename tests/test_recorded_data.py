"""The public sets of recorded answers, where they are there."""

import json
from pathlib import Path

import pytest

from benchmarks.recorded_data import DATA, SETS, load_set
from cascade.cost import PriceTable
from cascade.errors import InputError
from cascade.final_answer import final_answer
from cascade.recorded import Usage

PRICES = PriceTable.from_yaml(Path(__file__).parent.parent / "configs" / "prices-recorded.yaml")


def loaded(name: str):
    try:
        return load_set(name)
    except InputError as error:
        pytest.skip(f"{name}: {error}")


def test_routerarena_usd_is_recomputed_from_tokens_within_one_per_cent() -> None:
    recording = loaded("routerarena")
    assert recording.usage(recording.models) == (Usage.RECORDED,)
    for model in recording.models:
        rows = list(recording.answers[model].values())
        ours, theirs = [PRICES.cost_usd(row.answer) for row in rows], [row.usd for row in rows]
        assert len(rows) == 809
        assert sum(ours) == pytest.approx(sum(theirs), rel=0.01)
        assert sum(abs(a - b) > 0.01 * b for a, b in zip(ours, theirs, strict=True)) == 0


def test_prices_agree_with_the_cited_table() -> None:
    path = DATA / "routerarena" / "model_cost.json"
    if not path.exists():
        pytest.skip(f"no {path}")
    cited = json.loads(path.read_text())
    checked = 0
    for model in PRICES.prices:
        price = PRICES.price(model)
        assert price.date is not None and price.source, model
        if price.source.startswith("[arena]"):
            row = cited[price.source.removeprefix("[arena] ").split(";")[0]]
            assert price.input_per_million == row["input_token_price_per_million"], model
            assert price.output_per_million == row["output_token_price_per_million"], model
            checked += 1
    assert checked >= 9


@pytest.mark.parametrize(
    ("name", "model", "least"), [("gsm8k", "gpt-4o-2024-08-06", 0.995), ("crux", "gpt-4o-2024-08-06", 0.93)]
)
def test_recorded_labels_agree_with_the_sets_own_rule(name, model, least) -> None:
    recording = loaded(f"zeroeval-{name}")
    rows = [(query, recording.answers[model][query.id]) for query in recording.queries]
    same = [
        (final_answer(row.answer.text) == final_answer(f"#### {query.reference}")) == (row.grade == 1)
        for query, row in rows
    ]
    assert sum(same) / len(same) >= least


def test_every_model_of_every_set_has_a_price() -> None:
    for name in SETS:
        if name != "routellm-mmlu":
            recording = loaded(name)
            assert all(PRICES.price(model) for model in recording.models)


def test_an_unknown_set_lists_the_known() -> None:
    with pytest.raises(InputError, match="use one of zeroeval-gsm8k"):
        load_set("zeroeval")

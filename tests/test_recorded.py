"""Recorded answers as tiers, and `replay --recorded` end to end."""

import json
from pathlib import Path

import pytest
from recorded_world import CHEAP, FLAGSHIP, PEER, PRICES, rows, write
from typer.testing import CliRunner

from cascade.cascade import Cascade
from cascade.cost import PriceTable
from cascade.errors import InputError, TierError
from cascade.recorded import Usage, price_usd, read_recording, recording_from_rows
from cascade.sql_store import SqlTraceStore
from cascade.tiers import Failure
from flows.cli import app

RUNNER = CliRunner()


@pytest.fixture
def prices(tmp_path: Path) -> Path:
    path = tmp_path / "prices.yaml"
    path.write_text(PRICES)
    return path


def replay(path: Path, prices: Path, *more: str):
    names = ("--cheap", CHEAP, "--flagship", FLAGSHIP) if "--cheap" not in more else ()
    out = ("--out", str(prices.parent / "out"), "--prices", str(prices))
    return RUNNER.invoke(app, ["replay", "--recorded", str(path), *names, *out, *more], env={"COLUMNS": "200"})


def test_a_recorded_model_serves_as_cheap_tier_and_as_flagship(tmp_path, prices) -> None:
    recording = read_recording(write(tmp_path / "r.jsonl", rows(20)))
    cascade = Cascade(
        recording.tier(CHEAP), None, recording.tier(FLAGSHIP), PriceTable.from_yaml(prices), "v", audit_rate=0
    )
    store = SqlTraceStore(tmp_path / "traces.sqlite")
    report = cascade.serve(recording.shared([CHEAP, FLAGSHIP]), store, progress=False)
    traces = store.between(None, None)
    store.close()
    assert (report.n, report.n_escalated) == (20, 20)  # no verifier: all escalate
    assert all(t.flagship.text == recording.answers[FLAGSHIP][t.query.id].answer.text for t in traces)
    table = PriceTable.from_yaml(prices)
    both = [recording.answers[m][q.id] for m in (CHEAP, FLAGSHIP) for q in recording.queries]
    assert report.cost_usd == pytest.approx(sum(price_usd(row, table) for row in both))


def test_a_missing_answer_is_one_clear_sentence() -> None:
    recording = recording_from_rows("r", [row for row in rows(5) if (row["id"], row["model"]) != ("q3", FLAGSHIP)])
    with pytest.raises(TierError, match=r"no answer of large is recorded for query 'q3'.*1 of 5"):
        recording.tier(FLAGSHIP).answer(recording.queries)
    outcomes = {q.id: o for q, o in recording.tier(FLAGSHIP).iter_outcomes(recording.queries)}
    assert isinstance(outcomes["q3"], Failure) and not outcomes["q3"].maybe_billed
    assert sum(isinstance(o, Failure) for o in outcomes.values()) == 1


def test_token_counts_are_recorded_estimated_or_unknown() -> None:
    asked = {"id": "a", "query": "x" * 41, "model": "m"}
    known = recording_from_rows("r", [asked | {"text": "ok", "tokens_in": 7, "tokens_out": 3, "usd": 0.5}])
    guessed = recording_from_rows("r", [asked | {"text": "y" * 9}])
    label = recording_from_rows("r", [asked | {"text": None, "grade": 0.5}])
    assert known.usage(["m"]) == (Usage.RECORDED,)
    assert guessed.usage(["m"]) == (Usage.CHARACTERS,)
    answer = guessed.answers["m"]["a"].answer
    assert (answer.tokens_in, answer.tokens_out) == (11, 3)
    assert label.answers["m"]["a"].answer.tokens_out is None  # no text, no count: the cost is unknown
    table = PriceTable.model_validate({"prices": {"m": {"input_per_million": 1, "output_per_million": 1}}})
    assert price_usd(label.answers["m"]["a"], table) is None
    assert price_usd(known.answers["m"]["a"], table) == 0.5


def test_unusable_rows_are_kept_with_their_reasons(tmp_path) -> None:
    good = rows(1)
    bad = [{"id": "b", "query": "?", "model": "m"}, {"id": "c", "query": "?", "model": "m", "text": "x", "grade": 3}]
    path = write(tmp_path / "r.jsonl", [*good, *bad, {"id": "d", "model": "m", "text": "x"}])
    with path.open("a") as file:
        file.write("not json\n")
    found = {row.line_number: row.reason for row in read_recording(path).rejected}
    assert "no text" in found[4] and "grade is 3" in found[5] and "holds its query" in found[6]
    assert "not JSON" in found[7] and len(found) == 4


def test_conflicting_duplicates_are_refused_and_equal_ones_are_not(tmp_path) -> None:
    twice = rows(3)
    assert len(read_recording(write(tmp_path / "same.jsonl", [*twice, twice[1]])).queries) == 3
    other = twice[1] | {"text": "something else"}
    with pytest.raises(InputError, match="two different answers of other-small to query 'q0', on lines 2 and 10"):
        read_recording(write(tmp_path / "r.jsonl", [*twice, other]))


def test_a_folder_is_one_record_and_times_order_the_queries(tmp_path) -> None:
    for name, day in (("a", 9), ("b", 3)):
        row = {"id": name, "query": "?", "model": "m", "text": "x", "grade": 1, "time": f"2026-01-0{day}"}
        write(tmp_path / f"{name}.jsonl", [row])
    recording = read_recording(tmp_path)
    assert [q.id for q in recording.queries] == ["b", "a"] and recording.timed
    with pytest.raises(InputError, match="holds no"):
        read_recording(write(tmp_path / "x" if (tmp_path / "x").mkdir() else tmp_path / "x" / "n.txt", []).parent)


def test_replay_prints_and_draws_the_frontier_and_the_cascade_serves_it(tmp_path, prices) -> None:
    done = replay(write(tmp_path / "r.jsonl", rows()), prices, "--peer", PEER, "--router")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "out" / "frontier.png").read_bytes().startswith(b"\x89PNG")
    result = json.loads((tmp_path / "out" / "frontier.json").read_text())
    assert (result["n_fit"], result["n_calibration"], result["n_test"]) == (100, 50, 50)
    chosen = next(p for p in result["policies"] if p["name"] == result["chosen"])
    # The tables' own account and the cascade's, over real traces, are the same.
    assert 1000 * result["served"]["cost_usd"] / 50 == pytest.approx(chosen["usd_per_1000"])
    assert result["served"]["n_escalated"] / 50 == pytest.approx(chosen["escalated"])
    assert result["served_quality"] / result["qualities"][1] == pytest.approx(chosen["quality"])
    assert chosen["saving"]["low"] > 0 and chosen["cost"] < 0.9
    for words in ("always flagship", "random mixing", "oracle", "estimated from characters", "used once"):
        assert words in done.output


def test_a_record_without_times_is_priced_at_the_newest_of_dated_prices(tmp_path, prices) -> None:
    for name in (CHEAP, PEER, FLAGSHIP):
        old = prices.read_text()
        entry = next(line for line in old.splitlines() if line.startswith(f"  {name}:"))
        price = entry.partition("{")[2]
        dated = f"  {name}:\n    - {{from: 2024-01-01, {price}\n    - {{from: 2023-01-01, input_per_million: 99, output_per_million: 99}}"  # noqa: E501
        prices.write_text(old.replace(entry, dated))
    done = replay(write(tmp_path / "r.jsonl", rows(60)), prices, "--verifier", "rules")
    assert done.exit_code == 0, done.output
    result = json.loads((tmp_path / "out" / "frontier.json").read_text())
    chosen = next(p for p in result["policies"] if p["name"] == result["chosen"])
    assert 1000 * result["served"]["cost_usd"] / result["n_test"] == pytest.approx(chosen["usd_per_1000"])


def test_replay_serves_what_any_single_verifier_chose(tmp_path, prices) -> None:
    path = write(tmp_path / "r.jsonl", rows(60))
    for name in ("rules", "peers"):
        done = replay(path, prices, "--peer", PEER, "--verifier", name, "--quality", "0.9")
        assert done.exit_code == 0, done.output
        result = json.loads((tmp_path / "out" / "frontier.json").read_text())
        chosen = next(p for p in result["policies"] if p["name"] == result["chosen"])
        assert result["chosen"].startswith(name)
        assert 1000 * result["served"]["cost_usd"] / result["n_test"] == pytest.approx(chosen["usd_per_1000"])


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({}, ("--cheap", "tiny", "--flagship", FLAGSHIP), "'tiny' in r.jsonl; use one of those recorded: large"),
        ({}, ("--verifier", "oracle"), "no verifier 'oracle' for this record; use auto or one of: rules"),
        ({}, ("--quality", "95"), "quality is 95"),
        ({"correct": None, "grade": None}, (), "carry no grade"),
        ({"text": None, "grade": 1}, ("--verifier", "rules"), "is unknown: record tokens_in and tokens_out"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, prices, change, options, message) -> None:
    content = [{k: v for k, v in (row | change).items() if k != "correct" or not change} for row in rows(60)]
    done = replay(write(tmp_path / "r.jsonl", content), prices, *options)
    assert done.exit_code != 0
    assert message in str(done.exception), done.exception
    assert not (tmp_path / "out").exists()


def test_a_record_without_texts_can_only_be_routed(tmp_path, prices) -> None:
    content = [row | {"text": None, "tokens_in": 50, "tokens_out": 1} for row in rows(80)]
    path = write(tmp_path / "r.jsonl", content)
    refused = replay(path, prices, "--verifier", "rules")
    assert "no text of small is recorded" in str(refused.exception)
    done = replay(path, prices, "--router")
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "out" / "frontier.json").read_text())["chosen"] in ("router", "router per USD")


def test_recorded_needs_both_models(tmp_path, prices) -> None:
    path = write(tmp_path / "r.jsonl", rows(60))
    done = RUNNER.invoke(app, ["replay", "--recorded", str(path), "--cheap", CHEAP])
    assert done.exit_code != 0 and "--recorded needs --cheap and --flagship" in str(done.exception)
    done = RUNNER.invoke(app, ["replay", "--cheap", CHEAP])
    assert done.exit_code != 0 and "give their file with --recorded" in str(done.exception)

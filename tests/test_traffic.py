import json
from datetime import UTC, datetime

import pytest
from loopback import make_query

from cascade.errors import InputError
from cascade.trace import query_to_dict
from cascade.traffic import read_traffic, write_rejected, write_traffic


def test_written_traffic_reads_back_equal_and_in_order_of_time(tmp_path):
    queries = [make_query(n, schema={"type": "object"}, reference="{}", user="u") for n in (3, 1, 2)]
    write_traffic(tmp_path / "traffic.jsonl", queries)
    found = read_traffic(tmp_path / "traffic.jsonl")
    assert found.queries == sorted(queries, key=lambda query: query.time)
    assert found.rejected == []


def test_unknown_keys_and_blank_lines_are_ignored_and_naive_times_are_utc(tmp_path):
    row = query_to_dict(make_query(1)) | {"time": "2026-03-01T10:00:00", "extra": 1}
    (tmp_path / "t.jsonl").write_text("\n\n" + json.dumps(row) + "\n\n")
    assert read_traffic(tmp_path / "t.jsonl").queries[0].time == datetime(2026, 3, 1, 10, tzinfo=UTC)


BAD_ROWS = [
    ("{not json", "not JSON"),
    ('["a list"]', "not a JSON object but list"),
    ('{"id": "a", "messages": [{"role": "user", "content": "x"}]}', "missing or empty: time"),
    ('{"id": "a", "time": "2026-03-01T00:00:00Z", "messages": []}', "missing or empty: messages"),
    ('{"id": "a", "time": "soon", "messages": [{"role": "user", "content": "x"}]}', "'soon' is not an ISO 8601"),
    ('{"id": "a", "time": "2026-03-01T00:00:00Z", "messages": [{"role": "user", "content": ["x"]}]}', "not text"),
    ('{"id": "a", "time": "2026-03-01T00:00:00Z", "messages": [{"role": "user", "content": " "}]}', "no user message"),
    ('{"id": "a", "time": "2026-03-01T00:00:00Z", "messages": [{"role": "user"}]}', "role and content"),
    (
        '{"id": "a", "time": "2026-03-01T00:00:00Z", "schema": "x", "messages": [{"role": "user", "content": "x"}]}',
        "schema is str, not dict",
    ),
]


@pytest.mark.parametrize(("line", "reason"), BAD_ROWS)
def test_a_bad_row_is_kept_with_its_line_number_and_reason(tmp_path, line, reason):
    good = json.dumps(query_to_dict(make_query(1)))
    (tmp_path / "t.jsonl").write_text(f"{good}\n{line}\n")
    found = read_traffic(tmp_path / "t.jsonl")
    assert [query.id for query in found.queries] == ["q0001"]
    assert [row.line_number for row in found.rejected] == [2]
    assert reason in found.rejected[0].reason
    assert found.rejected[0].text == line


def test_a_repeated_id_is_rejected(tmp_path):
    write_traffic(tmp_path / "t.jsonl", [make_query(1), make_query(1)])
    found = read_traffic(tmp_path / "t.jsonl")
    assert len(found.queries) == 1
    assert "already seen on line 1" in found.rejected[0].reason


def test_bytes_that_are_not_text_are_rejected_and_can_be_written_out(tmp_path):
    (tmp_path / "t.jsonl").write_bytes(b'{"id": "\xff"}\n')
    rejected = read_traffic(tmp_path / "t.jsonl").rejected
    assert rejected[0].reason == "not UTF-8 text"
    write_rejected(tmp_path / "deep" / "rejected.jsonl", rejected)
    row = json.loads((tmp_path / "deep" / "rejected.jsonl").read_text())
    assert (row["line_number"], row["reason"]) == (1, "not UTF-8 text")


def test_a_missing_file_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        read_traffic(tmp_path / "nothing.jsonl")


def test_a_row_nested_without_end_is_rejected(tmp_path):
    row = json.dumps(query_to_dict(make_query(1)))
    (tmp_path / "t.jsonl").write_text(row[:-1] + ', "x": ' + "[" * 100_000 + "]" * 100_000 + "}\n")
    assert [row.reason for row in read_traffic(tmp_path / "t.jsonl").rejected] == ["nested too deeply"]

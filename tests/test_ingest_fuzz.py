"""Ten thousand malformed rows in each format: none crashes, each is rejected with its reason, every good row is in."""

import copy
import json
import random
from contextlib import closing

import pytest
from test_generations import LANGFUSE_BLOB, LITELLM, MODELS, PRICES, langfuse_call, litellm_call
from test_ingest import row as openai_row

from cascade.errors import ConfigError
from cascade.ingest import ingest_log
from cascade.sql_store import SqlTraceStore

N_BAD, N_GOOD = 10_000, 400
WRONG = (5, -1, 1.5, True, [], {}, ["x"], {"x": 1}, "", "x", [[]], [None], {"content": 3})


def good_rows(log_format, number):
    """The lines of one good query, and its id."""
    if log_format == "openai":
        return [openai_row(f"good-{number}", number % 2 == 0)], f"good-{number}"
    make = litellm_call if log_format == "litellm" else langfuse_call
    calls = [make(f"good-{number}", "small", minute=number)]
    if number % 2 == 0:
        calls.append(make(f"good-{number}", "large", minute=number))
    return calls, f"good-{number}"


REQUIRED = {
    "openai": ("id", "time", "messages", "escalated", "cheap"),
    "litellm": ("trace_id", "startTime", "messages", "response", "model"),
    "langfuse": ("trace_id", "start_time", "input", "output", "provided_model_name"),
}
FITS = {  # wrong values that are right in their place
    "id": (5, -1, "x"),
    "trace_id": ("x",),
    "model": ("x",),
    "provided_model_name": ("x",),
    "escalated": (True,),
    "messages": ("x",),
    "input": ("x",),
    "response": ("", "x", ["x"]),
    "output": ("", "x", ["x"]),
}


def spoil(log_format, rng, number):
    """One malformed line, as bytes without a line break."""
    line = copy.deepcopy(good_rows(log_format, number)[0][0])
    name = rng.choice(REQUIRED[log_format])
    text = json.dumps(line)
    kind = rng.choice(KINDS)
    if kind == "truncated":
        return text[: rng.randrange(1, len(text) - 1)].encode()
    if kind == "wrong type":
        fits = FITS.get(name, ()) if not (log_format == "openai" and name == "messages") else ()
        wrong = [value for value in WRONG if not any(value == f and type(value) is type(f) for f in fits)]
        if name == "startTime":
            wrong = [value for value in wrong if isinstance(value, str | list | dict | bool) or value < 0]
        line[name] = rng.choice(wrong)
        line.pop("model_group", None)
    elif kind == "missing":
        del line[name]
        line.pop("session_id", None)
        line.pop("model_group", None)
    elif kind == "null":
        line[name] = None
        line.pop("session_id", None)
        line.pop("model_group", None)
    elif kind == "not a number":
        value = rng.choice(["NaN", "Infinity", "-Infinity", "1e999"])
        return text.replace("{", f'{{"extra": {value}, ', 1).encode()
    elif kind == "huge number":
        return text.replace("{", '{"extra": 1' + "0" * rng.choice([30, 400, 5000]) + ", ", 1).encode()
    elif kind == "lone surrogate":
        line["extra"] = rng.choice(["\ud800", "a\udfffb", ["\udc00"], {"\ud83d": 1}])
    elif kind == "invalid UTF-8":
        at = rng.randrange(1, len(text) - 1)
        return text[:at].encode() + rng.choice([b"\xff", b"\xc3(", b"\xed\xa0\x80", b"\x80"]) + text[at:].encode()
    elif kind == "deep":
        depth = rng.choice([100, 900, 1000, 5000])
        nest = "[" * depth + "]" * depth
        return rng.choice(["[" * depth, nest, f'{text[:-1]}, "x": {nest}}}']).encode()
    elif kind == "no object":
        return rng.choice([b"[]", b"3", b"null", b'"text"', b"true", b"hello", b"{", b"}", b"\x00", b"\xef\xbb\xbf["])
    return json.dumps(line).encode()


KINDS = (
    *("truncated", "wrong type", "missing", "null", "not a number", "huge number"),
    *("lone surrogate", "invalid UTF-8", "deep", "no object"),
)


@pytest.mark.parametrize("log_format", ["openai", "litellm", "langfuse"])
def test_malformed_rows_are_rejected_and_good_ones_are_in(log_format, tmp_path):
    rng = random.Random(log_format)
    lines = [(spoil(log_format, rng, 1000 + n), None) for n in range(N_BAD - 6)]
    megabyte = "x" * 2**20
    lines += [(megabyte.encode(), None), (json.dumps({"id": megabyte}).encode(), None)] * 3
    rng.shuffle(lines)
    wanted = set()
    for number in range(N_GOOD):
        calls, name = good_rows(log_format, number)
        wanted.add(name)
        at = number * len(lines) // N_GOOD
        lines[at:at] = [(json.dumps(call).encode(), name) for call in calls]
    log, rejected = tmp_path / "log.jsonl", tmp_path / "rejected.jsonl"
    log.write_bytes(b"".join(line + b"\n" for line, _ in lines))
    with closing(SqlTraceStore(tmp_path / "traces.db")) as store:
        done = ingest_log(log, store, PRICES, rejected, log_format, MODELS, complete=True)
        assert {name.split(":")[0] for name in store.ids()} == wanted
        assert done.n_new == N_GOOD
        assert done.n_rejected == N_BAD
        found = [json.loads(line) for line in rejected.read_text().splitlines()]
        assert all(row["reason"] for row in found)
        bad = [number for number, (_, name) in enumerate(lines, start=1) if name is None]
        assert sorted(row["line_number"] for row in found) == bad
        kept = rejected.read_bytes()
        again = ingest_log(log, store, PRICES, rejected, log_format, MODELS, complete=True)
        assert (again.n_new, again.n_known, again.n_rejected) == (0, 0, 0)
        assert rejected.read_bytes() == kept
        assert store.count() == N_GOOD


def _mutate(value, rng):
    """A random value somewhere inside a row."""
    spots = []

    def walk(inner):
        keys = inner.keys() if isinstance(inner, dict) else range(len(inner))
        for key in list(keys):
            spots.append((inner, key))
            if isinstance(inner[key], dict | list):
                walk(inner[key])

    walk(value)
    holder, key = rng.choice(spots)
    odd = (
        None,
        0,
        -1,
        2**62,
        1e308,
        -1e308,
        True,
        "",
        "\0",
        "small",
        "☃",
        [],
        {},
        [{}],
        [[1]],
        {"a": None},
        {"x": [0.1]},
    )
    holder[key] = copy.deepcopy(rng.choice(odd))


@pytest.mark.parametrize("log_format", ["openai", "litellm", "langfuse"])
def test_no_value_anywhere_crashes_the_reader(log_format, tmp_path):
    """Rows with one to three random values in random places: each is taken, left out or rejected."""
    rng = random.Random(f"{log_format} anywhere")
    samples = {"openai": [openai_row("x", True)], "litellm": list(LITELLM), "langfuse": list(LANGFUSE_BLOB)}
    rows = []
    for number in range(3000):
        row = copy.deepcopy(rng.choice(samples[log_format]))
        row["id"] = f"x{number}"
        for _ in range(rng.randint(1, 3)):
            _mutate(row, rng)
        rows.append(row)
    log = tmp_path / "log.jsonl"
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with closing(SqlTraceStore(tmp_path / "traces.db")) as store:
        try:
            done = ingest_log(log, store, EVERY_PRICE, tmp_path / "r.jsonl", log_format, MODELS, complete=True)
        except ConfigError as error:
            pytest.fail(str(error))
        assert done.n_new == store.count() == len(store.between(None, None))
        if log_format == "openai":
            assert done.n_new + done.n_known + done.n_rejected == 3000


class _EveryPrice(type(PRICES)):
    def price(self, model, at=None):
        return PRICES.price("small")


EVERY_PRICE = _EveryPrice(prices={})

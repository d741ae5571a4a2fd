"""What only a lake has: its log, compaction, dead writers' files, other tools that read it."""

import json
import os
import time
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from test_store import DAY, START, accepted, at, ids, make_trace

from cascade.errors import ConfigError, StoreError
from cascade.lake import COMPACT_AT, LakeTraceStore
from cascade.lake_ids import IdIndex
from cascade.lake_log import CHECKPOINT, ORPHAN_AGE_S, Change, LakeFile
from cascade.store import to_row


@pytest.fixture
def lake(tmp_path):
    return LakeTraceStore(tmp_path / "lake")


def parquet_files(lake):
    return sorted(str(path) for path in Path(lake.root).rglob("*.parquet"))


def test_files_lie_by_day_and_escalations_together(lake):
    lake.add([accepted(1), make_trace(2), accepted(3), at(4, START + DAY)])
    first, second = lake.files()
    assert "/day=2026-03-01/" in first and "/day=2026-03-02/" in second
    assert pq.read_table(first).column("escalated").to_pylist() == [False, False, True]
    assert parquet_files(lake) == [first, second]


def test_a_day_of_many_batches_is_put_together(lake):
    for number in range(COMPACT_AT + 3):
        lake.add([make_trace(number)])
    assert len(lake.files()) < COMPACT_AT
    assert parquet_files(lake) == sorted(lake.files()), "what was put together is deleted"
    many = len(lake.files())
    assert lake.compact() == many - 1
    assert len(lake.files()) == 1
    assert ids(lake.between(None, None)) == [f"q{n:04d}" for n in range(COMPACT_AT + 3)]


def test_opening_reads_the_log_from_its_last_whole_list(lake, tmp_path):
    n = 2 * CHECKPOINT + 7
    for number in range(n):
        lake.add([at(number, START + number * DAY)])
    logs = sorted((tmp_path / "lake" / "_log").iterdir())
    assert [path.stem for path in logs] == [f"{number:020d}" for number in range(n)]
    for path in logs[: 2 * CHECKPOINT]:
        path.unlink()
    with closing(LakeTraceStore(tmp_path / "lake")) as again:
        assert again.count() == n
        assert again.add([at(0, START), at(n, START)]) == 1


def test_a_file_that_no_commit_names_is_not_seen_and_later_swept(lake):
    lake.add([make_trace(1)])
    dead = lake._write([{**_row(), "query_id": "dead"}])
    path = Path(lake.root, dead[0].path)
    assert lake.ids() == {"q0001"}
    lake.compact()
    assert path.exists(), "it may be a living writer's"
    old = time.time() - ORPHAN_AGE_S - 1
    os.utime(path, (old, old))
    lake.compact()
    assert not path.exists()
    assert lake.between(None, None) == [make_trace(1)]


def _row():
    return to_row(make_trace(5))


def test_a_reader_whose_files_were_put_together_reads_the_new_ones(lake, tmp_path):
    lake.add([make_trace(1)])
    reader = LakeTraceStore(tmp_path / "lake")
    lake.add([make_trace(2)])
    reader._log.refresh()
    stale = dict(reader._log.files)
    lake.compact()
    assert not any(Path(lake.root, path).exists() for path in stale)
    assert ids(reader.between(None, None)) == ["q0001", "q0002"]


def test_a_lost_file_and_a_damaged_commit_are_named(lake, tmp_path):
    lake.add([make_trace(1)])
    Path(lake.files()[0]).unlink()
    with pytest.raises(StoreError, match="lacks a file that its log names"):
        lake.between(None, None)
    (tmp_path / "lake" / "_log" / f"{0:020d}.json").write_text('{"add": 5')
    with pytest.raises(StoreError, match="is no commit of a lake"):
        LakeTraceStore(tmp_path / "lake")


def test_a_second_commit_of_one_number_loses(lake, tmp_path):
    """Two stores that looked at the same time: the second sees the first one's traces before it commits."""
    other = LakeTraceStore(tmp_path / "lake")
    assert lake.add([make_trace(1), make_trace(2)]) == 2
    calls = []

    def change():
        calls.append(other.known(["q0001"]))
        if len(calls) == 1:
            lake.add([make_trace(7)])  # in between
        rows = [{**_row(), "query_id": "q0009"}]
        return Change(other._write(rows)), 1

    assert other._log.commit(change) == 1
    assert len(calls) == 2, "the overtaken commit was planned anew"
    assert lake.ids() == {"q0001", "q0002", "q0007", "q0009"}
    assert parquet_files(lake) == sorted(lake.files()), "the overtaken attempt's file is gone"


def test_commits_are_whole_json(lake, tmp_path):
    lake.add([make_trace(1), at(2, START + DAY)])
    content = json.loads((tmp_path / "lake" / "_log" / f"{0:020d}.json").read_text())
    assert [file["n"] for file in content["add"]] == [1, 1] and content["remove"] == []
    assert len(content["live"]) == 2


def test_the_index_of_ids_follows_the_files():
    index = IdIndex()
    files, read = {}, []

    def hashes(fresh):
        read.append([file.path for file in fresh])
        return np.concatenate([np.arange(f.first_us, f.last_us, dtype=np.uint64) for f in fresh])

    for number in range(70):
        files[f"f{number}"] = LakeFile(f"f{number}", 10, 10 * number, 10 * number + 10)
        index.follow(files, hashes)
    assert read == [[f"f{number}"] for number in range(70)]
    met = index.among(np.array([0, 5, 699, 700, 10**9], np.uint64))
    assert met.tolist() == [0, 5, 699]
    assert len(IdIndex().among(np.array([1], np.uint64))) == 0


def test_an_unknown_file_system_is_a_config_error():
    with pytest.raises(ConfigError, match="cannot be opened"):
        LakeTraceStore("nonsense://bucket/lake")


def test_times_of_every_day_are_found(lake):
    traces = [at(n, START + timedelta(hours=7 * n)) for n in range(40)]
    lake.add(traces)
    assert len(lake.files()) == 12
    for first in range(0, 40, 7):
        window = traces[first].query.time, traces[min(first + 5, 39)].query.time
        assert lake.between(*window) == [t for t in traces if window[0] <= t.query.time < window[1]]

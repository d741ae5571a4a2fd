"""Stages are skipped only when they are complete and nothing that they depend on has changed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cascade.errors import StageError
from flows.rundir import RunDir, digest_folder, read_json, read_jsonl, write_jsonl, write_lines, write_text


class Body:
    """A stage body that counts its calls and can die half-way."""

    def __init__(self) -> None:
        self.calls = 0
        self.dies = False

    def __call__(self, folder: Path) -> dict[str, Any]:
        self.calls += 1
        write_text(folder / "half.txt", f"call {self.calls}")
        if self.dies:
            raise KeyboardInterrupt
        write_text(folder / "rest.txt", "done")
        return {"calls": self.calls}


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path / "run")


def test_a_complete_stage_is_skipped(run: RunDir) -> None:
    body = Body()
    first = run.run_stage("01-a", {"x": 1}, {"in": "d"}, body)
    second = run.run_stage("01-a", {"x": 1}, {"in": "d"}, body)
    assert body.calls == 1
    assert first == second
    assert set(first.outputs) == {"half.txt", "rest.txt"}
    assert first.packages["torch"] and first.counts == {"calls": 1}


@pytest.mark.parametrize(("config", "inputs"), [({"x": 2}, {"in": "d"}), ({"x": 1}, {"in": "e"})])
def test_a_changed_setting_or_input_runs_the_stage_again_from_empty(
    run: RunDir, config: dict[str, int], inputs: dict[str, str]
) -> None:
    body = Body()
    run.run_stage("01-a", {"x": 1}, {"in": "d"}, body)
    stale = run.stage("01-a") / "stale.txt"
    stale.write_text("of another fingerprint")
    run.run_stage("01-a", config, inputs, body)
    assert body.calls == 2
    assert not stale.exists()


def test_a_killed_stage_finds_what_it_had_and_has_no_manifest(run: RunDir) -> None:
    body = Body()
    body.dies = True
    with pytest.raises(KeyboardInterrupt):
        run.run_stage("01-a", {"x": 1}, {}, body)
    assert run.manifest("01-a") is None
    body.dies = False
    kept = run.stage("01-a") / "checkpoint.bin"
    kept.write_text("so far")
    run.run_stage("01-a", {"x": 1}, {}, body)
    assert kept.exists()
    assert run.manifest("01-a") is not None


def test_outputs_are_digested_by_content(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "one")
    before = digest_folder(tmp_path)
    write_text(tmp_path / "a.txt", "two")
    assert digest_folder(tmp_path) != before


def test_rows_round_trip_and_a_missing_file_says_what_to_do(tmp_path: Path) -> None:
    rows = [{"id": "ä", "n": 1}, {"id": "b", "n": None}]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    assert read_jsonl(tmp_path / "rows.jsonl") == rows
    with pytest.raises(StageError, match="missing"):
        read_jsonl(tmp_path / "none.jsonl")
    assert not list(tmp_path.glob("*.tmp"))
    assert not list(tmp_path.glob(".*.tmp"))


def test_the_manifest_is_readable_json(run: RunDir) -> None:
    run.run_stage("01-a", {"path": Path("x")}, {}, Body())
    assert read_json(run.stage("01-a") / "manifest.json")["stage"] == "01-a"


def test_lines_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write_lines(path, ["1", "2"])

    def dying() -> Iterator[str]:
        yield "3"
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_lines(path, dying())
    assert path.read_text() == "1\n2\n"
    assert list(tmp_path.iterdir()) == [path]

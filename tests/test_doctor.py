"""Each check of the doctor finds what it is there for, and stops no other."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from labworld import ROOT
from loopback import serve
from tiny_student import make_student

from flows.config import RunConfig, build_config, merge, read_yaml
from flows.doctor import check_all

EMBEDDER = ROOT / "lab/models/embedder"


def settings(folder: Path, url: str, **changes: object) -> RunConfig:
    demo = read_yaml(ROOT / "configs/demo.yaml")
    demo.pop("lab")
    endpoint = {"base_url": url, "api_key_env": None, "max_retries": 0}
    here = {
        "state": str(folder / "state"),
        "runs": str(folder / "runs"),
        "prices": str(folder / "prices.yaml"),
        "student": {"base_model": str(make_student(folder / "base")), "name": "small", "max_new_tokens": 4},
        "embed": {"model": str(EMBEDDER)},
        "flagship": {"model": "large", **endpoint},
        "verifier": {"judge": {"model": "large", "name": "judge", **endpoint}},
    }
    prices = {name: {"input_per_million": 1, "output_per_million": 2} for name in ("small", "large", "judge")}
    (folder / "prices.yaml").write_text(yaml.safe_dump({"prices": prices}))
    return build_config(merge(merge(demo, here), dict(changes)), "test")


def test_a_sound_setting_passes_and_says_what_was_found(tmp_path: Path) -> None:
    with serve() as server:
        found = {check.name: check for check in check_all(settings(tmp_path, server.url))}
    assert [check for check in found.values() if not check.ok] == []
    assert "turns end with" in found["chat template"].found
    assert "packages, each in a version" in found["dependencies"].found
    assert "own compute has no price" in found["prices"].found
    assert found["judge of the verifier"].found.startswith("large at http")


def test_what_is_wrong_is_named_and_the_rest_is_still_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    (tmp_path / "other.jinja").write_text("{% for m in messages %}[{{ m.content }}]{% endfor %}")
    judge = {"model": "larger", "name": "judge"}
    with serve() as server:
        config = settings(
            tmp_path,
            server.url,
            verifier={"judge": judge},
            preference_judge={
                "model": "free",
                "base_url": "https://judge.example.com/v1",
                "api_key_env": "NO_SUCH_KEY",
            },
            train={"serving_template": str(tmp_path / "other.jinja")},
        )
        failed = {check.name: check.found for check in check_all(config) if not check.ok}
    assert set(failed) == {"chat template", "judge of the verifier", "pairwise judge", "prices"}
    assert "use one template for both" in failed["chat template"]
    assert "does not list 'larger'" in failed["judge of the verifier"]
    assert "NO_SUCH_KEY is not set" in failed["pairwise judge"]
    assert "no price for model 'free'" in failed["prices"]

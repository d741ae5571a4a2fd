"""A look through the stores: references kept, days counted once, people told once, and what they are shown."""

from __future__ import annotations

import random
import re
import shutil
import urllib.request
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
import yaml
from labworld import ROOT
from loopback import serve
from prefect.settings import PREFECT_API_URL, temporary_settings
from prometheus_client.parser import text_string_to_metric_families
from test_monitoring import START, traffic
from typer.testing import CliRunner

from cascade.calibration import Calibration
from cascade.errors import InputError
from cascade.trace import TokenConfidence
from cascade.verifiers import Verifier
from cascade.verifiers.rules import RulesConfig
from flows.alarms import message, tell
from flows.cli import app
from flows.config import build_config, merge, read_yaml
from flows.context import open_state
from flows.forget import Whose, forget, plan_forget
from flows.look import look_once
from flows.metrics import MetricsServer
from flows.watching import folder_of, forget_reference, watch
from lab.skills import KNOWN, NEW, draw_query
from monitoring.policy import MonitorPolicy
from monitoring.records import Cause, Name, Status

WEEK = timedelta(weeks=1)
HOOK = "CASCADE_DISTILL_WEBHOOK"


def settings(folder):
    demo = read_yaml(ROOT / "configs/demo.yaml")
    demo.pop("lab")
    here = {
        "state": str(folder / "state"),
        "runs": str(folder / "runs"),
        "student": {"base_model": "none", "name": "lab-student"},
        "flagship": {"base_url": "http://127.0.0.1:9/v1"},
        "embed": {"model": str(ROOT / "lab/models/embedder")},
        "prices": str(ROOT / "configs/prices.yaml"),
        "monitor": {"sample": 300},
    }
    return build_config(merge(demo, here), "test")


def verifier(threshold):
    calibration = Calibration(
        signal="mean_logprob", scores=(0.0, 1.0), p_wrong=(1.0, 0.0), threshold=threshold, why="for a test", n=1,
        n_tested=1, n_accepted=1, n_wrong_accepted=0, error_bound=0.04, max_error_accepted=0.04, confidence=0.95,
        auroc=None, ece=None,
    )  # fmt: skip
    return Verifier(RulesConfig(), calibration).to_dict()


def served(number, n=700, **changes):
    """A week of the lab's questions; the verifier's score is the answer's mean log-probability."""
    rng = random.Random(number)
    traces = []
    for trace in traffic(START + number * WEEK, n, seed=int(number), **{"version": "v1", **changes}):
        new = trace.query.text.startswith("new")
        text = draw_query(rng.choice(NEW if new else KNOWN), rng).text
        query = replace(trace.query, messages=({"role": "user", "content": text},), user=f"u{rng.randrange(50)}")
        sure = TokenConfidence(5, trace.verdict.score, trace.verdict.score, trace.verdict.score, None)
        cheap = replace(trace.cheap, model="lab-student", confidence=sure)
        flagship = trace.flagship and replace(trace.flagship, model="lab-flagship")
        traces.append(replace(trace, query=query, cheap=cheap, flagship=flagship))
    return traces


@pytest.fixture(scope="module")
def served_once(tmp_path_factory):
    """A cascade in its third week that was looked at."""
    config = settings(tmp_path_factory.mktemp("quiet"))
    state = open_state(config)
    version = state.registry.register(
        name="lab-student", base_model="none", verifier=verifier(0.5), run_id="cold-start"
    )
    state.registry.promote(version.id, who="test", why="first")
    for number in range(3):
        state.traces.add(served(number))
    watch(config, state)
    state.registry.close()
    state.traces.close()
    return config


@pytest.fixture
def quiet(served_once, tmp_path):
    """A copy of it."""
    shutil.copytree(served_once.state, tmp_path / "state")
    config = served_once.model_copy(update={"state": tmp_path / "state"})
    state = open_state(config)
    yield config, state
    state.registry.close()
    state.traces.close()


@pytest.fixture(scope="module")
def alarmed(served_once, tmp_path_factory):
    """What a look says after a week of drift."""
    folder = tmp_path_factory.mktemp("alarmed")
    shutil.copytree(served_once.state, folder / "state")
    config = served_once.model_copy(update={"state": folder / "state"})
    state = open_state(config)
    drift(state)
    found = watch(config, state)
    state.registry.close()
    state.traces.close()
    return found


def drift(state):
    state.traces.add(served(3, new=0.4, rate=0.5))


def test_without_traces_or_a_full_first_week_nothing_is_compared(tmp_path):
    config = settings(tmp_path)
    state = open_state(config)
    with pytest.raises(InputError, match="no traces in"):
        watch(config, state)
    version = state.registry.register(name="s", base_model="none", verifier=verifier(0.5), run_id="r")
    state.registry.promote(version.id, who="test", why="first")
    state.traces.add(served(0))
    found = watch(config, state)
    assert {check.status for check in found.checks} == {Status.UNKNOWN}
    assert "has not served for 7 days" in found.checks[0].sentence
    state.registry.close()


def test_a_quiet_cascade_and_what_a_look_leaves_behind(quiet):
    config, state = quiet
    done = look_once(config, state)
    assert done.watch.findings == () and done.told == ()
    assert {check.status for check in done.watch.checks} == {Status.OK}
    page = done.dashboard.read_text()
    assert page.count("<svg") == len(Name) and "nothing is out of bounds" in page
    assert not re.search(r'(src|href)="https?:', page)
    lines = (folder_of(state) / "metrics.prom").read_text()
    samples = [sample for family in text_string_to_metric_families(lines) for sample in family.samples]
    found = {(s.name, *sorted(s.labels.values())): s.value for s in samples}
    assert found["cascade_distill_check_alarm", "demo", "escalation rate"] == 0
    rate = found["cascade_distill_check_value", "demo", "escalation rate", "value"]
    assert rate == pytest.approx(done.watch.checks[0].value)


def test_days_that_are_over_are_counted_once_and_again_when_prices_change(quiet):
    config, state = quiet
    first = watch(config, state)
    kept = sorted((folder_of(state) / "days" / "base").glob("*.json"))
    assert len(kept) == 11  # 14 days since the reference, less those that traces may still come to
    kept[0].write_text(kept[0].read_text().replace('"n": ', '"n": 1'))
    assert watch(config, state).n > first.n  # it is read, not counted
    prices = yaml.safe_load(config.prices.read_text())
    prices["prices"]["lab-flagship"] |= {"input_per_million": 6.0, "output_per_million": 30.0}
    dearer = config.state / "prices.yaml"
    dearer.write_text(yaml.safe_dump(prices))
    found = watch(config.model_copy(update={"prices": dearer}), state)
    assert found.n == first.n
    assert {finding.cause for finding in found.findings} == {Cause.PRICES}


def test_a_drift_is_told_once_and_again_after_some_days(quiet, monkeypatch):
    config, state = quiet
    drift(state)
    with serve(lambda body, n: (200, {})) as hook:
        monkeypatch.setenv(HOOK, hook.url)
        done = look_once(config, state)
        assert [finding.cause for finding in done.told] == [Cause.TRAFFIC]
        assert done.told[0].began == (START + 3 * WEEK).date() and done.warnings == ()
        assert tell(folder_of(state), done.watch, config.monitor) == ([], [])
        state.traces.add(served(4, new=0.4, rate=0.5))
        assert len(tell(folder_of(state), watch(config, state), config.monitor)[0]) == 1
    assert len(hook.bodies) == 2
    body = hook.bodies[0]
    assert body["text"] == message(done.watch, done.told)
    assert body["findings"][0]["cause"] == "the traffic changed" and "`run`" in body["findings"][0]["action"]
    assert "the traffic changed" in done.dashboard.read_text()


def test_an_alarm_that_went_away_is_told_when_it_comes_back(alarmed, tmp_path):
    policy = MonitorPolicy()
    assert tell(tmp_path, alarmed, policy) == (list(alarmed.findings), [])
    assert tell(tmp_path, alarmed, policy) == ([], [])
    assert tell(tmp_path, replace(alarmed, version="v9"), policy) == ([], [])  # a rollback does not make it new
    assert tell(tmp_path, replace(alarmed, findings=()), policy) == ([], [])
    assert tell(tmp_path, alarmed, policy) == (list(alarmed.findings), [])


def test_a_run_is_started_once_the_alarm_has_stood_for_so_long(alarmed, tmp_path, monkeypatch):
    """People are told at once; the event waits, and begins to wait anew when the alarm was gone meanwhile."""
    sent, policy = [], MonitorPolicy(improve_after_days=2.0, remind_days=7.0)
    monkeypatch.setattr("flows.alarms._emit", lambda watch, findings, policy: sent.append(watch.at))

    def look(day, findings=alarmed.findings):
        at = datetime.fromisoformat(alarmed.at) + timedelta(days=day)
        return len(tell(tmp_path, replace(alarmed, at=at.isoformat(), findings=findings), policy)[0]), len(sent)

    assert [look(0), look(1), look(2), look(3)] == [(1, 0), (0, 0), (0, 1), (0, 1)]
    assert [look(8), look(9)] == [(1, 1), (0, 2)]  # a reminder to people, and one to the automation
    assert [look(10, ()), look(11), look(12), look(13)] == [(0, 2), (1, 2), (0, 2), (0, 3)]


@pytest.mark.parametrize(
    "url, says",
    [
        ("http://127.0.0.1:9/secret-token", "ConnectionRefusedError"),
        ("secret-token", "ValueError"),
        ("file:///secret-token", "not an http"),
        ("http://[secret-token", "ValueError"),
    ],
)
def test_a_dead_webhook_is_one_warning_that_keeps_its_secret(alarmed, tmp_path, monkeypatch, capfd, url, says):
    monkeypatch.setenv(HOOK, url)
    _, warnings = tell(tmp_path, alarmed, MonitorPolicy())
    assert len(warnings) == 1 and says in warnings[0] and HOOK in warnings[0]
    kept = [path.read_text() for path in tmp_path.rglob("*.json")]
    assert all("secret-token" not in text for text in [*warnings, *kept, *capfd.readouterr()])


def test_a_webhook_that_refused_is_tried_again_and_nobody_else(alarmed, tmp_path, monkeypatch):
    with serve(lambda body, n: (503 if n == 1 else 200, {"secret": "no"})) as hook:
        monkeypatch.setenv(HOOK, hook.url)
        policy = MonitorPolicy()
        first, second, third = (tell(tmp_path, alarmed, policy) for _ in range(3))
    assert first == (list(alarmed.findings), [f"the webhook of {HOOK} was not told: it answered 503"])
    assert second == third == ([], [])
    assert len(hook.bodies) == 2


def test_a_prefect_server_that_is_down_is_a_warning(alarmed, tmp_path):
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        _, warnings = tell(tmp_path / "a", alarmed, MonitorPolicy())
        assert len(warnings) == 1 and "cascade-distill.drift was not sent" in warnings[0]
        lenient = replace(alarmed, findings=(replace(alarmed.findings[0], cause=Cause.LENIENT),))
        assert tell(tmp_path / "b", lenient, MonitorPolicy())[1] == []  # no run cures it: no event


def test_a_verifier_replaced_by_hand_is_compared_with_what_the_same_model_did(quiet):
    config, state = quiet
    watch(config, state)
    for number, (threshold, cause) in enumerate([(0.2, Cause.LENIENT), (0.8, Cause.STRICT)], 2):
        version = state.registry.register(
            name="lab-student", base_model="none", verifier=verifier(threshold), run_id=f"hand-{number}"
        )
        state.registry.promote(version.id, who="somebody", why="by hand")
        found = watch(config, state)
        assert [finding.cause for finding in found.findings] == [cause]
        assert found.version == version.id and found.reference.startswith("v1: its first 7 days")
    forget_reference(state)
    assert watch(config, state).findings == ()  # it is meant to be so


def test_what_another_verifier_did_is_not_held_against_the_champion(quiet):
    config, state = quiet
    strict = state.registry.register(name="lab-student", base_model="none", verifier=verifier(0.8), run_id="hand")
    state.traces.add(served(3, rate=0.7, days=3, version=strict.id))  # and was rolled back
    state.traces.add(served(3.5, days=3))
    assert watch(config, state).findings == ()


def test_forgetting_takes_queries_out_of_what_the_monitor_keeps(quiet):
    config, state = quiet
    watch(config, state)
    mine = {t.query.id for t in served(0) if t.query.user == "u7"}
    held = "".join(path.read_text() for path in folder_of(state).rglob("*.json"))
    assert mine and any(f'"{key}"' in held for key in mine)
    forget(config, plan_forget(config, Whose(user="u7")), runs=False)
    held = "".join(path.read_text() for path in folder_of(state).rglob("*.json"))
    assert not any(f'"{key}"' in held for key in mine)
    assert watch(config, state).findings == ()


def test_the_command_shows_checks_and_can_fail(quiet, tmp_path):
    config, state = quiet
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config.dump()))
    command = ["monitor", "-c", str(tmp_path / "config.yaml"), "--fail-on-alarm", "--quiet"]
    calm = CliRunner().invoke(app, command)
    assert calm.exit_code == 0, calm.output
    drift(state)
    metrics = tmp_path / "node" / "cascade.prom"
    alarmed = CliRunner().invoke(app, [*command, "--metrics-file", str(metrics)])
    assert alarmed.exit_code == 7
    assert "cascade_distill_finding" in metrics.read_text()
    assert not (folder_of(state) / "told.json").exists()


def test_metrics_are_served_and_replaced(alarmed):
    calm = replace(alarmed, findings=(), checks=tuple(replace(c, status=Status.OK) for c in alarmed.checks))
    server = MetricsServer(0, calm, "127.0.0.1")
    try:
        url = f"http://127.0.0.1:{server.port}/metrics"
        alarm = 'cascade_distill_check_alarm{cascade="demo",check="escalation rate"} '
        assert alarm + "0.0" in urllib.request.urlopen(url).read().decode()
        server.show(alarmed)
        assert alarm + "1.0" in urllib.request.urlopen(url).read().decode()
    finally:
        server.close()

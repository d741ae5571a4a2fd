"""Deleting a user's data, or old data: everywhere it is held, in every store, and nobody else's."""

import json
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from databases import STORES, place
from labworld import ROOT
from loopback import completion, make_query, serve
from test_store import START, make_trace
from typer.testing import CliRunner

from cascade.errors import InputError
from cascade.request import request_digest
from cascade.trace import trace_to_dict
from cascade.users import user_key
from cascade.verifiers import AnswerBank, LearnedScorer, read_learned, store_part
from cascade.verifiers.features import fit_features
from cascade.verifiers.models import RECIPES, fit_model
from clustering.embed import EmbedConfig, embed_texts
from evaluation.judge import ServedPair, judge_pairs
from flows.cli import app
from flows.config import RunConfig, build_config, merge, read_yaml
from flows.context import RunContext, open_state
from flows.forget import VERIFIERS, Whose, forget, plan_forget
from flows.records import BUILD, COLLECT, TRAIN
from flows.rundir import RunDir, write_json, write_jsonl
from flows.stage_parts import cheap_toolbox
from flows.world import NOT_STARTED

ANA = user_key("ana@example.com")


def by(number, user, days=0.0):
    query = replace(make_query(number, text=f"text {number} of {user}"), user=user, time=START + timedelta(days=days))
    return make_trace(number, query=query)


ANAS, BENS = [by(1, ANA), by(2, ANA, 10), by(3, ANA, 20)], [by(n, "ben", n) for n in range(10, 16)]


def settings(folder, traces=None) -> RunConfig:
    demo = {k: v for k, v in read_yaml(ROOT / "configs/demo.yaml").items() if k != "lab"}
    here = {"state": str(folder / "state"), "runs": str(folder / "runs"), "traces": traces}
    return build_config(merge(merge(NOT_STARTED, demo), here), "test")


def make_run(config, run_id, held, trained, init=None):
    """A run's folder as the stages leave it, as far as forgetting reads it."""
    root = config.runs / run_id
    write_json(root / "run.json", {"config": config.dump()})
    for part in ("pool", "calibration", "heldout"):
        write_jsonl(root / COLLECT / f"{part}.jsonl", [trace_to_dict(t) for t in held] if part == "pool" else [])
    examples = [{"id": t.query.id, "messages": [], "answer": "", "source": "flagship"} for t in trained]
    write_jsonl(root / BUILD / "training.jsonl", examples)
    write_json(root / TRAIN / "manifest.json", {"config": {"init": init}})


def register(registry, folder, run_id):
    adapter = folder / f"adapter-{run_id}"
    adapter.mkdir()
    (adapter / "weights").write_text(run_id)
    return registry.register(name="s", base_model="b", adapter=adapter, run_id=run_id)


def embed(texts):
    """By the texts' lengths: what is near what does not matter here."""
    angles = np.array([float(len(text)) for text in texts])
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def learned(traces) -> LearnedScorer:
    """A verifier that compares with the flagship's answers to these traces."""
    queries, answers = [t.query for t in traces], [t.cheap for t in traces]
    bank = AnswerBank.build(queries, [f"answer to {query.text}" for query in queries], embed)
    space = fit_features(
        queries, answers, ("answer", "neighbours"), embed=embed, bank=bank, neighbours=3, dimensions=2, form="json"
    )
    right = np.arange(len(traces)) % 2 == 0
    model = fit_model(space.rows(queries, answers, embed), right, RECIPES[0], 0)
    return LearnedScorer("learned", space, np.arange(len(space.names)), (model,), "", embed)


def register_verifiers(config, state):
    """v6 compares with everybody's answers, v7 with ana's and two of ben's: too few without hers; v8 with ben's."""
    for traces in ([*ANAS, *BENS], [*ANAS, *BENS[:2]], BENS):
        scorer = learned(traces)
        store_part(scorer, config.state / VERIFIERS)
        link = {"scorer": scorer.to_dict()}
        state.registry.register(name="s", base_model="b", run_id=f"fit-{len(traces)}", verifier={"links": [link]})


def fill(config, folder):
    """Traces, answers, embeddings; runs r1 (trained on ana), r2 (from r1's adapter), r3 (on ben alone), r4 (gone)."""
    state = open_state(config)
    state.traces.add([*ANAS, *BENS])
    for trace in [*ANAS, *BENS]:
        state.answers.put(request_digest(trace.query, config.flagship), trace.flagship)
    embedder = EmbedConfig(model=str(ROOT / "lab/models/embedder"))
    embed_texts([t.query.text for t in [*ANAS, *BENS]], embedder, state.root / "embeddings.db", progress=False)
    make_run(config, "r1", [*ANAS[:2], *BENS], [ANAS[0], ANAS[1], BENS[0]])
    first = register(state.registry, folder, "r1")
    make_run(config, "r2", BENS, BENS, init=first.adapter_digest)
    register(state.registry, folder, "r2")
    make_run(config, "r3", BENS, BENS)
    register(state.registry, folder, "r3")
    register(state.registry, folder, "r4")
    state.registry.register(name="s", base_model="b", run_id="cold-start")
    return state


@pytest.fixture(params=STORES)
def config(request, tmp_path):
    server = request.getfixturevalue("postgres") if request.param == "postgresql" else None
    return settings(tmp_path, place(request.param, tmp_path, server))


def test_a_users_data_is_found_everywhere_and_deleted(config, tmp_path):
    state = fill(config, tmp_path)
    plan = plan_forget(config, Whose(user="ana@example.com"))
    assert plan_forget(config, Whose(user=ANA)) == plan
    assert [q.id for q in plan.traces] == ["q0001", "q0002", "q0003"]
    assert (len(plan.answers), plan.n_vectors) == (3, 3)
    assert [(r.run_id, r.n_traces, r.n_trained, r.n_examples) for r in plan.runs] == [("r1", 2, 2, 3)]
    assert [(a.version, a.why.split(" of run")[0]) for a in plan.adapters] == [
        ("v1", "trained on 2 of 3 examples"),
        ("v2", "trained from v1"),
        ("v4", "unknown: the folder"),
    ]
    assert state.traces.count() == 9, "planning deletes nothing"
    forget(config, plan, runs=False)
    assert state.traces.ids() == {t.query.id for t in BENS}
    assert state.answers.count() == len(BENS)
    after = plan_forget(config, Whose(user=ANA))
    assert after.traces == () and after.answers == () and after.n_vectors == 0
    assert [q.id for q in after.copies] == ["q0001", "q0002"], "a run still holds copies"
    assert [a.version for a in after.adapters] == ["v1", "v2", "v4"], "and tells what was trained on them"
    forget(config, after, runs=True)
    assert not (config.runs / "r1").exists() and (config.runs / "r2").exists()
    assert plan_forget(config, Whose(user=ANA)).runs == ()


def test_no_verifier_serves_with_a_users_answers(config, tmp_path):
    state = fill(config, tmp_path)
    register_verifiers(config, state)
    plan = plan_forget(config, Whose(user=ANA))
    found = {v.versions: (len(v.bank.ids), v.bank.n_entries, v.bank.usable) for v in plan.verifiers}
    assert found == {("v6",): (3, 9, True), ("v7",): (3, 5, False)}
    forget(config, plan, runs=False)
    assert plan_forget(config, Whose(user=ANA)).verifiers == ()
    assert not held_in_files(config.state / VERIFIERS, b"of " + ANA.encode())
    assert held_in_files(config.state / VERIFIERS, b"answer to text 10 of ben")
    first, second, third = [v.verifier["links"][0]["scorer"]["digest"] for v in state.registry.versions()[5:]]
    kept = read_learned(config.state / VERIFIERS, first, embed)
    assert kept.features.bank.ids == tuple(trace.query.id for trace in BENS)
    with pytest.raises(InputError, match="withdrawn"):
        read_learned(config.state / VERIFIERS, second, embed)
    assert read_learned(config.state / VERIFIERS, third, embed).digest == third, "ben's stands as it was"
    # Forgetting ben finds what stands for v6, under the version that it serves.
    later = plan_forget(config, Whose(user="ben", before=START + timedelta(days=12)))
    assert sorted((v.versions, len(v.bank.ids)) for v in later.verifiers) == [(("v6",), 2), (("v8",), 2)]


def held_in_files(root, text):
    return [path for path in root.rglob("*") if path.is_file() and text in path.read_bytes()]


def test_what_judges_said_of_a_users_queries_goes(config, tmp_path):
    """Both kinds of judge: of one answer, in a verifier, and of two, at the gate."""
    state = fill(config, tmp_path)
    bought = state.answers.count()
    replies = {"judge": '{"reason": "hers", "p_right": 0.5}', "pair": '{"better": "A"}'}
    with serve(lambda body, n: (200, completion(replies["judge" if "p_right" in str(body) else "pair"]))) as server:
        judge = {"model": "lab-judge", "base_url": server.url, "api_key_env": None, "max_retries": 0}
        values = config.dump() | {"verifier": {"judge": judge}, "preference_judge": judge}
        values |= {"prices": str(ROOT / "configs/prices.yaml")}
        ctx = RunContext(build_config(values, "test"), RunDir(config.runs / "judging"), START, START, "v1", state)
        asked = [*ANAS[:2], *BENS[:3]]
        (_, scorer) = cheap_toolbox(ctx, None).scorers("mean_logprob", None)
        scorer.score([t.query for t in asked], [t.cheap for t in asked])
        judge_pairs([ServedPair(t.query, "a", "b") for t in asked], ctx.judge_buyer(), 0.9, progress=False)
    assert state.answers.count() == bought + 3 * len(asked)
    plan = plan_forget(config, Whose(user=ANA))
    assert (len(plan.answers), len(plan.replies)) == (3, 3 * 2)
    forget(config, plan, runs=False)
    assert state.answers.count() == len(BENS) + 3 * 3
    assert plan_forget(config, Whose(user=ANA)).replies == ()
    assert len(plan_forget(config, Whose(user="ben")).replies) == 3 * 3


def test_old_data_is_found_by_its_age(config, tmp_path):
    state = fill(config, tmp_path)
    plan = plan_forget(config, Whose(before=START + timedelta(days=11)))
    assert [q.id for q in plan.traces] == ["q0001", "q0002", "q0010"]
    assert [a.version for a in plan.adapters] == ["v1", "v2", "v3", "v4"]
    forget(config, plan, runs=False)
    assert state.traces.span().first == START + timedelta(days=11)
    both = plan_forget(config, Whose(user="ben", before=START + timedelta(days=12)))
    assert [q.id for q in both.traces] == ["q0011"]


def test_no_deleted_text_is_left_in_the_state_folder(tmp_path):
    config = settings(tmp_path)
    state = fill(config, tmp_path)
    register_verifiers(config, state)
    with closing(state.traces):
        forget(config, plan_forget(config, Whose(user=ANA)), runs=True)
    assert held_in_files(tmp_path, ANAS[0].query.text.encode()) == []
    assert held_in_files(tmp_path, BENS[0].query.text.encode())


def run_cli(folder, *arguments):
    path = folder / "config.yaml"
    path.write_text(json.dumps(settings(folder).dump()))
    return CliRunner().invoke(app, ["forget", "--config", str(path), *arguments])


def test_the_command_shows_first_and_deletes_on_yes(tmp_path):
    state = fill(settings(tmp_path), tmp_path)
    register_verifiers(settings(tmp_path), state)
    shown = run_cli(tmp_path, "--user", "ana@example.com")
    assert shown.exit_code == 0, shown.output
    for said in ("traces", "would be deleted", "v1", "trained from v1", "nothing was changed: --yes deletes"):
        assert said in shown.output
    assert state.traces.count() == 9
    assert "would be rebuilt without them" in " ".join(shown.output.split())
    done = run_cli(tmp_path, "--user", "ana@example.com", "--yes").output
    assert "deleted" in done and "a process that serves keeps the verifier" in " ".join(done.split())
    assert state.traces.count() == 6
    days = (datetime.now(UTC) - START).days - 12
    assert run_cli(tmp_path, "--older-than", str(days), "--yes").exit_code == 0
    assert state.traces.ids() == {t.query.id for t in BENS if t.query.time >= datetime.now(UTC) - timedelta(days)}


def test_something_must_be_named(tmp_path):
    found = run_cli(tmp_path)
    assert "name a --user" in str(found.exception)

"""A run whose verifier is learned, up to the champion's baseline, on a small lab world."""

import shutil
from types import SimpleNamespace

import pytest
from labworld import small_config, small_world

from cascade.errors import InputError
from cascade.trace import Answer, Outcome
from flows import stages
from flows.assess import known_to_the_verifier
from flows.context import start_run
from flows.records import BASELINE, BUILD, load_pool, load_traces, load_verdicts, read_answers, write_answers
from flows.rundir import RunDir, read_json
from flows.serve import replay_traffic
from flows.verifying import toolbox


def test_a_run_refits_the_learned_verifier_keeps_it_and_opens_it_again(tmp_path):
    with small_world(tmp_path / "lab", drifted=450) as world:
        config = small_config(
            world,
            tmp_path,
            verifier={"kind": "learned"},
            calibration={"max_error_accepted": 0.15},
            window={"pool": 0.4, "calibration": 0.4},
        )
        replay_traffic(config, config.traffic, progress=False)
        ctx = start_run(config, "learned")
        stages.collect(ctx)
        counts = stages.baseline(ctx).counts
    folder = ctx.run.stage(BASELINE)
    assert "cross-validated log-loss" in counts["scorers"][0]
    assert [account["name"] for account in counts["accounts"]] == ["rules", "learned"]
    # The bank has seen the pool's flagship answers, and no held-out query.
    tools = toolbox(config, lambda: None)
    verifier = tools.open(read_json(folder / "verifier.json"))
    known = set(verifier.links[0].scorer.features.bank.ids)
    pool = read_answers(folder / "pool_answers.jsonl")
    assert {i for i, answer in pool.items() if answer.finish_reason == "stop"} <= known
    # And the champion's surest answers to the others, as many as it accepts at most.
    surest = read_answers(folder / "surest.jsonl")
    n_accepted = sum(trace.verdict.accepted for trace in load_pool(ctx))
    assert 0 < len(surest) == counts["pool_surest"] <= n_accepted
    assert set(surest) <= known and surest.items() <= {t.query.id: t.cheap for t in load_pool(ctx)}.items()
    least = min(answer.confidence.mean_logprob for answer in surest.values())
    others = [t.cheap.confidence.mean_logprob for t in load_pool(ctx) if t.query.id not in surest]
    assert least >= max(others)
    heldout = [trace.query for trace in load_traces(ctx, "heldout")]
    assert not known & {query.id for query in heldout}
    # What was judged once is what the stored verifier says again.
    champion, verdicts = read_answers(folder / "champion.jsonl"), load_verdicts(folder)
    again = verifier.judge(heldout, [champion[query.id] for query in heldout])
    assert [verdict.outcome for verdict in again] == [verdicts[query.id].outcome for query in heldout]
    assert Outcome.ACCEPT in {verdict.outcome for verdict in again}
    assert [trace.query.id for trace in load_pool(ctx)] == [trace.query.id for trace in load_traces(ctx, "pool")]
    shutil.rmtree(tools.parts_root)
    with pytest.raises(InputError, match="cannot read the verifier's part"):
        tools.open(read_json(folder / "verifier.json"))


def test_a_candidates_verifier_knows_what_serving_and_its_run_have_paid_for(tmp_path):
    run = RunDir(tmp_path)
    answers = {i: Answer(f"answer {i}", "flagship", 1, 1, 0.0, "stop") for i in ("served", "both", "bought")}
    for stage, ids in ((BASELINE, ("served", "both")), (BUILD, ("both", "bought"))):
        run.stage(stage).mkdir(parents=True)
        name = "pool_answers.jsonl" if stage == BASELINE else "answers.jsonl"
        write_answers(run.stage(stage) / name, {i: answers[i] for i in ids})
    ctx = SimpleNamespace(run=run, arm_stage=lambda stage: stage, experiment=False)
    assert known_to_the_verifier(ctx) == answers
    ctx.experiment = True  # each arm answers for its own
    assert set(known_to_the_verifier(ctx)) == {"both", "bought"}

"""From configuration to scorers and back from their records."""

import pytest
from answered_topics import embed, world
from loopback import PRICES, completion, make_query, serve
from test_learned import fit

from cascade.calibration import CalibrationConfig
from cascade.client import OpenAITier
from cascade.errors import InputError
from cascade.request import OpenAITierConfig
from cascade.router import RouterConfig
from cascade.trace import Answer, Outcome, TokenConfidence, Verdict
from cascade.verifiers import LearnedTrainer, RulesConfig, TokenConfidenceScorer, fit_verifier
from cascade.verifiers.config import Toolbox, VerifierConfig
from flows.verifying import Recalled, account_rows, answer_bank, describe, keep


def no_sampler():
    raise AssertionError("nothing configured draws samples")


def tools(folder, sampler=no_sampler, router=None, **settings):
    return Toolbox(VerifierConfig.model_validate(settings), embed, folder, PRICES, sampler, router, progress=False)


def test_the_chain_is_as_configured_cheapest_first(tmp_path):
    judge = {"model": "large", "base_url": "http://127.0.0.1:1/v1", "api_key_env": None}
    assert tools(tmp_path).scorers("auto", None) == []
    (learned,) = tools(tmp_path, kind="learned").scorers("auto", None)
    assert isinstance(learned, LearnedTrainer)
    first, second = tools(tmp_path, judge=judge).scorers("min_logprob", None)
    assert (first, second.name) == (TokenConfidenceScorer("min_logprob"), "judge")
    assert tools(tmp_path, judge=judge).scorers("auto", None)[0].name == "mean_logprob"
    small = OpenAITier(OpenAITierConfig(model="small", base_url="http://127.0.0.1:1/v1", api_key_env=None))
    chain = tools(tmp_path, lambda: small, kind="learned", consistency={"samples": 2}, judge=judge).scorers(
        "auto", None
    )
    assert [scorer.name for scorer in chain] == ["learned", "consistency", "judge"]


def test_the_bank_is_wanted_only_where_it_is_looked_at(tmp_path):
    assert not tools(tmp_path).needs_bank
    assert tools(tmp_path, kind="learned").needs_bank
    assert not tools(tmp_path, kind="learned", learned={"blocks": ["confidence"]}).needs_bank
    assert tools(tmp_path, router=RouterConfig()).needs_bank


def test_a_router_is_priced_by_the_answers_at_hand(tmp_path):
    cheap, dear = Answer("x", "small", 10, 2, 0.0, "stop"), Answer("x", "large", 10, 5, 0.0, "stop")
    assert tools(tmp_path).router_trainer(None, [cheap], [dear]) is None
    trainer = tools(tmp_path, router=RouterConfig()).router_trainer(None, [cheap, cheap], [dear])
    assert trainer.cheap_usd == pytest.approx(PRICES.cost_usd(cheap))
    assert trainer.flagship_usd == pytest.approx(PRICES.cost_usd(dear))
    unknown = tools(tmp_path, router=RouterConfig()).router_trainer(
        None, [cheap], [Answer("x", "large", None, 5, 0, "stop")]
    )
    assert unknown.flagship_usd is None


def test_what_is_kept_opens_again(tmp_path):
    queries, answers, references = world(500, seed=4)
    toolbox = tools(tmp_path / "verifiers", kind="learned", router=RouterConfig())
    fitted = fit_verifier(
        queries, answers, references, RulesConfig(), CalibrationConfig(max_error_accepted=0.08), grade_kind="exact",
        scorers=toolbox.scorers("auto", None),
    )  # fmt: skip
    row = keep(fitted, toolbox)
    assert [path.name for path in (tmp_path / "verifiers").iterdir()] == [fitted.links[0].scorer.digest]
    again = toolbox.open(row)
    fresh, given, _ = world(100, seed=6)
    verdicts = again.judge(fresh, given)
    assert [v.outcome for v in verdicts] == [v.outcome for v in fitted.judge(fresh, given)]
    facts = describe(again)
    assert "cross-validated log-loss" in facts["scorers"][0]
    assert account_rows(verdicts)[1]["name"] == "learned"
    assert account_rows(verdicts)[1]["n_asked"] == 100


def test_records_of_every_kind_open_and_an_unknown_one_is_refused(tmp_path):
    small = OpenAITier(OpenAITierConfig(model="small", base_url="http://127.0.0.1:1/v1", api_key_env=None))
    judge = {"model": "large", "base_url": "http://127.0.0.1:1/v1", "api_key_env": None}
    toolbox = tools(tmp_path, lambda: small, consistency={"samples": 2}, judge=judge)
    for scorer in toolbox.scorers("mean_logprob", None):
        assert toolbox.load(scorer.to_dict()).to_dict() == scorer.to_dict()
    assert toolbox.load({"kind": "learned", "digest": keep_one(tmp_path)}).name == "learned"
    with pytest.raises(InputError, match="unknown kind 'oracle'"):
        toolbox.load({"kind": "oracle"})


def keep_one(folder):
    from cascade.verifiers import store_part

    scorer = fit()[0]
    store_part(scorer, folder)
    return scorer.digest


def test_a_judge_after_confidence_is_paid_only_for_the_middle(tmp_path):
    """Sure answers are right, unsure ones wrong, and in between only the judge can tell."""

    def judged(body, n):
        right = '"answer 1"' in body["messages"][-1]["content"] or "answer 1\n" in body["messages"][-1]["content"]
        return 200, completion('{"reason": "as told", "p_right": %s}' % (0.9 if right else 0.1))

    queries = [make_query(n) for n in range(400)]
    surety = [(-0.01, True) if n % 4 == 0 else (-3.0, False) if n % 4 == 1 else (-1.0, n % 8 < 4) for n in range(400)]
    answers = [
        Answer(f"answer {int(right)}", "small", 10, 2, 0.0, "stop", TokenConfidence(2, mean, mean, mean, None))
        for mean, right in surety
    ]
    with serve(judged) as server:
        judge = {"model": "large", "base_url": server.url, "api_key_env": None, "max_retries": 0, "concurrency": 8}
        toolbox = tools(tmp_path, judge=judge)
        fitted = fit_verifier(
            queries, answers, ["answer 1"] * 400, RulesConfig(), CalibrationConfig(max_error_accepted=0.1),
            grade_kind="exact", scorers=toolbox.scorers("mean_logprob", None),
        )  # fmt: skip
        assert len(server.bodies) == 200
        verdicts = fitted.judge(queries, answers)
    assert [v.accepted for v in verdicts] == [right for _, right in surety]
    assert {v.cost_usd for v in verdicts if len(v.opinions) == 1} == {0.0}
    charged = {v.cost_usd for v in verdicts if len(v.opinions) == 2}
    assert charged == {PRICES.price("large").usd(10, 5)}


def test_usable_flagship_answers_make_the_bank():
    queries, _, references = world(4, seed=1)
    good = {q.id: Answer(r, "large", 1, 1, 0.0, "stop") for q, r in zip(queries, references, strict=True)}
    cut = {
        queries[0].id: Answer("x", "large", 1, 1, 0.0, "length"),
        queries[1].id: Answer(" ", "large", 1, 1, 0.0, "stop"),
    }
    bank = answer_bank(queries, good | cut | {"elsewhere": good[queries[2].id]}, embed)
    assert bank.ids == (queries[2].id, queries[3].id)
    assert bank.answers == tuple(references[2:])


def test_verdicts_are_recalled_by_query():
    queries = [make_query(n) for n in range(2)]
    known = {q.id: Verdict(Outcome.REJECT, 0.1 * i, ()) for i, q in enumerate(queries)}
    assert Recalled(known).judge(queries[::-1], [None, None]) == [known["q0001"], known["q0000"]]

import json

import pytest
from loopback import make_query
from tiny_student import make_student

from cascade.errors import ConfigError, TierError
from cascade.local import LocalTier, LocalTierConfig
from cascade.tiers import SamplingConfig

torch = pytest.importorskip("torch")
QUERIES = [make_query(n, "word " * (n % 5 + 1) + str(n)) for n in range(12)]
NEW = 10


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_student(tmp_path_factory.mktemp("student"))


def tier(base, **fields):
    return LocalTier(
        LocalTierConfig(**({"base_model": base, "name": "student", "max_new_tokens": NEW, "dtype": "float32"} | fields))
    )


def full_forward(base, query, steps=NEW, end_ids=None, edit=None):
    """Greedy answer of one query by plain forward passes over the whole sequence: no cache, no padding, no batch."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    if edit:
        model = edit(model)
    text = tokenizer.apply_chat_template(list(query.messages), tokenize=False, add_generation_prompt=True)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    n_prompt, logprobs, margins = len(ids), [], []
    for _ in range(steps):
        with torch.no_grad():
            logs = model(input_ids=torch.tensor([ids])).logits[0, -1].log_softmax(-1)
        best = logs.topk(2)
        logprobs.append(best.values[0].item())
        margins.append((best.values[0].exp() - best.values[1].exp()).item())
        ids.append(int(best.indices[0]))
        if ids[-1] in (end_ids or [tokenizer.eos_token_id]):
            break
    return tokenizer.decode(ids[n_prompt:], skip_special_tokens=True), logprobs, margins, n_prompt


def assert_agrees(answer, expected):
    text, logprobs, margins, n_prompt = expected
    assert answer.text == text
    assert (answer.tokens_in, answer.tokens_out) == (n_prompt, len(logprobs))
    assert answer.confidence.n_tokens == len(logprobs)
    assert answer.confidence.mean_logprob == pytest.approx(sum(logprobs) / len(logprobs), abs=1e-4)
    assert answer.confidence.min_logprob == pytest.approx(min(logprobs), abs=1e-4)
    assert answer.confidence.margin == pytest.approx(1 - sum(margins) / len(margins), abs=1e-4)


def test_a_padded_batch_agrees_with_plain_forward_passes(base):
    answers = tier(base).answer(QUERIES, progress=False)
    assert len({answer.tokens_in for answer in answers}) > 3, "the batch must need padding"
    for query, answer in zip(QUERIES, answers, strict=True):
        assert_agrees(answer, full_forward(base, query))
        assert (answer.model, answer.finish_reason) == ("student", "length")


def test_batch_size_changes_nothing_but_rounding(base):
    together, alone = (
        tier(base).answer(QUERIES, progress=False),
        tier(base, batch_size=1).answer(QUERIES, progress=False),
    )
    for first, second in zip(together, alone, strict=True):
        assert first.text == second.text
        assert first.confidence.mean_logprob == pytest.approx(second.confidence.mean_logprob, abs=1e-5)


@pytest.fixture(scope="module")
def ending_base(base, tmp_path_factory):
    """The same student with more end tokens, so that rows of a batch end at different steps."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base)
    ends = {tokenizer.eos_token_id, *(i for i in range(0, len(tokenizer), 12))}
    model.generation_config.eos_token_id = sorted(ends)
    folder = tmp_path_factory.mktemp("ending")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder, sorted(ends)


def test_rows_that_end_leave_the_batch_and_count_their_end_token(ending_base):
    folder, ends = ending_base
    answers = tier(folder, max_new_tokens=30).answer(QUERIES, progress=False)
    lengths = {answer.tokens_out for answer in answers}
    assert len(lengths) > 2, "rows must end at different steps"
    assert "stop" in {answer.finish_reason for answer in answers}
    for query, answer in zip(QUERIES, answers, strict=True):
        text, logprobs, margins, _ = full_forward(folder, query, steps=30, end_ids=ends)
        assert answer.tokens_out == len(logprobs)
        assert answer.confidence.mean_logprob == pytest.approx(sum(logprobs) / len(logprobs), abs=1e-4)
        assert answer.confidence.margin == pytest.approx(1 - sum(margins) / len(margins), abs=1e-4)
        assert text.startswith(answer.text)


def save_adapter(base, folder, scale=0.3):
    """A random LoRA adapter that changes the model's answers."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    wrapped = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"))
    for name, weight in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=scale)
    wrapped.save_pretrained(folder)
    return folder


def test_an_adapter_answers_as_the_unmerged_adapter_does(base, tmp_path):
    from peft import PeftModel

    adapter = save_adapter(base, tmp_path / "adapter")
    answers = tier(base, adapter=adapter).answer(QUERIES[:4], progress=False)
    plain = tier(base).answer(QUERIES[:4], progress=False)
    assert [answer.text for answer in answers] != [answer.text for answer in plain]
    for query, answer in zip(QUERIES[:4], answers, strict=True):
        assert_agrees(answer, full_forward(base, query, edit=lambda model: PeftModel.from_pretrained(model, adapter)))


def rewrite(adapter, change):
    from safetensors.torch import load_file, save_file

    path = adapter / "adapter_model.safetensors"
    save_file(change(load_file(path)), path)


def rename_prefix(weights):
    """What a wrong module prefix looks like: every weight there, none in its place."""
    return {name.replace("model.model.", "model.decoder."): weight for name, weight in weights.items()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: dict(list(w.items())[1:]), "1 weights missing, 0 unexpected"),
        (rename_prefix, r"28 weights missing, 28 unexpected"),
        (lambda w: {name: weight[:, :2].contiguous() for name, weight in w.items()}, "does not fit"),
    ],
)
def test_an_adapter_that_does_not_fit_is_an_error(base, tmp_path, change, message):
    adapter = save_adapter(base, tmp_path / "adapter")
    rewrite(adapter, change)
    with pytest.raises(TierError, match=message):
        tier(base, adapter=adapter)


def test_an_adapter_without_safetensors_is_refused(base, tmp_path):
    adapter = save_adapter(base, tmp_path / "adapter")
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(ConfigError, match=r"has no adapter_model\.safetensors"):
        tier(base, adapter=adapter)


def test_a_prompt_beyond_the_context_gives_an_empty_answer_and_spoils_no_other(base):
    long, near = make_query(50, "x" * 600), make_query(51, "x" * 500)
    answers = tier(base).answer([QUERIES[0], long, near], progress=False)
    assert (answers[1].text, answers[1].tokens_out, answers[1].finish_reason) == ("", 0, "length")
    assert answers[1].confidence is None
    assert answers[2].tokens_in + answers[2].tokens_out == 512
    assert_agrees(answers[0], full_forward(base, QUERIES[0]))


def test_no_queries_give_no_answers(base):
    assert tier(base).answer([], progress=False) == []


def test_a_wrong_path_or_a_model_without_template_is_a_config_error(base, tmp_path):
    with pytest.raises(ConfigError, match="is not a folder"):
        tier(tmp_path / "nothing")
    with pytest.raises(ConfigError, match="cannot load base_model"):
        (tmp_path / "empty").mkdir()
        tier(tmp_path / "empty")
    bare = tmp_path / "bare"
    bare.mkdir()
    for file in base.iterdir():
        if file.name == "tokenizer_config.json":
            settings = json.loads(file.read_text())
            settings.pop("chat_template", None)
            (bare / file.name).write_text(json.dumps(settings))
        elif file.suffix != ".jinja":
            (bare / file.name).write_bytes(file.read_bytes())
    with pytest.raises(ConfigError, match="no chat template"):
        tier(bare)


def test_bfloat16_stays_near_float32(base):
    """One token only: a random model may take another path after the first rounding."""
    exact, rough = (
        tier(base, dtype=kind, max_new_tokens=1).answer(QUERIES[:4], progress=False) for kind in ("float32", "bfloat16")
    )
    for first, second in zip(exact, rough, strict=True):
        assert second.confidence.mean_logprob == pytest.approx(first.confidence.mean_logprob, abs=0.1)
        assert second.confidence != first.confidence


SAMPLING = SamplingConfig(temperature=0.8, seed=5)


def test_samples_depend_on_seed_and_query_and_not_on_the_batch(base):
    drawn = tier(base).sample(QUERIES, 3, SAMPLING, progress=False)
    alone = tier(base, batch_size=1).sample(QUERIES[4:6][::-1], 3, SAMPLING, progress=False)
    assert [[s.text for s in samples] for samples in alone[::-1]] == [
        [s.text for s in samples] for samples in drawn[4:6]
    ]
    renamed = tier(base).sample([make_query(99, QUERIES[0].text)], 2, SAMPLING, progress=False)
    assert [s.text for s in renamed[0]] == [s.text for s in drawn[0][:2]], "neither the id nor k matters"
    other = tier(base).sample(QUERIES, 3, SAMPLING.model_copy(update={"seed": 6}), progress=False)
    assert len({s.text for samples in (*drawn, *other) for s in samples}) > 60, "samples must differ"
    assert (drawn[0][0].model, drawn[0][0].finish_reason) == ("student", "length")


def test_the_confidence_of_a_sample_is_the_models_own(base):
    """Log-probabilities of the tokens drawn, and the gap between the two likeliest, by one plain forward pass."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from cascade.decode import sample

    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    prompts = [tokenizer(text)["input_ids"] for text in ("word", "some more words")]
    rows = sample(model, prompts, [1, 2], tokenizer.pad_token_id, [tokenizer.eos_token_id], 8, 1.5)
    unlikely = 0
    for prompt, row in zip(prompts, rows, strict=True):
        ids = prompt + row.ids
        with torch.no_grad():
            logs = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)[len(prompt) - 1 : len(ids) - 1]
        best = logs.topk(2).values.exp()
        chosen = logs.gather(1, torch.tensor(row.ids)[:, None])[:, 0]
        n = len(row.ids)
        assert row.logprobs[:n] == pytest.approx(chosen.tolist(), abs=1e-4)
        assert row.margins[:n] == pytest.approx((best[:, 0] - best[:, 1]).tolist(), abs=1e-4)
        unlikely += int((chosen.exp() < best[:, 1] - 1e-6).sum())
    assert unlikely, "some token drawn must be outside of the two likeliest"


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.5, 1.0), (1.3, 0.6)])
def test_tokens_are_drawn_as_often_as_their_probability_says(base, temperature, top_p):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from cascade.decode import sample

    n = 3000
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    prompt = tokenizer("word")["input_ids"]
    rows = sample(model, [prompt] * n, range(n), tokenizer.pad_token_id, [0], 1, temperature, top_p)
    counts = torch.bincount(torch.tensor([row.ids[0] if row.ids else 0 for row in rows]), minlength=len(tokenizer))
    with torch.no_grad():
        p = (model(input_ids=torch.tensor([prompt])).logits[0, -1].double() / temperature).softmax(-1)
    ranked = p.sort(descending=True)
    kept = ranked.indices[: int((ranked.values.cumsum(0) < top_p).sum()) + 1]
    p = torch.zeros_like(p).index_copy(0, kept, p[kept] / p[kept].sum())
    assert int(counts[p == 0].sum()) == 0
    error = (counts / n - p).abs() / (p * (1 - p) / n).clamp(min=1e-12).sqrt()
    assert float(error[p > 0.01].max()) < 4.5
    assert int((p > 0.01).sum()) > 3


def test_a_cold_sample_is_the_greedy_answer(base):
    greedy = tier(base).answer(QUERIES[:4], progress=False)
    cold = tier(base).sample(QUERIES[:4], 1, SamplingConfig(temperature=1e-4), progress=False)
    assert [samples[0].text for samples in cold] == [answer.text for answer in greedy]
    for (sample,), answer in zip(cold, greedy, strict=True):
        assert sample.confidence.margin == pytest.approx(answer.confidence.margin, abs=1e-5)


def test_no_queries_and_prompts_without_room_give_no_samples(base):
    assert tier(base).sample([], 3, SAMPLING, progress=False) == []
    full = tier(base).sample([make_query(50, "x" * 600)], 2, SAMPLING, progress=False)
    assert [(s.text, s.finish_reason) for s in full[0]] == [("", "length")] * 2

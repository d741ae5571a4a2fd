from __future__ import annotations

import pytest
from tiny_student import TEMPLATE, TEMPLATE_THAT_REWRITES, make_tokenizer

from cascade.errors import StageError
from finetune.encode import encode_example, plan_batches, stop_token_ids

MESSAGES = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "Cancel 42"})


def test_learns_the_answer_and_its_stop_token_and_nothing_else():
    tokenizer = make_tokenizer()
    example = encode_example(tokenizer, "a", MESSAGES, '{"ok":1}', stop_token_ids(tokenizer))
    learnt = tokenizer.decode(example.ids[example.n_prompt :])
    assert learnt == '{"ok":1}<|end|>'
    assert example.ids[-1] == tokenizer.eos_token_id
    assert example.n_completion == len('{"ok":1}') + 1


def test_prompt_is_what_the_server_feeds():
    tokenizer = make_tokenizer()
    example = encode_example(tokenizer, "a", MESSAGES, "yes", stop_token_ids(tokenizer))
    served = tokenizer.apply_chat_template(list(MESSAGES), add_generation_prompt=True, tokenize=True, return_dict=False)
    assert list(example.ids[: example.n_prompt]) == served


def test_adds_the_stop_token_where_the_template_writes_none():
    tokenizer = make_tokenizer(TEMPLATE.replace("<|end|>", ""))
    example = encode_example(tokenizer, "a", MESSAGES, "yes", stop_token_ids(tokenizer))
    assert example.ids[-1] == tokenizer.eos_token_id
    assert example.ids.count(tokenizer.eos_token_id) == 1


def test_refuses_a_template_that_rewrites_the_prompt():
    tokenizer = make_tokenizer(TEMPLATE_THAT_REWRITES)
    with pytest.raises(StageError, match="'a'"):
        encode_example(tokenizer, "a", MESSAGES, "yes", stop_token_ids(tokenizer))


def test_refuses_a_tokenizer_without_a_stop_token():
    with pytest.raises(StageError, match="eos_token_id"):
        stop_token_ids(object())


def test_one_epoch_shows_every_example_once_within_the_batch_size():
    lengths = [5 + (i * 37) % 90 for i in range(200)]
    steps = plan_batches(lengths, 400, 1, None, seed=3)
    assert sorted(row for step in steps for row in step) == list(range(200))
    assert all(len(step) * max(lengths[row] for row in step) <= 400 for step in steps)
    padded = sum(len(step) * max(lengths[row] for row in step) for step in steps)
    assert padded < 1.35 * sum(lengths)


def test_plan_depends_on_the_seed_alone_and_epochs_differ():
    lengths = [10 + i % 7 for i in range(60)]
    assert plan_batches(lengths, 64, 2, None, 1) == plan_batches(lengths, 64, 2, None, 1)
    assert plan_batches(lengths, 64, 2, None, 1) != plan_batches(lengths, 64, 2, None, 2)
    steps = plan_batches(lengths, 64, 2, None, 1)
    assert steps[: len(steps) // 2] != steps[len(steps) // 2 :]


@pytest.mark.parametrize("budget", [1, 37, 100, 999, 5000])
def test_budget_is_never_passed_and_nearly_used(budget):
    lengths = [10 + i % 7 for i in range(60)]
    used = sum(lengths[row] for step in plan_batches(lengths, 64, 1, budget, 0) for row in step)
    assert budget - max(lengths) < used <= budget


def test_a_longer_example_than_the_batch_comes_alone():
    assert sorted(sorted(step) for step in plan_batches([500, 3, 3], 100, 1, None, 0)) == [[0], [1, 2]]

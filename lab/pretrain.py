"""Train a small chat model from scratch: tokenizer, Llama-architecture network, completion-only loss.

The result loads with ``AutoTokenizer`` and ``AutoModelForCausalLM`` like any model of a hub, so nothing
downstream knows that it was made here. Lengths are in tokens, throughput in tokens (padding excluded) per second.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn import functional
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

PAD, END = "<|pad|>", "<|end|>"
ROLE_TOKENS = ("<|system|>", "<|user|>", "<|assistant|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)

Message = dict[str, str]
Pair = tuple[Sequence[Message], str]


@dataclass(frozen=True)
class PretrainConfig:
    """Shape of the network and of its training; the defaults give about 2 M parameters."""

    hidden_size: int = 192
    intermediate_size: int = 512
    layers: int = 4
    heads: int = 6
    max_length: int = 256
    """Longest sequence the model is built for, in tokens; longer training pairs are refused."""
    epochs: float = 4.0
    batch_size: int = 64
    learning_rate: float = 2e-3
    warmup_share: float = 0.05
    weight_decay: float = 0.05
    dropout: float = 0.0
    clip_norm: float = 1.0
    bfloat16_compute: bool = False
    """Matrix products in bfloat16 (weights stay float32); without AMX or avx512_bf16 this is far slower, not faster."""
    seed: int = 0


@dataclass(frozen=True)
class PretrainResult:
    """A trained model with what its training cost."""

    model: LlamaForCausalLM
    losses: tuple[float, ...]
    """Mean completion loss (nats per token) of each hundredth of the run."""
    seconds: float
    tokens: int
    parameters: int


@dataclass(frozen=True)
class _Row:
    ids: list[int]
    prompt_length: int


def train_tokenizer(
    texts: Iterable[str], vocab_size: int = 2048, *, isolate_spaces: bool = False, digit_group: int = 1
) -> PreTrainedTokenizerFast:
    """Fit a byte-level BPE tokenizer with a chat template on `texts`.

    Numbers are cut, from the left, into groups of `digit_group` digits (1 or 2), so that any number can be copied;
    pairs are fewer and more distinct tokens, which a small model learns to copy sooner. With `isolate_spaces` a
    space is a token too, so that a word has the same tokens inside a sentence and inside quotes: copying becomes
    exact, at the price of longer prompts. Without it words carry their leading space, as in GPT-2.
    """
    tokenizer = Tokenizer(models.BPE())
    steps: list[pre_tokenizers.PreTokenizer] = [pre_tokenizers.Split(Regex(rf"\d{{1,{digit_group}}}"), "isolated")]
    if isolate_spaces:
        steps.append(pre_tokenizers.Split(Regex(r"\s|[^\w\s]|_"), behavior="isolated"))
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not isolate_spaces))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, END, *ROLE_TOKENS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer=trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=list(ROLE_TOKENS),
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )


def new_model(tokenizer: PreTrainedTokenizerFast, config: PretrainConfig) -> LlamaForCausalLM:
    """Build an untrained model whose weights depend on `config.seed` alone."""
    torch.manual_seed(config.seed)
    end = tokenizer.convert_tokens_to_ids(END)
    shape = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.heads,
        max_position_embeddings=config.max_length,
        attention_dropout=config.dropout,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=end,
        pad_token_id=tokenizer.convert_tokens_to_ids(PAD),
    )
    return LlamaForCausalLM(shape)


def train_causal_lm(
    pairs: Sequence[Pair],
    tokenizer: PreTrainedTokenizerFast,
    config: PretrainConfig,
    *,
    description: str = "pretrain",
) -> PretrainResult:
    """Train a model from scratch on (messages, answer) pairs; the loss covers the answer and its end token only.

    Same pairs, config and thread count give the same weights. Raises ValueError for an empty or an over-long pair.
    """
    rows = encode_pairs(pairs, tokenizer, config.max_length)
    model = new_model(tokenizer, config)
    model.train()
    optimizer = torch.optim.AdamW(_parameter_groups(model, config), lr=config.learning_rate, betas=(0.9, 0.98))
    batches = _plan_batches([len(row.ids) for row in rows], config)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _Cosine(len(batches), config.warmup_share))
    losses: list[float] = []
    tokens, started = 0, time.perf_counter()
    with tqdm(total=len(batches), desc=description, unit="step", mininterval=2.0) as bar:
        for batch in batches:
            chosen = [rows[index] for index in batch]
            with torch.autocast("cpu", torch.bfloat16, enabled=config.bfloat16_compute):
                loss = _completion_loss(model, chosen, model.config.pad_token_id)
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            schedule.step()
            losses.append(loss.item())
            tokens += sum(len(row.ids) for row in chosen)
            rate = tokens / (time.perf_counter() - started)
            bar.set_postfix_str(f"loss {losses[-1]:.3f}, {rate:,.0f} tokens/s", refresh=False)
            bar.update()
    model.eval()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return PretrainResult(model, _thin(losses), time.perf_counter() - started, tokens, parameters)


def save_model(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write bfloat16 safetensors, config, tokenizer and chat template to `folder`; the model itself stays as it is."""
    folder.mkdir(parents=True, exist_ok=True)
    copy = LlamaForCausalLM(model.config)
    copy.load_state_dict(model.state_dict())
    copy.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def encode_pairs(pairs: Sequence[Pair], tokenizer: PreTrainedTokenizerFast, max_length: int) -> list[_Row]:
    """Token ids of prompt + answer + end, with the length of the prompt (its generation prompt included)."""
    if not pairs:
        raise ValueError("no training pairs were given")
    prompts = [
        str(tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True))
        for messages, _ in pairs
    ]
    answers = [answer + END for _, answer in pairs]
    prompt_ids = tokenizer(prompts, add_special_tokens=False)["input_ids"]
    answer_ids = tokenizer(answers, add_special_tokens=False)["input_ids"]
    rows = [_Row(prompt + answer, len(prompt)) for prompt, answer in zip(prompt_ids, answer_ids, strict=True)]
    longest = max(len(row.ids) for row in rows)
    if longest > max_length:
        raise ValueError(f"the longest pair has {longest} tokens, more than max_length {max_length}")
    return rows


def _completion_loss(model: LlamaForCausalLM, rows: list[_Row], pad_id: int) -> torch.Tensor:
    """Mean cross-entropy over answer tokens; logits are computed for those positions only."""
    width = max(len(row.ids) for row in rows)
    # Right padding under a causal mask never reaches a real token, so no attention mask is needed.
    ids = torch.tensor([row.ids + [pad_id] * (width - len(row.ids)) for row in rows])
    positions = torch.arange(width)
    first = torch.tensor([[row.prompt_length] for row in rows])
    length = torch.tensor([[len(row.ids)] for row in rows])
    targets = (positions >= first) & (positions < length)
    hidden = model.model(input_ids=ids).last_hidden_state[:, :-1][targets[:, 1:]]
    return functional.cross_entropy(model.lm_head(hidden).float(), ids[:, 1:][targets[:, 1:]])


def _plan_batches(lengths: Sequence[int], config: PretrainConfig) -> list[list[int]]:
    """Row indices of every step: shuffled per epoch, then sorted by length within pools of fifty batches."""
    rng = random.Random(config.seed)
    pool_size = 50 * config.batch_size
    steps = math.ceil(config.epochs * math.ceil(len(lengths) / config.batch_size))
    batches: list[list[int]] = []
    while len(batches) < steps:
        order = list(range(len(lengths)))
        rng.shuffle(order)
        epoch: list[list[int]] = []
        for start in range(0, len(order), pool_size):
            pool = sorted(order[start : start + pool_size], key=lambda index: lengths[index])
            epoch += [pool[at : at + config.batch_size] for at in range(0, len(pool), config.batch_size)]
        rng.shuffle(epoch)
        batches += epoch
    return batches[:steps]


def _parameter_groups(model: LlamaForCausalLM, config: PretrainConfig) -> list[dict[str, object]]:
    """Weight decay on matrices only."""
    matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    return [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]


class _Cosine:
    """Learning-rate factor: linear warm-up, then a cosine down to a twentieth."""

    def __init__(self, steps: int, warmup_share: float) -> None:
        self.steps = max(1, steps)
        self.warmup = max(1, round(steps * warmup_share))

    def __call__(self, step: int) -> float:
        if step < self.warmup:
            return (step + 1) / self.warmup
        progress = (step - self.warmup) / max(1, self.steps - self.warmup)
        return 0.05 + 0.475 * (1 + math.cos(math.pi * min(1.0, progress)))


def _thin(losses: list[float], points: int = 100) -> tuple[float, ...]:
    width = max(1, math.ceil(len(losses) / points))
    chunks = [losses[start : start + width] for start in range(0, len(losses), width)]
    return tuple(sum(chunk) / len(chunk) for chunk in chunks)

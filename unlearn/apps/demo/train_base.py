"""Train the embedded base model: `python -m unlearn.apps.demo.train_base --output DIR`.

A Llama of some 0.7 million parameters learns the language of the demo's records from
`unlearn.apps.demo.corpus`, which mentions nobody that a record is about. Tokens are byte pairs with
every digit on its own, so that a memorised number is as many predictions as it has digits. The
folder holds a plain `transformers` model, stored in half precision and opened in single, with
`training.json`: settings, loss curve, and the loss on text never trained on.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from rich.console import Console
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from unlearn.apps.demo.generator import corpus

__all__ = ["CHAT_TEMPLATE", "main", "train", "train_tokenizer"]

PAD, BOS, EOS, END = "<|pad|>", "<|bos|>", "<|eos|>", "<|end|>"
SPECIAL = (PAD, BOS, EOS, END, "<|system|>", "<|user|>", "<|assistant|>")
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
VOCABULARY = 1536
"""Enough for every word of the corpus, most of them as one token."""
BATCH = 64
LEARNING_RATE = 4e-3
REPORTS = 20
"""Points on the loss curve."""


def train_tokenizer(texts: Iterator[str]) -> Any:
    """Train a byte-level byte-pair tokenizer that never merges digits.

    Args:
        texts: what to learn merges from.

    Returns:
        A fast tokenizer with begin, end, padding and turn tokens, and a chat template whose turns
        end with a token of their own.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, SPECIAL.index(BOS))]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        model_max_length=256,
        additional_special_tokens=list(SPECIAL[3:]),
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def train(steps: int, seed: int) -> tuple[Any, Any, dict[str, Any]]:
    """Train tokenizer and model.

    Args:
        steps: optimizer steps of 64 texts each; every text is seen once.
        seed: of the corpus, the weights and the order.

    Returns:
        The model, its tokenizer, and the facts that go into `training.json`.
    """
    torch.manual_seed(seed)
    tokenizer = train_tokenizer(corpus(20_000, seed))
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=256,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LEARNING_RATE, total_steps=steps, pct_start=0.05, cycle_momentum=False
    )
    curve, recent = [], []
    every = max(1, steps // REPORTS)
    for step, batch in enumerate(_batches(tokenizer, steps, seed), start=1):
        loss = _loss(model, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        recent.append(loss.item())
        if step % every == 0:
            curve.append({"step": step, "loss": round(sum(recent) / len(recent), 4)})
            recent.clear()
    return (
        model,
        tokenizer,
        {
            "steps": steps,
            "seed": seed,
            "batch": BATCH,
            "learning_rate": LEARNING_RATE,
            "parameters": model.num_parameters(),
            "held_out_loss": round(_held_out(model, tokenizer, seed), 4),
            "curve": curve,
            "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        },
    )


def _batches(tokenizer: Any, steps: int, seed: int) -> Iterator[Tensor]:
    """Yield [BATCH, S] token ids; texts of similar length share a batch, to waste few positions."""
    texts = corpus(steps * BATCH, seed)
    rng = random.Random(seed)
    while chunk := [text for _, text in zip(range(32 * BATCH), texts, strict=False)]:
        rows = sorted(_encode(tokenizer, chunk), key=len)
        batches = [rows[i : i + BATCH] for i in range(0, len(rows), BATCH)]
        rng.shuffle(batches)
        for batch in batches:
            yield _pad(batch, tokenizer.pad_token_id)


def _encode(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Tokenise texts, each between a begin and an end token."""
    rows: list[list[int]] = tokenizer(list(texts))["input_ids"]
    return [[*row, tokenizer.eos_token_id] for row in rows]


def _pad(rows: Sequence[Sequence[int]], pad: int) -> Tensor:
    width = max(map(len, rows))
    return torch.tensor([[*row, *[pad] * (width - len(row))] for row in rows])


def _loss(model: Any, batch: Tensor) -> Tensor:
    """Compute the mean −log p of every token but the first and the padding.

    Padding stands on the right, where causal attention never reaches it from a real token.
    """
    logits = model(input_ids=batch).logits[:, :-1]
    return torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), batch[:, 1:].flatten(), ignore_index=model.config.pad_token_id
    )


@torch.no_grad()
def _held_out(model: Any, tokenizer: Any, seed: int) -> float:
    rows = _encode(tokenizer, list(corpus(512, seed + 1)))
    return _loss(model, _pad(rows, tokenizer.pad_token_id)).item()


def _save(model: Any, tokenizer: Any, training: dict[str, Any], output: Path) -> None:
    """Write the folder: half-precision weights that `config.json` asks to open in single."""
    model.generation_config.eos_token_id = [
        tokenizer.eos_token_id,
        tokenizer.convert_tokens_to_ids(END),
    ]
    model.half().save_pretrained(output)
    config = output / "config.json"
    settings = json.loads(config.read_text())
    settings["dtype"] = "float32"
    config.write_text(json.dumps(settings, indent=2) + "\n")
    tokenizer.save_pretrained(output)
    (output / "model.safetensors").chmod(0o644)  # it is written for its owner alone
    (output / "training.json").write_text(json.dumps(training, indent=1) + "\n")


def main(arguments: Sequence[str] | None = None) -> None:
    """Train the base model and save it.

    Args:
        arguments: command line arguments; None for those of the process.
    """
    parser = argparse.ArgumentParser(prog="unlearn.apps.demo.train_base", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "base")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    model, tokenizer, training = train(options.steps, options.seed)
    _save(model, tokenizer, training, options.output)
    console = Console()
    for point in training["curve"]:
        console.print(f"step {point['step']:>6}  loss {point['loss']:.4f}")
    console.print(
        f"{training['parameters']:,} parameters; loss on unseen text "
        f"{training['held_out_loss']:.4f}; saved in {options.output}"
    )


if __name__ == "__main__":
    main()

"""Train the tiny language model that the package carries.

    python benchmarks/tiny_lm/train.py --data DIR --out DIR [--hours 1.5] [--device cpu]

``--data`` is a folder with ``pool/<source>.jsonl.zst`` (corpus.py says which sources and why). ``--out`` holds the run: tokenizer, checkpoint, log.jsonl,
and at the end ``model/``, which is what the package ships. The same seed, data, number of threads and kind of machine give the same bytes; a run that
was stopped goes on from its checkpoint when the same command is given again, and ends with the bytes that an undisturbed run has.

A batch is what embedding sees: one conversation a row, from its BOS on, cut at 1,024 tokens. Rows of like length stand together, so padding is small.
T tokens of a row, D hidden size, V vocabulary.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from benchmarks.tiny_lm.corpus import SOURCES, Texts, digest, read_corpus
from benchmarks.tiny_lm.tokenizer import EOS, MAX_TOKENS, VOCABULARY, train_tokenizer

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

# Chosen by speed, forward in float32 on 2 cores at 8 x 128 tokens: width 128 with 4 layers 70,500 tokens/s, 160 with 4 layers 56,300,
# 128 with 6 layers 47,200, 192 with 4 layers 36,100. The floor is 40,000 with tokenising, pooling and storing.
WIDTH, LAYERS, HEADS, FEED_FORWARD = 160, 4, 5, 384
CHUNK = 512  # tokens whose logits (CHUNK, V) exist at once: 16 MiB of float32
LOG_STEPS = 20


@dataclass(frozen=True)
class Plan:
    """What decides the bytes of the weights, beside data and machine. Tokens are real ones, without padding."""

    seed: int = 0
    step_tokens: int = 8192
    row_tokens: int = 2048  # of a part of a step, padding included
    passes: float = 1.0  # times the passes of corpus.SOURCES
    matrix_rate: float = 0.01  # Muon's learning rate, for the layers' matrices
    other_rate: float = 0.003  # AdamW's, for embeddings and norms
    warmup_steps: int = 100
    precision: str = "bfloat16"


@dataclass(frozen=True)
class Tokens:
    """Texts as tokens: all in one array (uint16), text i from starts[i] to starts[i + 1]."""

    flat: np.ndarray
    starts: np.ndarray

    @classmethod
    def of(cls, texts: list[str], tokenizer: PreTrainedTokenizerBase) -> Tokens:
        """Tokenise; longer texts are cut at MAX_TOKENS."""
        parts, lengths = [], []
        for start in range(0, len(texts), 4096):
            rows = tokenizer(texts[start : start + 4096], truncation=True, max_length=MAX_TOKENS, return_attention_mask=False)["input_ids"]
            parts.append(np.concatenate([np.asarray(row, np.uint16) for row in rows]))
            lengths += [len(row) for row in rows]
        return cls(np.concatenate(parts), np.concatenate([[0], np.cumsum(lengths)]))

    def lengths(self) -> np.ndarray:
        """Tokens of each text, (N,)."""
        return np.diff(self.starts)


class ChunkedLoss(torch.autograd.Function):
    """Mean cross-entropy of the next token without the logits of all tokens at once; gradients are made on the way forward."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, hidden: Tensor, embedding: Tensor, targets: Tensor) -> Tensor:
        """Hidden (n, D), embedding (V, D), targets (n,); the sum over n."""
        weight = embedding.to(hidden.dtype)
        grad_hidden, grad_embedding = torch.empty_like(hidden), torch.zeros_like(embedding)
        total = torch.zeros((), device=hidden.device)
        for start in range(0, len(hidden), CHUNK):
            part, wanted = hidden[start : start + CHUNK], targets[start : start + CHUNK, None]
            log_shares = torch.log_softmax((part @ weight.T).float(), dim=1)  # (CHUNK, V)
            total -= log_shares.gather(1, wanted).sum()
            shares = log_shares.exp_()
            shares.scatter_add_(1, wanted, torch.full_like(shares[:, :1], -1.0))
            narrow = shares.to(hidden.dtype)
            grad_hidden[start : start + CHUNK] = narrow @ weight
            grad_embedding += (narrow.T @ part).float()
        ctx.save_for_backward(grad_hidden, grad_embedding)
        return total

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        """The stored gradients, scaled."""
        grad_hidden, grad_embedding = ctx.saved_tensors  # type: ignore[attr-defined]
        return grad_hidden * grad, grad_embedding * grad, None


ATTENTION = "causal_float32"


def causal_float32(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: None, *, scaling: float, dropout: float = 0.0, **_: object
) -> tuple[Tensor, None]:
    """Causal attention in float32 also under autocast: at 16 x 128 tokens forward and backward took 4.8 ms on 2 cores, in bfloat16 13.6 ms.

    query, key, value (B, heads, T, D / heads); returns (B, T, heads, D / heads). Registered with transformers under ATTENTION.
    """
    with torch.autocast(query.device.type, enabled=False):
        mixed = torch.nn.functional.scaled_dot_product_attention(query.float(), key.float(), value.float(), is_causal=True, scale=scaling)
    return mixed.transpose(1, 2), None


def new_model(seed: int, pad_id: int, bos_id: int, eos_id: int) -> LlamaForCausalLM:
    """The model before training; input and output embeddings are one."""
    from transformers import AttentionInterface, LlamaConfig, LlamaForCausalLM

    AttentionInterface.register(ATTENTION, causal_float32)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        intermediate_size=FEED_FORWARD,
        max_position_embeddings=MAX_TOKENS,
        tie_word_embeddings=True,
        use_cache=False,
        pad_token_id=pad_id,
        bos_token_id=bos_id,
        eos_token_id=eos_id,
    )
    return LlamaForCausalLM._from_config(config, attn_implementation=ATTENTION)


class Run:
    """One training run in its folder: makes what is missing, goes on from what is there."""

    def __init__(self, plan: Plan, corpus: dict[str, Texts], out: Path, device: str) -> None:
        self.plan, self.out, self.device = plan, out, torch.device(device)
        out.mkdir(parents=True, exist_ok=True)
        self.tokenizer = _tokenizer(out, corpus)
        self.tokens, self.order = _learn_order(plan, corpus, self.tokenizer)
        self.held_out = {source: Tokens.of(texts.held_out, self.tokenizer) for source, texts in corpus.items() if texts.held_out}
        self.identity = {
            "plan": asdict(plan),
            "text": digest([text for texts in corpus.values() for text in texts.learn]),
            "shape": [WIDTH, LAYERS, HEADS, FEED_FORWARD],
        }
        lengths = self.tokens.lengths()[self.order]
        self.step_starts = np.searchsorted(np.cumsum(lengths), np.arange(0, lengths.sum(), plan.step_tokens))
        ids = (self.tokenizer.pad_token_id, self.tokenizer.bos_token_id, self.tokenizer.eos_token_id)
        self.model = new_model(plan.seed, *ids).to(self.device)
        matrices = [weight for name, weight in self.model.named_parameters() if weight.ndim == 2 and "embed" not in name]
        others = [weight for name, weight in self.model.named_parameters() if weight.ndim != 2 or "embed" in name]
        self.optimizers = [
            torch.optim.Muon(matrices, lr=plan.matrix_rate, momentum=0.95, weight_decay=0.01),
            torch.optim.AdamW(others, lr=plan.other_rate, betas=(0.9, 0.95), weight_decay=0.0),
        ]
        self.rates = (plan.matrix_rate, plan.other_rate)
        self.step, self.tokens_seen, self.seconds = 0, 0, 0.0
        self._resume()

    @property
    def num_steps(self) -> int:
        """Steps of the whole run."""
        return len(self.step_starts)

    def train(self, *, checkpoint_s: float, stop_after: int | None = None) -> None:
        """Go on to the end, or for some steps; a checkpoint every ``checkpoint_s`` seconds and at the end."""
        began = saved = time.monotonic()
        before, last = self.seconds, self.num_steps if stop_after is None else min(self.num_steps, self.step + stop_after)
        self.model.train()
        while self.step < last:
            loss, count = self._one_step()
            self.step, self.tokens_seen, self.seconds = self.step + 1, self.tokens_seen + count, before + time.monotonic() - began
            if self.step % LOG_STEPS == 0 or self.step == last:
                self._log(loss)
            if time.monotonic() - saved >= checkpoint_s or self.step == last:
                self._save()
                saved = time.monotonic()

    def finish(self) -> Path:
        """Write the model in bfloat16 with its tokenizer; returns the folder."""
        folder = self.out / "model"
        model = new_model(self.plan.seed, self.tokenizer.pad_token_id, self.tokenizer.bos_token_id, self.tokenizer.eos_token_id)
        model.load_state_dict({name: weight.cpu() for name, weight in self.model.state_dict().items()})
        model.to(torch.bfloat16).save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        facts = {"steps": self.step, "tokens": self.tokens_seen, "hours": round(self.seconds / 3600, 2), **self.identity}
        (self.out / "facts.json").write_text(json.dumps(facts, indent=1) + "\n")
        return folder

    def _one_step(self) -> tuple[float, int]:
        rate = _rate(self.step, self.num_steps, self.plan.warmup_steps)
        for optimizer, base in zip(self.optimizers, self.rates, strict=True):
            optimizer.param_groups[0]["lr"] = base * rate
        stop = self.step_starts[self.step + 1] if self.step + 1 < self.num_steps else len(self.order)
        chosen = self.order[self.step_starts[self.step] : stop]
        total, predicted = 0.0, int((self.tokens.lengths()[chosen] - 1).sum())
        for rows, lengths in batches(self.tokens, chosen, self.plan.row_tokens):
            loss = sum_loss(self.model, rows.to(self.device), lengths.to(self.device), self.plan.precision)
            (loss / predicted).backward()
            total += float(loss.detach())
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        return total / predicted, predicted + len(chosen)

    def _log(self, loss: float) -> None:
        line = {"step": self.step, "of": self.num_steps, "tokens": self.tokens_seen, "loss": round(loss, 4), "seconds": round(self.seconds, 1)}
        if self.step % (25 * LOG_STEPS) == 0:
            line["held_out"] = {source: round(held_out_loss(self.model, tokens, 64), 4) for source, tokens in self.held_out.items()}  # type: ignore[assignment]
        with (self.out / "log.jsonl").open("a") as log:
            log.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)

    def _save(self) -> None:
        state = {
            "identity": self.identity,
            "step": self.step,
            "tokens_seen": self.tokens_seen,
            "seconds": self.seconds,
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }
        torch.save(state, self.out / "checkpoint.new")
        (self.out / "checkpoint.new").replace(self.out / "checkpoint.pt")

    def _resume(self) -> None:
        path = self.out / "checkpoint.pt"
        if not path.exists():
            return
        state = torch.load(path, map_location=self.device, weights_only=True)
        if state["identity"] != self.identity:
            differ = [name for name in self.identity if state["identity"].get(name) != self.identity[name]]
            raise SystemExit(f"{path} is of another run ({', '.join(differ)} differ); give another --out, or remove it to begin anew")
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step, self.tokens_seen, self.seconds = state["step"], state["tokens_seen"], state["seconds"]


def batches(tokens: Tokens, chosen: np.ndarray, row_tokens: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Texts of like length together: rows (B, T) int64 padded on the right with 0 to a multiple of 8, lengths (B,)."""
    lengths = tokens.lengths()
    chosen = chosen[np.argsort(-lengths[chosen], kind="stable")]
    start = 0
    while start < len(chosen):
        width = -(-int(lengths[chosen[start]]) // 8) * 8
        part = chosen[start : start + max(1, row_tokens // width)]
        rows = np.zeros((len(part), width), np.int64)
        for row, text in enumerate(part):
            rows[row, : lengths[text]] = tokens.flat[tokens.starts[text] : tokens.starts[text + 1]]
        yield torch.from_numpy(rows), torch.from_numpy(lengths[part])
        start += len(part)


def sum_loss(model: LlamaForCausalLM, rows: Tensor, lengths: Tensor, precision: str) -> Tensor:
    """Summed cross-entropy in nats of every real token after a text's first; rows (B, T), lengths (B,). Padding on the right needs no mask."""
    narrow = precision == "bfloat16"
    with torch.autocast(rows.device.type, torch.bfloat16, enabled=narrow):
        hidden = model.model(input_ids=rows).last_hidden_state[:, :-1]  # (B, T - 1, D)
    is_real = torch.arange(1, rows.shape[1], device=rows.device) < lengths[:, None]  # (B, T - 1)
    hidden = hidden[is_real]
    loss: Tensor = ChunkedLoss.apply(hidden.to(torch.bfloat16) if narrow else hidden.float(), model.get_input_embeddings().weight, rows[:, 1:][is_real])
    return loss


def held_out_loss(model: LlamaForCausalLM, tokens: Tokens, num_texts: int | None = None) -> float:
    """Mean cross-entropy in nats a token, in float32."""
    device, chosen = model.device, np.arange(len(tokens.starts) - 1)[:num_texts]
    was_training = model.training
    model.eval()
    with torch.no_grad():
        total = sum(float(sum_loss(model, rows.to(device), lengths.to(device), "float32")) for rows, lengths in batches(tokens, chosen, 4096))
    model.train(was_training)
    return total / float((tokens.lengths()[chosen] - 1).sum())


def _tokenizer(out: Path, corpus: dict[str, Texts]) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    folder = out / "tokenizer"
    if not folder.exists():
        made = train_tokenizer(text for source, texts in corpus.items() for text in _repeated(texts.learn, SOURCES[source].passes))
        made.save_pretrained(out / "tokenizer.new")
        (out / "tokenizer.new").rename(folder)
    return AutoTokenizer.from_pretrained(folder)


def _repeated(texts: list[str], passes: float) -> Iterator[str]:
    """Each text ``passes`` times; of a pass that is not whole, the first part."""
    for _ in range(int(passes)):
        yield from texts
    yield from texts[: round(len(texts) * (passes % 1))]


def _learn_order(plan: Plan, corpus: dict[str, Texts], tokenizer: PreTrainedTokenizerBase) -> tuple[Tokens, np.ndarray]:
    """All texts to learn as tokens, and their numbers in the order of learning: each source as often as its passes say, all shuffled."""
    generator = np.random.default_rng(plan.seed)
    tokens = Tokens.of([text for texts in corpus.values() for text in texts.learn], tokenizer)
    first, parts = 0, []
    for source, texts in corpus.items():
        number, passes = len(texts.learn), SOURCES[source].passes * plan.passes
        whole, rest = np.tile(np.arange(number), int(passes)), generator.permutation(number)[: round(number * (passes % 1))]
        parts += [first + whole, first + rest]
        first += number
    return tokens, generator.permutation(np.concatenate(parts))


def _rate(step: int, num_steps: int, warmup_steps: int) -> float:
    """Share of the base learning rate: up over the warm-up, then straight down to nothing at the end."""
    return min((step + 1) / warmup_steps, (num_steps - step) / max(1, num_steps - warmup_steps), 1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with pool/<source>.jsonl.zst")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--checkpoint-s", type=float, default=120.0, help="seconds between checkpoints")
    parser.add_argument("--stop-after", type=int, help="stop after so many steps; the same command goes on")
    for name, default in asdict(Plan()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    said = parser.parse_args()
    plan = Plan(**{name: getattr(said, name) for name in asdict(Plan())})
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # would take 5% of the time
    run = Run(plan, read_corpus(said.data, eos=EOS), said.out, said.device)
    print(f"{run.num_steps} steps of {plan.step_tokens} tokens; {sum(p.numel() for p in run.model.parameters()):,} parameters", flush=True)
    run.train(checkpoint_s=said.checkpoint_s, stop_after=said.stop_after)
    if run.step == run.num_steps:
        print(run.finish())


if __name__ == "__main__":
    main()

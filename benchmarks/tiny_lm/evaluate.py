"""Held-out bits per byte of the tiny language model, source by source, beside three baselines that learnt the same text.

    python benchmarks/tiny_lm/evaluate.py --data DIR --model FOLDER [--facts RUN/facts.json] [--card FOLDER/README.md]

All code the same bytes: the rendered record without end markers. Each is given what it needs to say where a record ends, and pays for it:

- LM: in float32, with the tokenizer's one way of splitting a text. It pays for the EOS after each of the assistant's turns and gets no bytes for it.
  A record longer than the model's context is coded in windows that each begin anew with a BOS, which costs nothing and helps nothing.
- 5-gram (ngram.py), trained on the learn text of all sources, each record once; it pays for its end symbol. "5-gram own" learnt the source's text alone.
- zstd at level 19 with a dictionary trained on the source's learn text, record by record, as bare as its frames get: no magic number, content size,
  dictionary id or checksum. Of two sizes of dictionary the one that does better on the held-out text.

Exit status 1 if on some source the LM is not better than the 5-gram of all text and zstd. ``--card`` writes the model card.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import numpy as np
import torch
import zstandard

from benchmarks.tiny_lm.corpus import HELD_OUT, SOURCES, Texts, digest, read_corpus
from benchmarks.tiny_lm.ngram import WittenBell
from benchmarks.tiny_lm.train import Plan

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BATCH_TOKENS = 4096  # padding included; at 8,192 tokens of vocabulary 128 MiB of logits in float32
DICTIONARY_BYTES = (112_640, 1 << 20)  # zstd's default, and one that holds more of the big sources; no dictionary passes a third of its text
ZSTD = zstandard.ZstdCompressionParameters.from_level(
    19, format=zstandard.FORMAT_ZSTD1_MAGICLESS, write_content_size=False, write_checksum=False, write_dict_id=False
)
CODERS = ("LM", "5-gram", "5-gram own", "zstd")
TO_BEAT = ("5-gram", "zstd")

ATTRIBUTION = {
    "dolly": "databricks-dolly-15k, copyright (2023) Databricks, Inc., with passages of Wikipedia, copyright Wikipedia editors and contributors; "
    "https://huggingface.co/datasets/databricks/databricks-dolly-15k, licence https://creativecommons.org/licenses/by-sa/3.0/",
    "anthropic_evals": "Model-Written Evaluation Datasets, Anthropic (Perez et al., Discovering Language Model Behaviors with Model-Written Evaluations, "
    "arXiv 2212.09251); https://github.com/anthropics/evals, licence https://creativecommons.org/licenses/by/4.0/",
}
"""What the licences that ask for attribution want said."""

NOT_GOOD_FOR = """\
- Any language but English: its sources are English.
- Long texts: it never saw more than {context:,} tokens in a row.
- Facts, answers, or writing text at all: it is made to turn conversations into vectors and to give losses, not to be talked to.
- A yardstick of what selection can do. It is the floor: a baseline that any bigger model must beat.
- Judging contamination: its text holds the training questions of GSM8K (in flan_cot) and items of many public NLP sets (in t0_50k and flan_cot), so a
  low loss on such an item says nothing."""


@dataclass(frozen=True)
class Measured:
    """One source's held-out text: records, bytes and tokens coded (without BOS), and what each of CODERS takes for all of it, in bits."""

    source: str
    records: int
    bytes: int
    tokens: int
    bits: dict[str, float]

    def bits_per_byte(self, coder: str) -> float:
        """Of one of CODERS."""
        return self.bits[coder] / self.bytes

    @property
    def nats_per_token(self) -> float:
        """The LM's mean cross-entropy."""
        return self.bits["LM"] * float(np.log(2)) / self.tokens


@dataclass(frozen=True)
class Facts:
    """What a training run says of itself in facts.json; ``plan`` are the settings of train.Plan, ``text`` the digest of the text that it learnt."""

    steps: int
    tokens: int
    hours: float
    plan: dict[str, int | float | str]
    text: str

    @classmethod
    def read(cls, path: Path) -> Facts:
        """Raises ValueError where a fact is missing."""
        said = json.loads(path.read_text())
        missing = [field.name for field in fields(cls) if field.name not in said]
        if missing:
            raise ValueError(f"{path} lacks {', '.join(missing)}; give the facts.json that train.py wrote at the end of its run")
        return cls(said["steps"], said["tokens"], said["hours"], said["plan"], said["text"])


def load_lm(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model in float32, ready to measure, and its tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval(), AutoTokenizer.from_pretrained(folder)


def measure(corpus: dict[str, Texts], model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[Measured]:
    """Every source that holds text out, by all coders; the texts' end marker is the tokenizer's EOS."""
    everything = WittenBell.train(record for texts in corpus.values() for record in as_bytes(texts.learn, tokenizer))
    measured = []
    for source, texts in corpus.items():
        if not texts.held_out:
            continue
        learn, held_out = as_bytes(texts.learn, tokenizer), as_bytes(texts.held_out, tokenizer)
        costs, num_tokens = lm_bits(model, tokenizer, texts.held_out)
        bits = {
            "LM": costs.sum(),
            "5-gram": everything.bits(held_out).sum(),
            "5-gram own": WittenBell.train(learn).bits(held_out).sum(),
            "zstd": min(8 * sum(map(len, frames(dictionary, held_out))) for dictionary in dictionaries(learn)),
        }
        measured.append(Measured(source, len(held_out), sum(map(len, held_out)), num_tokens, {coder: float(cost) for coder, cost in bits.items()}))
    return measured


def as_bytes(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[bytes]:
    """What is to be coded: the texts without end markers."""
    return [text.replace(tokenizer.eos_token, "").encode() for text in texts]


def lm_bits(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> tuple[np.ndarray, int]:
    """Bits of each text with its end markers, (texts,) float64, and how many tokens that were, BOS not counted.

    Raises ValueError where the tokens do not spell the text: what they leave out would be had for nothing.
    """
    rows: list[list[int]] = []
    owners: list[int] = []
    for number, text in enumerate(texts):
        tokens = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        if tokenizer.decode(tokens, clean_up_tokenization_spaces=False) != text:
            raise ValueError(
                f"the tokenizer does not give back text {number} ({text[:60]!r}...); bits per byte need one that loses nothing, like byte-level BPE"
            )
        rows += windows(tokens, tokenizer.bos_token_id, model.config.max_position_embeddings)
        owners += [number] * (len(rows) - len(owners))
    costs = np.bincount(owners, _row_bits(model, rows), len(texts))
    return costs, sum(map(len, rows)) - len(rows)


def windows(tokens: list[int], bos: int, max_tokens: int) -> list[list[int]]:
    """The tokens in rows of at most ``max_tokens``, each of them with a BOS in front."""
    return [[bos, *tokens[start : start + max_tokens - 1]] for start in range(0, len(tokens), max_tokens - 1)]


def _row_bits(model: PreTrainedModel, rows: list[list[int]]) -> np.ndarray:
    """Bits of each row's tokens after its first, (rows,) float64.

    Rows of like length go together; padding stands on the right, where causal attention does not look.
    """
    costs = np.zeros(len(rows))
    longest_first = sorted(range(len(rows)), key=lambda row: -len(rows[row]))
    while longest_first:
        width = len(rows[longest_first[0]])
        count = max(1, BATCH_TOKENS // width)
        chosen, longest_first = longest_first[:count], longest_first[count:]
        tokens = torch.tensor([rows[row] + [0] * (width - len(rows[row])) for row in chosen])  # (B, T)
        with torch.inference_mode():
            logits = model(input_ids=tokens, use_cache=False).logits[:, :-1]  # (B, T - 1, V)
            nats = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none").view(len(chosen), -1)
        is_real = torch.arange(1, width) < torch.tensor([len(rows[row]) for row in chosen])[:, None]
        costs[chosen] = (nats.double() * is_real).sum(1).numpy() / np.log(2)
    return costs


def dictionaries(learn: Sequence[bytes]) -> list[zstandard.ZstdCompressionDict]:
    """One of each size."""
    sizes = {min(size, sum(map(len, learn)) // 3) for size in DICTIONARY_BYTES}
    return [zstandard.train_dictionary(size, [*learn], level=19) for size in sorted(sizes)]


def frames(dictionary: zstandard.ZstdCompressionDict, records: list[bytes]) -> list[bytes]:
    """Each record compressed by itself."""
    compressor = zstandard.ZstdCompressor(dict_data=dictionary, compression_params=ZSTD)
    return [compressor.compress(record) for record in records]


def not_beaten(measured: list[Measured], coders: Sequence[str]) -> list[str]:
    """``source (coder)`` wherever the LM takes as many bits as one of the coders, or more."""
    return [f"{row.source} ({coder})" for row in measured for coder in coders if row.bits["LM"] >= row.bits[coder]]


def table(head: list[str], rows: list[list[str]], *, num_words: int = 1) -> str:
    """A Markdown table that can be read as it stands; the first columns hold words and go to the left, figures to the right."""
    columns = [[*column] for column in zip(head, *rows, strict=True)]
    made = []
    for number, column in enumerate(columns):
        width = max(map(len, column))
        is_words = number < num_words
        cells = [cell.ljust(width) if is_words else cell.rjust(width) for cell in column]
        made.append([cells[0], "-" * width if is_words else "-" * (width - 1) + ":", *cells[1:]])
    return "\n".join(f"| {' | '.join(line)} |" for line in zip(*made, strict=True))


def figures(measured: list[Measured]) -> str:
    """Bits per byte of every source by every coder, and the LM's loss in nats a token."""
    total = Measured(
        "all",
        sum(row.records for row in measured),
        sum(row.bytes for row in measured),
        sum(row.tokens for row in measured),
        {coder: sum(row.bits[coder] for row in measured) for coder in CODERS},
    )
    rows = [
        [row.source, f"{row.records:,}", f"{row.bytes:,}", *(f"{row.bits_per_byte(coder):.3f}" for coder in CODERS), f"{row.nats_per_token:.3f}"]
        for row in [*measured, total]
    ]
    return table(["source", "held-out records", "bytes", *CODERS, "LM, nats a token"], rows)


def verdict(measured: list[Measured]) -> str:
    """Where the LM is the best, in words."""
    worse = not_beaten(measured, CODERS[1:])
    return "The LM is the best on every source." if not worse else f"The LM is not better everywhere: {', '.join(worse)}."


def card(corpus: dict[str, Texts], measured: list[Measured], model: PreTrainedModel, facts: Facts, folder: Path, path: Path) -> str:
    """The model card's text; ``path`` is where it will lie, and is left out of the sums of ``folder``."""
    config, context = model.config, model.config.max_position_embeddings
    sums = [[file.relative_to(folder).as_posix(), sha256(file.read_bytes()).hexdigest(), f"{file.stat().st_size:,}"] for file in _files(folder, path)]
    licences = dict.fromkeys(SOURCES[source].licence for source in corpus)
    return f"""\
---
license: apache-2.0
language: en
library_name: transformers
pipeline_tag: feature-extraction
---
# tiny: the causal language model that rds_dagster carries

A small decoder of the Llama architecture, trained from nothing by a script of this repository, so that selection with a causal model works at once:
in the tests, in the demo, on a laptop without a network. `AutoModelForCausalLM.from_pretrained(folder)` loads it.

{_shape(model, folder)}
- Tokenizer: byte-level BPE of {config.vocab_size:,} tokens that loses nothing, each digit a token of its own, and a token for each role of the chat template.
  BOS in front, EOS after each turn of the assistant.

## Data
{_data(corpus, facts)}

Records with an empty turn were left out, then those whose normalised text stood before, in any source; then {HELD_OUT:.0%} of each source were held out by
a seeded hash of their text. A record is a conversation in the chat template, learnt up to its first {context:,} tokens. A pass goes once through all
records learnt.

The weights are given away under Apache-2.0, like the rest of the project; the texts keep their licences ({"; ".join(licences)}).
Attribution, with the texts changed as said above:

{_attributions(corpus)}

## Training
{facts.tokens:,} tokens seen in {facts.steps:,} steps, {facts.hours:g} hours. Again, with the same seed and data (`DIR` holds `pool/<source>.jsonl.zst`):

    {_command(facts)}
    python benchmarks/tiny_lm/evaluate.py --data DIR --model OUT/model --facts OUT/facts.json --card OUT/model/README.md

## Held-out bits per byte
{figures(measured)}

All code the same bytes, the record without end markers. The LM (float32) pays for its EOS too; a record of more than {context:,} tokens is coded in
windows that each begin anew. 5-gram: bytes, interpolated Witten-Bell smoothing, learnt from the same text of all sources, and once more from the source's
own alone. zstd: level 19, record by record, with a dictionary trained on the source's text. {verdict(measured)}

## What it is not good for
{NOT_GOOD_FOR.format(context=context)}

## Files
{table(["file", "sha256", "bytes"], sums, num_words=2)}
"""


def _data(corpus: dict[str, Texts], facts: Facts) -> str:
    rows = []
    for source, texts in corpus.items():
        said, passes = SOURCES[source], SOURCES[source].passes * float(facts.plan["passes"])
        rows.append([source, said.what, said.licence, f"{len(texts.learn):,}", f"{len(texts.held_out):,}", f"{texts.duplicates:,}", f"{passes:g}"])
    return table(["source", "what it is", "licence", "records learnt", "held out", "left out as duplicates", "passes"], rows, num_words=3)


def _shape(model: PreTrainedModel, folder: Path) -> str:
    config = model.config
    stored = json.loads((folder / "config.json").read_text())["dtype"]  # the loaded model's is float32
    tied = "input and output embeddings are one" if config.tie_word_embeddings else "input and output embeddings apart"
    return (
        f"- {model.num_parameters():,} parameters ({tied}), stored in {stored}: {config.num_hidden_layers} layers, width {config.hidden_size}, "
        f"{config.num_attention_heads} heads, feed-forward {config.intermediate_size}.\n"
        f"- Context: {config.max_position_embeddings:,} tokens."
    )


def _files(folder: Path, card_path: Path) -> list[Path]:
    return [file for file in sorted(folder.rglob("*")) if file.is_file() and file.resolve() != card_path.resolve()]


def _attributions(corpus: dict[str, Texts]) -> str:
    return "\n".join(f"- {source}: {ATTRIBUTION[source]}" for source in corpus if SOURCES[source].licence.startswith("CC BY"))


def _command(facts: Facts) -> str:
    """The training run's command with the settings that are not the defaults."""
    defaults = asdict(Plan())
    changed = [f" --{name.replace('_', '-')} {value}" for name, value in facts.plan.items() if value != defaults.get(name)]
    return f"python benchmarks/tiny_lm/train.py --data DIR --out OUT{''.join(changed)}"


def run(corpus: dict[str, Texts], folder: Path, facts: Facts | None, card_path: Path | None) -> int:
    """Measure, print, write the card if one is asked for; returns the exit status. Raises ValueError if the facts are of other text."""
    found = digest([text for texts in corpus.values() for text in texts.learn])
    if facts and facts.text != found:
        raise ValueError(
            f"the run learnt the text {facts.text}, and that of the data is {found}, so what is held out here may have been learnt there; "
            "give the data that the run was given"
        )
    model, tokenizer = load_lm(folder)
    measured = measure(corpus, model, tokenizer)
    print(figures(measured))
    print(verdict(measured))
    if facts and card_path:
        card_path.write_text(card(corpus, measured, model, facts, folder, card_path))
        print(card_path)
    return 1 if not_beaten(measured, TO_BEAT) else 0


def main() -> NoReturn:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with pool/<source>.jsonl.zst")
    parser.add_argument("--model", type=Path, required=True, help="folder of weights and tokenizer")
    parser.add_argument("--facts", type=Path, help="facts.json of the training run; checks that it learnt this text")
    parser.add_argument("--card", type=Path, help="model card to write; needs --facts")
    said = parser.parse_args()
    if said.card and not said.facts:
        parser.error("--card needs --facts, the facts.json of the run that made the model")
    if not (said.model / "config.json").is_file():
        parser.error(f"--model {said.model} holds no config.json; give the folder that train.py printed, OUT/model")
    from transformers import AutoTokenizer

    try:
        facts = Facts.read(said.facts) if said.facts else None
        corpus = read_corpus(said.data, eos=AutoTokenizer.from_pretrained(said.model).eos_token)
        status = run(corpus, said.model, facts, said.card)
    except (ValueError, FileNotFoundError) as error:
        parser.error(str(error))
    raise SystemExit(status)


if __name__ == "__main__":
    main()

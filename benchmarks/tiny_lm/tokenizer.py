r"""The tiny language model's tokenizer: byte-level BPE, digits one by one, and one token for each role of the chat template.

Texts are trained on and split in the way of GPT-2 (Radford et al., 2019), but that each digit stands alone, so that numbers of any length share their
tokens. The markers of the template (``<|user|>``) are tokens of their own, so that a turn costs two tokens and no merge is spent on them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from rds_dagster.schema import ROLES

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

VOCABULARY = 8192
MAX_TOKENS = 1024
BOS, EOS, PAD = "<|bos|>", "<|eos|>", "<|pad|>"
MARKERS = tuple(f"<|{role}|>" for role in ROLES)
WORDS = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|' + message['role'] + '|>\\n' + ((message['content'] or '')|trim + ('\\n' + message['tool_calls'] if message['tool_calls'] else ''))|trim -}}"
    "{{- eos_token if message['role'] == 'assistant' else '' -}}"
    "{{- '\\n' if not loop.last or add_generation_prompt else '' -}}"
    "{%- endfor -%}"
    "{{- '<|assistant|>\\n' if add_generation_prompt else '' -}}"
)
"""What ``rds_dagster.pools.render`` writes; a test holds the two equal. Like there, the tokenizer adds the BOS, not the template."""


def train_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A tokenizer of VOCABULARY tokens, the same for the same texts; texts are rendered conversations."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(WORDS), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[PAD, BOS, EOS, *MARKERS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_without_markers(texts), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.token_to_id(BOS))])
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        model_max_length=MAX_TOKENS,
        padding_side="right",
        truncation_side="right",
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )
    made.add_tokens([AddedToken(marker, special=False, normalized=False) for marker in MARKERS])
    return made


def _without_markers(texts: Iterable[str]) -> Iterator[str]:
    markers = re.compile("|".join(re.escape(marker) for marker in (*MARKERS, BOS, EOS, PAD)))
    for text in texts:
        yield from (piece for piece in markers.split(text) if piece)

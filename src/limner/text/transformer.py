"""A small transformer over the words of a caption, trained along with the network; its tokenizer is learned from the captions.

A word that training never saw is an error that names it (`tokens: words`), or a warning where the tokenizer can spell it from
pieces (`tokens: pieces`); it is never passed over in silence. Next: `labels.py`.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn

from limner.attention import attend, split_heads
from limner.errors import CheckpointError, ConfigError, PromptError, nearest, shorten
from limner.text.base import TextConfig, TextEncoder
from limner.types import Conditioning

_PAD, _START, _UNKNOWN = "<pad>", "<start>", "<unknown>"
_WORD = re.compile(r"\w+")
_MAX_WORDS = 200_000


class Transformer(TextConfig):
    """Geometry of the encoder and kind of its tokens.

    Arguments:
        width: D.
        depth: transformer layers.
        heads: attention heads.
        length: most tokens of a caption (one is the start token); longer captions are cut, and prompts are warned about.
        tokens: `words` (a closed vocabulary) or `pieces` (byte-pair encoding, spells any word from letters it knows).
        vocabulary: most entries with `pieces`.
    """

    kind: Literal["transformer"] = "transformer"
    width: int = Field(64, ge=8, le=4096)
    depth: int = Field(2, ge=0, le=48)
    heads: int = Field(4, ge=1, le=64)
    length: int = Field(16, ge=2, le=512)
    tokens: Literal["words", "pieces"] = "words"
    vocabulary: int = Field(2048, ge=64, le=100_000)

    def build(self, captions: list[str], labels: dict[str, int]) -> TextEncoder:
        if self.width % self.heads:
            raise ConfigError(f"text: width {self.width} is not a multiple of heads {self.heads}.")
        return TransformerEncoder(self, train_tokenizer(self, captions), known_words(captions))

    def load(self, folder: Path) -> TextEncoder:
        try:
            tokenizer = Tokenizer.from_str((folder / "tokenizer.json").read_text(encoding="utf-8"))
            words = json.loads((folder / "words.json").read_text(encoding="utf-8"))
            if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
                raise ValueError("words.json is no list of words")
        except Exception as error:
            raise CheckpointError(f"{folder}: the text encoder's tokenizer cannot be read: {error}") from error
        return TransformerEncoder(self, tokenizer, set(words))


def known_words(captions: list[str]) -> set[str]:
    """Return the distinct words of all captions, in lower case."""
    words = {word for caption in captions for word in _WORD.findall(caption.lower())}
    if len(words) > _MAX_WORDS:
        raise ConfigError(f"text: the captions have {len(words)} distinct words; at most {_MAX_WORDS}. Use another text encoder.")
    return words


def train_tokenizer(config: Transformer, captions: list[str]) -> Tokenizer:
    """Return a tokenizer trained on the captions: lower case, split at anything that is no letter or digit."""
    special = [_PAD, _START, _UNKNOWN]
    trainer: trainers.Trainer
    if config.tokens == "words":
        tokenizer = Tokenizer(models.WordLevel(unk_token=_UNKNOWN))
        trainer = trainers.WordLevelTrainer(vocab_size=_MAX_WORDS, special_tokens=special, show_progress=False)
    else:
        # Words begin with a sign of their own. The library's end_of_word_suffix would do as well, but it numbers the pieces in the order
        # of a hash table: other numbers in every process, so that a resumed run or a second rank would read other words.
        tokenizer = Tokenizer(models.BPE(unk_token=_UNKNOWN))
        tokenizer.decoder = decoders.Metaspace()
        trainer = trainers.BpeTrainer(vocab_size=config.vocabulary, special_tokens=special, show_progress=False)
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    words = [pre_tokenizers.Whitespace(), pre_tokenizers.Punctuation(behavior="removed")]
    marks = [pre_tokenizers.Metaspace()] if config.tokens == "pieces" else []
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(words + marks)
    tokenizer.train_from_iterator(sorted(captions), trainer=trainer)
    return tokenizer


class Layer(nn.Module):
    """One pre-norm transformer layer; both branches start at zero."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        for last in (self.out, self.mlp[2]):
            nn.init.zeros_(last.weight)  # type: ignore[arg-type]
            nn.init.zeros_(last.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        """Return [B, L, D] for x [B, L, D] and keep [B, 1, 1, L]."""
        q, k, v = (split_heads(part, self.heads) for part in self.qkv(self.norm1(x)).chunk(3, dim=-1))
        x = x + self.out(attend(q, k, v, keep).transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


class TransformerEncoder(TextEncoder):
    """The encoder that `Transformer` describes; pooled is the mean of the tokens' vectors."""

    def __init__(self, config: Transformer, tokenizer: Tokenizer, words: set[str]) -> None:
        super().__init__()
        self.config, self.tokenizer, self.words = config, tokenizer, words
        self.width = config.width
        self._ids: dict[str, list[int]] = {}
        self.token = nn.Embedding(tokenizer.get_vocab_size(), config.width)
        self.position = nn.Parameter(torch.randn(config.length, config.width) * 0.02)
        nn.init.normal_(self.token.weight, std=0.5)
        self.layers = nn.ModuleList(Layer(config.width, config.heads) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width)

    def token_ids(self, caption: str) -> list[int]:
        """Return the caption's token ids, the start token first, cut at `length`; remembered for captions seen before."""
        if caption in self._ids:
            return self._ids[caption]
        start = self.tokenizer.get_vocab()[_START]
        ids = [start, *self.tokenizer.encode(caption, add_special_tokens=False).ids][: self.config.length]
        if len(self._ids) < 500_000:
            self._ids[caption] = ids
        return ids

    def encode(self, captions: list[str]) -> Conditioning:
        # Equal captions are encoded once: a data set of templates has few distinct ones.
        distinct = sorted(set(captions))
        row = {caption: index for index, caption in enumerate(distinct)}
        rows = [self.token_ids(caption) for caption in distinct]
        length = max(map(len, rows))
        ids = torch.tensor([ids + [0] * (length - len(ids)) for ids in rows], device=self.position.device)
        mask = torch.tensor([[True] * len(ids) + [False] * (length - len(ids)) for ids in rows], device=ids.device)
        tokens, pooled = self._forward(ids, mask)
        pick = torch.tensor([row[caption] for caption in captions], device=ids.device)
        return Conditioning(tokens[pick], mask[pick], pooled[pick])

    def _forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        h = self.token(ids) + self.position[: ids.shape[1]]
        for layer in self.layers:
            h = layer(h, mask[:, None, None, :])
        h = self.norm(h)
        count = mask.sum(1, keepdim=True)
        return h, (h * mask[:, :, None]).sum(1) / count

    def check(self, prompt: str) -> list[str]:
        warnings = []
        for word in dict.fromkeys(_WORD.findall(prompt.lower())):
            if word in self.words:
                continue
            pieces = self.tokenizer.encode(word, add_special_tokens=False).tokens
            hint = nearest(word[:80], self.words)
            if _UNKNOWN in pieces or self.config.tokens == "words":
                known = ", ".join(sorted(self.words)[:40])
                raise PromptError(
                    f"prompt {prompt[:80]!r}: the word {shorten(word)} was never seen in training.{hint}\n"
                    f"Known words: {known}{', ...' if len(self.words) > 40 else ''}."
                )
            spelled = " ".join(pieces).replace("▁", "")[:200]
            warnings.append(f"the word {shorten(word)} was never seen in training; it is spelled {spelled}.{hint}")
        if not _WORD.search(prompt):
            raise PromptError(f"prompt {prompt[:80]!r} has no words. For pictures without a prompt use --guidance 0.")
        encoded = self.tokenizer.encode(prompt, add_special_tokens=False)
        for token, (start, end) in zip(encoded.tokens, encoded.offsets, strict=True):
            if token == _UNKNOWN:
                raise PromptError(f"prompt {prompt[:80]!r}: the sign {shorten(prompt[start:end])} was never seen in training.")
        tokens = 1 + len(encoded.ids)
        if tokens > self.config.length:
            warnings.append(f"the prompt has {tokens} tokens and the model reads {self.config.length}: the end is cut off.")
        return warnings

    def save(self, folder: Path) -> None:
        (folder / "tokenizer.json").write_text(self.tokenizer.to_str(), encoding="utf-8")
        (folder / "words.json").write_text(json.dumps(sorted(self.words), ensure_ascii=False), encoding="utf-8")

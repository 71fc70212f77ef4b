"""Penn Treebank, word by word: a fixed point against weight-tied and untied stacks (DEQ section 5.2)."""

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common import data
from common.errors import RefigureError
from common.train.recorder import Outcome, Recorder
from common.train.torch import initialised, torch_device
from papers.deq.cells import TransformerCell, TrellisCell, frozen_dropout
from papers.deq.config import Language
from papers.deq.implicit import Equilibrium
from papers.deq.iteration import Function
from papers.deq.memory import saved_bytes
from papers.deq.models import settle
from papers.deq.training import fit, parameters_of

__all__ = ["LanguageModel", "perplexity", "streams", "train"]

CHUNK = 50
"""Steps between two lines of the metrics stream."""
TEST_STREAMS = 16
"""Number of streams into which a test set is cut; they are read side by side."""


class SegmentOutput(NamedTuple):
    """The result of reading a segment."""

    logits: Tensor
    """Logits of the next words, (B, T, words)."""
    memory: Tensor
    """Memory for the next segment, (levels, B, M, features of a state)."""
    equilibrium: Equilibrium
    f: Function | None
    """The function whose equilibrium it is; None for an untied stack."""


class LanguageModel(nn.Module):
    """A cell, at its fixed point or stacked, between an embedding and a read-out that share one matrix.

    The memory of preceding words consists of states: a fixed point and a weight-tied stack keep their last states
    (official code), an untied stack the states before each layer (Transformer-XL). The memory is not a parameter, but
    checkpoints contain it.
    """

    memory: Tensor

    def __init__(self, config: Language, words: int) -> None:
        super().__init__()
        self.config = config
        size, untied = config.features, config.depth == "untied"
        self.embedding = nn.Embedding(words, size)
        nn.init.normal_(self.embedding.weight, 0, config.deviation)
        self.bias = nn.Parameter(torch.zeros(words))
        if config.cell == "transformer":
            make = partial(
                TransformerCell, size, config.heads, size // config.heads, config.inner, dropout=config.dropout,
                deviation=config.deviation,
            )  # fmt: skip
            gates, state, past = 3 * size, size, config.memory
        else:
            make = partial(TrellisCell, size, config.dropout, config.deviation)
            gates, state, past = 4 * size, 2 * size, 1
        self.cells = nn.ModuleList(make() for _ in range(config.layers if untied else 1))
        self.injection = None if untied else nn.Linear(size, gates, bias=False)
        if self.injection is not None:
            nn.init.normal_(self.injection.weight, 0, config.deviation)
        self.register_buffer("memory", torch.zeros(len(self.cells), config.batch, past, state))

    def forward(self, x: Tensor, memory: Tensor | None, layers: int | None) -> SegmentOutput:
        """Read a segment.

        Arguments:
            x: Words (B, M + T), the remembered ones first; (B, T) without memory.
            memory: States of preceding words, (levels, B, M, state); None at the beginning of a text.
            layers: How often a weight-tied cell is applied; None for its fixed point.
        """
        config = self.config
        past = 0 if memory is None or config.cell == "trellis" else memory.shape[2]
        mask = frozen_dropout((len(x), 1, config.features), config.dropout if self.training else 0.0, self.bias)
        embedded = self.embedding(x) * math.sqrt(config.features)
        embedded = embedded if mask is None else embedded * mask
        if self.injection is None:
            levels, f = self._stack(embedded, memory, past), None
            equilibrium, remembered = Equilibrium(levels[-1], None, {}), torch.stack(levels[:-1])
        else:
            u = self.injection(embedded)
            f = self.cells[0].bind(u, None if memory is None else memory[0])
            equilibrium = settle(config, f, u.new_zeros(len(x), x.shape[1] - past, self.memory.shape[3]), layers)
            remembered = equilibrium.z[None]
        if memory is not None and past:
            remembered = torch.cat([memory, remembered], 2)
        h = equilibrium.z[..., : config.features]
        mask = frozen_dropout((len(x), 1, config.features), config.dropout if self.training else 0.0, self.bias)
        h = h if mask is None else h * mask
        logits = F.linear(h, self.embedding.weight, self.bias)
        return SegmentOutput(logits, remembered[:, :, -self.memory.shape[2] :].detach(), equilibrium, f)

    def _stack(self, embedded: Tensor, memory: Tensor | None, past: int) -> list[Tensor]:
        """States before each layer and after the last."""
        states = [embedded[:, past:]]
        no_injection = embedded.new_zeros(*embedded.shape[:2], 3 * self.config.features)
        for index, cell in enumerate(self.cells):
            states.append(cell.bind(no_injection, None if memory is None else memory[index])(states[-1]))
        return states


def streams(tokens: np.ndarray, count: int) -> Tensor:
    """A text cut into `count` equal parts, (count, words); the remaining words are left out."""
    length = len(tokens) // count
    if length < 2:
        raise RefigureError(f"{len(tokens)} words cannot be cut into {count} streams of 2 and more")
    return torch.from_numpy(tokens[: count * length].astype(np.int64)).view(count, length)


def segments(text: Tensor, length: int, past: int) -> Iterator[tuple[Tensor, Tensor, bool]]:
    """Inputs (remembered words first), targets, and whether the segment has no memory, of each segment of a text."""
    for start in range(0, text.shape[1] - 1, length):
        end = min(start + length, text.shape[1] - 1)
        first = start < max(past, 1)
        yield text[:, (start if first else start - past) : end], text[:, start + 1 : end + 1], first


def train(config: Language, seeds: Sequence[int], run: Recorder) -> Outcome:
    """Train on the training text, then measure perplexity on the validation and test texts."""
    (seed,) = seeds
    device = torch_device()
    split = data.load("ptb", "train")
    words = len(split.names["vocabulary"])
    model = initialised(lambda: LanguageModel(config, words), seed, device)
    text = streams(split["tokens"], config.batch).to(device)
    past = config.memory if config.cell == "transformer" else 0
    parts = [part for part in segments(text, config.length, past) if part[1].shape[1] == config.length]
    if not parts:
        raise RefigureError(f"length must be below {text.shape[1]}, a stream's words, not {config.length}")

    def loss(step: int) -> tuple[Tensor, Mapping[str, float], Equilibrium]:
        x, y, first = parts[step % len(parts)]
        output = model(x, None if first else model.memory, _layers(config, step >= config.warm_up))
        model.memory = output.memory.clone()  # not in place: the backward pass needs the old memory
        value = F.cross_entropy(output.logits.flatten(0, 1), y.flatten())
        return value, {"cross_entropy": float(value.detach())}, output.equilibrium

    fit(model, loss, seed=seed, steps=config.steps, rate=config.rate, clip=config.clip, chunk=CHUNK, recorder=run)
    model.eval()
    metrics: dict[str, float] = {}
    for name in ("valid", "test"):
        tokens = data.load("ptb", name)["tokens"]
        metrics[f"{name}_perplexity"] = perplexity(model, tokens[: config.tested or len(tokens)])
    x, _, _ = parts[-1]
    excluded = [*model.parameters(), *model.buffers()]
    model.train()
    metrics["bytes"] = saved_bytes(lambda: model(x, model.memory, _layers(config, True)).logits, excluded)
    metrics["parameters"] = sum(value.numel() for value in model.parameters())
    return Outcome({name: [float(value)] for name, value in metrics.items()}, parameters=parameters_of(model))


def _layers(config: Language, trained: bool) -> int | None:
    return None if config.depth == "deq" and trained else config.layers


@torch.no_grad()
def perplexity(model: LanguageModel, tokens: np.ndarray) -> float:
    """Perplexity: exp of the mean cross-entropy over all words but the first of each stream."""
    config, device = model.config, model.bias.device
    text = streams(tokens, TEST_STREAMS).to(device)
    past = config.memory if config.cell == "transformer" else 0
    total, count, memory = 0.0, 0, None
    for x, y, first in segments(text, config.length, past):
        output = model(x, None if first else memory, _layers(config, True))
        memory = output.memory
        total += float(F.cross_entropy(output.logits.flatten(0, 1), y.flatten(), reduction="sum"))
        count += y.numel()
    return math.exp(total / count)

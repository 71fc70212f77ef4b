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
from papers.deq.implicit import Equilibrium, jacobian_penalty
from papers.deq.memory import saved_bytes
from papers.deq.models import settle
from papers.deq.solvers import Function
from papers.deq.training import fit, parameters_of

__all__ = ["LanguageModel", "perplexity", "streams", "train"]

CHUNK = 50
"""Steps between two lines of the metrics stream."""
TEST_STREAMS = 16
"""Into which the test set is cut, read side by side."""


class Read(NamedTuple):
    """Of a segment."""

    logits: Tensor
    """(B, T, words)."""
    memory: Tensor
    """For the next segment, (levels, B, M, features of a state)."""
    found: Equilibrium
    f: Function | None
    """What it is the equilibrium of; None of an untied stack."""


class LanguageModel(nn.Module):
    """Words in and words out share one matrix; between them a cell, at its fixed point or stacked.

    What was read before is remembered as states: of a fixed point and of a weight-tied stack the last ones (official
    code), of an untied stack those before each layer (Transformer-XL). It is no parameter but goes into checkpoints.
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

    def forward(self, x: Tensor, memory: Tensor | None, layers: int | None) -> Read:
        """Read a segment.

        Arguments:
            x: Words (B, M + T), those remembered first; (B, T) without memory.
            memory: (levels, B, M, state), or None where nothing was read before.
            layers: How often a weight-tied cell is applied; None for its fixed point.
        """
        config = self.config
        past = 0 if memory is None or config.cell == "trellis" else memory.shape[2]
        mask = frozen_dropout((len(x), 1, config.features), config.dropout if self.training else 0.0, self.bias)
        heard = self.embedding(x) * math.sqrt(config.features)
        heard = heard if mask is None else heard * mask
        if self.injection is None:
            levels, f = self._stack(heard, memory, past), None
            found, remembered = Equilibrium(levels[-1], None, {}), torch.stack(levels[:-1])
        else:
            u = self.injection(heard)
            f = self.cells[0].bind(u, None if memory is None else memory[0])
            found = settle(config, f, u.new_zeros(len(x), x.shape[1] - past, self.memory.shape[3]), layers)
            remembered = found.z[None]
        if memory is not None and past:
            remembered = torch.cat([memory, remembered], 2)
        h = found.z[..., : config.features]
        mask = frozen_dropout((len(x), 1, config.features), config.dropout if self.training else 0.0, self.bias)
        h = h if mask is None else h * mask
        logits = F.linear(h, self.embedding.weight, self.bias)
        return Read(logits, remembered[:, :, -self.memory.shape[2] :].detach(), found, f)

    def _stack(self, heard: Tensor, memory: Tensor | None, past: int) -> list[Tensor]:
        """States before each layer and after the last."""
        states = [heard[:, past:]]
        nothing = heard.new_zeros(*heard.shape[:2], 3 * self.config.features)
        for index, cell in enumerate(self.cells):
            states.append(cell.bind(nothing, None if memory is None else memory[index])(states[-1]))
        return states


def streams(tokens: np.ndarray, count: int) -> Tensor:
    """A text cut into so many equal parts, (count, words); the rest is left out."""
    length = len(tokens) // count
    if length < 2:
        raise RefigureError(f"{len(tokens)} words cannot be cut into {count} streams of 2 and more")
    return torch.from_numpy(tokens[: count * length].astype(np.int64)).view(count, length)


def segments(text: Tensor, length: int, past: int) -> Iterator[tuple[Tensor, Tensor, bool]]:
    """Inputs with what is remembered of them in front, targets, and whether a text begins."""
    for start in range(0, text.shape[1] - 1, length):
        end = min(start + length, text.shape[1] - 1)
        first = start < max(past, 1)
        yield text[:, (start if first else start - past) : end], text[:, start + 1 : end + 1], first


def train(config: Language, seeds: Sequence[int], run: Recorder) -> Outcome:
    """Train on the training text, then read the other two."""
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
        read = model(x, None if first else model.memory, _layers(config, step >= config.warm_up))
        model.memory = read.memory.clone()  # not in place: the backward pass needs what was read
        value = F.cross_entropy(read.logits.flatten(0, 1), y.flatten())
        further = {"cross_entropy": float(value.detach())}
        if config.jacobian_weight and read.f is not None and read.found.info is not None:
            value = value + config.jacobian_weight * jacobian_penalty(read.f, read.found.z)
        return value, further, read.found

    fit(model, loss, seed=seed, steps=config.steps, rate=config.rate, clip=config.clip, chunk=CHUNK, recorder=run)
    model.eval()
    metrics: dict[str, float] = {}
    for name in ("valid", "test"):
        tokens = data.load("ptb", name)["tokens"]
        metrics[f"{name}_perplexity"] = perplexity(model, tokens[: config.tested or len(tokens)])
    x, _, _ = parts[-1]
    apart = [*model.parameters(), *model.buffers()]
    model.train()
    metrics["bytes"] = saved_bytes(lambda: model(x, model.memory, _layers(config, True)).logits, apart)
    metrics["parameters"] = sum(value.numel() for value in model.parameters())
    return Outcome({name: [float(value)] for name, value in metrics.items()}, parameters=parameters_of(model))


def _layers(config: Language, trained: bool) -> int | None:
    return None if config.depth == "deq" and trained else config.layers


@torch.no_grad()
def perplexity(model: LanguageModel, tokens: np.ndarray) -> float:
    """exp of the mean cross-entropy of all words but the first of each stream."""
    config, device = model.config, model.bias.device
    text = streams(tokens, TEST_STREAMS).to(device)
    past = config.memory if config.cell == "transformer" else 0
    total, count, memory = 0.0, 0, None
    for x, y, first in segments(text, config.length, past):
        read = model(x, None if first else memory, _layers(config, True))
        memory = read.memory
        total += float(F.cross_entropy(read.logits.flatten(0, 1), y.flatten(), reduction="sum"))
        count += y.numel()
    return math.exp(total / count)

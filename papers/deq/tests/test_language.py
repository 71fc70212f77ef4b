"""The language model: what it remembers, how it is measured."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from memory_recorder import resumes

from common import data
from common.data import Split
from common.errors import RefigureError
from common.room import plan
from papers.deq import language
from papers.deq.config import Language
from papers.deq.language import LanguageModel, perplexity, segments, streams

SMALL = Language(
    features=8, heads=2, inner=12, length=5, memory=5, dropout=0.2, deviation=0.2, batch=3, steps=5, warm_up=2,
    forward_evaluations=20, backward_evaluations=20,
)  # fmt: skip
KINDS = {
    "deq": {},
    "tied": {"depth": "tied"},
    "untied": {"depth": "untied", "layers": 3},
    "trellis": {"cell": "trellis"},
}
WORDS = 11


@pytest.fixture(autouse=True)
def made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A text in which each word says the next."""

    def load(name: str, split: str) -> Split:
        assert name == "ptb"
        count = {"train": 200, "valid": 70, "test": 90}[split]
        tokens = (np.arange(count) % WORDS).astype(np.int32)
        return Split({"tokens": tokens}, {"vocabulary": tuple(map(str, range(WORDS)))})

    monkeypatch.setattr(data, "load", load)
    monkeypatch.setattr(language, "CHUNK", 2)
    monkeypatch.setattr(language, "TEST_STREAMS", 4)


def model_of(kind: str, **settings: object) -> LanguageModel:
    """What is heard weighs much beside the state, so that there is one fixed point and it is easily found."""
    torch.manual_seed(0)
    model = LanguageModel(dataclasses.replace(SMALL, **KINDS[kind], **settings), WORDS).double().eval()
    if model.injection is not None:
        with torch.no_grad():
            model.injection.weight.mul_(10)
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_remembered_is_as_if_it_were_read_again(kind: str) -> None:
    model = model_of(kind, tolerance=1e-12, forward_evaluations=300)
    layers = None if model.config.depth == "deq" else 1 if kind == "tied" else 3
    x = torch.randint(0, WORDS, (3, 10))
    past = 0 if kind == "trellis" else 5
    with torch.no_grad():
        whole = model(x, None, layers)
        first = model(x[:, :5], None, layers)
        second = model(x[:, 5 - past :], first.memory, layers)
    assert first.memory.shape == model.memory.shape
    if kind != "tied":  # of a stack that is not settled the memory holds last states where the first were read
        torch.testing.assert_close(torch.cat([first.logits, second.logits], 1), whole.logits, rtol=0, atol=1e-8)
    alone = model(x[:, 5:], None, layers).logits
    assert not torch.allclose(second.logits, alone, atol=1e-6), "nothing is remembered"
    assert second.memory.shape == first.memory.shape


@pytest.mark.parametrize("kind", KINDS)
def test_words_to_come_are_not_seen(kind: str) -> None:
    model = model_of(kind, tolerance=1e-12, forward_evaluations=300)
    layers = None if model.config.depth == "deq" else 2
    x = torch.randint(0, WORDS, (2, 5))
    later = x.clone()
    later[:, 3:] = (later[:, 3:] + 1) % WORDS
    with torch.no_grad():
        logits, changed = model(x, None, layers).logits, model(later, None, layers).logits
    torch.testing.assert_close(logits[:, :3], changed[:, :3], rtol=0, atol=1e-9)
    assert not torch.allclose(logits[:, 3:], changed[:, 3:])


def test_segments_predict_each_word_once() -> None:
    text = streams(np.arange(47), 2)
    assert text.tolist() == [list(range(23)), list(range(23, 46))]
    seen = []
    for x, y, first in segments(text, 5, 3):
        assert torch.equal(x[:, -y.shape[1] :] + 1, y)
        assert x.shape[1] == y.shape[1] + (0 if first else 3)
        seen += y[0].tolist()
    assert seen == list(range(1, 23))


def test_perplexity_of_a_model_that_knows_nothing() -> None:
    model = model_of("deq")
    with torch.no_grad():
        for value in model.parameters():
            value.zero_()
    assert perplexity(model, np.arange(90) % WORDS) == pytest.approx(WORDS, rel=1e-9)
    with torch.no_grad():
        model.bias[3] = math.log(2)
    share = 2 / (WORDS + 1)
    text = np.full(80, 3)
    assert perplexity(model, text) == pytest.approx(1 / share, rel=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_stopped_and_resumed_it_ends_the_same(kind: str) -> None:
    config = dataclasses.replace(SMALL, **KINDS[kind])
    resumes(lambda recorder: language.train(config, [3], recorder), stop_at=4)


def test_training_learns_what_follows(memory: type) -> None:
    config = dataclasses.replace(SMALL, steps=120, warm_up=60, rate=0.02, dropout=0.0, inner=32)
    metrics = language.train(config, [0], memory()).metrics
    assert metrics["test_perplexity"][0] < 3
    assert metrics["bytes"][0] > 0


def test_segments_longer_than_the_text(memory: type) -> None:
    with pytest.raises(RefigureError, match="length must be below 66, a stream's words, not 100"):
        language.train(dataclasses.replace(SMALL, length=100), [0], memory())


@pytest.mark.parametrize("scale", ["cpu", "paper"])
def test_networks_are_of_equal_size(scale: str) -> None:
    """DEQ and untied stack, without the words' matrix."""
    counts = []
    for name in ("transformer_deq", "transformer_untied"):
        network = LanguageModel(plan.resolve("deq", "language", name, scale), 1)
        counts.append(sum(value.numel() for value in network.parameters()))
    assert counts[0] == pytest.approx(counts[1], rel=0.02)


@pytest.mark.parametrize(("settings", "told"), [
    ({"memory": 100}, "memory must be at most length"),
    ({"cell": "trellis", "depth": "untied"}, "weight-tied"),
    ({"warm_up": 30_000}, "must leave steps"),
    ({"dropout": 1.0}, "share below 1"),
    ({"features": 9, "heads": 3}, "must be even"),
    ({"tested": 31}, "at least 32 words"),
])  # fmt: skip
def test_settings_that_make_no_sense(settings: dict, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Language(**settings)

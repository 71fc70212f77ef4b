"""Meta-testing: hundreds of unseen characters one after the other, the same shuffled (the oracle), and analyses."""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from common.errors import RefigureError
from common.room.config import build
from common.train.jax import batch_seeds
from common.train.loop import parts
from common.train.recorder import Outcome, Recorder
from common.train.seeding import jax_key, numpy_rng
from common.train.trees import unflatten_jax
from papers.anml import omniglot
from papers.anml.analyses import active_fraction, dead_fraction, knn_accuracy, principal_components, relative_drop
from papers.anml.config import MetaTest, MetaTrain
from papers.anml.continual import Course, Sequences, dense, draw, learn
from papers.anml.meta_learning import Learner, Scheme, gates, modulated
from papers.anml.meta_train import init_learner, scheme
from papers.anml.networks import Conv, Dense, init_dense, trunk
from papers.anml.omniglot import DRAWINGS, LEARNED

if TYPE_CHECKING:
    from common.run.record import FinishedRun

__all__ = ["train"]

SHOWN = 10
"""Classes in the map of representations."""
Results = dict[str, np.ndarray]


def train(config: MetaTest, seeds: Sequence[int], run: Recorder, parent: "FinishedRun") -> Outcome:
    """Meta-test the learners of a meta-training run, one after the other."""
    trained: MetaTrain = build(MetaTrain, dict(parent.identity.config), "the meta-training run")
    if trained.outputs < config.pool:
        raise RefigureError(
            f"the meta-trained network has {trained.outputs} outputs, too few for the {config.pool} characters of "
            "meta-testing: set outputs of meta_train or pool of meta_test"
        )
    template = batch_seeds(lambda key: init_learner(trained, key), seeds)
    learners = unflatten_jax(template, parent.parameters)
    images = omniglot.load("evaluation", trained.side)
    x = jnp.asarray(omniglot.scale(images, trained.pixels).reshape(-1, trained.side, trained.side, 1))

    @lru_cache(maxsize=1)
    def subject(index: int) -> Subject:
        learner = jax.tree.map(lambda array: array[index], learners)
        return _prepare(config, trained, learner, x, seeds[index])

    work: dict[str, Callable[[], Results]] = {}
    for index, seed in enumerate(seeds):
        work[f"{seed}/analyses"] = partial(_analyse, config, trained, subject, index, x, seed)
        for count in (None, *config.iid_tasks):
            work[f"{seed}/{count or 'sequential'}"] = partial(_choose_and_learn, config, subject, index, count)
    results = parts(work, run)
    members = [_summarise(config, seed, results) for seed in seeds]
    scalars = {name for member in members for name, value in member.items() if value.ndim == 0}
    return Outcome(
        metrics={name: [float(member[name]) for member in members] for name in sorted(scalars)},
        arrays={name: np.stack([member[name] for member in members]) for name in members[0] if name not in scalars},
    )


class Subject(NamedTuple):
    """A learner under test, with what it is tested on."""

    representations: dict[str, Array]
    """The learner's representations of all drawings, (C * drawings, d), by name."""
    course: Course
    """What the learner learns from."""
    trials: Sequences
    """Sequences on which the learning rate is chosen."""
    final: Sequences
    """Sequences on which the learner is measured."""


def _prepare(config: MetaTest, trained: MetaTrain, learner: Learner, x: Array, seed: int) -> Subject:
    representations = _representations(learner, scheme(trained), x)
    course = _course(config, learner, scheme(trained), x, representations, jax_key(seed, "output"))

    def sequences(purpose: str, count: int) -> Sequences:
        rngs = [numpy_rng(seed, purpose, number) for number in range(count)]
        return draw(rngs, config.pool, config.tasks[-1], LEARNED, config.iid_epochs)

    return Subject(
        representations, course, sequences("trial", config.trials), sequences("trajectory", config.trajectories)
    )


def _summarise(config: MetaTest, seed: int, results: Mapping[str, Results]) -> Results:
    """All measurements of one learner, by name."""
    measured = results[f"{seed}/analyses"] | results[f"{seed}/sequential"]
    oracles = [results[f"{seed}/{count}"] for count in config.iid_tasks]
    for index, count in enumerate(config.tasks):
        for kind in ("train", "test"):
            measured[f"{kind}_{count}"] = measured[kind][:, index].mean()
    for count, oracle in zip(config.iid_tasks, oracles, strict=True):
        for kind in ("train", "test"):
            measured[f"iid_{kind}_{count}"] = oracle[kind].mean()
        measured[f"drop_{count}"] = relative_drop(measured[f"iid_test_{count}"], measured[f"test_{count}"])
    for name in ("train", "test", "rates"):
        measured[f"iid_{name}"] = np.concatenate([oracle[name] for oracle in oracles], axis=-1)
    return measured


def _choose_and_learn(config: MetaTest, subject: Callable[[int], Subject], index: int, shuffled: int | None) -> Results:
    """Choose the rate on the trial sequences by accuracy on the drawings learned, then learn the final ones.

    The held-out drawings play no part in the choice. Of rates that do equally well the first is chosen.

    Arguments:
        subject: From the index of a learner to the learner.
        shuffled: Number of classes whose drawings are shuffled; None for one class after the other, measured after
            each number of classes in `config.tasks`.

    Returns:
        Accuracies `train` and `test` (trajectories, tasks), the chosen `rates` (tasks,), `trial_train` (trials, rates,
        tasks), and where classes come one after the other the held-out accuracy of each class in order of
        presentation, `by_order` (trajectories, classes).
    """
    _, course, trials, final = subject(index)
    tasks = config.tasks if shuffled is None else (shuffled,)

    def run(sequences: Sequences, rates: Sequence[float]) -> np.ndarray:
        """Whether each drawing is classified correctly: (trajectories, rates, tasks, classes, drawings)."""
        count = len(sequences.classes)
        shown = sequences.sequential(DRAWINGS) if shuffled is None else sequences.shuffled(shuffled, DRAWINGS)
        measured = sequences.classes[:, : tasks[-1], None] * DRAWINGS + np.arange(DRAWINGS)
        correct = learn(
            course,
            np.repeat(shown, len(rates), axis=0),
            np.tile(np.asarray(rates), count),
            np.repeat(measured.reshape(count, -1), len(rates), axis=0),
            [LEARNED * number * (1 if shuffled is None else config.iid_epochs) for number in tasks],
        )
        return correct.reshape(count, len(rates), len(tasks), tasks[-1], DRAWINGS)

    def accuracy(correct: np.ndarray, drawings: slice) -> np.ndarray:
        """Mean over the classes learned so far: (trajectories, rates, tasks)."""
        return np.stack([correct[:, :, i, :count, drawings].mean((-2, -1)) for i, count in enumerate(tasks)], axis=-1)

    learned, held_out = slice(None, LEARNED), slice(LEARNED, None)
    trial = accuracy(run(trials, config.rates), learned)
    best = trial.mean(0).argmax(0)
    candidates = sorted(set(best.tolist()))
    correct = run(final, [config.rates[index] for index in candidates])
    positions = np.array([candidates.index(index) for index in best])
    selected = (slice(None), positions, np.arange(len(tasks)))
    results = {
        "train": accuracy(correct, learned)[selected],
        "test": accuracy(correct, held_out)[selected],
        "rates": np.asarray(config.rates)[best],
        "trial_train": trial,
    }
    if shuffled is None:
        results["by_order"] = correct[:, positions[-1], -1, :, held_out].mean(-1)
    return results


def _course(
    config: MetaTest, learner: Learner, rule: Scheme, x: Array, representations: dict[str, Array], key: Array
) -> Course:
    """The plastic parameters, and what the fixed part of the learner computes for all drawings."""
    last = learner.head[-1]
    if config.start == "fresh":
        learner = learner._replace(head=(*learner.head[:-1], init_dense(key, last.w.shape[1], last.w.shape[0])))
    labels = jnp.repeat(jnp.arange(len(x) // DRAWINGS), DRAWINGS)
    optimiser: Callable[[Any], optax.GradientTransformation] = {"adam": optax.adam, "sgd": optax.sgd}[config.optimiser]

    if config.plastic == "all":
        plastic = (learner.trunk, learner.head)
        return Course(eqx.Partial(_all_scores, learner, rule), plastic, x, labels, optimiser, batch_size=10)
    h = representations.get("gated", representations["representation"])
    if config.plastic == "head":
        return Course(_head_scores, learner.head, h, labels, optimiser)
    *fixed, output = learner.head
    for layer in fixed:
        h = jax.nn.relu(h @ layer.w.T + layer.b)
    return Course(_head_scores, (output,), h, labels, optimiser)


def _head_scores(head: tuple[Dense, ...], h: Array) -> Array:
    """Class scores (K,) from the fixed part's output for one drawing, (d,)."""
    for index, layer in enumerate(head):
        h = dense(layer.w, jax.nn.relu(h) if index else h) + layer.b
    return h


def _all_scores(fixed: Learner, rule: Scheme, plastic: tuple[tuple[Conv, ...], tuple[Dense, ...]], x: Array) -> Array:
    """Class scores (K,) of one drawing (H, W, c), where trunk and dense layers are plastic."""
    convs, head = plastic
    x = x[None]
    return _head_scores(head, modulated(trunk(convs, rule.blocks, x), gates(fixed, rule, x))[0])


def _representations(learner: Learner, rule: Scheme, x: Array) -> dict[str, Array]:
    """The representation of images before the gate, the gate, and the gated representation, by name."""
    h = _in_parts(_ungated, learner, rule, x)
    if learner.nm_trunk is None:
        return {"representation": h}
    g = _in_parts(gates, learner, rule, x)
    return {"representation": h, "gate": g, "gated": g * h}


def _ungated(learner: Learner, rule: Scheme, x: Array) -> Array:
    return trunk(learner.trunk, rule.blocks, x)


@partial(jax.jit, static_argnames=("function", "rule"))
def _in_parts(function: Callable[[Learner, Scheme, Array], Any], learner: Learner, rule: Scheme, x: Array) -> Array:
    """The function's values for all images, computed for the drawings of one class at a time."""
    parts = x.reshape(-1, DRAWINGS, *x.shape[1:])
    return jax.lax.map(lambda part: function(learner, rule, part), parts).reshape(len(x), -1)


def _analyse(
    config: MetaTest, trained: MetaTrain, subject: Callable[[int], Subject], index: int, x: Array, seed: int
) -> Results:
    """Sparsity, dead units and nearest neighbours of all evaluation drawings; activations and a map of a few."""
    results: Results = {}
    rng = numpy_rng(seed, "shown")
    images = rng.choice(len(x), 3, replace=False)
    classes = rng.choice(len(x) // DRAWINGS, SHOWN, replace=False)
    mapped = (classes[:, None] * DRAWINGS + np.arange(LEARNED)).reshape(-1)
    representations = subject(index).representations
    for name, values in representations.items():
        h = np.asarray(values)
        results[f"active_{name}"] = np.asarray(active_fraction(h))
        results[f"dead_{name}"] = np.asarray(dead_fraction(h))
        results[f"knn_{name}"] = np.asarray(_neighbours(h, config.neighbours))
        results[f"activations_{name}"] = np.concatenate([h[images], h.mean(0, keepdims=True)])
        results[f"map_{name}"] = principal_components(h[mapped]).astype(np.float32)
    if "gate" in representations:
        untrained = init_learner(trained, jax_key(seed, "random gate"))
        g = np.asarray(_in_parts(gates, untrained, scheme(trained), x))
        results["knn_random_gate"] = np.asarray(_neighbours(g, config.neighbours))
    return results


def _neighbours(h: np.ndarray, k: int) -> float:
    """Share of held-out drawings of all classes that their k nearest learned drawings classify correctly."""
    classes = len(h) // DRAWINGS
    label, known = np.repeat(np.arange(classes), DRAWINGS), np.tile(np.arange(DRAWINGS), classes) < LEARNED
    return knn_accuracy(h[known], label[known], h[~known], label[~known], k)

"""Meta-testing: hundreds of unseen characters, one after the other; the same shuffled (the oracle); analyses."""

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
    like = batch_seeds(lambda key: init_learner(trained, key), seeds)
    learners = unflatten_jax(like, parent.parameters)
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
    """A learner that is tested."""

    kinds: dict[str, Array]
    """Its representations of all drawings, by name."""
    course: Course
    """What it learns from."""
    trials: Sequences
    """On which the rate is chosen."""
    final: Sequences
    """On which it is measured."""


def _prepare(config: MetaTest, trained: MetaTrain, learner: Learner, x: Array, seed: int) -> Subject:
    kinds = _representations(learner, scheme(trained), x)
    course = _course(config, learner, scheme(trained), x, kinds, jax_key(seed, "output"))

    def sequences(purpose: str, count: int) -> Sequences:
        rngs = [numpy_rng(seed, purpose, number) for number in range(count)]
        return draw(rngs, config.pool, config.tasks[-1], LEARNED, config.iid_epochs)

    return Subject(kinds, course, sequences("trial", config.trials), sequences("trajectory", config.trajectories))


def _summarise(config: MetaTest, seed: int, results: Mapping[str, Results]) -> Results:
    """Everything that is measured on one learner."""
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

    The drawings held out have no say in the choice. Of rates that do equally well the first is chosen.

    Arguments:
        subject: Gives the learner of an index.
        shuffled: Of how many classes the drawings are shuffled; None for one class after the other, measured after
            each number of `config.tasks`.

    Returns:
        `train` and `test` (trajectories, tasks), the `rates` chosen (tasks,), `trial_train` (trials, rates, tasks),
        and for sequences the accuracy held out by order of presentation, `by_order` (trajectories, classes).
    """
    _, course, trials, final = subject(index)
    tasks = config.tasks if shuffled is None else (shuffled,)

    def run(sequences: Sequences, rates: Sequence[float]) -> np.ndarray:
        """Right or not: (trajectories, rates, tasks, classes, drawings)."""
        count = len(sequences.classes)
        shown = sequences.sequential(DRAWINGS) if shuffled is None else sequences.shuffled(shuffled, DRAWINGS)
        measured = sequences.classes[:, : tasks[-1], None] * DRAWINGS + np.arange(DRAWINGS)
        right = learn(
            course,
            np.repeat(shown, len(rates), axis=0),
            np.tile(np.asarray(rates), count),
            np.repeat(measured.reshape(count, -1), len(rates), axis=0),
            [LEARNED * number * (1 if shuffled is None else config.iid_epochs) for number in tasks],
        )
        return right.reshape(count, len(rates), len(tasks), tasks[-1], DRAWINGS)

    def accuracy(right: np.ndarray, drawings: slice) -> np.ndarray:
        """Over the classes learned so far: (trajectories, rates, tasks)."""
        return np.stack([right[:, :, i, :count, drawings].mean((-2, -1)) for i, count in enumerate(tasks)], axis=-1)

    learned, held_out = slice(None, LEARNED), slice(LEARNED, None)
    trial = accuracy(run(trials, config.rates), learned)
    best = trial.mean(0).argmax(0)
    kept = sorted(set(best.tolist()))
    right = run(final, [config.rates[index] for index in kept])
    which = np.array([kept.index(index) for index in best])
    pick = (slice(None), which, np.arange(len(tasks)))
    found = {
        "train": accuracy(right, learned)[pick],
        "test": accuracy(right, held_out)[pick],
        "rates": np.asarray(config.rates)[best],
        "trial_train": trial,
    }
    if shuffled is None:
        found["by_order"] = right[:, which[-1], -1, :, held_out].mean(-1)
    return found


def _course(config: MetaTest, learner: Learner, rule: Scheme, x: Array, kinds: dict[str, Array], key: Array) -> Course:
    """What is plastic, and what the rest makes of the drawings."""
    last = learner.head[-1]
    if config.start == "fresh":
        learner = learner._replace(head=(*learner.head[:-1], init_dense(key, last.w.shape[1], last.w.shape[0])))
    labels = jnp.repeat(jnp.arange(len(x) // DRAWINGS), DRAWINGS)
    optimiser: Callable[[Any], optax.GradientTransformation] = {"adam": optax.adam, "sgd": optax.sgd}[config.optimiser]

    if config.plastic == "all":
        plastic = (learner.trunk, learner.head)
        return Course(eqx.Partial(_all_scores, learner, rule), plastic, x, labels, optimiser, together=10)
    h = kinds.get("gated", kinds["representation"])
    if config.plastic == "head":
        return Course(_head_scores, learner.head, h, labels, optimiser)
    *fixed, output = learner.head
    for layer in fixed:
        h = jax.nn.relu(h @ layer.w.T + layer.b)
    return Course(_head_scores, (output,), h, labels, optimiser)


def _head_scores(head: tuple[Dense, ...], h: Array) -> Array:
    """Class scores of what the fixed part made of a drawing."""
    for index, layer in enumerate(head):
        h = dense(layer.w, jax.nn.relu(h) if index else h) + layer.b
    return h


def _all_scores(fixed: Learner, rule: Scheme, plastic: tuple[tuple[Conv, ...], tuple[Dense, ...]], x: Array) -> Array:
    """Class scores of a drawing, where trunk and dense layers are plastic."""
    convs, head = plastic
    x = x[None]
    return _head_scores(head, modulated(trunk(convs, rule.blocks, x), gates(fixed, rule, x))[0])


def _representations(learner: Learner, rule: Scheme, x: Array) -> dict[str, Array]:
    """The representation of images before the gate, the gate, and the representation after it, by name."""
    h = _in_parts(lambda learner, x: trunk(learner.trunk, rule.blocks, x), learner, x)
    if learner.nm_trunk is None:
        return {"representation": h}
    g = _gates(learner, rule, x)
    return {"representation": h, "gate": g, "gated": g * h}


def _gates(learner: Learner, rule: Scheme, x: Array) -> Array:
    return _in_parts(lambda learner, x: gates(learner, rule, x), learner, x)


def _in_parts(find: Callable[[Learner, Array], Any], learner: Learner, x: Array) -> Array:
    """What `find` makes of images, a few at once."""
    parts = x.reshape(-1, DRAWINGS, *x.shape[1:])
    found = jax.jit(lambda learner, parts: jax.lax.map(partial(find, learner), parts))(learner, parts)
    return found.reshape(len(x), -1)


def _analyse(
    config: MetaTest, trained: MetaTrain, subject: Callable[[int], Subject], index: int, x: Array, seed: int
) -> Results:
    """Sparsity, dead units and neighbours of all evaluation drawings; activations and a map of a few."""
    found: Results = {}
    rng = numpy_rng(seed, "shown")
    images = rng.choice(len(x), 3, replace=False)
    classes = rng.choice(len(x) // DRAWINGS, SHOWN, replace=False)
    mapped = (classes[:, None] * DRAWINGS + np.arange(LEARNED)).reshape(-1)
    kinds = subject(index).kinds
    for name, values in kinds.items():
        h = np.asarray(values)
        found[f"active_{name}"] = np.asarray(active_fraction(h))
        found[f"dead_{name}"] = np.asarray(dead_fraction(h))
        found[f"knn_{name}"] = np.asarray(_neighbours(h, config.neighbours))
        found[f"activations_{name}"] = np.concatenate([h[images], h.mean(0, keepdims=True)])
        found[f"map_{name}"] = principal_components(h[mapped]).astype(np.float32)
    if "gate" in kinds:
        untrained = init_learner(trained, jax_key(seed, "random gate"))
        g = np.asarray(_gates(untrained, scheme(trained), x))
        found["knn_random_gate"] = np.asarray(_neighbours(g, config.neighbours))
    return found


def _neighbours(h: np.ndarray, k: int) -> float:
    """How many held-out drawings of all classes have their class from the nearest of the others."""
    classes = len(h) // DRAWINGS
    label, known = np.repeat(np.arange(classes), DRAWINGS), np.tile(np.arange(DRAWINGS), classes) < LEARNED
    return knn_accuracy(h[known], label[known], h[~known], label[~known], k)

"""Stimuli, probes, training and experiments end to end; and what is refused."""

import dataclasses
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from memory_recorder import Memory, finished_run, resumes, same

from common.errors import RefigureError
from common.room.claims import load as load_claims
from common.room.config import to_dict
from common.room.identity import Identity
from common.room.spec import load as load_room
from common.train.probes import fit_minibatch
from papers.clapp import equality, figures, motion, probe, speech, structure, vision
from papers.clapp.config import Equality, Images, Learner, Motion, Speech, Structure
from papers.clapp.encoder import Encoder
from papers.clapp.learning import encoder_of, learn, step_draws
from papers.clapp.motion import paths, sequences
from papers.clapp.patches import extract_patches, grid_size, offset_pairs
from papers.clapp.probe import raw_probes
from papers.clapp.speech import log_mel, mel_filters
from papers.clapp.step import losses_of
from papers.clapp.stimuli import DEVIATION, MEAN, Probing, Stimulus, patch_images, two_views
from papers.clapp.structure import principal_components, sparseness
from papers.clapp.tests.conftest import SMALL

TINY = Images(**SMALL, images="cifar10-jpeg", pool="train", crop=12)
SHARED = {"heads": "shared", "asynchronous": False}
METHODS = {
    "clapp": {},
    "clapp_s": {**SHARED, "negatives": 3, "anywhere": True},
    "clapp_s by its loss": {**SHARED, "trainer": "loss"},
    "two modules": {**SHARED, "trainer": "loss", "modules": (2, 1)},
    "hinge_cpc": {"trainer": "loss", "modules": (3,)},
    "gim": {**SHARED, "trainer": "loss", "objective": "contrastive", "negatives": 3, "anywhere": True},
    "cpc": {**SHARED, "trainer": "loss", "objective": "contrastive", "modules": (3,)},
    "supervised": {"trainer": "loss", "objective": "classes", "modules": (3,)},
    "greedy supervised": {"trainer": "loss", "objective": "classes"},
    "views": {
        **SHARED, "stimulus": "views", "crop": 4, "patch": (4, 4), "stride": (4, 4), "offsets": 1, "skip": 0,
    },
}  # fmt: skip


def test_patches_are_squares_of_the_image() -> None:
    x = torch.arange(2 * 12 * 10).view(2, 1, 12, 10).float()
    patches = extract_patches(x, (4, 4), (2, 3))
    assert patches.shape == (5, 3, 2, 1, 4, 4)
    assert torch.equal(patches[3, 1, 1, 0], x[1, 0, 6:10, 3:7])
    assert grid_size((64, 64), (16, 16), (8, 8)) == (7, 7)


def test_the_network_has_the_official_number_of_parameters() -> None:
    for config, million in ((Images(), 41.3), (Images(trainer="loss", modules=(6,)), 26.7)):
        count = sum(value.numel() for value in encoder_of(config, 1, 10).parameters())
        assert count / 1e6 == pytest.approx(million, abs=0.05)


def test_training_crops_are_squares_of_the_image_and_half_are_mirrored() -> None:
    base = torch.arange(6 * 6, dtype=torch.uint8).view(1, 1, 6, 6).expand(100, 3, 6, 6)
    seen = patch_images(base, 5, torch.Generator().manual_seed(0)) * DEVIATION + MEAN
    whole = base[0, 0].float() / 255
    windows = {(row, column): whole[row : row + 5, column : column + 5] for row in range(2) for column in range(2)}
    counts = {"plain": 0, "mirrored": 0}
    places = set()
    for image in seen[:, 0]:
        for place, window in windows.items():
            for name, candidate in (("plain", window), ("mirrored", window.flip(1))):
                if torch.allclose(image, candidate, atol=1e-5):
                    counts[name] += 1
                    places.add(place)
    assert sum(counts.values()) == 100
    assert min(counts.values()) > 25
    assert len(places) == 4
    assert torch.equal(patch_images(base, 4, None)[0, 0], patch_images(base[..., 1:5, 1:5], 4, None)[0, 0])


def test_two_views_differ_and_stand_one_below_the_other() -> None:
    pixels = (torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 255).to(torch.uint8)
    config = dataclasses.replace(TINY, stimulus="views", crop=4)
    views = two_views(pixels, config, torch.Generator().manual_seed(1))
    assert views.shape == (4, 3, 8, 4)
    assert not torch.allclose(views[:, :, :4], views[:, :, 4:])
    still = two_views(
        pixels, dataclasses.replace(config, crop=8, least=1.0, jitter=0.0), torch.Generator().manual_seed(1)
    )
    assert still.isfinite().all()


def test_digits_move_within_the_frame_and_evenly() -> None:
    config = Motion(frames=6, side=24)
    corners = paths(200, config, torch.Generator().manual_seed(0))
    assert int(corners.min()) >= 0
    assert int(corners.max()) <= 10
    assert int((corners[:, 1:] - corners[:, :-1]).abs().max()) <= 3
    digits = torch.rand(5, 14, 14)
    shown = sequences(digits, config, torch.Generator().manual_seed(0))
    assert shown.shape == (5, 1, 6 * 24, 24)
    sums = (shown * motion.DEVIATION + motion.MEAN).view(5, 6, -1).sum(-1)
    torch.testing.assert_close(sums, digits.sum((1, 2))[:, None].expand(5, 6), rtol=1e-4, atol=1e-3)


def test_a_tone_is_in_the_band_of_its_pitch() -> None:
    tone = torch.sin(2 * torch.pi * 1000 * torch.arange(4000) / 8000)
    spectrum = log_mel(tone, 60, 32)
    assert spectrum.shape == (60, 32)
    frequencies = torch.linspace(0, 4000, 129)
    peaks = frequencies[mel_filters(32).argmax(1)]
    assert float((peaks[spectrum[10].argmax()] - 1000).abs()) < 100
    torch.testing.assert_close(spectrum[55], torch.full((32,), float(np.log(speech.FLOOR))), rtol=1e-5, atol=0)


def test_probes_of_one_layer_are_the_common_probe() -> None:
    generator = torch.Generator().manual_seed(0)
    features, labels = torch.randn(50, 7, generator=generator), torch.randint(3, (50,), generator=generator)
    new, answers = torch.randn(200, 7, generator=generator), torch.randint(3, (200,), generator=generator)
    labels[:3], answers[:3] = torch.arange(3), torch.arange(3)
    course = raw_probes(
        lambda _: [features], labels, [new], answers, epochs=4, batch=8, rate=0.01,
        generator=torch.Generator().manual_seed(1),
    )  # fmt: skip
    common = fit_minibatch(
        (features, labels), lambda values: torch.optim.Adam(values, lr=0.01), steps=24, batch=8, cosine=False,
        generator=torch.Generator().manual_seed(1),
    )  # fmt: skip
    assert int(course.steps[-1]) == 24
    assert float(course.accuracy[-1, 0]) == pytest.approx(common.accuracy(new, answers), abs=1e-6)


def test_layers_are_probed_as_if_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """But for their initial weights: with those at zero a layer's course does not depend on the others."""
    monkeypatch.setattr(probe.torch, "rand", lambda *shape, generator: torch.full(shape, 0.5))
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    narrow = 0.1 * torch.randn(60, 4, generator=generator) + torch.eye(3, 4)[labels]
    wide = torch.randn(60, 9, generator=generator)

    def course(*layers: torch.Tensor) -> torch.Tensor:
        return raw_probes(
            lambda _: layers, labels, layers, labels, epochs=3, batch=10, rate=0.1,
            generator=torch.Generator().manual_seed(1),
        ).accuracy  # fmt: skip

    assert torch.equal(course(narrow, wide)[:, 0], course(narrow)[:, 0])
    assert float(course(narrow, wide)[-1, 0]) > 0.5


@pytest.mark.usefixtures("made_up")
@pytest.mark.parametrize("method", METHODS)
def test_stopped_and_resumed_it_ends_the_same(method: str) -> None:
    config = dataclasses.replace(TINY, **METHODS[method])
    outcome, recorder = resumes(lambda recorder: vision.train(config, [3], recorder), stop_at=4)
    assert recorder.restored
    assert {"raw_1", "raw_3", "converged_3", "raw_rise", "scale_3"} <= outcome.metrics.keys()
    assert len(recorder.lines) == 5


@pytest.mark.usefixtures("made_up")
def test_other_stimuli_are_learned_and_probed() -> None:
    heard = Speech(**{**SMALL, **SHARED}, frames=20, bands=8)
    heard = dataclasses.replace(heard, patch=(4, 8), stride=(4, 8))
    outcome, _ = resumes(lambda recorder: speech.train(heard, [0], recorder), stop_at=4)
    assert {"raw_1", "speaker_raw_1", "speaker_converged_3"} <= outcome.metrics.keys()
    assert outcome.metrics["converged_1"][0] > 90, "pitches are told apart"
    seen = Motion(**{**SMALL, **SHARED, "skip": 0}, frames=3, side=16, labelled=30, tested=30)
    seen = dataclasses.replace(seen, patch=(16, 16), stride=(16, 16))
    resumes(lambda recorder: motion.train(seen, [0], recorder), stop_at=4)


@pytest.mark.usefixtures("made_up")
def test_a_random_network_is_not_trained(memory: type) -> None:
    run = memory()
    config = dataclasses.replace(TINY, objective="none")
    outcome = vision.train(config, [0], run)
    again = vision.train(dataclasses.replace(config, epochs=9), [0], memory())
    same(outcome, again)
    assert run.lines == []


@pytest.mark.usefixtures("made_up")
def test_rule_and_loss_train_the_same_network(memory: type) -> None:
    config = dataclasses.replace(TINY, epochs=2)
    by_rule, by_loss = (
        vision.train(dataclasses.replace(config, trainer=trainer), [0], memory()).parameters
        for trainer in ("rule", "loss")
    )
    for name, value in by_rule.items():
        np.testing.assert_allclose(value, by_loss[name], rtol=0, atol=5e-4, err_msg=name)


def test_training_lowers_the_hinge(memory: type) -> None:
    """Columns of one texture each: what is above tells what is below, and which image it was."""
    textures = torch.randn(30, 1, 4, 1, 4, generator=torch.Generator().manual_seed(0))
    x = textures.expand(30, 1, 4, 3, 4).permute(0, 1, 3, 2, 4).reshape(30, 1, 12, 4).repeat(1, 1, 1, 3)
    labels = {"class": torch.arange(30) % 3}
    stimulus = Stimulus((1, 12, 12), 30, lambda rows, _: x[rows], None, Probing(lambda _: x, labels, x, labels))
    config = Learner(**{**SMALL, **SHARED, "widths": (8, 8, 8), "epochs": 60, "batch": 15, "rate": 0.01})
    run = memory()
    learn(config, [0], stimulus, run)
    first, last = run.lines[0][1], run.lines[-1][1]
    for layer in (1, 2, 3):
        assert first[f"loss_{layer}"] > 1.7  # of 2, where every hinge is active
        assert last[f"loss_{layer}"] < first[f"loss_{layer}"] - 0.2


@pytest.mark.usefixtures("made_up")
def test_the_rule_is_the_gradient_while_it_learns() -> None:
    config = Equality(**SMALL, images="cifar10-jpeg", pool="train", crop=12, steps=7, every=3)
    outcome, _ = resumes(lambda recorder: equality.train(config, [0], recorder), stop_at=3)
    assert outcome.arrays["differences"].shape == (1, 3, 3)
    assert 0 < outcome.metrics["difference"][0] < 1e-12


@pytest.mark.usefixtures("made_up")
def test_the_difference_of_a_wrong_rule_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    config = Equality(**SMALL, images="cifar10-jpeg", pool="train", crop=12)
    torch.manual_seed(0)
    encoder: Encoder = encoder_of(config, 1, 1).double()
    x = torch.randn(6, 1, 12, 12, dtype=torch.float64)
    draws = step_draws(config, encoder, x, torch.Generator().manual_seed(0))
    assert max(equality.differences(encoder, x, draws, config)) < 1e-12
    other = step_draws(config, encoder, x, torch.Generator().manual_seed(1))
    monkeypatch.setattr(equality, "losses_of", lambda *a: losses_with(a, other))
    assert min(equality.differences(encoder, x, draws, config)) > 1e-3


def losses_with(arguments: tuple, draws: object) -> list[torch.Tensor]:
    encoder, x, objective, _, skip, factors = arguments
    return losses_of(encoder, x, objective, draws, skip, factors)


def test_sparseness_by_definition() -> None:
    assert float(sparseness(torch.ones(3, 5))) == pytest.approx(0, abs=1e-6)
    assert float(sparseness(torch.eye(5))) == pytest.approx(1)
    assert float(sparseness(torch.zeros(2, 5))) == 0


def test_principal_components_are_those_of_the_covariance() -> None:
    values = torch.randn(40, 6, generator=torch.Generator().manual_seed(0)) * torch.arange(1.0, 7)
    projected = principal_components(values)
    variances = torch.linalg.eigvalsh(torch.cov(values.T.double())).flip(0)[:2]
    torch.testing.assert_close(projected.var(0), variances)


@pytest.mark.usefixtures("made_up")
def test_structure_of_a_trained_network(memory: type) -> None:
    trained = vision.train(TINY, [0], memory())
    identity = SimpleNamespace(config=to_dict(TINY))
    parent = SimpleNamespace(identity=identity, parameters=trained.parameters)
    config = Structure(shown=2, best=3, embedded=20, examples=30)
    outcome = structure.train(config, [0], memory(), parent)
    assert outcome.arrays["patches_2"].shape[2:] == (3, 4, 4)
    assert outcome.arrays["components_3"].shape == (1, 20, 2)
    for layer in (1, 2, 3):
        assert 0 <= outcome.metrics[f"active_{layer}"][0] <= 1


@pytest.mark.usefixtures("made_up")
def test_figures_draw_what_there_is(memory: type, tmp_path: object) -> None:
    config, tested = dataclasses.replace(TINY, probed=(1, 2, 3)), Structure(shown=2, best=3, embedded=20, examples=30)
    runs: dict[str, list] = {"vision": [], "structure": [], "equality": [], "ablations": [], "speech": []}

    def add(experiment: str, variant: str, settings: object, outcome: object, run: Memory) -> None:
        identity = Identity("clapp", experiment, variant, to_dict(settings), (0,), {}, "code")
        lines = [{"step": step, **line} for step, line in run.lines]
        runs[experiment].append(finished_run(tmp_path, identity, outcome.metrics, outcome.arrays, lines))

    for variant, settings in {"clapp": config, "random": dataclasses.replace(config, objective="none")}.items():
        run = memory()
        trained = vision.train(settings, [0], run)
        add("vision", variant, settings, trained, run)
        parent = SimpleNamespace(identity=SimpleNamespace(config=to_dict(settings)), parameters=trained.parameters)
        add("structure", variant, tested, structure.train(tested, [0], memory(), parent), memory())
        add("ablations", {"clapp": "full", "random": "frozen"}[variant], settings, trained, run)
        add("speech", variant, settings, dataclasses.replace(trained, metrics={
            **trained.metrics, **{f"speaker_{name}": value for name, value in trained.metrics.items()},
        }), run)  # fmt: skip
    same_rule = Equality(**SMALL, images="cifar10-jpeg", pool="train", crop=12, steps=4, every=2)
    add("equality", "clapp", same_rule, equality.train(same_rule, [0], memory()), memory())
    for name, entry in load_room("clapp").figures.items():
        drawn = getattr(figures, entry.draw.partition(":")[2])(runs[entry.experiment], load_claims("clapp"))
        assert len(drawn.table), name
        assert len(drawn.runs), name
        plt.close(drawn.figure)


def test_deviations_name_claims_that_are_there() -> None:
    known = {claim.id for claim in load_claims("clapp")}
    for experiment in load_room("clapp").experiments.values():
        for entry in (experiment, *experiment.variants.values()):
            for deviation in entry.deviations:
                assert {*deviation.touches} <= known, deviation.what


@pytest.mark.parametrize(("kind", "settings", "told"), [
    (Learner, {"probed": (1, 7)}, "probed asks for layer 7"),
    (Learner, {"batch": 1}, "a negative needs another image"),
    (Learner, {"modules": (1, 2)}, "must add up to the 6 layers"),
    (Learner, {"modules": (6,)}, "set trainer to loss"),
    (Learner, {"negatives": 16}, "set anywhere"),
    (Learner, {"objective": "contrastive", "trainer": "loss"}, "shared heads"),
    (Learner, {"objective": "none", "fourth": False}, "ablations of objective hinge"),
    (Learner, {"frozen": True, "trainer": "loss"}, "set trainer to rule"),
    (Learner, {"offsets": 0}, "offsets must be positive"),
    (Learner, {"skip": -1}, "skip must be 0 or positive"),
    (Images, {"least": 0.0}, "least must be a share"),
    (Images, {"train": -1}, "train must be 0 or positive"),
    (Motion, {"side": 10}, "hold a digit"),
    (Equality, {"every": 0}, "every must be positive"),
    (Structure, {"best": 0}, "best must be positive"),
])  # fmt: skip
def test_settings_that_make_no_sense(kind: type, settings: dict, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        kind(**settings)


def test_what_cannot_be_computed_is_refused_in_one_line() -> None:
    with pytest.raises(RefigureError, match="an image of 12 x 12 pixels has no patch of 16 x 16"):
        extract_patches(torch.zeros(1, 1, 12, 12), (16, 16), (8, 8))
    with pytest.raises(RefigureError, match="need 7 rows of patches, and the grid has 4: at most offsets = 2"):
        list(offset_pairs(4, 5, 1))
    encoder = encoder_of(Learner(**SMALL), 1, 3)
    with pytest.raises(RefigureError, match="a negative needs another image, and the batch has one"):
        step_draws(Learner(**SMALL), encoder, torch.zeros(1, 1, 12, 12), torch.Generator())
    with pytest.raises(RefigureError, match="the probe asks for layer 4, and the network has layers 1 to 3"):
        encoder.features(torch.zeros(1, 1, 12, 12), (1, 4))
    with pytest.raises(RefigureError, match="a crop of 64 pixels does not fit into images of 32 x 32"):
        patch_images(torch.zeros(1, 3, 32, 32, dtype=torch.uint8), 64, None)


@pytest.mark.usefixtures("made_up")
@pytest.mark.parametrize(("settings", "told"), [
    ({"patch": (16, 16)}, "no patch of 16 x 16"),
    ({"offsets": 4}, "need 6 rows of patches"),
    ({"crop": 13}, "does not fit into images of 12 x 12"),
    ({"train": 100}, "100 images asked of cifar10-jpeg, whose split train has 60"),
])  # fmt: skip
def test_experiments_refuse_before_they_train(settings: dict, told: str, memory: type) -> None:
    with pytest.raises(RefigureError, match=told):
        vision.train(dataclasses.replace(TINY, **settings), [0], memory())

"""Training, evaluation, fine-tuning end to end; two processes; figures; claims; and what is refused."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from memory_recorder import finished, finished_run, resumes
from torch.nn import functional as F

from common import data
from common.data import Split
from common.errors import RefigureError
from common.room import claims as claim_files
from common.room import spec
from common.room.identity import Identity
from papers.byol import evaluation, figures, finetune, pretrain
from papers.byol.config import Finetune, Pretrain
from papers.byol.finetune import few_labels
from papers.byol.pictures import ImagesOnDisk, pictures

SMALL = Pretrain(
    images="cifar10-jpeg", encoder="small", widths=(4, 6), side=8, radius=1, hidden=8, projection=5, batch=16, train=48,
    tested=40, held_out=10, epochs=2, warm_up=1, base_rate=4.0, linear_epochs=3, neighbours=5, strengths=(0.1,),
    linear_crops=False,
)  # fmt: skip


@pytest.fixture(autouse=True)
def made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images of a colour a class, with some noise."""

    def load(name: str, split: str) -> Split:
        assert name == "cifar10-jpeg"
        labels = np.arange(60) % 4
        noise = np.random.default_rng(0).integers(0, 40, (60, 12, 12, 3))
        colours = np.stack([60 * labels, 200 - 60 * labels, 100 + 0 * labels], 1)[:, None, None]
        return Split(
            {"images": (noise + np.clip(colours, 0, 200)).astype(np.uint8), "labels": labels.astype(np.uint8)}, {}
        )

    monkeypatch.setattr(data, "load", load)
    monkeypatch.setattr(pretrain, "CHUNK", 2)


@pytest.mark.parametrize("settings", [
    {}, {"micro": 8, "predictor": False, "target": "online", "beta": 1.0},
    {"optimiser": "sgd", "base_rate": 0.5, "tau_constant": True},
])  # fmt: skip
def test_stopped_and_resumed_it_ends_the_same(settings: dict) -> None:
    config = dataclasses.replace(SMALL, **settings)
    outcome, recorder = resumes(lambda recorder: pretrain.train(config, [3], recorder), stop_at=4)
    assert {"linear", "logistic", "knn", "online", "spread", "rank", "loss"} <= outcome.metrics.keys()
    assert {"spread", "rank", "projection_norm", "tau", "rate", "loss"} <= recorder.lines[-1][1].keys()


def test_a_random_encoder_is_evaluated_without_training(memory: type) -> None:
    run = memory()
    metrics = pretrain.train(dataclasses.replace(SMALL, epochs=0, linear_crops=True), [0], run).metrics
    assert not run.lines
    assert 0 <= metrics["linear"][0] <= 100


def test_views_of_a_pair_differ_and_come_from_the_same_image() -> None:
    config = dataclasses.replace(SMALL, jitter=0.0, grey=0.0, blur=(0.0, 0.0), solarise=(0.0, 0.0))
    source = pictures("cifar10-jpeg", "train", 48, torch.device("cpu"))
    first, second = source.views(np.arange(16), pretrain.policies(config), 0, "views", 0)
    assert not torch.allclose(first, second)
    gaps = (first.mean((2, 3))[:, None] - second.mean((2, 3))[None]).norm(dim=2)
    assert torch.equal(source.labels[gaps.argmin(1)], source.labels[:16]), "the same colour, class by class"


def test_parts_of_a_batch_are_drawn_as_the_whole_is() -> None:
    source = pictures("cifar10-jpeg", "train", 48, torch.device("cpu"))
    rows, pair = np.arange(16), pretrain.policies(SMALL)
    whole = source.views(rows, pair, 0, "views", 0)
    halves = [source.views(rows, pair, 0, "views", 0, part=part) for part in (slice(0, 8), slice(8, 16))]
    for view, parts in zip(whole, zip(*halves, strict=True), strict=True):
        torch.testing.assert_close(torch.cat(parts), view)


def test_without_predictor_and_negatives_it_collapses_and_byol_does_not(memory: type) -> None:
    config = dataclasses.replace(SMALL, epochs=60, base_rate=20.0, linear_epochs=0)
    byol = pretrain.train(config, [0], memory()).metrics
    neither = dataclasses.replace(config, predictor=False, target="online")
    collapsed = pretrain.train(neither, [0], memory()).metrics
    assert collapsed["spread"][0] < 0.6 * byol["spread"][0]
    assert collapsed["loss"][0] < byol["loss"][0]


def test_the_linear_layers_of_all_rates_are_those_of_sgd() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(20, 5, generator=generator), torch.arange(20) % 3
    ours = evaluation.fit_linear(iter([(x, y)] * 6), (3, 5), [0.4, 0.1], 6, torch.Generator().manual_seed(1))
    for probe, rate in zip(ours, (0.4, 0.1), strict=True):
        initial = (2 * torch.rand(3, 6, generator=torch.Generator().manual_seed(1)) - 1) / 5**0.5
        weight, bias = initial[:, :-1].clone().requires_grad_(), initial[:, -1].clone().requires_grad_()
        optimiser = torch.optim.SGD([weight, bias], rate, 0.9, nesterov=True)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 6)
        for _ in range(6):
            optimiser.zero_grad()
            F.cross_entropy(F.linear(x, weight, bias), y).backward()
            optimiser.step()
            schedule.step()
        torch.testing.assert_close(probe.weight, weight.detach(), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(probe.bias, bias.detach(), atol=1e-5, rtol=1e-4)


def test_fine_tuning_begins_from_the_parent_and_knows_its_labels(memory: type) -> None:
    parent = finished(SMALL, pretrain.train(SMALL, [0], memory()).parameters)
    config = Finetune(shares=(0.5,), rates=(0.05, 0.01), epochs=(2,), batch=8)
    outcome, _ = resumes(lambda recorder: finetune.train(config, [0], recorder, parent), stop_at=1)
    assert 0 <= outcome.metrics["accuracy_0.5"][0] <= 100
    wide = finished(dataclasses.replace(SMALL, widths=(4, 8)), parent.parameters)
    with pytest.raises(RefigureError, match="another width"):
        finetune.train(config, [0], memory(), wide)
    finetune.train(dataclasses.replace(config, scratch=True), [0], memory(), wide)


def test_few_labels_are_of_all_classes_alike() -> None:
    labels = np.arange(200) % 5
    rows = few_labels(labels, 0.1, np.random.default_rng(0))
    assert np.bincount(labels[rows]).tolist() == [4] * 5
    assert len(few_labels(labels, 0.001, np.random.default_rng(0))) == 5


def test_a_batch_that_the_images_cannot_fill_is_refused(memory: type) -> None:
    with pytest.raises(RefigureError, match="batch 64 does not fit 48 training images"):
        pretrain.train(dataclasses.replace(SMALL, batch=64), [0], memory())


def test_imagenet_absent_is_a_line(memory: type, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("REFIGURE_DATA", str(tmp_path))
    with pytest.raises(RefigureError, match=r"ImageNet is not there: .*train holds no folders.*image-net.org"):
        pretrain.train(Pretrain(), [0], memory())


def test_files_in_folders_of_classes_train_and_are_evaluated(
    memory: type, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    image = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for place in range(2):
            (tmp_path / "imagenet" / split / f"n{place}").mkdir(parents=True)
            for number in range(8):
                pixels = rng.integers(0, 100, (20 + number, 24, 3)) + 100 * place
                image.fromarray(pixels.astype(np.uint8)).save(
                    tmp_path / "imagenet" / split / f"n{place}" / f"{number}.JPEG"
                )
    monkeypatch.setenv("REFIGURE_DATA", str(tmp_path))
    config = dataclasses.replace(SMALL, images="imagenet", train=0, tested=0, batch=8, held_out=4, linear_crops=True)
    metrics = pretrain.train(config, [0], memory()).metrics
    assert 0 <= metrics["linear"][0] <= 100
    source = ImagesOnDisk(tmp_path / "imagenet" / "train", torch.device("cpu"))
    assert source.labels.tolist() == [0] * 8 + [1] * 8
    (plain,) = source.plain(8, 16)
    assert bool((plain[:8].mean((1, 2, 3)) < plain[8:].mean((1, 2, 3)).min()).all())


PROCESS = """
import dataclasses
import os
import sys

import torch
from torch import distributed as dist

sys.path[:0] = sys.argv[2:]
from papers.byol.config import Pretrain
from papers.byol.learner import optimiser_of, update
from papers.byol.networks import Byol
from papers.byol.world import world

torch.set_num_threads(1)
if "RANK" in os.environ:
    dist.init_process_group("gloo")
results = {}
base = Pretrain(encoder="small", widths=(4, 6), side=8, hidden=8, projection=5, batch=12, base_rate=5.0, tau=0.9)
for name, settings in {"byol": {}, "simclr": {"predictor": False, "target": "online", "beta": 1.0}}.items():
    config = dataclasses.replace(base, **settings)
    torch.manual_seed(0)
    model = Byol(config, 3)
    optimiser = optimiser_of(model, config)
    for step in range(3):
        first, second = torch.randn(2, 12, 3, 8, 8, generator=torch.Generator().manual_seed(step))
        part = world().part(12)
        labels = torch.arange(12) % 3
        update(model, optimiser, first[part], second[part], labels[part], step + 1, config, steps=9, warm_up=2)
    results |= {f"{name}/{key}": value for key, value in model.state_dict().items()}
if world().rank == 0:
    from safetensors.torch import save_file

    save_file({key: value.contiguous().clone() for key, value in results.items()}, sys.argv[1])
"""


def test_two_processes_are_one_with_the_double_batch(tmp_path: Path) -> None:
    """Parameters, target and running statistics after three updates, through torchrun on the CPU."""
    load_file = pytest.importorskip("safetensors.torch").load_file
    script, root = tmp_path / "process.py", Path(__file__).resolve().parents[3]
    script.write_text(PROCESS)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for name, words in (("one", [sys.executable]), ("two", launcher)):
        done = subprocess.run(
            [*words, str(script), str(tmp_path / name), str(root)],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
    one, two = load_file(tmp_path / "one"), load_file(tmp_path / "two")
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(
            two[name], one[name], atol=2e-5, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}"
        )


def runs_of(folder: Path, names: list[str]) -> list:
    """Made-up runs of all variants of experiments, two seeds each."""
    runs = []
    rng = np.random.default_rng(0)
    for experiment in names:
        for variant in spec.load("byol").experiments[experiment].variants:
            for seed in (0, 1):
                micro = 32 if variant.endswith("_4") else 8 if variant.endswith("_16") else 0
                config = {"micro": micro, "batch": 128, "shares": [0.01, 0.1]}
                collapsed = variant in ("neither", "target_alone", "predictor_online", "stopped_alone")
                accuracies = {"linear": 40 - 5 * collapsed, "accuracy_0.01": 20, "accuracy_0.1": 35}
                metrics = {key: [value + rng.normal()] for key, value in accuracies.items()}
                metrics |= {"spread": [0.05 if collapsed else 0.8], "parameters": [24_000]}
                lines = []
                for place, share in enumerate(np.exp(-np.arange(1, 30) / 8) if variant != "random" else ()):
                    kept = share if collapsed else 1 - share
                    norms = {"projection_norm": 1 + place, "representation_norm": 2 + place}
                    lines.append({"step": 20 * (place + 1), "spread": 0.8 * kept, "rank": 1 + 30 * kept, **norms})
                identity = Identity("byol", experiment, variant, config, (seed,), {}, "code")
                runs.append(finished_run(folder, identity, metrics, {}, lines))
    return runs


@pytest.mark.parametrize("name", list(figures.__all__))
def test_figures_are_drawn_from_whatever_runs_there_are(name: str, tmp_path: Path) -> None:
    entry = spec.load("byol").figures[name]
    known = claim_files.load("byol")
    draw = getattr(figures, name)
    runs = runs_of(tmp_path, [entry.experiment, *entry.also])
    drawing = draw(runs, known)
    assert len(drawing.table)
    assert drawing.runs
    few = [run for run in runs if run.seeds == (0,) and run.identity.variant in ("byol", "tau_1", "scratch", "byol_4")]
    assert len(draw(few, known).runs) <= len(few)
    plt.close("all")


def test_deviations_name_claims_that_are_there_and_figures_claims_too() -> None:
    known = {claim.id for claim in claim_files.load("byol")}
    for experiment in spec.load("byol").experiments.values():
        entries = [
            *experiment.deviations,
            *(each for variant in experiment.variants.values() for each in variant.deviations),
        ]
        assert {touched for each in entries for touched in each.touches} - {"all"} <= known
    assert {*figures.PUBLISHED_ROWS.values(), *figures.PARAMETERS} <= known


@pytest.mark.parametrize(("settings", "told"), [
    ({"shares": (0.0,)}, "above 0"), ({"rates": ()}, "must be positive"), ({"batch": 1}, "2 or more"),
])  # fmt: skip
def test_settings_of_fine_tuning_that_make_no_sense(settings: dict, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Finetune(**settings)

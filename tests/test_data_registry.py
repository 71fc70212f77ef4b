"""The registry is complete and consistent, cheap to import, and the committed DVC files agree with it."""

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest

from common.data import dvcfiles, registry
from common.data.decoders import DECODERS
from common.errors import RefigureError

ROOT = Path(__file__).parents[1]
EVERY = sorted(registry.DATASETS)
OFFICIAL = ("mnist", "fashion-mnist", "omniglot", "cifar10", "ptb", "fsdd", "tiny-imagenet")


@pytest.mark.parametrize("name", EVERY)
def test_entry_is_complete(name: str) -> None:
    entry = registry.get(name)
    assert entry.name == name
    assert entry.title
    assert entry.licence
    assert entry.citation
    assert entry.splits
    assert entry.homepage.startswith("http")
    for source in entry.sources:
        assert source.decoder in DECODERS
        for raw in source.files:
            assert Path(raw.name).name == raw.name
            assert raw.pinned or entry.content, "neither the file nor its content is pinned"
            assert raw.md5 is None or re.fullmatch(r"[0-9a-f]{32}", raw.md5)
            assert raw.sha256 is None or re.fullmatch(r"[0-9a-f]{64}", raw.sha256)
            assert all(re.match(r"https?://", url) for url in raw.urls)
    for digest in entry.content.values():
        assert re.fullmatch(r"[0-9a-f]{64}", digest)


@pytest.mark.parametrize("name", EVERY)
def test_a_repacking_is_exact_or_a_set_of_its_own(name: str) -> None:
    entry = registry.get(name)
    assert entry.official == (registry.deviation(name) is None)
    if len(entry.sources) > 1:
        assert entry.content, "several sources must be held to the same content"
    assert entry.official == all(raw.urls for raw in entry.files)


def test_official_sets_have_no_deviation_and_the_others_say_theirs() -> None:
    assert all(registry.deviation(name) is None for name in OFFICIAL)
    assert "JPEG" in (registry.deviation("cifar10-jpeg") or "")
    assert "4,000" in (registry.deviation("cifar10-png4k") or "")
    assert "20,000" in (registry.deviation("tiny-imagenet-100") or "")


@pytest.mark.parametrize("name", EVERY)
def test_checksums_name_an_algorithm_and_nothing_is_unpinned(name: str) -> None:
    sums = registry.checksums(name)
    assert sums
    assert all(re.fullmatch(r"sha256:[0-9a-f]{64}|md5:[0-9a-f]{32}", value) for value in sums.values())


def test_different_sets_have_different_checksums() -> None:
    assert len({tuple(registry.checksums(name).items()) for name in EVERY}) == len(EVERY)


def test_entries_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        registry.get("mnist").title = "another"  # type: ignore[misc]


def test_unknown_set_offers_the_nearest() -> None:
    with pytest.raises(RefigureError, match="did you mean 'mnist'"):
        registry.checksums("mnits")


def test_checksums_import_nothing_heavy() -> None:
    code = (
        "import sys; from common.data import checksums; checksums('mnist');"
        "heavy = {'numpy', 'pooch', 'PIL', 'requests', 'torch', 'jax'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_committed_dvc_files_agree_with_the_registry() -> None:
    """If this fails, run `python -m common.data.dvcfiles`."""
    data = ROOT / "data"
    expected = dvcfiles.texts()
    assert {path: (data / path).read_text(encoding="utf-8") for path in expected} == expected
    assert {str(path.relative_to(data)) for path in data.glob("*/*.dvc")} == {
        path for path in expected if path.endswith(".dvc")
    }


def test_dvc_computes_the_same_stage_checksums(tmp_path: Path) -> None:
    repo_class = pytest.importorskip("dvc.repo", reason="dvc is not installed").Repo
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    dvcfiles.write(tmp_path / "data")
    stages = repo_class(str(tmp_path / "data")).index.stages
    assert len(stages) == sum(path.endswith(".dvc") for path in dvcfiles.texts())
    for stage in stages:
        assert stage.is_import
        assert stage.frozen
        assert stage.md5 == stage.compute_md5()
        assert not stage.outs[0].can_push, "raw data must not reach artifacts/"

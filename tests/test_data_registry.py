"""The registry is complete and consistent, cheap to import, and the committed DVC files agree with it."""

import configparser
import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from common import data
from common.data.decoders import DECODERS
from common.errors import RefigureError

ROOT = Path(__file__).parents[1]
NAMES = sorted(data.DATASETS)
OFFICIAL = {
    *("mnist", "fashion-mnist", "omniglot", "cifar10", "stl10", "ptb", "fsdd", "tiny-imagenet", "mplp-released"),
}
VENDORED = {"mplp-released"}
"""Their home is the repository: `artifacts/released/`."""


@pytest.mark.parametrize("name", NAMES)
def test_entry_is_complete(name: str) -> None:
    entry = data.get(name)
    for text in (entry.title, entry.arrays, entry.licence, entry.citation, *entry.splits):
        assert isinstance(text, str)
        assert text
    assert entry.homepage.startswith("http")
    for source in entry.sources:
        assert source.decoder in DECODERS
        for raw in source.files:
            assert Path(raw.name).name == raw.name
            assert raw.identity or entry.content, "neither the file nor what it decodes to is pinned"
            assert raw.md5 is None or re.fullmatch(r"[0-9a-f]{32}", raw.md5)
            assert raw.sha256 is None or re.fullmatch(r"[0-9a-f]{64}", raw.sha256)
            assert raw.size is None or raw.size > 0
            assert all(re.match(r"https?://", url) for url in raw.urls)
    for key, pinned in entry.content.items():
        assert key.split("/")[0] in entry.splits
        assert re.fullmatch(r"[0-9a-f]{64} u?int\d+\[\d+(,\d+)*\]", pinned)


@pytest.mark.parametrize("name", NAMES)
def test_a_repacking_is_exact_or_a_set_of_its_own(name: str) -> None:
    entry = data.get(name)
    assert (name in OFFICIAL) == (data.deviation(name) is None)
    assert (name in OFFICIAL - VENDORED) == all(raw.urls for raw in entry.sources[0].files)
    assert len(entry.sources) == 1 or entry.content, "several sources must be held to the same content"


@pytest.mark.parametrize("name", NAMES)
def test_identity_names_arrays_where_they_are_pinned_and_else_files(name: str) -> None:
    identity = data.identity(name)
    assert all(re.fullmatch(r"sha256:[0-9a-f]{64}|md5:[0-9a-f]{32}", value) for value in identity.values())
    assert all("/" in key for key in identity) == (name not in ("cifar10", "stl10", "tiny-imagenet", *VENDORED))


def test_different_sets_have_different_identities() -> None:
    assert len({tuple(data.identity(name).items()) for name in NAMES}) == len(NAMES)


def test_entries_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        data.get("mnist").title = "another"  # type: ignore[misc]


def test_unknown_set_offers_the_nearest() -> None:
    with pytest.raises(RefigureError, match="did you mean 'mnist'"):
        data.identity("mnits")


def test_look_ups_import_nothing_heavy() -> None:
    code = (
        "import sys; from common import data; data.identity('mnist'), data.deviation('mnist');"
        "heavy = {'numpy', 'pooch', 'PIL', 'requests', 'torch', 'jax'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_committed_dvc_files_agree_with_the_registry() -> None:
    folder = ROOT / "data"
    remotes = configparser.ConfigParser()
    remotes.read(folder / ".dvc/config")
    files = {f"{s.folder}/{raw.name}.dvc": raw for e in data.DATASETS.values() for s in e.sources for raw in s.files}
    vendored = {f"{s.folder}/{r.name}.dvc" for name in VENDORED for s in data.get(name).sources for r in s.files}
    tracked = {path: raw for path, raw in files.items() if raw.urls or path in vendored}
    assert {str(path.relative_to(folder)) for path in folder.glob("*/*.dvc")} == set(tracked)
    for path, raw in tracked.items():
        stage = yaml.safe_load((folder / path).read_text())
        (out,) = stage["outs"]
        assert (out["path"], out.get("md5"), out.get("size")) == (raw.name, raw.md5, raw.size)
        assert f"/{raw.name}\n" in (folder / path).with_name(".gitignore").read_text()
        if path in vendored:
            assert out["remote"] == "released"
            assert (ROOT / "artifacts/released/files/md5" / raw.md5[:2] / raw.md5[2:]).stat().st_size == raw.size
            continue
        assert not out["push"], "raw data must not reach artifacts/"
        if raw.md5:
            assert stage["meta"]["url"] == raw.urls[0]
            remote = remotes[f"'remote \"{out['remote']}\"'"]
            assert (remote["url"], remote["verify"]) == (f'"{raw.urls[0]}#"', "true")
        else:
            assert (stage["deps"][0]["path"], stage["frozen"]) == (raw.urls[0], True)


def test_dvc_finds_nothing_wrong_in_its_files() -> None:
    repo_class = pytest.importorskip("dvc.repo", reason="dvc is not installed").Repo
    stages = repo_class(str(ROOT / "data")).index.stages
    assert stages
    assert all(stage.md5 == stage.compute_md5() for stage in stages)

"""Archives are read safely, arrays are decoded once and guarded, the real sets hold what was published."""

import dataclasses
import errno
import gzip
import hashlib
import io
import json
import logging
import os
import shutil
import subprocess
import sys
import tarfile
import wave
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import data
from common.data import archives, decode, decoders, registry, store
from common.data.registry import DataSet, RawFile, Source
from common.errors import RefigureError

# --- archives

Spoil = Callable[[zipfile.ZipFile], None]


def zip_of(path: Path, *entries: tuple[str | zipfile.ZipInfo, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return path


def tar_of(path: Path, *entries: tuple[tarfile.TarInfo | str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for entry, content in entries:
            info = tarfile.TarInfo(entry) if isinstance(entry, str) else entry
            if info.isfile():
                info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def zip_link(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = 0o120777 << 16
    return info


def tar_special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


EVIL_NAMES = ("../out.txt", "a/../../out.txt", "/out.txt", "C:/out.txt", "..\\out.txt")


def everything(name: str) -> bool:
    return True


@pytest.mark.parametrize("make", [zip_of, tar_of])
def test_members_are_the_chosen_plain_files(make: Callable[..., Path], tmp_path: Path) -> None:
    archive = make(tmp_path / "archive", ("./a/b.txt", b"one"), ("c.txt", b"two"), ("../no.bin", b"three"))
    chosen = dict(archives.members(archive, lambda name: name.endswith(".txt")))
    assert chosen == {"a/b.txt": b"one", "c.txt": b"two"}


@pytest.mark.parametrize("make", [zip_of, tar_of])
@pytest.mark.parametrize("name", EVIL_NAMES)
def test_names_that_leave_the_folder(make: Callable[..., Path], name: str, tmp_path: Path) -> None:
    archive = make(tmp_path / "archive", (name, b"evil"))
    with pytest.raises(RefigureError, match=r"leads outside") as caught:
        list(archives.members(archive, everything))
    assert str(archive) in str(caught.value)
    assert "out.txt" in str(caught.value)


@pytest.mark.parametrize(
    "entry",
    [
        tar_special("link", tarfile.SYMTYPE, "/etc/passwd"),
        tar_special("hard", tarfile.LNKTYPE, "good.txt"),
        tar_special("device", tarfile.CHRTYPE),
        tar_special("pipe", tarfile.FIFOTYPE),
    ],
    ids=lambda info: info.name,
)
def test_links_and_devices_in_a_tar(entry: tarfile.TarInfo, tmp_path: Path) -> None:
    archive = tar_of(tmp_path / "a.tgz", ("good.txt", b"good"), (entry, b""))
    with pytest.raises(RefigureError, match="link or a device"):
        list(archives.members(archive, everything))


def test_links_in_a_zip(tmp_path: Path) -> None:
    archive = zip_of(tmp_path / "a.zip", (zip_link("link"), b"/etc/passwd"))
    with pytest.raises(RefigureError, match="link or a device"):
        list(archives.members(archive, everything))


@pytest.mark.parametrize("make", [zip_of, tar_of])
def test_too_much_to_unpack(make: Callable[..., Path], tmp_path: Path) -> None:
    archive = make(tmp_path / "bomb", ("zeros", bytes(10_000)), ("more", bytes(10_000)))
    with pytest.raises(RefigureError, match="more than is allowed"):
        list(archives.members(archive, everything, limit=15_000))


@pytest.mark.parametrize("make", [zip_of, tar_of])
def test_cut_or_damaged_archives(make: Callable[..., Path], tmp_path: Path) -> None:
    archive = make(tmp_path / "archive", ("noise", np.random.default_rng(0).bytes(20_000)))
    whole = archive.read_bytes()
    for broken in (whole[: len(whole) // 2], whole[:500] + b"?" * 500 + whole[1000:], b"not an archive"):
        archive.write_bytes(broken)
        with pytest.raises(RefigureError, match=str(archive)):
            list(archives.members(archive, everything))


# --- decoding, with small sets


def idx_bytes(values: np.ndarray) -> bytes:
    head = bytes((0, 0, 8, values.ndim)) + np.array(values.shape, ">u4").tobytes()
    return head + values.astype(np.uint8).tobytes()


@given(st.lists(st.integers(0, 5), min_size=1, max_size=3), st.randoms())
def test_idx_round_trip_and_truncation(shape: list[int], random: object) -> None:
    values = np.arange(int(np.prod(shape)), dtype=np.uint8).reshape(shape)
    content = idx_bytes(values)
    np.testing.assert_array_equal(decoders.parse_idx(content), values)
    for cut in range(len(content)):
        with pytest.raises((ValueError, IndexError), match=r"\S"):
            decoders.parse_idx(content[:cut])


IMAGES = {
    "train": np.arange(5 * 4, dtype=np.uint8).reshape(5, 2, 2),
    "t10k": np.arange(3 * 4, dtype=np.uint8).reshape(3, 2, 2) + 100,
}


def change(monkeypatch: pytest.MonkeyPatch, pinned: bool = True, **fields: object) -> None:
    """Change the toy's entry; `pinned` says whether the checksums of its files are known."""
    entry = dataclasses.replace(registry.get("toy"), **fields)  # type: ignore[arg-type]
    if not pinned:
        (source,) = entry.sources
        files = tuple(RawFile(raw.name) for raw in source.files)
        entry = dataclasses.replace(entry, sources=(dataclasses.replace(source, files=files),))
    monkeypatch.setitem(registry.DATASETS, "toy", entry)


def content() -> dict[str, str]:
    """The toy's arrays as a registry entry pins them."""
    return {
        f"{split}/{name}": f"{hashlib.sha256(values.tobytes()).hexdigest()} uint8[{','.join(map(str, values.shape))}]"
        for split, images in (("train", IMAGES["train"]), ("test", IMAGES["t10k"]))
        for name, values in (("images", images), ("labels", np.arange(len(images), dtype=np.uint8)))
    }


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A set of MNIST's format in a mirror; the folder of its decoded arrays."""
    monkeypatch.setenv("REFIGURE_DATA", str(tmp_path / "cache"))
    monkeypatch.setenv("REFIGURE_MIRROR", str(tmp_path / "mirror"))
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "mirror" / "toys"
    folder.mkdir(parents=True)
    raws = []
    for prefix, images in IMAGES.items():
        labels = np.arange(len(images), dtype=np.uint8)
        for suffix, values in (("images-idx3-ubyte.gz", images), ("labels-idx1-ubyte.gz", labels)):
            packed = gzip.compress(idx_bytes(values), mtime=0)
            (folder / f"{prefix}-{suffix}").write_bytes(packed)
            raws.append(RawFile(f"{prefix}-{suffix}", (), hashlib.sha256(packed).hexdigest()))
    entry = DataSet("toy", "a toy", (Source(tuple(raws), "idx", "toys"),), ("train", "test"), "-", "-", "-")
    monkeypatch.setitem(registry.DATASETS, "toy", entry)
    return decode.decoded_folder("toy")


def test_arrays_are_memory_mapped_and_read_only(toy: Path) -> None:
    train, test = data.load("toy"), data.load("toy", "test")
    np.testing.assert_array_equal(train["images"], IMAGES["train"])
    np.testing.assert_array_equal(test["images"], IMAGES["t10k"])
    assert isinstance(train["images"], np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        train["images"][0] = 0


def test_decoding_happens_once_and_needs_the_raw_files_no_more(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data.load("toy")
    monkeypatch.setitem(decoders.DECODERS, "idx", lambda *_: pytest.fail("decoded again"))
    shutil.rmtree(tmp_path / "mirror")
    for file in (tmp_path / "cache" / "toy").glob("*.gz"):
        file.unlink()
    for package in ("pooch", "PIL"):
        monkeypatch.setitem(sys.modules, package, None)
    np.testing.assert_array_equal(data.load("toy")["images"], IMAGES["train"])


def test_unknown_splits_and_sets_are_named(toy: Path) -> None:
    with pytest.raises(RefigureError, match=r"no split 'tests': did you mean 'test'"):
        data.load("toy", "tests")
    with pytest.raises(RefigureError, match="no data set"):
        data.load("nothing")


def test_sets_that_are_not_declared_are_refused(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data.declare({"mnist"}, where="papers/deq/paper.yaml: copy/deq_50")
    try:
        with pytest.raises(RefigureError) as caught:
            data.load("toy")
        data.declare(["mnist", "toy"])
        data.load("toy")
    finally:
        data.declare(None)
    message = "data set 'toy' is read and not declared: add it to `data:` of papers/deq/paper.yaml: copy/deq_50"
    assert str(caught.value) == message
    data.load("toy")


@pytest.mark.parametrize("pinned", [True, False])
@pytest.mark.parametrize("damage", ["cut", "missing", "flipped", "retyped", "record", "names", "other data"])
def test_damaged_arrays_are_named_and_decoded_again(
    toy: Path, damage: str, pinned: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Also when the file keeps its size, as another process meets it that has not hashed it yet."""
    if pinned:
        change(monkeypatch, content=content())
    data.load("toy")
    victim = toy / ("train-images.npy" if damage in ("cut", "missing", "flipped", "retyped") else "decoded.json")
    if damage == "missing":
        victim.unlink()
    elif damage == "other data":
        change(monkeypatch, pinned=False, content={})
    else:
        before = victim.read_bytes()
        victim.write_bytes(
            {
                "cut": before[:-3],
                "flipped": before[:-1] + bytes([before[-1] ^ 1]),
                "retyped": before.replace(b"|u1", b"|i1"),
                "record": before[:-3],
                "names": before.replace(b'"names": {}', b'"names": {"train/classes": ["a"]}'),
            }[damage]
        )
        assert victim.read_bytes() != before
    store._described.clear()
    assert dict(data.verify("toy")) != {}
    store._described.clear()
    if damage == "other data" and not pinned:
        change(monkeypatch, checks={})
    train = data.load("toy")
    np.testing.assert_array_equal(train["images"], IMAGES["train"])
    assert train["images"].dtype == np.uint8
    assert dict(train.names) == {}
    assert any(str(victim) in message for message in caplog.messages)
    assert all(status.startswith("ok") for _, status in data.verify("toy"))


def test_verify_hashes_what_load_has_seen(toy: Path) -> None:
    data.load("toy")
    assert {status for _, status in data.verify("toy")} == {"ok"}
    victim = toy / "train-images.npy"
    before, stat = victim.read_bytes(), victim.stat()
    victim.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    os.utime(victim, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    wrong = {file: status for file, status in data.verify("toy") if status != "ok"}
    assert list(wrong) == [f"{toy.name}/train/images"]
    assert "its content changed" in wrong[f"{toy.name}/train/images"]
    np.testing.assert_array_equal(data.load("toy")["images"], IMAGES["train"])


# --- decoders


CHILD = """
import sys, json
from common import data
from common.data import registry
from common.data.registry import DataSet, RawFile, Source
names = [f"{split}-{part}-ubyte.gz" for split in ("train", "t10k") for part in ("images-idx3", "labels-idx1")]
source = Source(tuple(map(RawFile, names)), "idx", "toys")
content = json.loads(sys.argv[1])
registry.DATASETS["toy"] = DataSet("toy", "", (source,), ("train", "test"), "", "", "", content=content)
print(data.load("toy")["images"].ravel().tolist())
"""


def test_an_edited_decoder_never_serves_old_arrays(toy: Path, tmp_path: Path) -> None:
    """It is refused where the arrays are pinned; else it decodes anew, and the other decoder's arrays go."""

    def child(root: Path, pinned: bool) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", CHILD, json.dumps(content() if pinned else {})]
        environment = {**os.environ, "PYTHONPATH": str(root)}
        return subprocess.run(command, cwd=tmp_path, env=environment, text=True, capture_output=True, check=False)

    package = Path(data.__file__).parents[1]
    edited = tmp_path / "edited"
    (edited / "common").mkdir(parents=True)
    shutil.copytree(package / "data", edited / "common" / "data")
    for name in ("__init__.py", "errors.py", "atomic.py"):
        shutil.copy(package / name, edited / "common" / name)
    file = edited / "common" / "data" / "decoders.py"
    inverted = file.read_text().replace("parse_idx(gzip.", "~parse_idx(gzip.")
    assert inverted != file.read_text()
    file.write_text(inverted)

    images = IMAGES["train"].ravel()
    assert child(package.parent, pinned=True).stdout.strip() == str(images.tolist())
    refused = child(edited, pinned=True)
    assert refused.returncode != 0
    assert "RefigureError: toy: idx decodes" in refused.stderr
    assert "the decoder was changed" in refused.stderr
    assert [path.name for path in toy.parent.glob("decoded-*")] == [toy.name], "nothing of it was kept"
    assert child(package.parent, pinned=False).stdout.strip() == str(images.tolist())
    assert child(edited, pinned=False).stdout.strip() == str((255 - images).tolist())
    assert not toy.exists()
    assert len(list(toy.parent.glob("decoded-*"))) == 1


def test_the_meaning_of_a_decoder_is_its_code_alone() -> None:
    plain = decode.meaning("X = 1\ndef f(x):\n    return x\n")
    spaced = '"""Text."""\nX = 1\n"""Text."""\n\ndef f(x):  # comment\n    """Text.\n\n    More."""\n    return (x)\n'
    assert decode.meaning(spaced) == plain
    assert decode.meaning("X = 1\ndef f(x):\n    return ~x\n") != plain
    assert decode.meaning("X = 2\ndef f(x):\n    return x\n") != plain


@pytest.mark.parametrize(("decoder", "hint"), [("idx", "decoder was changed"), ("toy_jpeg", "another libjpeg")])
def test_other_arrays_than_the_pinned_ones_are_refused(
    toy: Path, decoder: str, hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files without a checksum of their own are set aside then."""
    monkeypatch.setitem(decoders.DECODERS, decoder, decoders.idx)
    (source,) = registry.get("toy").sources
    wanted = "0" * 64 + " uint8[5,2,2]"
    expected = content() | {"train/images": wanted}
    change(monkeypatch, False, content=expected, sources=(dataclasses.replace(source, decoder=decoder),))
    with pytest.raises(RefigureError, match=rf"train/images = .* instead of 0+ uint8.*{hint}") as caught:
        data.load("toy")
    assert "\n" not in str(caught.value)
    assert not toy.exists()
    aside = {path.name for path in toy.parent.glob("*.corrupt")}
    assert aside == {raw.name + ".corrupt" for raw in source.files}


def test_published_checks_are_compared_too(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change(monkeypatch, checks={"text": "0" * 64})
    with pytest.raises(RefigureError, match="to text = None instead of 0000"):
        data.load("toy")
    assert not list(toy.parent.glob("*.corrupt")), "the files are those that are pinned"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
def test_a_decoding_cut_short_leaves_nothing(toy: Path, error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut(*_: object) -> None:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(store.atomic, "write_json", cut)
        with pytest.raises((KeyboardInterrupt, RefigureError), match=r"no space left in .* arrays of toy|^$"):
            data.load("toy")
    assert [path.name for path in toy.parent.iterdir() if "decoded" in path.name] == []
    np.testing.assert_array_equal(data.load("toy")["images"], IMAGES["train"])


def test_a_malformed_file_is_named(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "train-images-idx3-ubyte.gz"
    (tmp_path / "mirror" / "toys" / name).write_bytes(gzip.compress(b"not IDX"))
    change(monkeypatch, pinned=False, content=content())
    with pytest.raises(RefigureError, match=rf"{name}.*: not in the expected format"):
        data.load("toy")


def test_a_pickle_in_an_npz_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "fsdd.npz", samples=np.array([{"a": 1}], dtype=object))
    with pytest.raises(RefigureError, match="not in the expected format"):
        run("fsdd_npz", **{"fsdd.npz": tmp_path / "fsdd.npz"})


def run(decoder: str, **paths: Path) -> dict[str, Any]:
    return dict(decoders.decode(Source((), decoder, ""), paths))


def check(name: str, pieces: dict[str, Any]) -> None:
    """Compare what a decoder gave with what the registry pins."""
    entry = data.get(name)
    arrays = {key: value for key, value in pieces.items() if isinstance(value, np.ndarray)}
    assert {key: store._describe(values) for key, values in arrays.items()} == entry.content
    assert {key: hashlib.sha256(pieces[key]).hexdigest() for key in entry.checks} == entry.checks
    for split in entry.splits:
        for kind, listed in data.load(name, split).names.items():
            assert tuple(map(str, pieces[f"{split}/{kind}"])) == listed


def test_cifar10_binary(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    pictures = random.integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
    labels = random.integers(0, 10, 12, dtype=np.uint8)
    entries = []
    for number, name in enumerate([*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]):
        rows = slice(2 * number, 2 * number + 2)
        planes = pictures[rows].transpose(0, 3, 1, 2).reshape(2, -1)
        content = np.concatenate([labels[rows, None], planes], axis=1).tobytes()
        entries.append((f"cifar-10-batches-bin/{name}", content))
    archive = tar_of(tmp_path / "a.tar.gz", *reversed(entries))
    pieces = run("cifar10_binary", **{"a.tar.gz": archive})
    np.testing.assert_array_equal(pieces["train/images"], pictures[:10])
    np.testing.assert_array_equal(pieces["test/images"], pictures[10:])
    np.testing.assert_array_equal(pieces["train/labels"], labels[:10])
    assert pieces["train/classes"][3] == "cat"


def picture_bytes(values: np.ndarray, form: str) -> bytes:
    image = pytest.importorskip("PIL.Image", reason="pillow is not installed").fromarray(values)
    buffer = io.BytesIO()
    image.save(buffer, form)
    return buffer.getvalue()


def test_tiny_imagenet_zip(tmp_path: Path) -> None:
    def flat(level: int) -> bytes:
        return picture_bytes(np.full((64, 64), level, np.uint8), "JPEG")

    top = "tiny-imagenet-200"
    entries: list[tuple[str | zipfile.ZipInfo, bytes]] = [
        (f"{top}/val/images/val_1.JPEG", flat(20)),
        (f"{top}/val/images/val_0.JPEG", flat(10)),
        (f"{top}/test/images/test_0.JPEG", flat(0)),
        (f"{top}/wnids.txt", b"n02\nn01\n"),
        (f"{top}/words.txt", b"n01\tfirst\nn02\tsecond, other\n"),
        (f"{top}/val/val_annotations.txt", b"val_0.JPEG\tn01\t0\t0\t9\t9\nval_1.JPEG\tn02\t0\t0\t9\t9\n"),
    ]
    levels = {"n01": flat(40), "n02": flat(200)}
    entries += [(f"{top}/train/{wnid}/images/{wnid}_{i}.JPEG", levels[wnid]) for wnid in levels for i in range(500)]
    pieces = run("tiny_imagenet_zip", **{"a.zip": zip_of(tmp_path / "a.zip", *entries)})
    assert pieces["train/classes"] == ["second, other", "first"]
    images, labels = pieces["train/images"], pieces["train/labels"]
    assert images.shape == (1000, 64, 64, 3)
    assert [(labels[row], images[row].mean()) for row in (0, 999)] == [(0, 200), (1, 40)]
    assert [int(image.mean()) for image in pieces["val/images"]] == [10, 20]
    assert pieces["val/labels"].tolist() == [1, 0]
    with pytest.raises(RefigureError, match="1 images of train are missing"):
        run("tiny_imagenet_zip", **{"a.zip": zip_of(tmp_path / "a.zip", *entries[:-1])})


# --- the real sets

MIRROR = os.environ.get("REFIGURE_MIRROR")
real = [
    pytest.mark.data,
    pytest.mark.skipif(not MIRROR, reason="REFIGURE_MIRROR is not set: no real data to check"),
]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


class TestRealData:
    """Against the statistics and checksums published with the sets."""

    pytestmark = real

    @pytest.fixture(autouse=True)
    def _own_cache(self, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
        monkeypatch.setenv("REFIGURE_DATA", str(cache))
        caplog.set_level(logging.WARNING)

    def test_mnist(self) -> None:
        train, test = data.load("mnist"), data.load("mnist", "test")
        assert np.bincount(train["labels"]).tolist() == [
            5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949,
        ]  # fmt: skip
        assert np.bincount(test["labels"]).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
        assert train["labels"][:12].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4, 3, 5]
        assert round(float(train["images"].mean()) / 255, 4) == 0.1307
        assert round(float(train["images"].std()) / 255, 4) == 0.3081

    def test_fashion_mnist(self) -> None:
        train, test = data.load("fashion-mnist"), data.load("fashion-mnist", "test")
        assert np.bincount(train["labels"]).tolist() == [6000] * 10
        assert np.bincount(test["labels"]).tolist() == [1000] * 10
        assert train["labels"][:10].tolist() == [9, 0, 0, 3, 0, 2, 7, 2, 5, 5]
        assert round(float(train["images"].mean()) / 255, 4) == 0.2860
        assert round(float(train["images"].std()) / 255, 4) == 0.3530

    def test_omniglot(self) -> None:
        background, evaluation = data.load("omniglot", "background"), data.load("omniglot", "evaluation")
        assert background["images"].shape == (964, 20, 105, 105)
        assert evaluation["images"].shape == (659, 20, 105, 105)
        assert (len(background.names["alphabets"]), len(evaluation.names["alphabets"])) == (30, 20)
        for split in (background, evaluation):
            assert set(np.unique(split["images"][:3])) == {0, 1}
            assert 0.01 < split["images"].mean() < 0.15, "1 is ink, and ink is rare"
            names = split.names["alphabets"]
            assert list(names) == sorted(names)
            assert split["alphabet"].max() == len(names) - 1
        assert background["file_id"][0] == 709

    @pytest.mark.slow
    def test_omniglot_official_zips_decode_to_the_same_content(self, tmp_path: Path) -> None:
        """The official layout, rebuilt from the repacking: the pinned content comes out again."""
        paths = {}
        for split in ("background", "evaluation"):
            stored = data.load("omniglot", split)
            names = stored.names["alphabets"]
            entries: list[tuple[str | zipfile.ZipInfo, bytes]] = []
            for row in reversed(range(len(stored["images"]))):
                folder = f"images_{split}/{names[stored['alphabet'][row]]}/character{stored['character'][row]:02d}"
                for number in range(20):
                    png = picture_bytes(stored["images"][row, number] == 0, "PNG")
                    entries.append((f"{folder}/{stored['file_id'][row]:04d}_{number + 1:02d}.png", png))
            paths[f"images_{split}.zip"] = zip_of(tmp_path / f"{split}.zip", *entries)
        check("omniglot", run("omniglot_zip", **paths))

    def test_omniglot_runs(self) -> None:
        runs, evaluation = data.load("omniglot-runs", "test"), data.load("omniglot", "evaluation")
        assert (np.sort(runs["answers"], axis=1) == np.arange(20)).all(), "each character is asked for once"
        assert runs["answers"][0, :2].tolist() == [7, 8]
        known = {image.tobytes() for image in evaluation["images"].reshape(-1, 105 * 105)}
        assert {image.tobytes() for image in runs["test"].reshape(-1, 105 * 105)} <= known

    def test_cifar10_jpeg(self) -> None:
        train, test = data.load("cifar10-jpeg"), data.load("cifar10-jpeg", "test")
        assert np.bincount(train["labels"]).tolist() == [5000] * 10
        assert np.bincount(test["labels"]).tolist() == [1000] * 10
        level = np.arange(256) / 255
        shares = [np.bincount(train["images"][..., channel].ravel(), minlength=256) for channel in range(3)]
        mean = np.array([np.average(level, weights=share) for share in shares])
        square = np.array([np.average(level**2, weights=share) for share in shares])
        std = np.sqrt(square - mean**2)
        np.testing.assert_allclose(mean, [0.4913, 0.4821, 0.4465], atol=2e-4)
        np.testing.assert_allclose(std, [0.2452, 0.2428, 0.2606], atol=2e-4)

    def test_cifar10_png4k_is_the_original_of_the_jpegs(self) -> None:
        exact, lossy = data.load("cifar10-png4k"), data.load("cifar10-jpeg")
        assert exact["images"].shape == (4000, 32, 32, 3)
        np.testing.assert_array_equal(exact["labels"], lossy["labels"][:4000])
        error = np.square(exact["images"].astype(float) - lossy["images"][:4000]).mean(axis=(1, 2, 3))
        noise = 10 * np.log10(255**2 / error)
        assert noise.min() > 22.5
        assert abs(noise.mean() - 30.5) < 0.2

    def test_ptb(self, tmp_path: Path) -> None:
        splits = {split: data.load("ptb", split) for split in ("train", "valid", "test")}
        assert [len(split["tokens"]) for split in splits.values()] == [929_589, 73_760, 82_430]
        vocabulary = splits["test"].names["vocabulary"]
        assert len(vocabulary) == 10_000
        assert vocabulary[:3] == ("the", "<unk>", "<eos>")
        assert " ".join(vocabulary[i] for i in splits["train"]["tokens"][:3]) == "aer banknote berlitz"
        texts = {
            f"./simple-examples/data/{name.removesuffix('.gz')}": gzip.decompress(path.read_bytes())
            for name, path in data.fetch("ptb").items()
        }
        link = tar_special("./simple-examples/link", tarfile.SYMTYPE, "data")
        archive = tar_of(tmp_path / "a.tgz", (link, b""), *texts.items(), ("./simple-examples/README", b"-"))
        check("ptb", run("ptb_archive", **{"a.tgz": archive}))

    def test_fsdd(self, tmp_path: Path) -> None:
        train, test = data.load("fsdd"), data.load("fsdd", "test")
        assert (len(train["digit"]), len(test["digit"])) == (2700, 300)
        assert np.bincount(train["digit"]).tolist() == [270] * 10
        assert set(test["index"]) == set(range(5))
        assert train.names["speakers"] == ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")
        assert round((len(train["samples"]) + len(test["samples"])) / 8000 / 60, 1) == 21.9
        entries: list[tuple[str | zipfile.ZipInfo, bytes]] = [("fsdd-26eb/README.md", b"-")]
        for split in (test, train):
            for row, (start, stop) in enumerate(zip(split["offsets"][:-1], split["offsets"][1:], strict=True)):
                buffer = io.BytesIO()
                with wave.open(buffer, "wb") as sound:
                    sound.setnchannels(1)
                    sound.setsampwidth(2)
                    sound.setframerate(8000)
                    sound.writeframes(split["samples"][start:stop].tobytes())
                speaker = split.names["speakers"][split["speaker"][row]]
                name = f"{split['digit'][row]}_{speaker}_{split['index'][row]}.wav"
                entries.append((f"fsdd-26eb/recordings/{name}", buffer.getvalue()))
        check("fsdd", run("fsdd_archive", **{"a.zip": zip_of(tmp_path / "a.zip", *entries)}))

    def test_tiny_imagenet_100(self) -> None:
        train, val = data.load("tiny-imagenet-100"), data.load("tiny-imagenet-100", "val")
        assert np.bincount(train["labels"]).tolist() == [100] * 200
        assert np.bincount(val["labels"]).tolist() == [50] * 200
        assert train["images"].shape == (20_000, 64, 64, 3)
        assert (train.names["wnids"][0], train.names["classes"][0]) == ("n02124075", "Egyptian cat")

    @pytest.mark.parametrize("name", ["mnist", "omniglot", "fsdd", "ptb"])
    def test_verified_as_a_whole(self, name: str) -> None:
        data.load(name, registry.get(name).splits[0])
        assert {status for _, status in data.verify(name)} == {"ok"}

    def test_the_mirror_serves_every_set_but_the_two_large_archives(self) -> None:
        assert MIRROR is not None
        served = [
            name
            for name, entry in registry.DATASETS.items()
            if any(all(Path(MIRROR, one.folder, raw.name).exists() for raw in one.files) for one in entry.sources)
        ]
        assert sorted(set(registry.DATASETS) - set(served)) == ["cifar10", "tiny-imagenet"]
        for name in served:
            assert set(data.fetch(name)) in [{raw.name for raw in one.files} for one in registry.get(name).sources]

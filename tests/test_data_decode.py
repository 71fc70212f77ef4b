"""Archives are read safely, arrays are decoded once and guarded, the real sets hold what was published."""

import dataclasses
import errno
import gzip
import hashlib
import io
import json
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
from common.data import archives, decoders, registry, store
from common.data.registry import DataSet, RawFile, Source
from common.errors import RefigureError

# --- archives


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


def everything(name: str) -> bool:
    return True


@pytest.mark.parametrize("make", [zip_of, tar_of])
def test_members_are_the_chosen_plain_files(make: Callable[..., Path], tmp_path: Path) -> None:
    archive = make(tmp_path / "archive", ("./a/b.txt", b"one"), ("c.txt", b"two"), ("../no.bin", b"three"))
    chosen = dict(archives.members(archive, lambda name: name.endswith(".txt")))
    assert chosen == {"a/b.txt": b"one", "c.txt": b"two"}


@pytest.mark.parametrize("make", [zip_of, tar_of])
@pytest.mark.parametrize("name", ["../out.txt", "a/../../out.txt", "/out.txt", "C:/out.txt", "..\\out.txt"])
def test_names_that_leave_the_folder(make: Callable[..., Path], name: str, tmp_path: Path) -> None:
    archive = make(tmp_path / "archive", (name, b"evil"))
    with pytest.raises(RefigureError, match=rf"{archive}: member .*out.txt' leads outside"):
        list(archives.members(archive, everything))


@pytest.mark.parametrize(
    ("make", "entry"),
    [
        (zip_of, zip_link("link")),
        (tar_of, tar_special("link", tarfile.SYMTYPE, "/etc/passwd")),
        (tar_of, tar_special("hard", tarfile.LNKTYPE, "good.txt")),
        (tar_of, tar_special("device", tarfile.CHRTYPE)),
        (tar_of, tar_special("pipe", tarfile.FIFOTYPE)),
    ],
)
def test_links_and_devices(make: Callable[..., Path], entry: object, tmp_path: Path) -> None:
    archive = make(tmp_path / "archive", ("good.txt", b"good"), (entry, b""))
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
    "test": np.arange(3 * 4, dtype=np.uint8).reshape(3, 2, 2) + 100,
}
ARRAYS = {f"{split}/images": images for split, images in IMAGES.items()}
ARRAYS |= {f"{split}/labels": np.arange(len(images), dtype=np.uint8) for split, images in IMAGES.items()}
CONTENT = {key: store.describe(values) for key, values in ARRAYS.items()}
FILES = {
    f"{key.replace('/', '-').replace('test', 't10k')}-idx{values.ndim}-ubyte.gz": gzip.compress(
        idx_bytes(values), mtime=0
    )
    for key, values in ARRAYS.items()
}


UNPINNED = tuple(map(RawFile, FILES))


def change(monkeypatch: pytest.MonkeyPatch, files: tuple[RawFile, ...] = (), **fields: Any) -> None:
    """Change the toy's entry and, when they are given, its files."""
    entry = dataclasses.replace(registry.get("toy"), **fields)
    if files:
        entry = dataclasses.replace(entry, sources=(dataclasses.replace(entry.sources[0], files=files),))
    monkeypatch.setitem(registry.DATASETS, "toy", entry)


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A set of MNIST's format in a mirror; the folder of its decoded arrays."""
    monkeypatch.setenv("REFIGURE_DATA", str(tmp_path / "cache"))
    monkeypatch.setenv("REFIGURE_MIRROR", str(tmp_path / "mirror"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mirror" / "toys").mkdir(parents=True)
    for name, packed in FILES.items():
        (tmp_path / "mirror" / "toys" / name).write_bytes(packed)
    files = tuple(RawFile(name, (), hashlib.sha256(packed).hexdigest()) for name, packed in FILES.items())
    entry = DataSet("toy", "a toy", (Source(files, "idx", "toys"),), ("train", "test"), "-", "-", "-")
    monkeypatch.setitem(registry.DATASETS, "toy", entry)
    return data.decoded_folder("toy")


def test_arrays_are_memory_mapped_and_read_only(toy: Path) -> None:
    train, test = data.load("toy"), data.load("toy", "test")
    np.testing.assert_array_equal(train["images"], IMAGES["train"])
    np.testing.assert_array_equal(test["images"], IMAGES["test"])
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
    data.declare({"mnist": "mnist"}, where="papers/deq/paper.yaml: copy/deq_50")
    try:
        with pytest.raises(RefigureError) as caught:
            data.load("toy")
        data.declare({"picture": "toy"})
        np.testing.assert_array_equal(data.load("picture")["images"], IMAGES["train"])
        data.declare({"toy": "toy"})
        data.load("toy")
    finally:
        data.declare(None)
    message = "data set 'toy' is read and not declared: add it to `data:` of papers/deq/paper.yaml: copy/deq_50"
    assert str(caught.value) == message
    data.load("toy")


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "train-images.npy cut": lambda before: before[:-3],
    "train-images.npy changed": lambda before: before[:-1] + bytes([before[-1] ^ 1]),
    "train-images.npy retyped": lambda before: before.replace(b"|u1", b"|i1"),
    "decoded.json cut": lambda before: before[:-3],
    "decoded.json changed": lambda before: before.replace(b'"names": {}', b'"names": {"train/classes": ["a"]}'),
}


@pytest.mark.parametrize("pinned", [True, False])
@pytest.mark.parametrize("damage", [*DAMAGE, "train-images.npy missing", "decoded.json missing"])
def test_damaged_arrays_are_named_and_decoded_again(
    toy: Path, damage: str, pinned: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if pinned:
        change(monkeypatch, content=CONTENT)
    data.load("toy")
    victim = data.decoded_folder("toy") / damage.split()[0]
    before = victim.read_bytes()
    victim.unlink()
    if damage in DAMAGE:
        victim.write_bytes(DAMAGE[damage](before))
        assert victim.read_bytes() != before
    store.describe_file.cache_clear()  # what another process knows
    train = data.load("toy")
    np.testing.assert_array_equal(train["images"], IMAGES["train"])
    assert train["images"].dtype == np.uint8
    assert dict(train.names) == {}
    assert any(str(victim) in message for message in caplog.messages)
    assert {status for _, status in data.verify("toy")} == {"ok"}


@pytest.mark.parametrize("content", ["[]", "[" * 100_000, ""])
def test_rubbish_is_decoded_again(toy: Path, content: str) -> None:
    data.load("toy")
    for name in ("decoded.json", "train-images.npy"):
        (data.decoded_folder("toy") / name).write_text(content)
        store.describe_file.cache_clear()
        assert any("damaged" in status for _, status in data.verify("toy"))
        np.testing.assert_array_equal(data.load("toy")["images"], IMAGES["train"])


def test_pinned_arrays_are_compared_with_the_registry_not_with_their_record(
    toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(monkeypatch, content=CONTENT)
    data.load("toy")
    folder = data.decoded_folder("toy")
    np.save(folder / "train-images.npy", IMAGES["train"] + 1)
    record = json.loads((folder / "decoded.json").read_text())
    del record["sha256"]
    record["train"]["arrays"]["images"] = store.describe(IMAGES["train"] + 1)
    (folder / "decoded.json").write_text(json.dumps({**record, "sha256": store._digest(record)}))
    store.describe_file.cache_clear()
    np.testing.assert_array_equal(data.load("toy")["images"], IMAGES["train"])


def test_arrays_of_other_raw_data_are_not_served(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data.load("toy")
    packed = gzip.compress(idx_bytes(IMAGES["train"] + 1))
    (toy.parents[2] / "mirror" / "toys" / next(iter(FILES))).write_bytes(packed)
    for file in toy.parent.glob("*.gz"):
        file.unlink()
    change(monkeypatch, UNPINNED)
    np.testing.assert_array_equal(data.load("toy")["images"], IMAGES["train"] + 1)


def test_verify_hashes_what_load_has_seen(toy: Path) -> None:
    data.load("toy")
    assert {status for _, status in data.verify("toy")} == {"ok"}
    victim = toy / "train-images.npy"
    before, stat = victim.read_bytes(), victim.stat()
    victim.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    os.utime(victim, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    wrong = {file: status for file, status in data.verify("toy") if status != "ok"}
    assert list(wrong) == [f"{toy.name}/train"]
    assert "train-images.npy is damaged (its content changed)" in wrong[f"{toy.name}/train"]
    np.testing.assert_array_equal(data.load("toy")["images"], IMAGES["train"])


# --- decoders


CHILD = """
import sys, json
from common import data
from common.data.registry import DataSet, RawFile, Source
content, *names = json.loads(sys.argv[1])
source = Source(tuple(map(RawFile, names)), "idx", "toys")
data.DATASETS["toy"] = DataSet("toy", "", (source,), ("train", "test"), "", "", "", content=content)
print(data.load("toy")["images"].ravel().tolist())
"""


def test_an_edited_decoder_never_serves_old_arrays(toy: Path, tmp_path: Path) -> None:
    """It is refused where the arrays are pinned; else it decodes anew, and the other decoder's arrays go."""

    def child(root: Path, pinned: bool) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", CHILD, json.dumps([CONTENT if pinned else {}, *FILES])]
        environment = {**os.environ, "PYTHONPATH": str(root)}
        return subprocess.run(command, cwd=tmp_path, env=environment, text=True, capture_output=True, check=False)

    package, edited = Path(data.__file__).parents[1], tmp_path / "edited"
    shutil.copytree(package, edited / "common")
    file = edited / "common" / "data" / "decoders.py"
    inverted = file.read_text().replace("parse_idx(gzip.", "~parse_idx(gzip.")
    assert inverted != file.read_text()
    file.write_text(inverted)

    images = IMAGES["train"].ravel()
    assert child(package.parent, pinned=True).stdout.strip() == str(images.tolist())
    (kept,) = toy.parent.glob("decoded-*")
    refused = child(edited, pinned=True)
    assert refused.returncode != 0
    assert "RefigureError: toy: idx decodes" in refused.stderr
    assert "the decoder was changed" in refused.stderr
    assert [path.name for path in toy.parent.glob("decoded-*")] == [kept.name], "nothing else is kept"
    assert child(package.parent, pinned=False).stdout.strip() == str(images.tolist())
    assert child(edited, pinned=False).stdout.strip() == str((255 - images).tolist())
    folders = list(toy.parent.glob("decoded-*"))
    assert len(folders) == 3, "of the edited decoder, and of ours with and without pins or checksums"
    for folder in folders:
        os.utime(folder, (0, 0))
    file.write_text(inverted + "\n\nANOTHER = 1\n")
    assert child(edited, pinned=False).stdout.strip() == str((255 - images).tolist())
    assert len(list(toy.parent.glob("decoded-*"))) == 1, "those of a month ago go"


@pytest.mark.parametrize(("decoder", "hint"), [("idx", "decoder was changed"), ("toy_jpeg", "another libjpeg")])
def test_other_arrays_than_the_pinned_ones_are_refused(
    toy: Path, decoder: str, hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files without a checksum of their own are set aside then."""
    monkeypatch.setitem(decoders.DECODERS, decoder, decoders.idx)
    change(
        monkeypatch,
        content=CONTENT | {"train/images": "0" * 64 + " uint8[5,2,2]"},
        sources=(Source(UNPINNED, decoder, "toys"),),
    )
    with pytest.raises(RefigureError, match=rf"train/images = .* instead of 0+ uint8.*{hint}") as caught:
        data.load("toy")
    assert "\n" not in str(caught.value)
    assert not toy.exists()
    assert {path.name for path in toy.parent.glob("*.corrupt")} == {f"{name}.corrupt" for name in FILES}


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
def test_a_decoding_cut_short_leaves_nothing(toy: Path, error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut(*_: object) -> None:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(store, "_digest", cut)
        with pytest.raises((KeyboardInterrupt, RefigureError), match=r"arrays of toy to .* \(disk full\)|^$"):
            data.load("toy")
    assert [path.name for path in toy.parent.iterdir() if "decoded" in path.name] == []
    np.testing.assert_array_equal(data.load("toy")["images"], IMAGES["train"])


def test_a_malformed_file_is_named(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "train-images-idx3-ubyte.gz"
    (tmp_path / "mirror" / "toys" / name).write_bytes(gzip.compress(b"not IDX"))
    change(monkeypatch, UNPINNED, content=CONTENT)
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
    assert {key: store.describe(values) for key, values in arrays.items()} == entry.content
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


def test_stl10_binary(tmp_path: Path) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (5, 96, 96, 3), dtype=np.uint8)
    parts = {"train": pictures[:2], "test": pictures[2:4], "unlabeled": pictures[4:]}
    columns = {split: values.transpose(0, 3, 2, 1).tobytes() for split, values in parts.items()}
    entries = [(f"stl10_binary/{split}_X.bin", content) for split, content in columns.items()]
    entries += [("stl10_binary/train_y.bin", b"\x0a\x01"), ("stl10_binary/test_y.bin", b"\x02\x03")]
    entries += [("stl10_binary/class_names.txt", b"airplane\nbird\n"), ("stl10_binary/fold_indices.txt", b"0 1\n")]
    pieces = run("stl10_binary", **{"a.tar.gz": tar_of(tmp_path / "a.tar.gz", *entries)})
    for split, values in parts.items():
        np.testing.assert_array_equal(pieces[f"{split}/images"], values)
    assert pieces["train/labels"].tolist() == [9, 0]
    assert pieces["test/labels"].tolist() == [1, 2]
    assert pieces["test/classes"] == ["airplane", "bird"]
    assert "unlabeled/labels" not in pieces


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


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.mark.data
@pytest.mark.skipif(not os.environ.get("REFIGURE_MIRROR"), reason="REFIGURE_MIRROR is not set: no real data to check")
class TestRealData:
    """Against the statistics and checksums published with the sets."""

    @pytest.fixture(autouse=True)
    def _own_cache(self, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("REFIGURE_DATA", str(cache))

    @pytest.mark.parametrize("name", [name for name, entry in data.DATASETS.items() if entry.content])
    def test_decodes_to_what_is_pinned(self, name: str) -> None:
        for split in data.get(name).splits:
            data.load(name, split)
        assert {status for _, status in data.verify(name)} == {"ok"}

    def test_names(self) -> None:
        """They are pinned by the raw files alone."""
        assert data.load("ptb", "test").names["vocabulary"][:3] == ("the", "<unk>", "<eos>")
        assert data.load("fsdd").names["speakers"] == ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")
        assert data.load("tiny-imagenet-100").names["wnids"][0] == "n02124075"
        assert data.load("tiny-imagenet-100").names["classes"][0] == "Egyptian cat"
        assert data.load("cifar10-jpeg", "test").names["classes"] == decoders.CIFAR_CLASSES
        assert [len(data.load("omniglot", split).names["alphabets"]) for split in ("background", "evaluation")] == [
            30,
            20,
        ]

    @pytest.mark.parametrize(("name", "digest"), [("mnist", "ba891046e6505d7a"), ("fashion-mnist", "c59f468a2f672dc8")])
    def test_images_have_the_published_checksum(self, name: str, digest: str) -> None:
        assert hashlib.sha256(idx_bytes(data.load(name)["images"])).hexdigest().startswith(digest)

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

    def test_ptb(self, tmp_path: Path) -> None:
        texts = {
            f"./simple-examples/data/{name.removesuffix('.gz')}": gzip.decompress(path.read_bytes())
            for name, path in data.fetch("ptb").items()
        }
        link = tar_special("./simple-examples/link", tarfile.SYMTYPE, "data")
        archive = tar_of(tmp_path / "a.tgz", (link, b""), *texts.items(), ("./simple-examples/README", b"-"))
        check("ptb", run("ptb_archive", **{"a.tgz": archive}))

    def test_fsdd(self, tmp_path: Path) -> None:
        train, test = data.load("fsdd"), data.load("fsdd", "test")
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

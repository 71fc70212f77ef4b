"""Archives are read safely, arrays are decoded once and guarded, the real sets hold what was published."""

import errno
import gzip
import hashlib
import io
import logging
import os
import tarfile
import wave
import zipfile
from collections.abc import Callable
from pathlib import Path

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


@pytest.mark.parametrize("make", [zip_of, tar_of])
def test_extract_writes_plain_files_below_the_folder(make: Callable[..., Path], tmp_path: Path) -> None:
    archive = make(tmp_path / "archive", ("./a/b.txt", b"one"), ("c.txt", b"two"), ("a/no.bin", b"three"))
    into = tmp_path / "into"
    written = archives.extract(archive, into, lambda name: name.endswith(".txt"))
    assert {str(path.relative_to(into)): path.read_bytes() for path in written} == {
        "a/b.txt": b"one",
        "c.txt": b"two",
    }
    assert not (into / "a" / "no.bin").exists()


@pytest.mark.parametrize("make", [zip_of, tar_of])
@pytest.mark.parametrize("name", EVIL_NAMES)
def test_names_that_leave_the_folder(make: Callable[..., Path], name: str, tmp_path: Path) -> None:
    archive = make(tmp_path / "archive", ("good.txt", b"good"), (name, b"evil"))
    with pytest.raises(RefigureError, match="leads outside") as caught:
        archives.extract(archive, tmp_path / "deep" / "into")
    assert str(archive) in str(caught.value)
    assert "out.txt" in str(caught.value)
    assert not (tmp_path / "deep").exists(), "nothing at all was unpacked"
    assert list(tmp_path.rglob("out.txt")) == []


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
        archives.extract(archive, tmp_path / "into")
    assert not (tmp_path / "into").exists()


def test_links_in_a_zip(tmp_path: Path) -> None:
    archive = zip_of(tmp_path / "a.zip", (zip_link("link"), b"/etc/passwd"))
    with pytest.raises(RefigureError, match="link or a device"):
        archives.extract(archive, tmp_path / "into")


def test_a_link_already_in_the_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "into").mkdir()
    (tmp_path / "away").mkdir()
    (tmp_path / "into" / "sub").symlink_to(tmp_path / "away")
    with pytest.raises(RefigureError, match="through a link"):
        archives.extract(zip_of(tmp_path / "a.zip", ("sub/x.txt", b"x")), tmp_path / "into")
    assert list((tmp_path / "away").iterdir()) == []


@pytest.mark.parametrize("make", [zip_of, tar_of])
def test_too_much_to_unpack(make: Callable[..., Path], tmp_path: Path) -> None:
    archive = make(tmp_path / "bomb", ("zeros", bytes(10_000)), ("more", bytes(10_000)))
    with pytest.raises(RefigureError, match="more than is allowed"):
        list(archives.members(archive, limit=15_000))


@pytest.mark.parametrize("make", [zip_of, tar_of])
def test_cut_or_damaged_archives(make: Callable[..., Path], tmp_path: Path) -> None:
    archive = make(tmp_path / "archive", ("noise", np.random.default_rng(0).bytes(20_000)))
    whole = archive.read_bytes()
    for broken in (whole[: len(whole) // 2], whole[:500] + b"?" * 500 + whole[1000:], b"not an archive"):
        archive.write_bytes(broken)
        with pytest.raises(RefigureError, match=str(archive)):
            list(archives.members(archive))


@given(st.text(min_size=1, max_size=30).filter(lambda name: "\0" not in name))
def test_no_name_leads_outside(name: str) -> None:
    try:
        safe = archives._safe_name(Path("a.zip"), name)
    except (RefigureError, IndexError):
        return
    assert Path("/root", safe).resolve().is_relative_to("/root")


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
        with pytest.raises(ValueError, match=r"\S"):
            decoders.parse_idx(content[:cut])


IMAGES = {
    "train": np.arange(5 * 4, dtype=np.uint8).reshape(5, 2, 2),
    "t10k": np.arange(3 * 4, dtype=np.uint8).reshape(3, 2, 2) + 100,
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
            content = gzip.compress(idx_bytes(values), mtime=0)
            (folder / f"{prefix}-{suffix}").write_bytes(content)
            raws.append(RawFile(f"{prefix}-{suffix}", (), hashlib.sha256(content).hexdigest()))
    entry = DataSet("toy", "a toy", (Source(tuple(raws), "idx", "toys"),), ("train", "test"), "-", "-", "-")
    monkeypatch.setitem(registry.DATASETS, "toy", entry)
    return tmp_path / "cache" / "toy" / f"decoded-{decode.VERSION}"


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
    monkeypatch.delenv("REFIGURE_MIRROR")
    for raw in registry.get("toy").files:
        (tmp_path / "cache" / "toy" / raw.name).unlink()
    np.testing.assert_array_equal(data.load("toy")["images"], IMAGES["train"])


def test_unknown_splits_and_sets_are_named(toy: Path) -> None:
    with pytest.raises(RefigureError, match=r"no split 'tests': did you mean 'test'"):
        data.load("toy", "tests")
    with pytest.raises(RefigureError, match="no data set"):
        data.load("nothing")


@pytest.mark.parametrize("damage", ["cut", "missing", "record"])
def test_damaged_arrays_are_named_and_decoded_again(toy: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    data.load("toy")
    victim = toy / ("decoded.json" if damage == "record" else "train-images.npy")
    if damage == "missing":
        victim.unlink()
    else:
        victim.write_bytes(victim.read_bytes()[:-3])
    np.testing.assert_array_equal(data.load("toy")["images"], IMAGES["train"])
    assert any(str(victim) in message for message in caplog.messages)


def test_verify_finds_a_changed_array_and_load_mends_it(toy: Path) -> None:
    data.load("toy")
    assert {status for _, status in data.verify("toy")} == {"ok"}
    victim = toy / "train-images.npy"
    content = bytearray(victim.read_bytes())
    content[-1] ^= 1
    victim.write_bytes(content)
    found = dict(data.verify("toy"))
    assert found[f"{toy.name}/train-images.npy"] == "damaged: its content changed"
    assert sum(status != "ok" for status in found.values()) == 1
    np.testing.assert_array_equal(data.load("toy")["images"], IMAGES["train"])
    assert {status for _, status in data.verify("toy")} == {"ok"}


def test_other_raw_data_is_decoded_anew(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data.load("toy")
    monkeypatch.setattr(registry, "checksums", lambda _: {"another": "sha256:0"})
    np.testing.assert_array_equal(data.load("toy")["images"], IMAGES["train"])
    record = store.read_record(toy, {"another": "sha256:0"})
    assert record is not None


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
def test_a_decoding_cut_short_leaves_nothing(toy: Path, error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut(*_: object) -> None:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(store.Writer, "finish", cut)
        with pytest.raises((KeyboardInterrupt, RefigureError), match=r"no space left|^$"):
            data.load("toy")
    assert [path.name for path in toy.parent.iterdir() if "decoded" in path.name] == []
    np.testing.assert_array_equal(data.load("toy")["images"], IMAGES["train"])


def test_a_disk_too_small_for_the_arrays_is_found_before_they_are_filled(
    toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(RefigureError, match=r"no space left in .* for the decoded arrays of toy"):
        data.load("toy")
    assert not toy.exists()


def test_content_that_is_not_the_published_one_is_refused(
    toy: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As for an archive without a checksum of its own: it is set aside, and nothing is kept."""
    old = registry.get("toy")
    unpinned = tuple(RawFile(raw.name) for raw in old.files)
    entry = DataSet(
        "toy",
        "",
        (Source(unpinned, "idx", "toys"),),
        ("train", "test"),
        "",
        "",
        "",
        content={"train/images": "0" * 64},
    )
    monkeypatch.setitem(registry.DATASETS, "toy", entry)
    with pytest.raises(RefigureError, match="train/images has SHA-256"):
        data.load("toy")
    assert not toy.exists()
    aside = {path.name for path in toy.parent.glob("*.corrupt")}
    assert aside == {raw.name + ".corrupt" for raw in old.files}


def test_a_malformed_file_is_named(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "train-images-idx3-ubyte.gz"
    (tmp_path / "mirror" / "toys" / name).write_bytes(gzip.compress(b"not IDX"))
    raws = tuple(RawFile(raw.name) for raw in registry.get("toy").files)
    entry = DataSet("toy", "", (Source(raws, "idx", "toys"),), ("train",), "", "", "", content={"x": "0"})
    monkeypatch.setitem(registry.DATASETS, "toy", entry)
    with pytest.raises(RefigureError, match=rf"{name} is not in the expected format"):
        data.load("toy")


def test_a_pickle_in_an_npz_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", images=np.array([{"a": 1}], dtype=object))
    with pytest.raises(RefigureError, match="not in the expected format"):
        decoders._npz(tmp_path / "x.npz")


def run(decoder: str, folder: Path, **paths: Path) -> tuple[store.Writer, Callable[[str], store.Split]]:
    folder.mkdir()
    writer = store.Writer(folder)
    decoders.DECODERS[decoder](dict(paths), writer)
    writer.finish({})
    record = store.read_record(folder, {})
    assert record is not None
    return writer, lambda split: store.read_split(folder, record, split)


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
    _, split = run("cifar10_binary", tmp_path / "out", **{"a.tar.gz": archive})
    np.testing.assert_array_equal(split("train")["images"], pictures[:10])
    np.testing.assert_array_equal(split("test")["images"], pictures[10:])
    np.testing.assert_array_equal(split("train")["labels"], labels[:10])
    assert split("train").names["classes"][3] == "cat"


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
    archive = zip_of(tmp_path / "a.zip", *entries)
    _, split = run("tiny_imagenet_zip", tmp_path / "out", **{"a.zip": archive})
    train, val = split("train"), split("val")
    assert train.names["classes"] == ("second, other", "first")
    assert train["images"].shape == (1000, 64, 64, 3)
    assert (train["labels"][0], train["images"][0].mean()) == (0, 200)
    assert (train["labels"][999], train["images"][999].mean()) == (1, 40)
    assert [int(image.mean()) for image in val["images"]] == [10, 20]
    assert val["labels"].tolist() == [1, 0]


# --- the real sets

MIRROR = os.environ.get("REFIGURE_MIRROR")
real = [
    pytest.mark.data,
    pytest.mark.skipif(not MIRROR, reason="REFIGURE_MIRROR is not set: no real data to check"),
]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def sha(values: np.ndarray | bytes) -> str:
    return hashlib.sha256(
        np.ascontiguousarray(values).tobytes() if isinstance(values, np.ndarray) else values
    ).hexdigest()


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
        contents = {
            "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        }
        for name, path in data.fetch("mnist").items():
            assert sha(gzip.decompress(path.read_bytes())) == contents[name.removesuffix(".gz")]

    def test_fashion_mnist(self) -> None:
        train, test = data.load("fashion-mnist"), data.load("fashion-mnist", "test")
        assert np.bincount(train["labels"]).tolist() == [6000] * 10
        assert np.bincount(test["labels"]).tolist() == [1000] * 10
        assert train["labels"][:10].tolist() == [9, 0, 0, 3, 0, 2, 7, 2, 5, 5]
        assert round(float(train["images"].mean()) / 255, 4) == 0.2860
        assert round(float(train["images"].std()) / 255, 4) == 0.3530
        assert sha(idx_bytes(train["images"])) == "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"

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
        writer, split_of = run("omniglot_zip", tmp_path / "out", **paths)
        for key, expected in registry.get("omniglot").content.items():
            assert writer.content[key] == expected
        for split in ("background", "evaluation"):
            ours, theirs = split_of(split), data.load("omniglot", split)
            assert ours.names == theirs.names
            for name in ("alphabet", "character", "file_id"):
                np.testing.assert_array_equal(ours[name], theirs[name])

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
        writer, split_of = run("ptb_archive", tmp_path / "out", **{"a.tgz": archive})
        for key, expected in registry.get("ptb").content.items():
            assert writer.content[key] == expected
        np.testing.assert_array_equal(split_of("valid")["tokens"], splits["valid"]["tokens"])

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
        archive = zip_of(tmp_path / "a.zip", *entries)
        writer, _ = run("fsdd_archive", tmp_path / "out", **{"a.zip": archive})
        assert {key: writer.content[key] for key in registry.get("fsdd").content} == registry.get("fsdd").content

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

"""From raw files to arrays, one function a format. Nothing is unpickled."""

import gzip
import io
import wave
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from common.data.archives import members
from common.data.store import Writer
from common.errors import RefigureError

__all__ = ["DECODERS"]

Files = dict[str, Path]
SIDE = 105
"""Pixels of an Omniglot drawing's side."""
CIFAR_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what a malformed file raises into one line that names it."""
    try:
        yield
    except RefigureError:
        raise
    except (ValueError, KeyError, IndexError, EOFError, zlib.error, gzip.BadGzipFile, wave.Error) as error:
        raise RefigureError(f"{path} is not in the expected format: {error}") from error


def _image(content: bytes, mode: str) -> np.ndarray:
    """Decode a PNG or JPEG to uint8: (h, w) for mode `L`, (h, w, 3) for `RGB`, (h, w) bool for `1`."""
    try:
        from PIL import Image
    except ImportError:
        raise RefigureError("decoding pictures needs the package pillow: pip install 'refigure[workflow]'") from None
    with Image.open(io.BytesIO(content)) as picture:
        return np.asarray(picture.convert(mode))


def _npz(path: Path) -> dict[str, np.ndarray]:
    with _reading(path), np.load(path, allow_pickle=False) as archive:
        return {key: archive[key] for key in archive.files}


def parse_idx(content: bytes) -> np.ndarray:
    """An IDX file of unsigned bytes: two zeros, type 8, rank, big-endian sizes, values in C order.

    ValueError if it is anything else.
    """
    if len(content) < 4 or content[:3] != b"\0\0\x08":
        raise ValueError("not an IDX file of unsigned bytes")
    rank = content[3]
    start = 4 + 4 * rank
    shape = tuple(int(size) for size in np.frombuffer(content[4:start], ">u4"))
    values = np.frombuffer(content, np.uint8, offset=start)
    if len(shape) != rank or values.size != int(np.prod(shape)):
        raise ValueError(f"{values.size} values for shape {shape}")
    return values.reshape(shape)


def idx(paths: Files, out: Writer) -> None:
    """MNIST and its like: four gzipped IDX files."""
    for split, prefix in (("train", "train"), ("test", "t10k")):
        for name, suffix in (("images", "images-idx3-ubyte.gz"), ("labels", "labels-idx1-ubyte.gz")):
            path = paths[f"{prefix}-{suffix}"]
            with _reading(path):
                out.array(split, name, parse_idx(gzip.decompress(path.read_bytes())))


def omniglot_bits(paths: Files, out: Writer) -> None:
    """Repacking: rows of 105 pixels in 14 bytes, 1 = ink."""
    for split in ("background", "evaluation"):
        stored = _npz(paths[f"images_{split}.npz"])
        out.array(split, "images", np.unpackbits(stored["images"], axis=-1, count=SIDE))
        for name in ("alphabet", "character", "file_id"):
            out.array(split, name, stored[name])
        out.names([split], "alphabets", stored["alphabet_names"])


def omniglot_zip(paths: Files, out: Writer) -> None:
    """Official: `images_<split>/<alphabet>/character<nn>/<file id>_<drawing>.png`, ink black."""
    for split in ("background", "evaluation"):
        path = paths[f"images_{split}.zip"]
        drawings: dict[tuple[str, int], dict[int, tuple[int, np.ndarray]]] = {}
        with _reading(path):
            for name, content in members(path, lambda name: name.endswith(".png") and "__MACOSX" not in name):
                _, alphabet, character, file = name.split("/")
                file_id, number = file.removesuffix(".png").split("_")
                ink = (~_image(content, "1")).astype(np.uint8)
                key = (alphabet, int(character.removeprefix("character")))
                drawings.setdefault(key, {})[int(number)] = (int(file_id), ink)
            characters = sorted(drawings)
            alphabets = sorted({alphabet for alphabet, _ in characters})
            images = out.empty(split, "images", (len(characters), 20, SIDE, SIDE), np.uint8)
            for row, key in enumerate(characters):
                for drawing in range(20):
                    images[row, drawing] = drawings[key][drawing + 1][1]
            out.done(split, "images", images)
            out.array(split, "alphabet", np.array([alphabets.index(a) for a, _ in characters], np.uint8))
            out.array(split, "character", np.array([number for _, number in characters], np.uint8))
            out.array(split, "file_id", np.array([drawings[key][1][0] for key in characters], np.uint16))
            out.names([split], "alphabets", alphabets)


def omniglot_runs(paths: Files, out: Writer) -> None:
    """Official: `run<nn>/{training/class<nn>,test/item<nn>}.png` and `run<nn>/class_labels.txt`."""
    (path,) = paths.values()
    drawings = np.zeros((2, 20, 20, SIDE, SIDE), np.uint8)
    answers = np.zeros((20, 20), np.uint8)
    with _reading(path):
        for name, content in members(path, lambda name: name.startswith("run") and not name.endswith("/")):
            folder, _, rest = name.partition("/")
            run = int(folder.removeprefix("run")) - 1
            if rest == "class_labels.txt":
                for line in content.decode().splitlines():
                    item, answer = (int(part.removesuffix(".png")[-2:]) - 1 for part in line.split())
                    answers[run, item] = answer
            elif rest.endswith(".png"):
                part = 1 if rest.startswith("test/") else 0
                drawings[part, run, int(rest.removesuffix(".png")[-2:]) - 1] = ~_image(content, "1")
    out.array("test", "train", drawings[0])
    out.array("test", "test", drawings[1])
    out.array("test", "answers", answers)


def cifar10_binary(paths: Files, out: Writer) -> None:
    """Official: records of one label byte and 3 x 32 x 32 planes, 10,000 to a file."""
    (path,) = paths.values()
    with _reading(path):
        batches = {name.rpartition("/")[2]: content for name, content in members(path, lambda n: n.endswith(".bin"))}
        splits = {"train": [f"data_batch_{number}.bin" for number in range(1, 6)], "test": ["test_batch.bin"]}
        for split, wanted in splits.items():
            records = np.frombuffer(b"".join(batches[name] for name in wanted), np.uint8).reshape(-1, 3073)
            out.array(split, "labels", records[:, 0])
            out.array(split, "images", records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
            out.names([split], "classes", CIFAR_CLASSES)


def _jpegs(stored: dict[str, np.ndarray], split: str, side: int, out: Writer) -> None:
    """A repacking of JPEG files in one array, cut by offsets. Another libjpeg may differ by a grey level or
    two."""
    data, offsets = stored["data"], stored["offsets"]
    images = out.empty(split, "images", (len(offsets) - 1, side, side, 3), np.uint8)
    for row in range(len(images)):
        images[row] = _image(data[offsets[row] : offsets[row + 1]].tobytes(), "RGB")
    out.done(split, "images", images)
    out.array(split, "labels", stored["labels"])


def cifar10_jpeg(paths: Files, out: Writer) -> None:
    for split in ("train", "test"):
        path = paths[f"{split}_jpeg.npz"]
        with _reading(path):
            stored = _npz(path)
            _jpegs(stored, split, 32, out)
            out.names([split], "classes", stored["classes"])


def cifar10_png(paths: Files, out: Writer) -> None:
    """Four PNGs of 1,000 rows; a row is an image's 1,024 pixels."""
    rows = [_image(paths[f"cifar10_batch_{number}.png"].read_bytes(), "RGB") for number in range(4)]
    images = np.concatenate(rows).reshape(-1, 32, 32, 3)
    stored = _npz(paths["train_jpeg.npz"])
    out.array("train", "images", images)
    out.array("train", "labels", stored["labels"][: len(images)])
    out.names(["train"], "classes", stored["classes"])


def _ptb(texts: dict[str, bytes], out: Writer) -> None:
    """Mikolov's text: words separated by blanks, a sentence a line."""
    words: dict[str, list[str]] = {}
    for split in ("train", "valid", "test"):
        text = texts[f"ptb.{split}.txt"]
        out.pin(f"ptb.{split}.txt", text)
        words[split] = [word for line in text.decode().splitlines() for word in (*line.split(), "<eos>")]
    counts = Counter(words["train"])
    vocabulary = sorted(counts, key=lambda word: (-counts[word], word))
    number = {word: index for index, word in enumerate(vocabulary)}
    for split, listed in words.items():
        out.array(split, "tokens", np.fromiter((number[word] for word in listed), np.int32, len(listed)))
    out.names(words, "vocabulary", vocabulary)


def ptb_text(paths: Files, out: Writer) -> None:
    texts = {}
    for name, path in paths.items():
        with _reading(path):
            texts[name.removesuffix(".gz")] = gzip.decompress(path.read_bytes())
    _ptb(texts, out)


def ptb_archive(paths: Files, out: Writer) -> None:
    """Official: `./simple-examples/data/ptb.<split>.txt` among much else."""
    (path,) = paths.values()
    wanted = {f"simple-examples/data/ptb.{split}.txt" for split in ("train", "valid", "test")}
    with _reading(path):
        _ptb({name.rpartition("/")[2]: text for name, text in members(path, wanted.__contains__)}, out)


def _fsdd(stored: dict[str, np.ndarray], speakers: Iterable[str], out: Writer) -> None:
    """Split by the authors' convention: recordings 0-4 of each speaker and digit are the test set."""
    samples, offsets = stored["samples"], stored["offsets"].astype(np.int64)
    out.pin("samples", samples.tobytes())
    out.pin("offsets", offsets.tobytes())
    listed = list(speakers)
    for split, chosen in (("train", stored["index"] >= 5), ("test", stored["index"] < 5)):
        rows = np.flatnonzero(chosen)
        lengths = np.diff(offsets)[rows]
        out.array(split, "samples", np.concatenate([samples[offsets[row] : offsets[row + 1]] for row in rows]))
        out.array(split, "offsets", np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))
        for name in ("digit", "speaker", "index"):
            out.array(split, name, stored[name][rows].astype(np.uint8))
        out.names([split], "speakers", listed)


def fsdd_npz(paths: Files, out: Writer) -> None:
    path = paths["fsdd.npz"]
    with _reading(path):
        stored = _npz(path)
        _fsdd(stored, stored["speakers"], out)


def fsdd_archive(paths: Files, out: Writer) -> None:
    """Official: `<archive>/recordings/<digit>_<speaker>_<index>.wav`, 16-bit mono at 8 kHz."""
    (path,) = paths.values()
    recordings: dict[tuple[int, str, int], np.ndarray] = {}
    with _reading(path):
        for name, content in members(path, lambda name: "/recordings/" in name and name.endswith(".wav")):
            digit, speaker, index = name.rpartition("/")[2].removesuffix(".wav").split("_")
            with wave.open(io.BytesIO(content)) as sound:
                if (sound.getnchannels(), sound.getsampwidth(), sound.getframerate()) != (1, 2, 8000):
                    raise ValueError(f"{name} is not 16-bit mono at 8 kHz")
                recordings[int(digit), speaker, int(index)] = np.frombuffer(sound.readframes(sound.getnframes()), "<i2")
        keys = sorted(recordings)
        speakers = sorted({speaker for _, speaker, _ in keys})
        stored = {
            "samples": np.concatenate([recordings[key] for key in keys]),
            "offsets": np.cumsum([0, *(len(recordings[key]) for key in keys)]),
            "digit": np.array([digit for digit, _, _ in keys]),
            "speaker": np.array([speakers.index(speaker) for _, speaker, _ in keys]),
            "index": np.array([index for _, _, index in keys]),
        }
        _fsdd(stored, speakers, out)


def tiny_imagenet_zip(paths: Files, out: Writer) -> None:
    """Official: JPEG files by class; classes numbered as in `wnids.txt`, training images by class and
    number."""
    (path,) = paths.values()
    texts = ("/wnids.txt", "/words.txt", "/val_annotations.txt")
    with _reading(path):
        lists = {name.rpartition("/")[2]: text.decode() for name, text in members(path, lambda n: n.endswith(texts))}
        wnids = lists["wnids.txt"].split()
        number = {wnid: index for index, wnid in enumerate(wnids)}
        words = dict(line.split("\t", 1) for line in lists["words.txt"].splitlines() if "\t" in line)
        marks = dict(line.split("\t")[:2] for line in lists["val_annotations.txt"].splitlines())
        per_class = 500
        images = {
            "train": out.empty("train", "images", (per_class * len(wnids), 64, 64, 3), np.uint8),
            "val": out.empty("val", "images", (len(marks), 64, 64, 3), np.uint8),
        }
        seen: Counter[str] = Counter()
        for name, content in members(path, lambda n: n.endswith(".JPEG") and "/test/" not in n):
            split, file = name.split("/")[1], name.rpartition("/")[2].removesuffix(".JPEG")
            label, _, image = file.rpartition("_")
            row = int(image) if split == "val" else number[label] * per_class + int(image)
            images[split][row] = _image(content, "RGB")
            seen[split] += 1
        if any(seen[split] != len(rows) for split, rows in images.items()):
            raise ValueError(f"images are missing: {dict(seen)}")
    for split, rows in images.items():
        out.done(split, "images", rows)
    out.array("train", "labels", np.repeat(np.arange(len(wnids), dtype=np.uint8), per_class))
    val = [number[marks[f"val_{row}.JPEG"]] for row in range(len(marks))]
    out.array("val", "labels", np.array(val, np.uint8))
    out.names(images, "wnids", wnids)
    out.names(images, "classes", [words[wnid] for wnid in wnids])


def tiny_imagenet_jpeg(paths: Files, out: Writer) -> None:
    rows = [line.split("\t") for line in paths["classes.txt"].read_text(encoding="utf-8").splitlines()]
    for split, name in (("train", "train_100_per_class_jpeg.npz"), ("val", "val_jpeg.npz")):
        with _reading(paths[name]):
            _jpegs(_npz(paths[name]), split, 64, out)
        out.names([split], "wnids", [row[1] for row in rows])
        out.names([split], "classes", [row[2] for row in rows])


DECODERS: dict[str, Callable[[Files, Writer], Any]] = {
    function.__name__: function
    for function in (
        idx,
        omniglot_bits,
        omniglot_zip,
        omniglot_runs,
        cifar10_binary,
        cifar10_jpeg,
        cifar10_png,
        ptb_text,
        ptb_archive,
        fsdd_npz,
        fsdd_archive,
        tiny_imagenet_zip,
        tiny_imagenet_jpeg,
    )
}

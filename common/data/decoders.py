"""From raw files to arrays: one generator a format, giving `split/array` or `split/names`. Nothing is unpickled."""

import gzip
import io
import itertools
import wave
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from common.data.archives import members
from common.data.registry import Source
from common.errors import RefigureError

__all__ = ["DECODERS", "Piece", "decode"]

Files = dict[str, Path]
Piece = tuple[str, np.ndarray | Sequence[str]]
"""`split/array` and an array, or `split/kind` and a list of names."""
SIDE = 105  # pixels of an Omniglot drawing
CIFAR_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def decode(source: Source, paths: Files) -> Iterator[Piece]:
    """What a source's files hold; RefigureError names the files if they are not in the expected format."""
    try:
        yield from DECODERS[source.decoder](paths)
    except (ValueError, KeyError, IndexError, EOFError, OSError, zlib.error, wave.Error) as error:
        files = ", ".join(map(str, paths.values()))
        raise RefigureError(f"{files}: not in the expected format ({source.decoder}: {error})") from error


def picture(content: bytes, mode: str) -> np.ndarray:
    """Decode a PNG or JPEG to uint8, (h, w, 3), for mode `RGB`, or to bool, (h, w), for mode `1`."""
    try:
        from PIL import Image
    except ImportError:
        raise RefigureError("decoding pictures needs the package pillow: pip install 'refigure[workflow]'") from None
    with Image.open(io.BytesIO(content)) as opened:
        return np.asarray(opened.convert(mode))


def npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz file; ValueError if any would have to be unpickled."""
    with np.load(path, allow_pickle=False) as archive:
        return {key: archive[key] for key in archive.files}


def parse_idx(content: bytes) -> np.ndarray:
    """An IDX file of unsigned bytes: two zeros, type 8, rank, big-endian sizes, values in C order; else ValueError."""
    if len(content) < 4 or content[:3] != b"\0\0\x08":
        raise ValueError("not an IDX file of unsigned bytes")
    shape = np.frombuffer(content, ">u4", content[3], offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + shape.nbytes).reshape(shape)


def idx(paths: Files) -> Iterator[Piece]:
    """MNIST and its like: four gzipped IDX files."""
    for split, prefix in (("train", "train"), ("test", "t10k")):
        for name, rank in (("images", 3), ("labels", 1)):
            path = paths[f"{prefix}-{name}-idx{rank}-ubyte.gz"]
            yield f"{split}/{name}", parse_idx(gzip.decompress(path.read_bytes()))


def omniglot_bits(paths: Files) -> Iterator[Piece]:
    """Repacking: rows of 105 pixels in 14 bytes, 1 = ink."""
    for split in ("background", "evaluation"):
        stored = npz(paths[f"images_{split}.npz"])
        yield f"{split}/images", np.unpackbits(stored["images"], axis=-1, count=SIDE)
        for name in ("alphabet", "character", "file_id"):
            yield f"{split}/{name}", stored[name]
        yield f"{split}/alphabets", stored["alphabet_names"].tolist()


def omniglot_zip(paths: Files) -> Iterator[Piece]:
    """Official: `images_<split>/<alphabet>/character<nn>/<file id>_<drawing>.png`, black on white."""
    for split in ("background", "evaluation"):
        drawings: dict[tuple[str, int, int, int], np.ndarray] = {}
        archive = paths[f"images_{split}.zip"]
        for path, content in members(archive, lambda path: path.endswith(".png") and "__MACOSX" not in path):
            _, alphabet, character, file = path.split("/")
            file_id, number = file.removesuffix(".png").split("_")
            ink = ~picture(content, "1")
            drawings[alphabet, int(character.removeprefix("character")), int(file_id), int(number)] = ink
        keys = sorted(drawings)
        alphabets, characters, file_ids, _ = zip(*keys[::20], strict=True)
        names, indices = np.unique(alphabets, return_inverse=True)
        images = np.array([drawings[key] for key in keys], np.uint8)
        yield f"{split}/images", images.reshape(-1, 20, SIDE, SIDE)
        yield f"{split}/alphabet", indices.astype(np.uint8)
        yield f"{split}/character", np.array(characters, np.uint8)
        yield f"{split}/file_id", np.array(file_ids, np.uint16)
        yield f"{split}/alphabets", names.tolist()


def cifar10_binary(paths: Files) -> Iterator[Piece]:
    """Official: records of one label byte and 3 x 32 x 32 planes, 10,000 to a file."""
    (archive,) = paths.values()
    batches = {path.rpartition("/")[2]: content for path, content in members(archive, lambda path: ".bin" in path)}
    files = {"train": [f"data_batch_{number}.bin" for number in range(1, 6)], "test": ["test_batch.bin"]}
    for split, names in files.items():
        records = np.frombuffer(b"".join(batches[name] for name in names), np.uint8).reshape(-1, 3073)
        yield f"{split}/labels", records[:, 0]
        yield f"{split}/images", records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        yield f"{split}/classes", CIFAR_CLASSES


def _jpegs(stored: dict[str, np.ndarray], split: str) -> Iterator[Piece]:
    """A repacking of JPEG files in one array, cut by offsets. Another libjpeg may differ by a grey level or two."""
    files = (stored["data"][start:stop].tobytes() for start, stop in itertools.pairwise(stored["offsets"]))
    yield f"{split}/images", np.array([picture(file, "RGB") for file in files])
    yield f"{split}/labels", stored["labels"]


def stl10_binary(paths: Files) -> Iterator[Piece]:
    """Official: planes of 3 x 96 x 96, each column by column; labels from 1; 5.5 GB of memory are needed."""
    (archive,) = paths.values()
    splits = {"train_X.bin": "train", "test_X.bin": "test", "unlabeled_X.bin": "unlabeled"}
    labelled = {"train_y.bin": "train", "test_y.bin": "test"}
    classes: Sequence[str] = ()
    for path, content in members(archive, lambda path: path.endswith((".bin", "class_names.txt")), limit=4 << 30):
        name = path.rpartition("/")[2]
        if name in splits:
            planes = np.frombuffer(content, np.uint8).reshape(-1, 3, 96, 96)
            yield f"{splits[name]}/images", planes.transpose(0, 3, 2, 1)
        elif name in labelled:
            yield f"{labelled[name]}/labels", np.frombuffer(content, np.uint8) - np.uint8(1)
        elif name == "class_names.txt":
            classes = content.decode().split()
    for split in labelled.values():
        yield f"{split}/classes", classes


def cifar10_jpeg(paths: Files) -> Iterator[Piece]:
    """Repacking of CIFAR-10 as JPEG files."""
    for split in ("train", "test"):
        stored = npz(paths[f"{split}_jpeg.npz"])
        yield from _jpegs(stored, split)
        yield f"{split}/classes", stored["classes"].tolist()


def _ptb(texts: dict[str, bytes]) -> Iterator[Piece]:
    """Mikolov's text: words separated by blanks, a sentence a line."""
    words = {
        split: [word for line in texts[f"ptb.{split}.txt"].decode().splitlines() for word in (*line.split(), "<eos>")]
        for split in ("train", "valid", "test")
    }
    counts = Counter(words["train"])
    vocabulary = sorted(counts, key=lambda word: (-counts[word], word))
    number = {word: index for index, word in enumerate(vocabulary)}
    for split, listed in words.items():
        yield f"{split}/tokens", np.array([number[word] for word in listed], np.int32)
        yield f"{split}/vocabulary", vocabulary


def ptb_text(paths: Files) -> Iterator[Piece]:
    """Repacking: the three texts, gzipped."""
    return _ptb({name.removesuffix(".gz"): gzip.decompress(path.read_bytes()) for name, path in paths.items()})


def ptb_archive(paths: Files) -> Iterator[Piece]:
    """Official: `./simple-examples/data/ptb.<split>.txt` among much else."""
    (archive,) = paths.values()
    texts = {f"simple-examples/data/ptb.{split}.txt" for split in ("train", "valid", "test")}
    return _ptb({path.rpartition("/")[2]: text for path, text in members(archive, texts.__contains__)})


def _fsdd(recordings: dict[tuple[int, str, int], np.ndarray]) -> Iterator[Piece]:
    """Samples by digit, speaker and index. The authors' convention: index 0-4 of each speaker and digit is the test."""
    speakers = sorted({speaker for _, speaker, _ in recordings})
    for split in ("train", "test"):
        keys = [key for key in sorted(recordings) if (key[2] < 5) == (split == "test")]
        samples = [recordings[key] for key in keys]
        digits, names, indices = zip(*keys, strict=True)
        yield f"{split}/samples", np.concatenate(samples)
        yield f"{split}/offsets", np.cumsum([0, *map(len, samples)], dtype=np.int64)
        yield f"{split}/digit", np.array(digits, np.uint8)
        yield f"{split}/speaker", np.searchsorted(speakers, names).astype(np.uint8)
        yield f"{split}/index", np.array(indices, np.uint8)
        yield f"{split}/speakers", speakers


def fsdd_npz(paths: Files) -> Iterator[Piece]:
    """Repacking: all samples in a row, cut by offsets."""
    stored = npz(paths["fsdd.npz"])
    speakers = stored["speakers"][stored["speaker"]]
    keys = zip(stored["digit"].tolist(), speakers.tolist(), stored["index"].tolist(), strict=True)
    return _fsdd(dict(zip(keys, np.split(stored["samples"], stored["offsets"][1:-1]), strict=True)))


def fsdd_archive(paths: Files) -> Iterator[Piece]:
    """Official: `<archive>/recordings/<digit>_<speaker>_<index>.wav`, 16-bit mono at 8 kHz."""
    (archive,) = paths.values()
    recordings = {}
    for path, content in members(archive, lambda path: "/recordings/" in path and path.endswith(".wav")):
        digit, speaker, index = path.rpartition("/")[2].removesuffix(".wav").split("_")
        with wave.open(io.BytesIO(content)) as sound:
            if (sound.getnchannels(), sound.getsampwidth(), sound.getframerate()) != (1, 2, 8000):
                raise ValueError(f"{path} is not 16-bit mono at 8 kHz")
            recordings[int(digit), speaker, int(index)] = np.frombuffer(sound.readframes(sound.getnframes()), "<i2")
    return _fsdd(recordings)


def tiny_imagenet_zip(paths: Files) -> Iterator[Piece]:
    """Official: JPEG files by class; classes numbered as in `wnids.txt`, training images by class and number."""
    (archive,) = paths.values()
    texts = members(archive, lambda path: path.endswith(("/wnids.txt", "/words.txt", "/val_annotations.txt")))
    lists = {path.rpartition("/")[2]: text.decode() for path, text in texts}
    wnids = lists["wnids.txt"].split()
    words = dict(line.split("\t", 1) for line in lists["words.txt"].splitlines() if "\t" in line)
    wnid_of = dict(line.split("\t")[:2] for line in lists["val_annotations.txt"].splitlines())
    label_of = {wnid: label for label, wnid in enumerate(wnids)}
    labels = {
        "train": np.repeat(np.arange(len(wnids), dtype=np.uint8), 500),
        "val": np.array([label_of[wnid_of[f"val_{row}.JPEG"]] for row in range(len(wnid_of))], np.uint8),
    }
    images = {split: np.empty((len(rows), 64, 64, 3), np.uint8) for split, rows in labels.items()}
    missing = {split: set(range(len(rows))) for split, rows in labels.items()}
    for path, content in members(archive, lambda path: path.endswith(".JPEG") and "/test/" not in path):
        split, (wnid, _, number) = path.split("/")[1], path.rpartition("/")[2].removesuffix(".JPEG").rpartition("_")
        row = int(number) if split == "val" else label_of[wnid] * 500 + int(number)
        images[split][row] = picture(content, "RGB")
        missing[split].discard(row)
    for split, rows in missing.items():
        if rows:
            raise ValueError(f"{len(rows)} images of {split} are missing")
        yield f"{split}/images", images[split]
        yield f"{split}/labels", labels[split]
        yield f"{split}/wnids", wnids
        yield f"{split}/classes", [words[wnid] for wnid in wnids]


def tiny_imagenet_jpeg(paths: Files) -> Iterator[Piece]:
    """Repacking of a part of Tiny ImageNet; `classes.txt` has number, WordNet id and words."""
    rows = [line.split("\t") for line in paths["classes.txt"].read_text(encoding="utf-8").splitlines()]
    for split, name in (("train", "train_100_per_class_jpeg.npz"), ("val", "val_jpeg.npz")):
        yield from _jpegs(npz(paths[name]), split)
        yield f"{split}/wnids", [row[1] for row in rows]
        yield f"{split}/classes", [row[2] for row in rows]


def npz_by_split(paths: Files) -> Iterator[Piece]:
    """Plain arrays, a file a split, which its name holds: `checkpoint_<split>.npz`, `checkpoint_<split>_<more>.npz`."""
    for name, path in paths.items():
        split = name.removesuffix(".npz").split("_")[1]
        for key, array in npz(path).items():
            yield f"{split}/{key}", array


DECODERS: dict[str, Callable[[Files], Iterator[Piece]]] = {
    function.__name__: function
    for function in (
        *(idx, omniglot_bits, omniglot_zip, cifar10_binary, cifar10_jpeg, ptb_text, ptb_archive),
        *(fsdd_npz, fsdd_archive, tiny_imagenet_zip, tiny_imagenet_jpeg, npz_by_split, stl10_binary),
    )
}

"""What data sets there are: files, official homes, checksums, licences and departures from the official set.

Pure data and look-ups: nothing here reads a file, needs the network or imports a scientific package, so that
run keys and reports can use it on any machine. A `DataSet` has one or more `Source`s that decode to the same
arrays: the first is the official one, the others are exact repackings, held to the same content checksums.
What is lossy or partial is never a source of the official set but a set of its own, with its deviation
written down.

How the checksums were established
    mnist, fashion-mnist: the files' own, computed on files whose MD5 is the published one.
    omniglot, SHA-256 and size: the TensorFlow Datasets registry; MD5: torchvision's and paddlefsl's loaders.
    omniglot-runs: computed on the file of the authors' repository.
    cifar10: MD5 from the authors' page, SHA-256 and size as two independent loaders pin them.
    ptb: MD5 as Paddle's loaders pin it, size as three public download scripts check it; no SHA-256 known.
    tiny-imagenet: MD5 as several public loaders pin it, SHA-256 as several independent projects record it.
    fsdd: GitHub builds the archive on request, so none exists; the decoded samples are pinned instead.
    contents: computed on the decoded arrays (C order, little-endian) or text.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from common.errors import RefigureError, suggest

__all__ = ["DATASETS", "DataSet", "RawFile", "Source", "checksums", "deviation", "get"]


@dataclass(frozen=True)
class RawFile:
    """A file as its publisher serves it. `pinned` is false when no checksum of the file itself is known."""

    name: str
    urls: tuple[str, ...] = ()
    """Official homes, in the order of trying; empty for a repacking that exists only in mirrors."""
    sha256: str | None = None
    md5: str | None = None
    size: int | None = None
    """Bytes."""

    @property
    def pinned(self) -> bool:
        return self.sha256 is not None or self.md5 is not None

    @property
    def identity(self) -> str:
        """The strongest checksum known, as `sha256:...` or `md5:...`; `unpinned` when there is none."""
        if self.sha256:
            return f"sha256:{self.sha256}"
        return f"md5:{self.md5}" if self.md5 else "unpinned"


@dataclass(frozen=True)
class Source:
    """Files that one decoder turns into a data set's arrays."""

    files: tuple[RawFile, ...]
    decoder: str
    """Name of a function in `common.data.decoders.DECODERS`."""
    folder: str
    """Folder of a mirror, and of the repository's `data/`, that holds the files."""


@dataclass(frozen=True)
class DataSet:
    """A data set by name. `deviation` says how it differs from the official one, or is None if it does
    not."""

    name: str
    title: str
    sources: tuple[Source, ...]
    splits: tuple[str, ...]
    licence: str
    citation: str
    homepage: str
    deviation: str | None = None
    content: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 of decoded arrays (`split/array`) or texts, for what the file checksums do not pin."""

    @property
    def official(self) -> bool:
        return self.deviation is None

    @property
    def files(self) -> tuple[RawFile, ...]:
        """The files of the official source (of the only source, for a set with a deviation)."""
        return self.sources[0].files


def _one(folder: str, decoder: str, *files: RawFile) -> tuple[Source, ...]:
    return (Source(files, decoder, folder),)


_MNIST_HOMES = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
    "http://yann.lecun.com/exdb/mnist/",
)
_FASHION_HOMES = ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",)
_OMNIGLOT_HOME = "https://github.com/brendenlake/omniglot/raw/master/python/"
_FSDD_COMMIT = "26eb9aaf76e81b692f806f9140c2d2777410d7a1"


def _idx(homes: tuple[str, ...], name: str, size: int, md5: str, sha256: str) -> RawFile:
    return RawFile(name, tuple(home + name for home in homes), sha256, md5, size)


_CIFAR_CITATION = "A. Krizhevsky. Learning Multiple Layers of Features from Tiny Images. Technical report, 2009."
_CIFAR_HOME = "https://www.cs.toronto.edu/~kriz/cifar.html"
_CIFAR_LICENCE = "none stated"
_OMNIGLOT_CITATION = (
    "B. M. Lake, R. Salakhutdinov, J. B. Tenenbaum. Human-level concept learning through probabilistic "
    "program induction. Science 350, 2015."
)
_TINY_CITATION = "Y. Le, X. Yang. Tiny ImageNet Visual Recognition Challenge. Stanford CS 231N, 2015."
_TINY_LICENCE = "ImageNet terms: non-commercial research and education"

_CIFAR_JPEG_TRAIN = RawFile(
    "train_jpeg.npz",
    (),
    "99f22e3bc531edd0c38c2e63fc38231c54eafa27e9f64778a1186420c98b6779",
    "a80df7668832122229de029d441adec5",
    15345107,
)
_CIFAR_PNG = (
    (
        "0614720d69293a033786d5fe2924c4e9a9b48874f19ca4627c4662a864ee9f2d",
        "22905c3a5cc5e101d06a2b6d6087eff0",
        2318456,
    ),
    (
        "2927e26ea68602e34a7424826b76b7336ce36b8f6bcc2e9fce0c05568ff6b4c1",
        "268c70910bb9bd5055b57d0870f26d63",
        2326379,
    ),
    (
        "0b2759e307bb405bb1a6531f8a0f557eaec46d7546050612fdb836f0fa60eae0",
        "7276547afd77ffb906d58242360a2534",
        2312906,
    ),
    (
        "a4530ff15c83886058a97c352f53f38be07d191de8f410e998e91786b5900a26",
        "7daf46aac2cef4fae955f89c83a9c34f",
        2328590,
    ),
)

_ALL = (
    DataSet(
        "mnist",
        "MNIST handwritten digits: 60,000 + 10,000 grey images of 28 x 28",
        _one(
            "mnist",
            "idx",
            _idx(
                _MNIST_HOMES,
                "train-images-idx3-ubyte.gz",
                9912422,
                "f68b3c2dcbeaaa9fbdd348bbdeb94873",
                "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            ),
            _idx(
                _MNIST_HOMES,
                "train-labels-idx1-ubyte.gz",
                28881,
                "d53e105ee54ea40749a09fcbcd1e9432",
                "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            ),
            _idx(
                _MNIST_HOMES,
                "t10k-images-idx3-ubyte.gz",
                1648877,
                "9fb629c4189551a2d022fa330f9573f3",
                "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            ),
            _idx(
                _MNIST_HOMES,
                "t10k-labels-idx1-ubyte.gz",
                4542,
                "ec29112dd5afa0611ce80d1b7f02629c",
                "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
            ),
        ),
        ("train", "test"),
        "copyright Y. LeCun and C. Cortes; commonly given as CC BY-SA 3.0",
        "Y. LeCun, L. Bottou, Y. Bengio, P. Haffner. Gradient-based learning applied to document "
        "recognition. Proceedings of the IEEE, 1998.",
        "http://yann.lecun.com/exdb/mnist/",
    ),
    DataSet(
        "fashion-mnist",
        "Fashion-MNIST: 60,000 + 10,000 grey images of clothing, 28 x 28, 10 classes",
        _one(
            "fashion-mnist",
            "idx",
            _idx(
                _FASHION_HOMES,
                "train-images-idx3-ubyte.gz",
                26421880,
                "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
                "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            ),
            _idx(
                _FASHION_HOMES,
                "train-labels-idx1-ubyte.gz",
                29515,
                "25c81989df183df01b3e8a0aad5dffbe",
                "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            ),
            _idx(
                _FASHION_HOMES,
                "t10k-images-idx3-ubyte.gz",
                4422102,
                "bef4ecab320f06d8554ea6380940ec79",
                "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            ),
            _idx(
                _FASHION_HOMES,
                "t10k-labels-idx1-ubyte.gz",
                5148,
                "bb300cfdad3c16e7a12a480ee83cd310",
                "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
            ),
        ),
        ("train", "test"),
        "MIT",
        "H. Xiao, K. Rasul, R. Vollgraf. Fashion-MNIST. arXiv:1708.07747, 2017.",
        "https://github.com/zalandoresearch/fashion-mnist",
    ),
    DataSet(
        "omniglot",
        "Omniglot: 1,623 handwritten characters of 50 alphabets, 20 drawings each, 105 x 105",
        (
            Source(
                (
                    RawFile(
                        "images_background.zip",
                        (_OMNIGLOT_HOME + "images_background.zip",),
                        "ad41ab679c8b5d90b271ef46be6987cc81211774a695c29dcc5367b2b26ee640",
                        "68d2efa1b9178cc56df9314c21c6e718",
                        9464212,
                    ),
                    RawFile(
                        "images_evaluation.zip",
                        (_OMNIGLOT_HOME + "images_evaluation.zip",),
                        "1f61a8f3366785b057fc117d9228e78a16e3d976c8953b2a10fcc74cf0609cee",
                        "6b91aef0f799c5bb55b94e3f2daec811",
                        6462886,
                    ),
                ),
                "omniglot_zip",
                "omniglot",
            ),
            Source(
                (
                    RawFile(
                        "images_background.npz",
                        (),
                        "e0e021df4be170478c89c2af0aed6f5bc9709939ca1364052cbbd124c5afb68c",
                        "ecb2e33129ecac74f7eff40786860a67",
                        2505883,
                    ),
                    RawFile(
                        "images_evaluation.npz",
                        (),
                        "9109d0ac4569a8d72905b840021f356c07687594cd309c5874ca5214fc35c58d",
                        "e7b5d70fcab9bcead711740bc3b39340",
                        1824767,
                    ),
                ),
                "omniglot_bits",
                "omniglot",
            ),
        ),
        ("background", "evaluation"),
        "MIT",
        _OMNIGLOT_CITATION,
        "https://github.com/brendenlake/omniglot",
        content={
            "background/images": "dd58c588f6e2a235ab066d820e54815196df02fcb5ee660aa01b1bfd6c84ed3f",
            "evaluation/images": "c3cd7004d5b5d81203d43f5fcdcc7ff34e9923b8059c9e04999b0b98a1b652a8",
        },
    ),
    DataSet(
        "omniglot-runs",
        "Omniglot's 20 one-shot runs of 20 ways: one drawing a character to learn from, one to recognise",
        _one(
            "omniglot",
            "omniglot_runs",
            RawFile(
                "all_runs.zip",
                ("https://github.com/brendenlake/omniglot/raw/master/python/one-shot-classification/all_runs.zip",),
                "437c1eeab0af8484112e1b4cc0f3d541ec727f7c47b9b202da738af9dfd6c325",
                "e8996daecdf12afeeb4a53a179f06b19",
                352787,
            ),
        ),
        ("test",),
        "MIT",
        _OMNIGLOT_CITATION,
        "https://github.com/brendenlake/omniglot",
    ),
    DataSet(
        "cifar10",
        "CIFAR-10: 50,000 + 10,000 colour images of 32 x 32, 10 classes (binary version)",
        _one(
            "cifar10",
            "cifar10_binary",
            RawFile(
                "cifar-10-binary.tar.gz",
                ("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",),
                "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
                "c32a1d4ab5d03f1284b67883e8d87530",
                170052171,
            ),
        ),
        ("train", "test"),
        _CIFAR_LICENCE,
        _CIFAR_CITATION,
        _CIFAR_HOME,
    ),
    DataSet(
        "cifar10-jpeg",
        "CIFAR-10 after JPEG compression",
        _one(
            "cifar10",
            "cifar10_jpeg",
            _CIFAR_JPEG_TRAIN,
            RawFile(
                "test_jpeg.npz",
                (),
                "c7fd95450774040e375d46e3057b7a589a5b739efd37e03068801c8825654d44",
                "b0504d2046b261d9794db26b25923d2a",
                3066329,
            ),
        ),
        ("train", "test"),
        _CIFAR_LICENCE,
        _CIFAR_CITATION,
        _CIFAR_HOME,
        deviation="CIFAR-10 degraded by JPEG (quality 75, 4:2:0; 30.5 dB mean PSNR against the original); "
        "the test images stand class by class, not in the official order",
    ),
    DataSet(
        "cifar10-png4k",
        "CIFAR-10, the first 4,000 training images, lossless",
        _one(
            "cifar10",
            "cifar10_png",
            *(RawFile(f"cifar10_batch_{i}.png", (), *sums) for i, sums in enumerate(_CIFAR_PNG)),
            _CIFAR_JPEG_TRAIN,  # only its labels are read: the PNGs carry none
        ),
        ("train",),
        _CIFAR_LICENCE,
        _CIFAR_CITATION,
        _CIFAR_HOME,
        deviation="only the first 4,000 of CIFAR-10's 50,000 training images and no test images; pixels are exact",
    ),
    DataSet(
        "ptb",
        "Penn Treebank, Mikolov's preprocessing: 929,589 / 73,760 / 82,430 tokens, vocabulary of 10,000",
        (
            Source(
                (
                    RawFile(
                        "simple-examples.tgz",
                        ("http://www.fit.vutbr.cz/~imikolov/rnnlm/simple-examples.tgz",),
                        None,
                        "30177ea32e27c525793142b6bf2c8e2d",
                        34869662,
                    ),
                ),
                "ptb_archive",
                "ptb",
            ),
            Source(
                (
                    RawFile(
                        "ptb.train.txt.gz",
                        (),
                        "1cbe510b4417382dbaee498649caed9667ca76491b27820f19682de7c0d9c560",
                        "7734ed1964cba500e557507ff918b783",
                        1689370,
                    ),
                    RawFile(
                        "ptb.valid.txt.gz",
                        (),
                        "08466e8d8397bb9f3799e961e819cae6acbfe5d54459a149955bddf862aaecdf",
                        "39f540110c256d5f1b97eca96a38d470",
                        134098,
                    ),
                    RawFile(
                        "ptb.test.txt.gz",
                        (),
                        "a0e75733d16f4b4ce37735be8599064e7a72895af74e461d2d38a9a8831571ae",
                        "22eb1966194cfee245116477f175ae0b",
                        149245,
                    ),
                ),
                "ptb_text",
                "ptb",
            ),
        ),
        ("train", "valid", "test"),
        "text of the Penn Treebank (LDC99T42), under the terms of the LDC; the preprocessed text states no licence",
        "T. Mikolov, S. Kombrink, L. Burget, J. Cernocky, S. Khudanpur. Extensions of recurrent neural "
        "network language model. ICASSP 2011.",
        "http://www.fit.vutbr.cz/~imikolov/rnnlm/",
        content={
            "ptb.train.txt": "fcea919f6cf83f35d4d00c6cbf08040d13d4155226340912e2fef9c9c4102cbf",
            "ptb.valid.txt": "c9fe6985fe0d4ccb578183407d7668fc6066c20700cb4cf87d8ff1cc34df1bf2",
            "ptb.test.txt": "dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0",
        },
    ),
    DataSet(
        "fsdd",
        "Free Spoken Digit Dataset: 3,000 recordings at 8 kHz, 6 speakers; index 0-4 test, 5-49 training",
        (
            Source(
                (
                    RawFile(
                        f"free-spoken-digit-dataset-{_FSDD_COMMIT[:12]}.zip",
                        (f"https://github.com/Jakobovski/free-spoken-digit-dataset/archive/{_FSDD_COMMIT}.zip",),
                    ),
                ),
                "fsdd_archive",
                "fsdd",
            ),
            Source(
                (
                    RawFile(
                        "fsdd.npz",
                        (),
                        "5534695a0dedb582545cc9f2e0a7e76287aef1aad9d5124b8d85bdac0f378abf",
                        "7bcd102301d7903db3cbfc89c676b072",
                        15425887,
                    ),
                ),
                "fsdd_npz",
                "fsdd",
            ),
        ),
        ("train", "test"),
        "CC BY-SA 4.0",
        "Z. Jackson and others. Free Spoken Digit Dataset, 2016.",
        "https://github.com/Jakobovski/free-spoken-digit-dataset",
        content={
            "samples": "801bcecb25fa3bfb54fb3c0b1d94732d8456ce5b0c1f036667852a341a3aacd4",
            "offsets": "95c7ee1b78f21637fe1836733adae7137ad5652a44718ae606b8c27e27a9e868",
        },
    ),
    DataSet(
        "tiny-imagenet",
        "Tiny ImageNet: 100,000 + 10,000 colour images of 64 x 64, 200 classes",
        _one(
            "tiny-imagenet",
            "tiny_imagenet_zip",
            RawFile(
                "tiny-imagenet-200.zip",
                ("http://cs231n.stanford.edu/tiny-imagenet-200.zip",),
                "6198c8ae015e2b3e007c7841da39ec069199b9aa3bfa943a462022fe5e43c821",
                "90528d7ca1a48142e341f4ef8d21d0de",
                248100043,
            ),
        ),
        ("train", "val"),
        _TINY_LICENCE,
        _TINY_CITATION,
        "http://cs231n.stanford.edu/",
    ),
    DataSet(
        "tiny-imagenet-100",
        "Tiny ImageNet with 100 of the 500 training images of each class",
        _one(
            "tiny-imagenet",
            "tiny_imagenet_jpeg",
            RawFile(
                "train_100_per_class_jpeg.npz",
                (),
                "aca8382bf9af7801c66c45155777b5010c66b56ea7c8f24afc72920f01bb6426",
                "b93b5dcf947d8f3c1445fa233c72058f",
                26784019,
            ),
            RawFile(
                "val_jpeg.npz",
                (),
                "a29cf641626ca46f086d200bb8543addfd75bc00901d86ac2f39a30c2d12f9ac",
                "8f2436cfeb0803922eaac923a98af8b1",
                13367047,
            ),
            RawFile(
                "classes.txt",
                (),
                "7d3f876a3167ad887c26e9805db5e4d3a72b7a0ac1268f28d7286c3fe0b73f41",
                "a62499a1dc4711ea3a7846b003d88f7f",
                7035,
            ),
        ),
        ("train", "val"),
        _TINY_LICENCE,
        _TINY_CITATION,
        "http://cs231n.stanford.edu/",
        deviation="training images 0 to 99 of each class only (20,000 of 100,000); validation set whole; bytes exact",
    ),
)

DATASETS: dict[str, DataSet] = {entry.name: entry for entry in _ALL}


def get(name: str) -> DataSet:
    """The data set called `name`; RefigureError with the nearest name when there is none."""
    try:
        return DATASETS[name]
    except KeyError:
        raise RefigureError(f"no data set {name!r}: {suggest(name, DATASETS)}") from None


def checksums(name: str) -> dict[str, str]:
    """What identifies the data, for run keys and provenance; needs no data.

    Where contents are pinned, theirs, so that the official archive and an exact repacking give equal run
    keys; else the files'. Values read `sha256:...` or `md5:...`.
    """
    entry = get(name)
    if entry.content:
        return {key: f"sha256:{digest}" for key, digest in sorted(entry.content.items())}
    return {file.name: file.identity for file in sorted(entry.files, key=lambda file: file.name)}


def deviation(name: str) -> str | None:
    """How the set differs from the official one, in words; None if it does not."""
    return get(name).deviation

"""The report and the gallery as a browser shows them, without a network. Headless Chromium."""

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rooms import ROOM, Repository, built_repository, copy_of

pytestmark = [pytest.mark.slow, pytest.mark.browser]

WIDTH = 1200
OPTIONS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-component-update",
    "--disable-background-networking", "--disable-sync", "--hide-scrollbars", "--virtual-time-budget=8000",
    # Whatever a page might fetch fails at once.
    "--proxy-server=http://127.0.0.1:9",
]  # fmt: skip
PROBE = """
<script>
addEventListener("load", () => {
  const page = document.documentElement;
  const pictures = [...document.images];
  page.dataset.width = page.scrollWidth;
  page.dataset.window = page.clientWidth;
  page.dataset.broken = pictures.filter(picture => !picture.complete || picture.naturalWidth === 0).length;
  page.dataset.pictures = pictures.length;
  page.dataset.fetched = performance.getEntriesByType("resource").map(r => r.name)
    .filter(name => !name.startsWith("data:") && !name.startsWith("file:")).join(" ");
});
</script>
"""
"""Written behind a copy of the page; its findings come out with the dumped document."""


class Links(HTMLParser):
    """What a page refers to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.clicked: list[str] = []
        self.tags: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect `src`, and `href` by whether it loads by itself."""
        self.tags.add(tag)
        for name, value in attrs:
            if name in ("src", "srcset", "data", "poster") or (name == "href" and tag != "a"):
                self.loaded.append(value or "")
            elif name == "href":
                self.clicked.append(value or "")


@pytest.fixture(scope="module")
def chromium() -> str:
    """A Chromium on this machine."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if program := shutil.which(name):
            return program
    pytest.skip("no chromium here (Debian: apt-get install chromium; sh tests/browser.sh)")


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """A repository with results and a gallery."""
    repository = copy_of(built_repository(tmp_path_factory), tmp_path_factory.mktemp("pages") / "repository")
    assert "built at scale smoke, which is no snapshot" in repository.refigure("gallery", check=False)
    repository.room("claims.yaml", "    kind: value\n", "    kind: value\n    headline: true\n")
    repository.snakemake(scale="cpu")
    assert "docs/gallery/index.html" in repository.refigure("gallery")
    return repository


@pytest.fixture(scope="module", params=["report", "gallery", "report in the gallery"])
def page(request: pytest.FixtureRequest, room: Repository) -> Path:
    """Each page there is."""
    return {
        "report": room.root / "results" / ROOM / "index.html",
        "gallery": room.root / "docs" / "gallery" / "index.html",
        "report in the gallery": room.root / "docs" / "gallery" / ROOM / "index.html",
    }[request.param]


def browse(chromium: str, page: Path, profile: Path, *options: str) -> str:
    """What Chromium prints after showing a page."""
    done = subprocess.run(
        [chromium, *OPTIONS, f"--user-data-dir={profile}", f"--window-size={WIDTH},900", *options, page.as_uri()],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_nothing_is_loaded_from_elsewhere(page: Path):
    text = page.read_text()
    links = Links(text)
    assert "script" not in links.tags
    assert not [target for target in links.loaded if re.match(r"(?i)\s*(https?:)?//", target)]
    assert not re.search(r"(?i)url\(\s*['\"]?(https?:)?//|@import", text)
    for target in links.loaded + links.clicked:
        if not re.match(r"(?i)data:|https?:", target):
            name, _, place = target.partition("#")
            linked = page.parent / name if name else page
            assert linked.is_file(), f"{target}: a dead link"
            assert not place or f'id="{place}"' in linked.read_text(), f"{target}: no such place"


def test_a_browser_shows_the_page_whole(page: Path, chromium: str, tmp_path: Path):
    probed = page.with_name(f"probed-{page.name}")
    eager = page.read_text().replace('loading="lazy"', "")  # or the load would not wait for what is below the fold
    probed.write_text(eager.replace("</body>", f"{PROBE}</body>"))
    document = browse(chromium, probed, tmp_path, "--dump-dom")
    probed.unlink()
    data = dict(re.findall(r'data-(\w+)="([^"]*)"', document.partition("<head")[0]))
    assert int(data["pictures"]) >= 1
    assert data["broken"] == "0"
    assert data["fetched"] == ""
    assert int(data["window"]) == WIDTH
    assert int(data["width"]) <= int(data["window"]), "wider than the window"
    table = re.search(r"<table.*?<th>Verdict.*?</table>", document, re.DOTALL)
    assert table, "no table of claims"
    assert "C1" in table[0]
    assert re.search(r'class="badge [a-z-]+">(agrees|compatible|differs|undecided)<', table[0])


def test_a_picture_of_the_page_is_not_blank(page: Path, chromium: str, tmp_path: Path):
    shot = tmp_path / "page.png"
    browse(chromium, page, tmp_path / "profile", f"--screenshot={shot}")
    with Image.open(shot) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert pixels.shape[1] == WIDTH
    background = pixels[0, 0]
    inked = (np.abs(pixels.astype(int) - background).max(-1) > 40).mean()
    assert 0.005 < inked < 0.6, f"{inked:.1%} of the page is not background"
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 30


def test_the_gallery_brings_what_it_shows_and_the_readme_agrees(room: Repository):
    gallery = room.root / "docs" / "gallery"
    source = room.root / "results" / ROOM
    names = {path.relative_to(gallery / ROOM).as_posix() for path in (gallery / ROOM).rglob("*") if path.is_file()}
    assert names == {"index.html", "claims.json", *(f"figures/figure1.{kind}" for kind in ("png", "pdf", "csv"))}
    assert all((gallery / ROOM / name).read_bytes() == (source / name).read_bytes() for name in names)
    before = (gallery / "index.html").read_bytes(), (room.root / "README.md").read_bytes()
    room.refigure("gallery")
    assert ((gallery / "index.html").read_bytes(), (room.root / "README.md").read_bytes()) == before
    (row,) = [
        line for line in before[1].decode().splitlines() if line.startswith(f"| [{ROOM}](papers/{ROOM}/README.md): ")
    ]
    assert re.match(r"\*\*\d of 1\*\* judged", row.split("|")[2].strip())


def test_a_paper_without_results_is_left_out_and_named(room: Repository):
    room.refigure("new", "other")
    try:
        before = (room.root / "docs" / "gallery" / "index.html").read_bytes()
        assert "other: no results yet, left out" in room.refigure("gallery", check=False)
        assert (room.root / "docs" / "gallery" / "index.html").read_bytes() == before
    finally:
        shutil.rmtree(room.root / "papers" / "other")

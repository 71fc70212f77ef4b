"""Fetching: the order of places, verification, and the ways in which it can go wrong."""

import errno
import functools
import hashlib
import http.server
import os
import runpy
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common import data
from common.data import fetching, registry
from common.data.registry import DataSet, RawFile, Source
from common.errors import RefigureError

ROOT = Path(__file__).parents[1]
CONTENT = bytes(range(256)) * 40
NAME = "toy.bin"


def raw_file(*urls: str, content: bytes = CONTENT) -> RawFile:
    return RawFile(NAME, urls, hashlib.sha256(content).hexdigest(), hashlib.md5(content).hexdigest(), len(content))


class Handler(http.server.SimpleHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        self.server.failures -= 1
        if self.server.failures >= 0:
            self.send_error(503)
        elif self.path == "/round":
            self.send_response(302)
            self.send_header("Location", "/round")
            self.end_headers()
        elif self.path == "/short":
            self.send_response(200)
            self.send_header("Content-Length", "1000000")
            self.end_headers()
            self.wfile.write(b"a part")
        else:
            super().do_GET()

    def log_message(self, *args: object) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    """Serves a folder; `requests` lists the paths asked for; `failures` answers that many with status 503."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), functools.partial(Handler, directory=folder))
        self.requests: list[str] = []
        self.failures = 0
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


@pytest.fixture
def www(tmp_path: Path) -> Path:
    (tmp_path / "www" / "toys").mkdir(parents=True)
    return tmp_path / "www"


@pytest.fixture
def server(www: Path) -> Iterator[Server]:
    """Serves the folder `www`."""
    running = Server(www)
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield running
    running.shutdown()
    thread.join()
    running.server_close()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache and mirror, no repository around, and no waiting between tries."""
    monkeypatch.setenv("REFIGURE_DATA", str(tmp_path / "cache"))
    monkeypatch.setenv("REFIGURE_MIRROR", str(tmp_path / "mirror"))
    for folder in ("mirror/toys", "repository/data/toys", "repository/.git", "cache/toy"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    return tmp_path / "cache" / "toy"


@pytest.fixture
def mirror(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The toy's file in a mirror; the set has no other home."""
    use(monkeypatch, Source((raw_file(),), "idx", "toys"))
    path = cache.parents[1] / "mirror" / "toys" / NAME
    path.write_bytes(CONTENT)
    return path


def use(monkeypatch: pytest.MonkeyPatch, *sources: Source) -> None:
    entry = DataSet("toy", "a toy", sources, ("train",), "none", "none", "http://127.0.0.1/")
    monkeypatch.setitem(registry.DATASETS, "toy", entry)


def use_url(monkeypatch: pytest.MonkeyPatch, *urls: str) -> None:
    use(monkeypatch, Source((raw_file(*urls),), "idx", "toys"))


def fetched() -> bytes:
    return fetching.fetch("toy")[NAME].read_bytes()


def leftovers(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir() if path.name.endswith(".part"))


CLOSED = "http://127.0.0.1:1"
"""A port of the system's own, where nobody listens."""


# --- places, in their order


@pytest.mark.parametrize("place", ["cache/toy", "mirror/toys", "repository/data/toys", "www"])
def test_places_in_their_order(
    place: str, cache: Path, www: Path, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_url(monkeypatch, f"{server.url}/{NAME}")
    monkeypatch.chdir(tmp_path / "repository" / "data")
    (tmp_path / place / NAME).write_bytes(CONTENT)
    assert fetched() == CONTENT
    assert fetching.fetch("toy") == {NAME: cache / NAME}
    assert server.requests == ([f"/{NAME}"] if place == "www" else [])
    (tmp_path / place / NAME).unlink(missing_ok=place == "cache/toy")
    assert place == "cache/toy" or fetched() == CONTENT
    assert leftovers(cache) == []


def test_from_a_mirror_url(cache: Path, www: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    (www / "toys" / NAME).write_bytes(CONTENT)
    monkeypatch.setenv("REFIGURE_MIRROR", server.url + "/")
    use_url(monkeypatch, f"{CLOSED}/never")
    assert fetched() == CONTENT
    assert server.requests == [f"/toys/{NAME}"]


def test_an_exact_repacking_serves_when_it_is_near(mirror: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    official = Source((RawFile("official.zip", (f"{CLOSED}/never",), "0" * 64),), "idx", "toys")
    packing = Source((raw_file(),), "idx", "toys")
    use(monkeypatch, official, packing)
    source, paths = fetching.obtain("toy")
    assert source is packing
    assert list(paths) == [NAME]


# --- damage


@pytest.mark.parametrize("damage", [CONTENT[:100], b"", CONTENT[:-1] + b"?", CONTENT + b"?"])
def test_damaged_cache_is_named_set_aside_and_fetched_again(
    damage: bytes, mirror: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (cache / NAME).write_bytes(damage)
    assert fetched() == CONTENT
    assert (cache / f"{NAME}.corrupt").read_bytes() == damage
    (warning,) = caplog.messages
    assert str(cache / NAME) in warning
    assert f"{NAME}.corrupt" in warning


def test_damaged_places_are_named_and_the_next_one_serves(
    mirror: Path, www: Path, server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    mirror.write_bytes(CONTENT[:-1] + b"?")
    (www / "bad").write_bytes(CONTENT[::-1])
    (www / "good").write_bytes(CONTENT)
    use_url(monkeypatch, f"{server.url}/missing", f"{server.url}/bad", f"{server.url}/good")
    assert fetched() == CONTENT
    assert server.requests == ["/missing", "/bad", "/good"], "neither a 404 nor a wrong file is asked for again"
    assert [place in " ".join(caplog.messages) for place in (str(mirror), "/bad", "/good")] == [True, True, False]
    assert mirror.exists(), "a mirror is not ours to change"


def test_a_busy_server_is_asked_again(cache: Path, www: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    (www / NAME).write_bytes(CONTENT)
    server.failures = 2
    use_url(monkeypatch, f"{server.url}/{NAME}")
    assert fetched() == CONTENT


def test_when_all_fails_the_line_names_urls_and_the_place(
    mirror: Path, cache: Path, www: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror.write_bytes(b"damaged")
    (www / "bad").write_bytes(CONTENT[::-1])
    urls = (f"{server.url}/bad", f"{server.url}/missing", f"{CLOSED}/off")
    use_url(monkeypatch, *urls)
    with pytest.raises(RefigureError) as caught:
        fetching.fetch("toy")
    message = str(caught.value)
    assert "\n" not in message
    for part in (*urls, str(mirror), str(cache / NAME), "404", "no connection", hashlib.sha256(CONTENT).hexdigest()):
        assert part in message
    assert not (cache / NAME).exists()
    assert leftovers(cache) == []


@pytest.mark.parametrize(("path", "told"), [("round", "redirects without end"), ("short", "the transfer broke off")])
def test_the_line_says_how_a_download_failed(
    mirror: Path, server: Server, monkeypatch: pytest.MonkeyPatch, path: str, told: str
) -> None:
    mirror.unlink()
    use_url(monkeypatch, f"{server.url}/{path}")
    with pytest.raises(RefigureError, match=told):
        fetching.fetch("toy")


@pytest.mark.parametrize("variable", ["REFIGURE_DATA", "REFIGURE_MIRROR"])
@pytest.mark.parametrize(("folder", "told"), [("~nosuch/data", "no such home"), ("a" * 300, "too long|cannot get")])
def test_folders_that_cannot_be_are_one_line(
    mirror: Path, monkeypatch: pytest.MonkeyPatch, variable: str, folder: str, told: str
) -> None:
    monkeypatch.setenv(variable, folder)
    use_url(monkeypatch, f"{CLOSED}/off")
    with pytest.raises(RefigureError, match=told):
        fetching.fetch("toy")


def test_a_set_that_only_mirrors_hold_says_so(mirror: Path) -> None:
    mirror.unlink()
    with pytest.raises(RefigureError, match="REFIGURE_MIRROR"):
        fetching.fetch("toy")


def test_without_pooch_a_mirror_works_and_a_download_says_what_it_needs(
    mirror: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pooch", None)
    fetching.fetch("toy")
    shutil.rmtree(cache)
    mirror.unlink()
    use_url(monkeypatch, f"{CLOSED}/x")
    with pytest.raises(RefigureError, match="needs the package pooch"):
        fetching.fetch("toy")
    monkeypatch.delenv("REFIGURE_DATA")
    assert fetching.cache_folder("toy").parts[-2:] == ("refigure", "toy")


# --- interruption, full disks, company


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
@pytest.mark.parametrize("place", ["mirror", "home"])
def test_a_copy_cut_short_leaves_nothing(
    place: str,
    error: BaseException,
    mirror: Path,
    cache: Path,
    www: Path,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def cut(source: object, target: str, *_: object) -> None:
        Path(target).write_bytes(CONTENT[:500])
        raise error

    if place == "home":
        shutil.move(mirror, www / NAME)
        use_url(monkeypatch, f"{server.url}/{NAME}")
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "copyfile", cut)
        patched.setattr("pooch.HTTPDownloader.__call__", lambda self, *arguments: cut(*arguments))
        with pytest.raises((KeyboardInterrupt, RefigureError), match=r"toy.*\(disk full\).*REFIGURE_DATA|^$"):
            fetching.fetch("toy")
    assert leftovers(cache) == []
    assert not (cache / NAME).exists()
    assert fetched() == CONTENT


def test_what_a_killed_process_left_is_removed(mirror: Path, cache: Path) -> None:
    for folder in (f".{NAME}.part", ".decoded-1.part"):
        (cache / folder).mkdir(parents=True)
        (cache / folder / "half").write_bytes(b"half")
    fetching.fetch("toy")
    assert leftovers(cache) == []


def test_a_cache_that_cannot_be_written_is_one_line(mirror: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFIGURE_DATA", str(mirror))
    with pytest.raises(RefigureError, match="cannot write to the data cache"):
        fetching.fetch("toy")


CHILD = """
import shutil, sys
from common.data import fetching, registry
from common.data.registry import DataSet, RawFile, Source
raw = RawFile("toy.bin", (), sys.argv[1])
registry.DATASETS["toy"] = DataSet("toy", "", (Source((raw,), "idx", "toys"),), ("train",), "", "", "")
copies, real = [], shutil.copyfile
shutil.copyfile = lambda *places: copies.append(places) or real(*places)
fetching.fetch("toy")
print(len(copies))
"""


def test_two_processes_at_once_copy_it_once(mirror: Path, cache: Path) -> None:
    content = CONTENT * 2000
    mirror.write_bytes(content)
    command = [sys.executable, "-c", CHILD, hashlib.sha256(content).hexdigest()]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    children = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert sorted(child.communicate(timeout=60)[0].strip() for child in children) == ["0", "1"]
    assert (cache / NAME).read_bytes() == content


# --- verification


def test_verify_names_what_fetch_mends(mirror: Path, cache: Path) -> None:
    assert data.verify("toy") == [(NAME, "missing")]
    fetching.fetch("toy")
    assert data.verify("toy") == [(NAME, "ok")]
    stat = (cache / NAME).stat()
    (cache / NAME).write_bytes(CONTENT[:-1] + b"?")
    os.utime(cache / NAME, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    ((_, status),) = data.verify("toy")
    assert status.startswith("damaged: sha256")
    assert fetched() == CONTENT


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_truncation_or_flipped_bit_is_detected(tmp_path: Path, data: st.DataObject) -> None:
    content = data.draw(st.binary(min_size=1, max_size=300))
    raw, path = raw_file(content=content), tmp_path / NAME
    path.write_bytes(content)
    assert fetching.fault(path, raw) is None
    if data.draw(st.booleans()):
        path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    else:
        bit = data.draw(st.integers(0, 8 * len(content) - 1))
        path.write_bytes((int.from_bytes(content) ^ 1 << bit).to_bytes(len(content)))
    assert all(
        fetching.fault(path, known) for known in (raw, RawFile(NAME, (), raw.sha256), RawFile(NAME, md5=raw.md5))
    )


# --- DVC


@pytest.mark.slow
def test_dvc_pulls_from_the_official_home_and_checks(
    cache: Path, www: Path, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A project as `data/` is: a remote for each file, whose address is the file's."""
    pytest.importorskip("dvc", reason="dvc is not installed")
    root, target = tmp_path / "project", tmp_path / "project" / "data" / "toys" / NAME

    def dvc(*arguments: str) -> subprocess.CompletedProcess[str]:
        command, environment = [sys.executable, "-m", "dvc", *arguments], {**os.environ, "DVC_NO_ANALYTICS": "1"}
        return subprocess.run(command, cwd=root, env=environment, text=True, capture_output=True, check=False)

    use_url(monkeypatch, f"{server.url}/{NAME}")
    subprocess.run(["git", "init", "-q", root], check=True)
    assert dvc("init", "-q").returncode == 0
    for folder in (root / "data" / ".dvc", target.parent):
        folder.mkdir(parents=True)
    out = {"path": NAME, "md5": raw_file().md5, "size": len(CONTENT), "hash": "md5", "push": False, "remote": "toy"}
    (target.parent / f"{NAME}.dvc").write_text(yaml.safe_dump({"outs": [out]}))
    config = f'[\'remote "toy"\']\n    url = "{server.url}/{NAME}#"\n    verify = true\n'
    (root / "data" / ".dvc" / "config").write_text(config)
    assert dvc("pull").returncode == 0, "at the root, raw data is not pulled"
    assert "not in cache" not in dvc("status").stdout

    (www / NAME).write_bytes(CONTENT[::-1])
    assert dvc("--cd", "data", "pull", "-R", "toys").returncode != 0, "a wrong file is refused"
    assert not target.exists()

    (www / NAME).write_bytes(CONTENT)
    assert dvc("--cd", "data", "pull", "-R", "toys").returncode == 0
    assert target.read_bytes() == CONTENT
    assert "up to date" in dvc("--cd", "data", "status").stdout

    target.unlink()
    shutil.rmtree(root / "data" / ".dvc" / "cache")
    adopt = runpy.run_path(str(ROOT / "workflow" / "lib" / "dvcfiles.py"))["adopt"]
    assert adopt("toy", root / "data") == [target]
    assert "up to date" in dvc("--cd", "data", "status").stdout, "clean however the file got there"

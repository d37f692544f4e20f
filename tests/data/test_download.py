"""Downloads, from files and from a server on this machine."""

from __future__ import annotations

import hashlib
import http.server
import threading
from pathlib import Path

import pytest

from merkhet.core.errors import InputError
from merkhet.data import load
from merkhet.data.download import download, file_digest
from merkhet.data.sources import SOURCES, Remote, Source

BODY = bytes(range(256)) * 3000
MD5 = f"md5:{hashlib.md5(BODY).hexdigest()}"
SHA = f"sha256:{hashlib.sha256(BODY).hexdigest()}"


def _source(*urls: str, checksum: str = MD5, name: str = "a.bin") -> Source:
    return Source("thing", "a thing", files=(Remote(name, urls, checksum),))


@pytest.fixture
def published(tmp_path):
    path = tmp_path / "published.bin"
    path.write_bytes(BODY)
    return path.as_uri()


@pytest.mark.parametrize("checksum", [MD5, SHA])
def test_a_file_that_is_as_published_arrives(tmp_path, published, checksum):
    download(_source(published, checksum=checksum), tmp_path / "cache")
    assert (tmp_path / "cache" / "a.bin").read_bytes() == BODY


def test_a_file_that_is_not_as_published_leaves_nothing(tmp_path, published):
    wrong = f"md5:{'0' * 32}"
    with pytest.raises(ConnectionError, match=rf"its checksum is {MD5}, published is {wrong}"):
        download(_source(published, checksum=wrong), tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_the_next_place_is_tried(tmp_path, published):
    other = tmp_path / "other.bin"
    other.write_bytes(b"an error page")
    urls = ((tmp_path / "none").as_uri(), other.as_uri(), published)
    download(_source(*urls), tmp_path / "cache")
    assert (tmp_path / "cache" / "a.bin").read_bytes() == BODY


def test_every_places_failure_is_told(tmp_path):
    urls = [(tmp_path / name).as_uri() for name in ("one", "two")]
    with pytest.raises(ConnectionError, match=r"could not download a.bin: .*one.*; .*two"):
        download(_source(*urls), tmp_path / "cache")


def test_a_whole_file_is_not_fetched_again_and_a_damaged_one_is(tmp_path, published):
    path = tmp_path / "cache" / "a.bin"
    path.parent.mkdir()
    path.write_bytes(BODY)
    download(_source((tmp_path / "none").as_uri()), tmp_path / "cache")
    path.write_bytes(BODY[:-1])
    download(_source(published), tmp_path / "cache")
    assert path.read_bytes() == BODY


def test_an_old_file_survives_a_failed_download(tmp_path):
    path = tmp_path / "cache" / "a.bin"
    path.parent.mkdir()
    path.write_bytes(b"old")
    with pytest.raises(ConnectionError):
        download(_source((tmp_path / "none").as_uri()), tmp_path / "cache")
    assert path.read_bytes() == b"old"


def test_no_checksum_no_download(tmp_path):
    with pytest.raises(InputError, match="no checksum is published"):
        download(SOURCES["camvid"], tmp_path)


class _Server(http.server.BaseHTTPRequestHandler):
    """Gives BODY whole, cut, or not at all, by the path that is asked for."""

    def do_GET(self) -> None:
        if self.path == "/absent":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        self.wfile.write(BODY[:1000] if self.path == "/cut" else BODY)

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Server) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_a_server_that_breaks_off_or_has_nothing_is_told_and_the_next_one_gives(tmp_path, server):
    download(_source(f"{server}/cut", f"{server}/absent", f"{server}/whole"), tmp_path)
    assert file_digest(tmp_path / "a.bin", "sha256") == SHA
    (tmp_path / "a.bin").unlink()
    with pytest.raises(ConnectionError, match="404"):
        download(_source(f"{server}/absent"), tmp_path)
    with pytest.raises(ConnectionError, match=r"/cut: .+"):
        download(_source(f"{server}/cut"), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_is_not_there_is_told(tmp_path):
    with pytest.raises(ConnectionError, match=r"could not download a.bin"):
        download(_source("http://127.0.0.1:1/a.bin"), tmp_path)


def test_load_downloads_only_when_told_to(tmp_path, monkeypatch):
    publisher, files = tmp_path / "publisher", []
    publisher.mkdir()
    for name in (remote.name for remote in SOURCES["kmnist"].files):
        _publish(publisher / name, count=4 if name.startswith("t10k") else 9)
        url, digest = (publisher / name).as_uri(), file_digest(publisher / name, "md5")
        files.append(Remote(name, (url,), digest))
    source = Source("kmnist", "", ("idx",), classes=tuple("ab"), files=tuple(files))
    monkeypatch.setitem(SOURCES, "kmnist", source)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("MERKHET_DATA", str(tmp_path / "own"))
    with pytest.raises(InputError, match="merkhet data kmnist --download"):
        load("kmnist")
    assert not (tmp_path / "cache").exists()
    assert len(load("kmnist", download=True)) == 4
    assert load("kmnist", "train").source == tmp_path / "cache/merkhet/data/kmnist"


def _publish(path: Path, count: int) -> None:
    """Write an IDX file of zeros: pictures of 2x2 pixels, or labels."""
    import gzip
    import struct

    shape = (count, 2, 2) if "images" in path.name else (count,)
    size = count * (4 if "images" in path.name else 1)
    header = bytes((0, 0, 8, len(shape))) + struct.pack(f">{len(shape)}I", *shape)
    path.write_bytes(gzip.compress(header + bytes(size)))

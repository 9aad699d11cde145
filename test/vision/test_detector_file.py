"""Where YuNet's file is found, and how it is fetched: from a server on this machine."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from synctva_ros.vision import detector_file
from synctva_ros.vision.detector_file import DetectorFileError, cache_folder, download_yunet, find_yunet

CONTENT = b"a network for faces"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/file")
            self.end_headers()
            return
        self.send_response(200 if self.path in ("/file", "/short") else 404)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT if self.path == "/file" else CONTENT[:5])

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/synctva_ros"


@pytest.mark.parametrize("page", ["file", "moved"])
def test_download(server: str, cache: Path, page: str) -> None:
    path = download_yunet(f"{server}/{page}", SHA256)
    assert path.read_bytes() == CONTENT
    assert path == find_yunet()
    assert list(cache.iterdir()) == [path]


def test_another_content_is_not_kept(server: str, cache: Path) -> None:
    with pytest.raises(DetectorFileError, match=r"has the checksum .* not 8f2383e4.*: it was changed or cut short"):
        download_yunet(f"{server}/file")
    assert not cache.exists()


@pytest.mark.parametrize("page", ["short", "missing"])
def test_what_is_cut_short_or_missing_is_not_kept(server: str, cache: Path, page: str) -> None:
    with pytest.raises(DetectorFileError, match=page):
        download_yunet(f"{server}/{page}", SHA256)
    assert not cache.exists()


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/file", "no address", "http://name.invalid/file"])
def test_no_connection_is_explained(url: str) -> None:
    with pytest.raises(
        DetectorFileError, match=f"{url} cannot be fetched .*check the connection, or fetch .*face_detector"
    ):
        download_yunet(url, SHA256)


def test_a_cache_that_cannot_be_written_is_explained(server: str, cache: Path) -> None:
    cache.parent.write_text("a file where a folder should be")
    with pytest.raises(DetectorFileError, match=r"cannot be written .*XDG_CACHE_HOME"):
        download_yunet(f"{server}/file", SHA256)


def test_an_older_file_is_replaced(server: str, cache: Path) -> None:
    cache.mkdir(parents=True)
    (cache / detector_file.FILE_NAME).write_bytes(b"old")
    assert download_yunet(f"{server}/file", SHA256).read_bytes() == CONTENT


def test_cache_folder_without_xdg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert cache_folder() == Path.home() / ".cache/synctva_ros"


def test_the_package_that_carries_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detector_file, "find_spec", lambda name: None)
    assert find_yunet() is None
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    package = tmp_path / "site/yunet_for_tests"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('it must not be imported')")
    monkeypatch.syspath_prepend(package.parent)
    monkeypatch.setattr(detector_file, "_PACKAGE", "yunet_for_tests")
    assert find_yunet() is None
    (package / detector_file.FILE_NAME).write_bytes(CONTENT)
    assert find_yunet() == package / detector_file.FILE_NAME

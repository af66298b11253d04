"""A remote COG by its address: windows only, the same objects as from the file."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import seggeo

SCENE = Path(__file__).parents[2] / "sample_data" / "scene.tif"


class _Ranges(BaseHTTPRequestHandler):
    """One file, by byte ranges, as object stores serve it."""

    content = b""
    sent = 0

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, *, body: bool) -> None:
        if not self.path.startswith("/scene.tif"):
            self.send_error(404)
            return
        asked = self.headers.get("Range", "")
        first, last = 0, len(self.content) - 1
        if asked.startswith("bytes="):
            start, _, stop = asked[6:].partition("-")
            first, last = int(start), min(int(stop or last), last)
        part = self.content[first : last + 1]
        self.send_response(206 if asked else 200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(part)))
        if asked:
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(self.content)}")
        self.end_headers()
        if body:
            self.wfile.write(part)
            type(self).sent += len(part)


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    _Ranges.content, _Ranges.sent = SCENE.read_bytes(), 0
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Ranges)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/scene.tif"
    server.shutdown()
    server.server_close()


def test_a_remote_scene_gives_the_objects_of_the_file(tmp_path: Path, address: str) -> None:
    options = {"model": "threshold", "format": ("cog",), "preview": False, "workers": 1}
    there = seggeo.segment(address, tmp_path / "there", **options)
    here = seggeo.segment(SCENE, tmp_path / "here", **options)

    digests = {hashlib.sha256(Path(s["outputs"]["cog"]).read_bytes()).hexdigest() for s in (there, here)}
    assert there["objects"] == here["objects"] > 0
    assert len(digests) == 1


def test_an_address_without_a_file_is_a_source_error(tmp_path: Path, address: str) -> None:
    with pytest.raises(seggeo.SeggeoError) as caught:
        seggeo.segment(address.replace("scene", "absent"), tmp_path)

    assert caught.value.exit_code == 3
    assert not any(tmp_path.iterdir())

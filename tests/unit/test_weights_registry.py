"""Checkpoints are fetched whole and as pinned, or not at all; a loopback server stands for the publisher."""

from __future__ import annotations

import hashlib
import http.server
import threading
from pathlib import Path

import pytest

from seggeo.errors import ModelError, ResourceError
from seggeo.models import registry
from seggeo.models.registry import KnownModel, cache_dir, download, find, known_models, pull, resolve_weights

CONTENT = bytes(range(256)) * 9000
PINNED = hashlib.sha256(CONTENT).hexdigest()


class Publisher(http.server.BaseHTTPRequestHandler):
    """Answers each path in its own way."""

    protocol_version = "HTTP/1.0"

    def do_GET(self):
        if self.path == "/absent.pth":
            self.send_error(404)
            return
        body = {"/page.pth": b"<html>sign in</html>", "/long.pth": CONTENT + b"x", "/other.pth": CONTENT[::-1]}.get(
            self.path, CONTENT
        )
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if self.path == "/half.pth" else body)

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def address():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Publisher) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def record(url: str, **changes) -> KnownModel:
    values = {
        "name": "toy",
        "kind": "sam",
        "url": url,
        "size_bytes": len(CONTENT),
        "sha256": PINNED,
        "licence": "CC0",
        "note": "bytes",
    }
    return KnownModel(**{**values, **changes})


def refusal(model: KnownModel, cache: Path) -> ModelError:
    with pytest.raises(ModelError) as caught:
        download(model, cache)
    assert list(cache.iterdir()) == [], "nothing may be left behind"
    assert model.url in str(caught.value)
    return caught.value


def test_a_good_file_arrives_whole_with_progress(address, tmp_path):
    seen = []

    path = download(record(f"{address}/good.pth"), tmp_path / "new" / "cache", lambda done, total: seen.append((done, total)))

    assert path == tmp_path / "new" / "cache" / "good.pth"
    assert path.read_bytes() == CONTENT
    assert [entry.name for entry in path.parent.iterdir()] == ["good.pth"]
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert seen == sorted(seen)
    assert len(seen) > 1


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("page", "this is a web page, not weights"),
        ("other", f"pinned is {PINNED}"),
        ("long", f"longer than {len(CONTENT)} bytes"),
        ("half", f"ended after {len(CONTENT) // 2} of {len(CONTENT)} bytes"),
    ],
)
def test_other_bytes_are_refused_and_nothing_stays(address, tmp_path, name, reason):
    error = refusal(record(f"{address}/{name}.pth"), tmp_path)

    assert reason in error.why
    assert error.exit_code == 6


def test_without_a_connection_it_says_what_to_fetch_and_where_to_put_it(address, tmp_path):
    gone = refusal(record(f"{address}/absent.pth"), tmp_path)
    offline = refusal(record("http://127.0.0.1:9/sam.pth"), tmp_path)

    assert "HTTP 404" in gone.why
    assert "http://127.0.0.1:9/sam.pth" in offline.why
    for part in (str(len(CONTENT)), PINNED, str(tmp_path / "sam.pth")):
        assert part in offline.mend


def test_a_file_in_place_is_only_replaced_by_a_good_one(address, tmp_path):
    (tmp_path / "other.pth").write_bytes(b"mine")
    with pytest.raises(ModelError):
        download(record(f"{address}/other.pth"), tmp_path)

    assert (tmp_path / "other.pth").read_bytes() == b"mine"


def test_a_cache_that_cannot_be_written_is_a_missing_resource(address, tmp_path):
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(ResourceError, match="cannot be written") as caught:
        download(record(f"{address}/good.pth"), tmp_path / "file" / "cache")
    assert "SEGGEO_CACHE" in caught.value.mend


def test_pull_fetches_once(address, tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "_KNOWN", (record(f"{address}/good.pth"),))

    first = pull("toy", tmp_path)
    stamp = first.stat().st_mtime_ns
    again = pull("toy", tmp_path)

    assert first == again == find("toy", tmp_path).cached
    assert again.stat().st_mtime_ns == stamp


def test_every_pin_agrees_with_the_publishers_file_name():
    models = known_models(Path("nowhere"))

    assert {model.name for model in models} == {
        "maskrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn_v2", "sam_vit_b", "sam_vit_l", "sam_vit_h",
    }  # fmt: skip
    for model in models:
        assert len(bytes.fromhex(model.sha256)) == 32
        assert model.url.startswith("https://")
        assert model.cached is None
        if model.kind == "maskrcnn":  # torchvision puts the first eight digits of the sha256 into the name
            assert model.file_name.removesuffix(".pth").endswith(f"-{model.sha256[:8]}")


def test_torchvisions_own_addresses_and_sizes_are_the_same():
    from torchvision.models.detection import MaskRCNN_ResNet50_FPN_V2_Weights, MaskRCNN_ResNet50_FPN_Weights

    published = {
        "maskrcnn_resnet50_fpn": MaskRCNN_ResNet50_FPN_Weights.COCO_V1,
        "maskrcnn_resnet50_fpn_v2": MaskRCNN_ResNet50_FPN_V2_Weights.COCO_V1,
    }
    for name, weights in published.items():
        assert find(name).url == weights.url
        assert find(name).size_bytes / 2**20 == pytest.approx(weights.meta["_file_size"], abs=0.006)


def test_an_unknown_name_is_refused_with_a_near_one():
    with pytest.raises(ModelError, match="no checkpoint called 'sam_vit_hh'") as caught:
        pull("sam_vit_hh")
    assert "did you mean" in caught.value.mend


def test_the_cache_is_where_the_user_says(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGGEO_CACHE", str(tmp_path))
    assert cache_dir() == tmp_path
    monkeypatch.delenv("SEGGEO_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(registry.sys, "platform", "linux")
    assert cache_dir() == tmp_path / "seggeo"
    monkeypatch.setattr(registry.sys, "platform", "darwin")
    assert cache_dir().parts[-3:] == ("Library", "Caches", "seggeo")


def test_weights_may_be_a_file_or_a_fetched_name(address, tmp_path, monkeypatch):
    model = record(f"{address}/good.pth", name="toy_sam")
    monkeypatch.setattr(registry, "_KNOWN", (model,))
    monkeypatch.setenv("SEGGEO_CACHE", str(tmp_path))

    assert resolve_weights(None, "sam") is None
    assert resolve_weights("some/file.pth", "sam") == Path("some/file.pth")
    with pytest.raises(ModelError, match="not on this machine") as caught:
        resolve_weights("toy_sam", "sam")
    assert "seggeo models pull toy_sam" in caught.value.mend
    (tmp_path / "good.pth").write_bytes(CONTENT)
    assert resolve_weights("toy_sam", "sam") == tmp_path / "good.pth"
    with pytest.raises(ModelError, match="not for --model maskrcnn"):
        resolve_weights("toy_sam", "maskrcnn")
    (tmp_path / "good.pth").write_bytes(b"short")
    with pytest.raises(ModelError, match="not on this machine"):
        resolve_weights("toy_sam", "sam")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "toy_sam").write_bytes(b"a file of that name")
    assert resolve_weights("toy_sam", "sam") == Path("toy_sam")

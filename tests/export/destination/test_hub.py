"""Pushes to a stand-in of the Hugging Face Hub on this machine, by the Hub's real client."""

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import jax
import numpy as np
import pytest

from fastmim_jax.config import finetune_config
from fastmim_jax.errors import UserError
from fastmim_jax.export import verify
from fastmim_jax.export.bundle import ModelBundle, write_workdir
from fastmim_jax.export.convert import Options
from fastmim_jax.export.destination.contents import FILE
from fastmim_jax.export.destination.hub import check_push, convert_and_push, push

TOKEN = "hf_secret"


class Hub(ThreadingHTTPServer):
    """A hub with one model: files {name: content}, its visibility, and every call."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.blobs, self.calls = {}, {}, []
        self.private, self.exists, self.fault = None, False, ""
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        """Print nothing."""

    def answer(self, content, status=200):
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def body(self):
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        content = b""
        while size := int(self.rfile.readline(), 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    def do_GET(self):
        self.server.calls.append(f"GET {self.path}")
        if self.server.exists:
            self.answer({"id": "me/tiny", "private": self.server.private, "siblings": []})
        else:
            self.answer({"error": "no such model"}, 404)

    def do_PUT(self):
        digest = self.path.rpartition("/")[2]
        content = self.body()
        assert hashlib.sha256(content).hexdigest() == digest
        self.server.blobs[digest] = content
        self.answer({})

    def do_POST(self):
        hub, content, path = self.server, self.body(), self.path.partition("?")[0]
        hub.calls.append(f"POST {path}")
        assert self.headers["Authorization"] == f"Bearer {TOKEN}"
        if hub.fault and hub.fault in path:
            self.answer({"error": "You have no right to write here"}, 403)
        elif path == "/api/repos/create":
            asked = json.loads(content)
            if not hub.exists:
                hub.exists, hub.private = True, asked.get("visibility") == "private" or asked.get("private")
            self.answer({"url": f"{hub.url}/me/tiny", "name": "me/tiny"})
        elif path.endswith("/validate-yaml"):
            assert json.loads(content)["content"].startswith("---\nlibrary_name: transformers\n")
            self.answer({"errors": [], "warnings": []})
        elif "/preupload/" in path:
            names = [file["path"] for file in json.loads(content)["files"]]
            modes = ["lfs" if name.endswith(".safetensors") else "regular" for name in names]
            files = [
                {"path": name, "uploadMode": mode, "shouldIgnore": False}
                for name, mode in zip(names, modes, strict=True)
            ]
            self.answer({"files": files})
        elif path.endswith("/objects/batch"):
            objects = json.loads(content)["objects"]
            for one in objects:
                one["actions"] = {"upload": {"href": f"{hub.url}/blobs/{one['oid']}"}}
            self.answer({"transfer": "basic", "objects": objects})
        elif "/commit/" in path:
            for line in map(json.loads, content.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    hub.files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    hub.files[value["path"]] = hub.blobs[value["oid"]]
            self.answer(
                {"commitUrl": f"{hub.url}/me/tiny/commit/1", "commitOid": "1" * 40, "success": True}
            )
        else:
            self.answer({"error": f"no such page: {path}"}, 404)


@pytest.fixture
def hub(monkeypatch):
    constants = pytest.importorskip(
        "huggingface_hub.constants", reason="needs the hub extra: pip install '.[hub]'"
    )
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A small classifier."""
    config, folder = finetune_config(), tmp_path_factory.mktemp("source") / "run"
    with config.model.backbone.unlocked():
        config.model.backbone.update(name="vit_b16", patch_size=16, width=16, depth=1, heads=2)
    config.model.update(dtype="float32", pooling="cls")
    config.data.image_size = (32, 32)
    bundle, random = ModelBundle(config, {}, ("cat", "dog")), np.random.default_rng(0)
    draw = lambda x: 0.1 * random.standard_normal(x.shape, np.float32)  # noqa: E731
    write_workdir(bundle._replace(variables=jax.tree.map(draw, bundle.shapes())), folder, {})
    (folder / "conversion.json").unlink()
    return folder


@pytest.fixture
def without_torch(monkeypatch):
    """Compare in JAX alone: the tests of `verify` compare with PyTorch."""
    monkeypatch.setattr(verify, "REFERENCES", {})


def convert_to(folder, workdir, log=lambda text: None, **options):
    return convert_and_push(
        workdir, folder, Options(to="hf", hub="me/tiny", licence="mit"), log=log, **options
    )


@pytest.mark.slow
def test_a_folder_is_pushed_whole_and_private(hub, workdir, without_torch, tmp_path):
    import huggingface_hub

    lines = []
    assert convert_to(tmp_path / "hf", workdir, lines.append) == f"{hub.url}/me/tiny"
    assert hub.private is True
    written = {path.name: path.read_bytes() for path in (tmp_path / "hf").iterdir() if path.name != FILE}
    assert hub.files == written and {"config.json", "model.safetensors", "README.md"} <= set(written)
    card = written["README.md"].decode()
    facts = huggingface_hub.ModelCard(card).data
    assert (facts.license, facts.pipeline_tag) == ("mit", "image-classification")
    assert facts.library_name == "transformers" and "masked-image-modeling" in facts.tags
    assert ".from_pretrained('me/tiny')" in card and str(tmp_path) not in card
    assert any("layers agree" in line for line in lines)
    assert lines[-1].strip() == f"pushed  {hub.url}/me/tiny (private)"
    assert TOKEN not in "".join(lines) + "".join(map(str, hub.files.values()))

    hub.private = False  # another one of that name that everybody sees
    before = list(hub.calls)
    with pytest.raises(
        UserError, match="me/tiny is public, expected a private model: type another name, or hf"
    ):
        push(tmp_path / "hf", "me/tiny")
    assert not any("commit" in call for call in hub.calls[len(before) :])
    assert push(tmp_path / "hf", "me/tiny", public=True) == f"{hub.url}/me/tiny"


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["/repos/create", "/commit/"])
def test_a_push_that_fails_leaves_the_folder_and_says_how_to_go_on(
    hub, workdir, without_torch, tmp_path, fault
):
    hub.fault = fault
    with pytest.raises(UserError) as refused:
        convert_to(tmp_path / "hf", workdir)
    message = str(refused.value)
    assert message.startswith(f"{tmp_path}/hf is complete, but was not pushed to me/tiny (")
    assert "You have no right to write here" in message and TOKEN not in message
    assert message.endswith(f"type hf upload me/tiny {tmp_path}/hf . --private --exclude={FILE}")
    assert (tmp_path / "hf" / "model.safetensors").exists() and not hub.files


@pytest.mark.slow
def test_a_folder_that_computes_something_else_is_not_pushed(
    hub, workdir, without_torch, tmp_path, monkeypatch
):
    monkeypatch.setattr(verify, "TOLERANCE", -1.0)
    with pytest.raises(UserError, match="does not compute as its source does .* not pushed"):
        convert_to(tmp_path / "hf", workdir)
    assert hub.calls == [] and (tmp_path / "hf").exists()


def test_what_cannot_be_pushed_is_refused_first(hub, monkeypatch):
    check_push(None, "timm", public=False)
    check_push("me/tiny", "hf", public=True)
    for arguments, message in (
        ((None, "hf", True), "--public is about a push.* type --push=USER/NAME too"),
        (("me/tiny", "timm", False), "--push is given with --to=timm, .* type --to=hf"),
        (("tiny", "hf", False), "--push=tiny is no name of a model, .* --push=USER/NAME"),
    ):
        with pytest.raises(UserError, match=message):
            check_push(*arguments)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(UserError, match="nobody is logged in: type hf auth login, or set HF_TOKEN"):
        check_push("me/tiny", "hf", public=False)
    monkeypatch.setattr("fastmim_jax.export.extras.importlib.import_module", missing)
    with pytest.raises(UserError, match=r"pip install 'fastmim_jax\[hub\]'"):
        check_push("me/tiny", "hf", public=False)


def missing(name):
    """Find no module."""
    raise ImportError(name)

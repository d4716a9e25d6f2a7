"""``doctor``: what it looks at is where the libraries look, and what it says is what is wrong."""

import json
import re
import subprocess
import sys
import tomllib
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import huggingface_hub.constants
import pytest

from datamodules.row_cache import cache_folder as row_cache
from lightning_app.__main__ import main
from lightning_app.machine import caches, checks, hub, packages
from modules.cache_folders import angle_cache
from tests.test_dependencies import ROOT, canonical


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("MTEB_DATA_ROOT", raising=False)


def printed(capsys: pytest.CaptureFixture[str], status: int = 0) -> str:
    assert main(["doctor"]) == status
    return " ".join(capsys.readouterr().out.split())


def test_the_versions_are_those_of_pyproject_and_constraints() -> None:
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    lines = [line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line]
    tested = {canonical(name): version for name, version in lines}
    expected = {
        re.split(r"[^\w.-]", line)[0]: {"least": line.split(">=")[1], "tested": tested[canonical(line)]}
        for line in dependencies
    }
    rows = ",\n".join(f"  {json.dumps(name)}: {json.dumps(versions)}" for name, versions in expected.items())
    assert packages.TESTED.read_text() == f"{{\n{rows}\n}}\n", f"write this to {packages.TESTED}"


def test_caches_are_where_the_libraries_have_them() -> None:
    assert str(caches.hub_cache()) == huggingface_hub.constants.HF_HUB_CACHE
    assert str(caches.hugging_face_home()) == huggingface_hub.constants.HF_HOME
    assert caches.row_cache() == row_cache()
    assert caches.angle_cache() == angle_cache()


def test_one_screen(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 24 and max(map(len, lines)) <= 120
    titles = ["Python", "packages", "devices", "threads", "memory", "hub", "models", "MTEB data", "disk", "caches"]
    assert [title for title in titles if any(line.startswith(f"{title} ") for line in lines)] == titles
    assert lines[-1].startswith("nothing stops a fit")


def test_missing_and_old_packages_stop_a_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    needed = {
        "no-such-package": {"least": "1.0", "tested": "1.2"},
        "torch": {"least": "99.0", "tested": "99.0"},
        "numpy": {"least": "1.0", "tested": "1.0"},
    }
    (tmp_path / "versions.json").write_text(json.dumps(needed))
    monkeypatch.setattr(packages, "TESTED", tmp_path / "versions.json")
    text = printed(capsys, status=1)
    assert "0 of 3 as tested; missing: no-such-package; too old: torch 2" in text and "not as tested: numpy 2" in text
    assert "stops a fit: " in text and "-m pip install 'no-such-package>=1.0' 'torch>=99.0'" in text
    assert text.endswith("a fit cannot run yet")
    assert packages.numbers("2.13.0+cpu") > packages.numbers("2.9") > packages.numbers("2.8.4")


def test_a_mirror_that_is_not_there_stops_a_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MTEB_DATA_ROOT", str(tmp_path / "missing"))
    assert "stops a fit: MTEB_DATA_ROOT=" in printed(capsys, status=1)
    (tmp_path / "missing" / "mteb" / "stsb").mkdir(parents=True)
    assert "missing (MTEB_DATA_ROOT) has 1 data set" in printed(capsys)


def test_caches_that_are_large_can_be_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(checks, "LARGE_CACHE", 3 * 2**20)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    for name, size in {"0a1b": 2, "tokens-0a1b": 1, "split-0a1b": 1}.items():
        (tmp_path / "embedding-rows" / name).mkdir(parents=True)
        (tmp_path / "embedding-rows" / name / "rows.arrow").write_bytes(bytes(size * 2**20))
    text = printed(capsys)
    assert f"rows 3 MiB, tokens 1 MiB in {tmp_path}/embedding-rows" in text
    assert f"rm -r {tmp_path}/embedding-rows frees 4 MiB" in text


def test_what_was_fetched_is_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    blobs = tmp_path / "models--org--one" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / "weights").write_bytes(bytes(5 * 2**20))
    (tmp_path / "models--org--one" / "link").symlink_to(blobs / "weights")
    (tmp_path / "datasets--mteb--stsb").mkdir()
    text = printed(capsys)
    assert "1 (org/one; 5 MiB) fetched" in text and "data sets: 1 (mteb/stsb; 0 MiB)" in text


def test_the_hub_is_asked_in_time(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Answers)
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("HF_ENDPOINT", address)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert "hub left alone, because HF_HUB_OFFLINE is set" in printed(capsys)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    assert not hub.hub_answers(seconds=0.05), "it listens, and says nothing"
    Thread(target=server.serve_forever, daemon=True).start()
    assert f"{address} answers" in printed(capsys)
    server.shutdown()
    server.server_close()
    assert not hub.hub_answers()


def test_neither_the_version_nor_the_help_of_a_verb_without_recipe_waits_for_torch() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    code = (
        "import sys; from importlib import import_module; from lightning_app.__main__ import OF_RECIPES, VERBS, main; "
        "main(['--version']); verbs = VERBS.keys() - set(OF_RECIPES); "
        "[import_module(f'lightning_app.verbs.{verb}').make_parser() for verb in verbs]; "
        "sys.exit(not verbs or bool({'torch', 'transformers', 'datasets', 'jsonargparse'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout) == (0, f"embedding-self-positioning {version}\n"), done.stderr


def test_without_packages_every_verb_names_the_doctor() -> None:
    for words in ([], ["fit"], ["init", "faq.csv"]):
        done = subprocess.run([sys.executable, "-S", "-m", "lightning_app", *words], capture_output=True, cwd=ROOT)
        line = rb"error: there is no module \w+: python -m lightning_app doctor says what to do\n"
        assert done.returncode == 2 and re.fullmatch(line, done.stderr), done.stderr

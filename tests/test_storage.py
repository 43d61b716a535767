"""storage: faults in the cache and in remotes are found and repaired; the remotes of the README work, and survive a kill."""

import asyncio
import errno
import functools
import http.server
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import asyncssh
import botocore.exceptions
import psutil
import pytest
import s3fs

from carinspect.cli import store as store_command
from carinspect.core.errors import UserError
from carinspect.storage.objects import Store
from carinspect.storage.writes import try_remote
from conftest import free_port, own_settings_of_dvc

SOURCE = Path(__file__).parent.parent / "src"
PHOTOS = 6


def environment(folder: Path) -> dict[str, str]:
    keys = {"AWS_ACCESS_KEY_ID": "tester", "AWS_SECRET_ACCESS_KEY": "testsecret", "AWS_DEFAULT_REGION": "us-east-1"}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return os.environ | own_settings_of_dvc(folder / "dvc") | keys | {"PATH": path, "PYTHONPATH": str(SOURCE), "HOME": str(folder)}


def run(folder: Path, *command: str, fails: bool = False) -> str:
    done = subprocess.run(command, cwd=folder, env=environment(folder.parent), capture_output=True, text=True, check=False)
    assert (done.returncode != 0) == fails, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def verify(folder: Path, *options: str, fails: bool = False) -> str:
    return run(folder, sys.executable, "-m", "carinspect.cli.main", "store", "verify", *options, fails=fails)


def make_project(folder: Path, url: str, *, size: int = 1000, **settings: str) -> Path:
    """A repository with one tracked file and one tracked folder, and a remote at `url`."""
    project = folder / "project"
    (project / "photos").mkdir(parents=True)
    for index in range(PHOTOS):
        (project / "photos" / f"{index}.bin").write_bytes(bytes([index]) * size)
    (project / "model.bin").write_bytes(b"model" * size)
    run(project, "git", "init", "-q", "-b", "main")
    run(project, "dvc", "init", "-q")
    run(project, "dvc", "remote", "add", "-q", "-d", "storage", url)
    for name, value in {"verify": "true", **settings}.items():
        run(project, "dvc", "remote", "modify", "storage", name, value)
    run(project, "dvc", "add", "-q", "photos", "model.bin")
    run(project, "git", "add", "-A")
    run(project, "git", "commit", "-q", "-m", "data")
    return project


@pytest.fixture
def project(tmp_path: Path) -> Path:
    project = make_project(tmp_path, str(tmp_path / "remote"))
    run(project, "dvc", "push", "-q")
    return project


def objects(store: Path) -> list[Path]:
    return sorted(path for path in store.rglob("*") if path.is_file() and len(path.parent.name) == 2)


def member(store: Path, *, folder: bool = False) -> Path:
    """An object of the tracked folder, or the list of its members."""
    return next(path for path in objects(store) if path.name.endswith(".dir") == folder and (folder or path.stat().st_size == 1000))


def flip_a_byte(path: Path) -> bytes:
    """As a failing disk does it: neither the time nor the mode shows it. Returns what was there."""
    before, stat = path.read_bytes(), path.stat()
    path.chmod(0o644)
    path.write_bytes(bytes([before[0] ^ 1]) + before[1:])
    path.chmod(stat.st_mode)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    return before


def test_a_sound_cache_and_remote_have_no_faults(project: Path) -> None:
    said = verify(project)
    assert f"cache: {PHOTOS + 2} sound objects" in said
    assert f"storage: {PHOTOS + 2} sound objects" in said


@pytest.mark.parametrize("is_folder", [False, True], ids=["a photo", "the list of a folder"])
def test_a_flipped_byte_in_the_remote_is_found_and_repaired_from_the_cache(project: Path, is_folder: bool) -> None:
    broken = member(project.parent / "remote", folder=is_folder)
    before = flip_a_byte(broken)
    if not is_folder:
        # The reason for all this: dvc itself sees nothing.
        assert "up to date" in run(project, "dvc", "push")
    said = verify(project, fails=True)
    assert f"corrupt: {broken.parent.name}{broken.name}" in said
    assert "repaired from cache" in verify(project, "--repair")
    assert broken.read_bytes() == before
    verify(project)


def test_a_flipped_byte_in_the_cache_is_found_and_repaired_from_the_remote(project: Path) -> None:
    broken = member(project / ".dvc" / "cache")
    before = flip_a_byte(broken)
    assert "up to date" in run(project, "dvc", "pull")
    assert f"corrupt: {broken.parent.name}{broken.name}" in verify(project, fails=True)
    assert "repaired from storage" in verify(project, "--repair")
    assert broken.read_bytes() == before


def test_what_is_broken_everywhere_else_is_repaired_from_the_workspace(project: Path) -> None:
    places = [member(project / ".dvc" / "cache"), member(project.parent / "remote")]
    before = [flip_a_byte(place) for place in places]
    assert verify(project, "--repair").count("repaired from the workspace") == 2
    assert [place.read_bytes() for place in places] == before


def test_what_has_no_sound_copy_is_taken_away_and_said(project: Path) -> None:
    places = [member(project / ".dvc" / "cache"), member(project.parent / "remote")]
    for place in places:
        flip_a_byte(place)
    shutil.rmtree(project / "photos")
    assert verify(project, "--repair", fails=True).count("no sound copy was found") == 2
    assert not any(place.exists() for place in places)
    # Nobody is handed the broken photo any more.
    assert "failed to pull" in run(project, "dvc", "pull", fails=True).lower()


def test_a_member_that_a_remote_has_lost_is_missed_and_brought_back(project: Path) -> None:
    lost = member(project.parent / "remote")
    lost.unlink()
    assert f"missing: {lost.parent.name}{lost.name}" in verify(project, fails=True)
    assert "repaired from cache" in verify(project, "--repair")
    assert lost.is_file()


def test_a_cache_that_holds_a_part_of_a_folder_has_no_fault(project: Path) -> None:
    member(project / ".dvc" / "cache").unlink()
    verify(project)


def test_a_remote_that_does_not_exist_is_named(project: Path) -> None:
    said = verify(project, "--remote", "storag", fails=True)
    assert "remote 'storag'" in said
    assert "Did you mean 'storage'?" in said
    assert "Traceback" not in said


def test_outside_a_repository_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "no DVC repository" in verify(tmp_path / "empty", fails=True)


# ---- every kind of remote, with a real server on loopback


def wait_until(ready: Callable[[], bool], *, timeout_s: float = 90) -> None:
    deadline = time.monotonic() + timeout_s
    while not ready():
        assert time.monotonic() < deadline, "the server does not answer"
        time.sleep(0.2)


class S3Server:
    """SeaweedFS in one process, all on loopback."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ports = {name: free_port() for name in ("master", "volume", "filer", "s3")}
        self.endpoint = f"http://127.0.0.1:{self.ports['s3']}"
        config = folder / "s3.json"
        config.write_text(
            '{"identities": [{"name": "t", "credentials": [{"accessKey": "tester", "secretKey": "testsecret"}], "actions": ["Admin"]}]}'
        )
        self.start()
        wait_until(lambda: self._make_bucket())

    def start(self) -> None:
        ports = [f"-{name}.port={port}" for name, port in self.ports.items()]
        grpc = [f"-{name}.port.grpc={free_port()}" for name in ("master", "volume", "filer", "s3")]
        command = [
            str(Path(sys.executable).parent / "weed"), "server", f"-dir={self.folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3",
            f"-s3.config={self.folder / 's3.json'}", "-s3.port.lance=0", "-s3.port.iceberg=0", "-master.volumeSizeLimitMB=64",
            *ports, *grpc,
        ]  # fmt: skip
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    @property
    def client(self) -> s3fs.S3FileSystem:
        return s3fs.S3FileSystem(key="tester", secret="testsecret", endpoint_url=self.endpoint, skip_instance_cache=True)

    def _make_bucket(self) -> bool:
        try:
            self.client.makedirs("cars", exist_ok=True)
            self.client.pipe("cars/probe", b"1")
        except (OSError, botocore.exceptions.BotoCoreError):
            return False
        return True

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    server = S3Server(tmp_path_factory.mktemp("s3"))
    yield server
    server.kill()


def clone_of(project: Path, name: str) -> Path:
    clone = project.parent / name
    run(project, "git", "clone", "-q", str(project), str(clone))
    return clone


@pytest.mark.slow
def test_s3_serves_two_clones_and_a_flipped_byte_there_is_repaired(tmp_path: Path, s3_server: S3Server) -> None:
    project = make_project(tmp_path, "s3://cars/first", endpointurl=s3_server.endpoint)
    run(project, "dvc", "push")
    clone = clone_of(project, "clone")
    run(clone, "dvc", "pull", "model.bin")
    assert not (clone / "photos").exists()
    run(clone, "dvc", "pull")
    assert (clone / "photos" / "3.bin").read_bytes() == (project / "photos" / "3.bin").read_bytes()
    oid = member(project / ".dvc" / "cache")
    key = f"cars/first/files/md5/{oid.parent.name}/{oid.name}"
    s3_server.client.pipe(key, b"!" + oid.read_bytes()[1:])
    assert "corrupt" in verify(project, fails=True)
    verify(project, "--repair")
    s3_server.client.invalidate_cache()
    assert s3_server.client.cat(key) == oid.read_bytes()

    # Wrong keys, and a key that is none, are one line: no remote is called sound that could not be read.
    for name, value in (("secret_access_key", "wrong"), ("access_key_id", "nobody")):
        run(project, "dvc", "remote", "modify", "--local", "storage", name, value)
        for command in (verify, check_writes):
            said = command(project, fails=True)
            assert said.splitlines()[-1].startswith("carinspect: "), said
            assert "Traceback" not in said


@pytest.mark.slow
def test_a_server_killed_in_the_middle_of_a_push_and_of_a_pull_loses_nothing(tmp_path: Path, s3_server: S3Server) -> None:
    project = make_project(tmp_path, "s3://cars/second", size=4_000_000, endpointurl=s3_server.endpoint)
    for command, folder in ((("dvc", "push"), project), (("dvc", "pull"), clone_of(project, "clone"))):
        client = subprocess.Popen(command, cwd=folder, env=environment(tmp_path), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        moved = threading.Event()
        while client.poll() is None and not moved.is_set():
            # After the first bytes have gone over the wire.
            if any(
                connection.raddr and connection.raddr.port == s3_server.ports["s3"]
                for connection in psutil.Process(client.pid).net_connections()
            ):
                moved.set()
            time.sleep(0.01)
        assert moved.is_set(), "the transfer was over before the server could be killed"
        s3_server.kill()
        client.send_signal(signal.SIGKILL)
        client.wait()
        s3_server.start()
        wait_until(s3_server._make_bucket)
        # A server that has just started may say for a moment that an older file is not there.
        wait_until(
            lambda again=command, where=folder: subprocess.run(again, cwd=where, env=environment(tmp_path), check=False).returncode == 0
        )
    assert "0 faults" in verify(project)
    assert (tmp_path / "clone" / "photos" / "5.bin").read_bytes() == (project / "photos" / "5.bin").read_bytes()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Nothing."""


@contextmanager
def web_server(folder: Path) -> Iterator[str]:
    """A static web server on loopback; yields its address."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def test_http_can_be_pulled_from_and_looked_at_but_not_repaired(project: Path) -> None:
    with web_server(project.parent / "remote") as url:
        clone = clone_of(project, "clone")
        run(clone, "dvc", "remote", "add", "-q", "-d", "-f", "storage", url)
        run(clone, "dvc", "pull")
        assert (clone / "photos" / "0.bin").is_file()
        assert "0 faults" in verify(clone)
        flip_a_byte(member(project.parent / "remote"))
        assert "read-only" in verify(clone, "--repair", fails=True)


def call_make(project: Path, *arguments: str) -> str:
    shutil.copy(Path(__file__).parent.parent / "Makefile", project)
    tools = Path(sys.executable).parent
    return run(project, "make", f"VENV={tools.parent}", f"--assume-old={tools}/installed", "-o", "setup", *arguments)


@pytest.mark.parametrize("served", [True, False])
def test_a_clone_pulls_what_was_published(project: Path, served: bool) -> None:
    folder = project.parent / "public"
    folder.mkdir()
    with web_server(folder) as url:
        call_make(project, "publish", f"FOLDER={folder}", *([f"URL={url}"] if served else []))
        assert "publishing" not in (project / ".dvc" / "config.local").read_text()
        run(project, "git", "commit", "-qam", "public")
        clone = clone_of(project, "clone")
        run(clone, "dvc", "pull")
        assert (clone / "photos" / "0.bin").read_bytes() == (project / "photos" / "0.bin").read_bytes()
        # The remote that its owner pushes to is still there.
        assert "storage" in run(project, "dvc", "remote", "list")
        assert (not served) or "public" in check_writes(clone, "--remote", "public", fails=True)


@contextmanager
def ssh_server(folder: Path) -> Iterator[int]:
    """An SFTP server on loopback for one key; yields its port."""
    host, user = asyncssh.generate_private_key("ssh-ed25519"), asyncssh.generate_private_key("ssh-ed25519")
    user.write_private_key(folder / "key")
    user.write_public_key(folder / "key.pub")
    loop = asyncio.new_event_loop()

    async def listen() -> asyncssh.SSHAcceptor:
        return await asyncssh.listen(
            "127.0.0.1", 0, server_host_keys=[host], authorized_client_keys=str(folder / "key.pub"), sftp_factory=True
        )  # fmt: skip

    listener = loop.run_until_complete(listen())
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield listener.get_port()
    finally:
        loop.call_soon_threadsafe(listener.close)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


@pytest.mark.slow
def test_ssh_serves_two_clones(tmp_path: Path) -> None:
    with ssh_server(tmp_path) as port:
        project = make_project(tmp_path, f"ssh://tester@127.0.0.1:{port}{tmp_path}/remote", keyfile=str(tmp_path / "key"))
        run(project, "dvc", "push")
        clone = clone_of(project, "clone")
        run(clone, "dvc", "pull")
        assert (clone / "photos" / "3.bin").is_file()
        flip_a_byte(member(tmp_path / "remote"))
        assert "repaired from cache" in verify(project, "--repair")


def test_a_store_that_refuses_to_be_read_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError("Forbidden")

    monkeypatch.setattr(store_command, "inspect_store", refuse)
    with pytest.raises(UserError, match=r"^storage: cannot be read \(Forbidden\)\. Check its keys"):
        store_command._inspect(Store("storage", None, known=None, complete=True), jobs=1)


def check_writes(folder: Path, *options: str, fails: bool = False) -> str:
    return run(folder, sys.executable, "-m", "carinspect.cli.main", "store", "check-writes", *options, fails=fails)


def test_a_test_write_comes_before_the_training(project: Path, tmp_path: Path) -> None:
    origin = tmp_path / "origin.git"
    assert "the git remote 'origin' takes no push" in check_writes(project, fails=True)
    refused = check_writes(project, "--git", "http://me:secret@127.0.0.1:9/cars.git", fails=True)
    assert "http://127.0.0.1:9/cars.git" in refused
    assert "secret" not in refused
    run(project, "git", "init", "-q", "--bare", "-b", "main", str(origin))
    run(project, "git", "remote", "add", "origin", str(origin))
    assert "take writes" in check_writes(project)
    assert run(origin, "git", "for-each-ref") == ""
    assert not list(tmp_path.rglob("write-test-*"))
    run(project, "dvc", "remote", "default", "--unset")
    said = check_writes(project, fails=True)
    assert "no DVC remote is set" in said
    assert said.count("\n") == 1


class FullDisk:
    """A file system that can make a file and write nothing into it."""

    join = staticmethod(os.path.join)
    makedirs = staticmethod(os.makedirs)
    remove = staticmethod(os.remove)

    def pipe_file(self, path: str, _: bytes) -> None:
        Path(path).touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_remote_that_is_full_is_one_line_and_keeps_nothing(tmp_path: Path) -> None:
    remote = SimpleNamespace(fs=FullDisk(), path=str(tmp_path / "remote"))
    repo = SimpleNamespace(config={"core": {"remote": "storage"}}, cloud=SimpleNamespace(get_remote=lambda _: remote))
    with pytest.raises(UserError, match="remote 'storage' takes no write .*No space left on device.*free space") as error:
        try_remote(repo, None)
    assert "\n" not in str(error.value)
    assert list((tmp_path / "remote").iterdir()) == []


@pytest.mark.slow
def test_wrong_keys_are_one_line(tmp_path: Path, s3_server: S3Server) -> None:
    project = make_project(tmp_path, "s3://cars/keys", endpointurl=s3_server.endpoint, access_key_id="nobody")
    said = check_writes(project, fails=True)
    assert "remote 'storage' takes no write" in said
    assert "Check its keys" in said
    assert said.count("\n") == 1


def test_another_address_of_the_same_kind_keeps_the_endpoint(project: Path) -> None:
    def endpoint_after(url: str, *more: str) -> str:
        call_make(project, "remote", f"URL={url}", *more)
        return (project / ".dvc" / "config").read_text()

    assert "endpointurl = http://here" in endpoint_after("s3://bucket/a", "ENDPOINT=http://here")
    kept = endpoint_after("s3://bucket/b")
    assert "endpointurl = http://here" in kept
    assert "url = s3://bucket/b" in kept
    assert "endpointurl" not in endpoint_after(str(project.parent / "folder"))

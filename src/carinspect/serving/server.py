"""Runs the service on uvicorn: one process, or a parent with workers that end with it."""

import logging
import os
import signal
import socket
import tempfile
from hashlib import sha256
from pathlib import Path

import uvicorn
from prometheus_client import multiprocess
from uvicorn.supervisors import Multiprocess

from carinspect.core.errors import UserError
from carinspect.serving.app import create_app
from carinspect.serving.config import MODEL_COPY, SUPERVISOR, ServiceConfig, read_config
from carinspect.serving.connections import Guard, GuardedSettings
from carinspect.serving.loaded_model import load_model
from carinspect.serving.monitoring import SHARED_FOLDER

log = logging.getLogger("uvicorn.error")


def serve(*, host: str, port: int) -> None:
    """Serve until SIGTERM or SIGINT. Raises `UserError` when a setting or the model is not fit to serve."""
    config = read_config()
    if config.workers == 1:
        server = uvicorn.Server(_settings(create_app(config), config, host=host, port=port))
        server.run()
        if not server.started:
            raise UserError(f"could not listen at {host}:{port}. Choose another port (--port), or stop what uses it.")
        return
    with tempfile.TemporaryDirectory(prefix="carinspect-") as folder:
        _serve_by_workers(config, Path(folder), host=host, port=port)


def _serve_by_workers(config: ServiceConfig, folder: Path, *, host: str, port: int) -> None:
    copy = _MemoryFile("model")
    # Before any worker begins: what is not fit to serve is said once, in one line.
    copy.replace(_read_proven_model(config))
    os.environ |= {SUPERVISOR: str(os.getpid()), SHARED_FOLDER: str(folder), MODEL_COPY: str(copy.path)}
    settings = _settings("carinspect.serving.app:from_environment", config, host=host, port=port)
    _Supervisor(settings, [settings.bind_socket()], config=config, copy=copy).run()


class _MemoryFile:
    """A file of this process that has no place on any disk, for other processes of the same user to read; see memfd_create(2).

    /tmp may be small, and a file there would outlive a process that is killed.
    """

    def __init__(self, name: str) -> None:
        self._name, self._place = name, os.memfd_create(name)

    @property
    def path(self) -> Path:
        """Where others find it as long as this process lives; see proc(5)."""
        return Path(f"/proc/{os.getpid()}/fd/{self._place}")

    def replace(self, content: bytes) -> None:
        """Put a new file in its place: whoever opens it gets all of the old content or all of the new one."""
        with os.fdopen(os.memfd_create(self._name), "wb") as file:
            file.write(content)
            file.flush()
            os.dup2(file.fileno(), self._place, inheritable=False)


def _settings(app: object, config: ServiceConfig, *, host: str, port: int) -> GuardedSettings:
    settings = GuardedSettings(
        app,  # type: ignore[arg-type]
        factory=isinstance(app, str),
        host=host,
        port=port,
        workers=config.workers,
        http=Guard,
        ws="none",
        # Who asked for what is nobody's business here; /metrics counts.
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=config.connection_limit,
        timeout_keep_alive=config.keep_alive_s,
        timeout_graceful_shutdown=config.shutdown_timeout_s,
        # A worker that is still importing answers no ping. On a busy machine uvicorn's own 5 s are over before, so that workers would be
        # killed and begun again for ever. One that died is seen at once, whatever this is.
        timeout_worker_healthcheck=60,
    )
    settings.service = config
    return settings


class _Supervisor(Multiprocess):
    """uvicorn's own supervisor; SIGHUP replaces the model instead of the workers.

    The workers load a copy of the model file in memory, made when it was proven: a worker that is replaced after a bad file came to lie at
    MODEL_PATH serves what the others serve.
    """

    def __init__(self, settings: uvicorn.Config, sockets: list[socket.socket], *, config: ServiceConfig, copy: _MemoryFile) -> None:
        super().__init__(settings, sockets)
        self._config, self._copy = config, copy

    def handle_hup(self) -> None:
        """Prove the file at MODEL_PATH, copy it and tell the workers; an unfit one changes nothing."""
        try:
            self._copy.replace(_read_proven_model(self._config))
        except UserError as error:
            log.error("The workers keep their model: %s", error)
            return
        for process in self.processes:
            if process.pid is not None and process.process.is_alive():
                os.kill(process.pid, signal.SIGHUP)

    def keep_subprocess_alive(self) -> None:
        """Replace workers that died, and end their part in the figures."""
        before = {process.pid for process in self.processes}
        super().keep_subprocess_alive()
        for pid in before - {process.pid for process in self.processes}:
            multiprocess.mark_process_dead(pid)


def _read_proven_model(config: ServiceConfig) -> bytes:
    """The model file that has proved to answer. Raises `UserError` when it is not fit to serve."""
    path = config.model_path
    proven = load_model(path, config).predictor.bundle.sha256
    content = path.read_bytes()
    if sha256(content).hexdigest() != proven:
        raise UserError(f"{path}: it changed while it was read. Write it beside and rename it, then try again.")
    return content

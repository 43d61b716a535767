"""Runs the service on uvicorn: one process, or a parent with workers, and a time limit for the headers of a request."""

import asyncio
import logging
import os
import signal
import socket
import tempfile
from hashlib import sha256
from pathlib import Path

import uvicorn
from prometheus_client import multiprocess
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.supervisors import Multiprocess

from carinspect.core.errors import UserError
from carinspect.core.files import write_bytes
from carinspect.serving.app import create_app
from carinspect.serving.config import MODEL_COPY, SUPERVISOR, ServiceConfig, read_config
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
    copy, figures = folder / "model.onnx", folder / "figures"
    figures.mkdir()
    # Before any worker begins: what is not fit to serve is said once, in one line.
    _copy_proven_model(config, copy)
    os.environ |= {SUPERVISOR: str(os.getpid()), SHARED_FOLDER: str(figures), MODEL_COPY: str(copy)}
    settings = _settings("carinspect.serving.app:from_environment", config, host=host, port=port)
    _Supervisor(settings, [settings.bind_socket()], config=config, copy=copy).run()


class _Settings(uvicorn.Config):
    header_timeout_s: float
    """From the beginning of a request to the end of its headers. It travels to the workers with uvicorn's own settings."""


def _settings(app: object, config: ServiceConfig, *, host: str, port: int) -> _Settings:
    settings = _Settings(
        app,  # type: ignore[arg-type]
        factory=isinstance(app, str),
        host=host,
        port=port,
        workers=config.workers,
        http=_PatientProtocol,
        ws="none",
        # Who asked for what is nobody's business here; /metrics counts.
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=config.connection_limit,
        timeout_keep_alive=config.keep_alive_s,
        timeout_graceful_shutdown=config.shutdown_timeout_s,
    )
    settings.header_timeout_s = config.header_timeout_s
    return settings


class _Supervisor(Multiprocess):
    """uvicorn's own supervisor; SIGHUP replaces the model instead of the workers.

    The workers load a copy of the model file, made when it was proven: a worker that is replaced after a bad file came to lie at
    MODEL_PATH serves what the others serve.
    """

    def __init__(self, settings: uvicorn.Config, sockets: list[socket.socket], *, config: ServiceConfig, copy: Path) -> None:
        super().__init__(settings, sockets)
        self._config, self._copy = config, copy

    def handle_hup(self) -> None:
        """Prove the file at MODEL_PATH, copy it and tell the workers; an unfit one changes nothing."""
        try:
            _copy_proven_model(self._config, self._copy)
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


def _copy_proven_model(config: ServiceConfig, copy: Path) -> None:
    """Copy the model file that has proved to answer. Raises `UserError` when it is not fit to serve."""
    path = config.model_path
    proven = load_model(path, config).predictor.bundle.sha256
    content = path.read_bytes()
    if sha256(content).hexdigest() != proven:
        raise UserError(f"{path}: it changed while it was read. Write it beside and rename it, then try again.")
    write_bytes(copy, content)


class _PatientProtocol(HttpToolsProtocol):
    """uvicorn's protocol with a deadline for the headers; uvicorn itself waits for ever, and slow clients would fill its connections.

    It holds for each request on a connection. The body's deadline is the application's.
    """

    config: _Settings
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        self._begin_deadline()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._begin_deadline()

    def on_headers_complete(self) -> None:
        self._end_deadline()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_deadline()
        super().connection_lost(exc)

    def _begin_deadline(self) -> None:
        self._end_deadline()
        self._deadline = self.loop.call_later(self.config.header_timeout_s, self._close)

    def _end_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _close(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()

"""Owns running the service: one process, or a parent with workers, on uvicorn."""

import os
import tempfile
from pathlib import Path

import uvicorn

from carinspect.core.errors import UserError
from carinspect.serving.app import create_app
from carinspect.serving.config import ServiceConfig, read_config
from carinspect.serving.monitoring import SHARED_FOLDER
from carinspect.serving.patient_protocol import protocol_with
from carinspect.serving.routes import SUPERVISOR
from carinspect.serving.service import MODEL_COPY
from carinspect.serving.supervisor import Supervisor, copy_proven_model


def serve(*, host: str, port: int) -> None:
    """Serve until SIGTERM or SIGINT. Raises `UserError` when the environment or the model is not fit to serve."""
    config = read_config(os.environ)
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
    copy_proven_model(config, copy)
    os.environ |= {SUPERVISOR: str(os.getpid()), SHARED_FOLDER: str(figures), MODEL_COPY: str(copy)}
    settings = _settings("carinspect.serving.app:from_environment", config, host=host, port=port)
    Supervisor(settings, [settings.bind_socket()], config=config, copy=copy).run()


def _settings(app: object, config: ServiceConfig, *, host: str, port: int) -> uvicorn.Config:
    return uvicorn.Config(
        app,  # type: ignore[arg-type]
        factory=isinstance(app, str),
        host=host,
        port=port,
        workers=config.workers,
        http=protocol_with(config.header_timeout_s),
        ws="none",
        # Who asked for what is nobody's business here; /metrics counts.
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=config.connection_limit,
        timeout_keep_alive=config.keep_alive_s,
        timeout_graceful_shutdown=config.shutdown_timeout_s,
    )

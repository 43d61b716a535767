"""Owns the parent of several workers: it replaces one that dies, and gives all of them a new model once it is proven."""

import logging
import os
import signal
import socket
from hashlib import sha256
from pathlib import Path

import uvicorn
from prometheus_client import multiprocess
from uvicorn.supervisors import Multiprocess

from carinspect.core.errors import UserError
from carinspect.core.files import write_bytes
from carinspect.serving.config import ServiceConfig
from carinspect.serving.loaded_model import load_model

log = logging.getLogger("uvicorn.error")


class Supervisor(Multiprocess):
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
            copy_proven_model(self._config, self._copy)
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


def copy_proven_model(config: ServiceConfig, copy: Path) -> None:
    """Copy the model file that has proved to answer. Raises `UserError` when it is not fit to serve."""
    path = config.model_path
    proven = load_model(path, config).predictor.bundle.sha256
    content = path.read_bytes()
    if sha256(content).hexdigest() != proven:
        raise UserError(f"{path}: it changed while it was read. Write it beside and rename it, then try again.")
    write_bytes(copy, content)

"""What the routes share: the settings, the engine, its figures and its log of answers."""

import asyncio
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from carinspect.audit.inbox import FullError, Inbox, Remark
from carinspect.audit.ledger import read_ledger
from carinspect.audit.state import audit_promises
from carinspect.core.errors import UserError
from carinspect.inference.car import judge_car
from carinspect.inference.drift_log import DriftLog, check_writable
from carinspect.inference.predictor import Answer, BinaryAnswer
from carinspect.serving.answers import form_answer
from carinspect.serving.config import MODEL_COPY, ServiceConfig
from carinspect.serving.engine import Engine, Seen
from carinspect.serving.fetching import Fetcher
from carinspect.serving.loaded_model import load_model
from carinspect.serving.monitoring import Monitor
from carinspect.serving.pages import read_page
from carinspect.serving.refusals import RefusalError, busy
from carinspect.serving.threads import Threads
from carinspect.serving.uploads import Reservation, UploadMemory

log = logging.getLogger("uvicorn.error")


class Service:
    """One process's service. Raises `UserError` when the model is not fit to serve under `config`."""

    def __init__(self, config: ServiceConfig, fetcher: Fetcher) -> None:
        self.config = config
        self.fetcher = fetcher
        self.model_file = Path(os.environ.get(MODEL_COPY) or config.model_path)
        """What this process loads: with several workers the proven copy of MODEL_PATH."""
        self.engine = Engine(config, load_model(self.model_file, config))
        self.monitor = Monitor()
        if config.drift_log is not None:
            check_writable(config.drift_log)
        self.drift_log = self._open_drift_log()
        self._measurer = Threads(1, name="measure")
        self.inbox = _open_inbox(config)
        self._failures_known = 0
        self._ledger_known: object = None
        """State of the ledger whose findings the monitor has."""
        self.page, self.page_policy = read_page()
        self.memory = UploadMemory(int(config.max_buffered_mb * 1_000_000))
        self.monitor.note_model(self.engine.model.version)

    def upload(self) -> Reservation:
        """Memory for one request's body while its block lasts. Nothing is read of a request that could not be answered soon."""
        if self.engine.full:
            raise busy("Too many photos are waiting")
        return Reservation(self.memory)

    @contextmanager
    def admission(self, photos: int) -> Iterator[None]:
        """Places in the engine's queue for one request's photos while the block lasts. Raises `RefusalError` when there are too few."""
        if self.engine.waiting + photos > self.config.queue_limit:
            raise busy("Too many photos are waiting")
        self._count_waiting(photos)
        try:
            yield
            if self.drift_log is not None:
                self.drift_log.note_request(photos)
        finally:
            self._count_waiting(-photos)

    def _count_waiting(self, more: int) -> None:
        if self.engine.waiting == 0:
            self.engine.progress_at = time.monotonic()
        self.engine.waiting += more
        self.monitor.waiting.set(self.engine.waiting)

    async def answer(self, content: bytes, *, marked: bool) -> tuple[Answer, dict[str, Any]]:
        """The answer to one admitted photo, and its form; both are counted and logged. Raises `RefusalError` where there is none."""
        start = time.perf_counter()
        seen = await self.engine.answer(content, marked=marked)
        total_s = time.perf_counter() - start
        self.monitor.note_answer(seen)
        # A photo that the model before answered belongs to no line of this one.
        if self.drift_log is not None and seen.model is self.engine.model:
            await self._remember(self.drift_log, seen)
        return seen.answer, form_answer(seen, total_s=total_s)

    async def remark(self, photos: list[bytes], question: str, verdict: str, *, model_version: str) -> list[Remark]:
        """Keep what a person says of the answer to one admitted photo, or of the car that several of them show. Raises `RefusalError`.

        The photos are answered again, so that what is kept as the model's word is its word.
        """
        inbox, model = self.require_inbox(), self.engine.model
        asked = next((asked for asked in model.predictor.questions if asked.name == question and asked.has_classes), None)
        if asked is None or verdict not in asked.classes:
            raise RefusalError(422, "question must be one that has classes, and verdict one of them: see /model.")
        if len(photos) > 1 and question not in model.car_rules:
            raise RefusalError(422, "question must be one that is decided about cars: see /model.")
        found = await asyncio.gather(*(self.engine.answer(photo) for photo in photos))
        model = found[0].model
        if any(seen.model.version != model_version for seen in found):
            raise RefusalError(409, f"That was the answer of another model than {model.version}. Send the photo again, and look.")
        answer = found[0].answer[question]
        word = (answer.decision or answer.label or "") if isinstance(answer, BinaryAnswer) else str(answer.value)
        if len(photos) > 1:
            word = judge_car([seen.answer for seen in found], model.car_rules)[question].decision or ""
        digest = model.predictor.bundle.sha256
        keep = partial(inbox.add_car, photos, model_sha256=digest, question=question, word=word, verdict=verdict)
        try:
            return await self._measurer.run(keep)
        except FullError:
            raise busy("The folder for remarks is full") from None
        except OSError as error:
            log.error("CARINSPECT_FEEDBACK_DIR cannot be written: %s", error)
            raise busy("Remarks cannot be kept") from None

    def require_inbox(self) -> Inbox:
        """Raises `RefusalError` where nobody is asked."""
        if self.inbox is None:
            raise RefusalError(403, "Switched off here: CARINSPECT_FEEDBACK_DIR is not set.")
        return self.inbox

    async def _remember(self, log_of_answers: DriftLog, seen: Seen) -> None:
        """Measure the photo off the event loop, and count what could not be written."""
        photo = seen.photo
        work = partial(log_of_answers.add, seen.answer, photo.pixels, width_px=photo.width_px, height_px=photo.height_px)
        await self._measurer.run(work)
        self._note_failures(log_of_answers)

    def _note_failures(self, log_of_answers: DriftLog) -> None:
        new = log_of_answers.failures - self._failures_known
        if new <= 0:
            return
        if self._failures_known == 0:
            log.error(
                "The drift log cannot be written (%s). Answers go on; carinspect_drift_log_failures counts.", log_of_answers.last_failure
            )
        self._failures_known += new
        self.monitor.drift_log_failures.inc(new)

    async def reload(self, path: Path) -> dict[str, Any]:
        """Replace the model by the file at `path`. Raises `UserError`, and goes on with the old one, when it is not fit."""
        try:
            model = await self.engine.reload(path)
        except UserError as error:
            self.monitor.reloads.labels("refused").inc()
            log.error("Still serving model %s: %s", self.engine.model.version, error)
            raise
        self.monitor.reloads.labels("done").inc()
        self.monitor.note_model(model.version)
        # A line of the log is about one model.
        self.close()
        self.drift_log, self._failures_known = self._open_drift_log(), 0
        return model.describe()

    async def figures(self) -> bytes:
        """The figures in Prometheus' text format. The ledger is read again, off the event loop, when it or the model has changed."""
        if self.config.audit_ledger is not None:
            await self._measurer.run(partial(self._read_ledger, self.config.audit_ledger))
        return self.monitor.text()

    def _read_ledger(self, path: Path) -> None:
        predictor = self.engine.model.predictor
        try:
            status = path.stat()
            known: object = (status.st_mtime_ns, status.st_size, predictor.bundle.sha256)
            if known == self._ledger_known:
                return
            self.monitor.note_audit(list(audit_promises(read_ledger(path), predictor.rules, predictor.bundle.sha256)))
            self.monitor.audit_unreadable.set(0)
        except (OSError, UserError) as error:
            # An old finding would look like a present one.
            known = str(error)
            self.monitor.note_audit([])
            self.monitor.audit_unreadable.set(1)
            if known != self._ledger_known:
                log.error("The ledger of CARINSPECT_AUDIT_LEDGER cannot be read: %s", error)
        self._ledger_known = known

    def close(self) -> None:
        """Write what is still to be written."""
        if self.drift_log is not None:
            self._measurer.stop()
            self.drift_log.close()
            self._note_failures(self.drift_log)

    def _open_drift_log(self) -> DriftLog | None:
        if self.config.drift_log is None:
            return None
        digest = self.engine.model.predictor.bundle.sha256
        return DriftLog(self.config.drift_log, window_s=self.config.drift_window_s, model_sha256=digest)


def _open_inbox(config: ServiceConfig) -> Inbox | None:
    if config.feedback_dir is None:
        return None
    try:
        return Inbox(config.feedback_dir, keep_days=config.feedback_days, limit_bytes=int(config.feedback_mb * 1_000_000))
    except OSError as error:
        raise UserError(
            f"CARINSPECT_FEEDBACK_DIR: {config.feedback_dir} cannot be written: {error.strerror}. Name another folder."
        ) from None

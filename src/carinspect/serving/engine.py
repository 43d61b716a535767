"""The work behind the routes: which model is current, how many photos wait, and where they are decoded and answered."""

import asyncio
import logging
import time
from dataclasses import dataclass
from pathlib import Path

from carinspect.inference.predictor import Answer
from carinspect.serving.batcher import Batcher
from carinspect.serving.config import ServiceConfig
from carinspect.serving.explanation import Explanation, explain
from carinspect.serving.loaded_model import LoadedModel, load_model
from carinspect.serving.photo_checks import DecodedPhoto, read_photo
from carinspect.serving.refusals import RefusalError, busy
from carinspect.serving.threads import Threads

GPU_BATCH = 32

log = logging.getLogger("uvicorn.error")


@dataclass(frozen=True)
class Seen:
    """A photo's answer, and what it took."""

    answer: Answer
    model: LoadedModel
    photo: DecodedPhoto
    explanation: Explanation | None
    decode_s: float
    model_s: float
    """With batching: including the wait for the batch."""


class Engine:
    """Answers photos off the event loop, a bounded number at once, by a model that can be replaced meanwhile."""

    def __init__(self, config: ServiceConfig, model: LoadedModel) -> None:
        self.config = config
        self.model = model
        self.waiting = 0
        """Photos accepted and not yet answered; `Service.admission` counts them."""
        self._threads = Threads(config.compute_threads, name="photo")
        # Explanations cost as much as many photos: one at a time, and never in the way of an answer.
        self._explainer = Threads(1, name="explain")
        self._explaining = 0
        self._reloading = asyncio.Lock()
        batch_size = config.batch_size or (GPU_BATCH if model.on_gpu else 1)
        # On a CPU a batch is hardly faster than its photos one by one, and they would wait for each other.
        self._batcher = Batcher(batch_size=batch_size, wait_s=config.batch_wait_ms / 1000) if batch_size > 1 else None

    async def start(self) -> None:
        """Begin to take photos."""
        if self._batcher is not None:
            self._batcher.start()

    async def stop(self) -> None:
        """Answer what was accepted, and end."""
        while self.waiting:
            await asyncio.sleep(0.01)
        if self._batcher is not None:
            await self._batcher.stop()
        self._threads.stop()
        self._explainer.stop()

    @property
    def full(self) -> bool:
        return self.waiting >= self.config.queue_limit

    async def answer(self, content: bytes, *, explained: bool = False) -> Seen:
        """The answer to one admitted photo. Raises `RefusalError` for one that cannot be answered."""
        model = self.model
        if self._batcher is None:
            seen = await self._threads.run(lambda: self._decode_and_answer(content, model))
        else:
            photo, decode_s = await self._threads.run(lambda: self._decode(content, model))
            start = time.perf_counter()
            answer = await self._batcher.answer(model.predictor, photo.pixels)
            seen = Seen(answer, model, photo, None, decode_s, time.perf_counter() - start)
        return await self._explained(seen) if explained else seen

    def _decode(self, content: bytes, model: LoadedModel) -> tuple[DecodedPhoto, float]:
        start = time.perf_counter()
        photo = read_photo(content, model.predictor, self.config)
        return photo, time.perf_counter() - start

    def _decode_and_answer(self, content: bytes, model: LoadedModel) -> Seen:
        photo, decode_s = self._decode(content, model)
        start = time.perf_counter()
        (answer,) = model.predictor.answer(photo.pixels[None])
        return Seen(answer, model, photo, None, decode_s, time.perf_counter() - start)

    async def _explained(self, seen: Seen) -> Seen:
        if self.config.explain_grid == 0:
            raise RefusalError(403, "Explanations are switched off here (CARINSPECT_EXPLAIN_GRID).")
        if self._explaining >= 2:
            raise busy("Too many explanations are under way")
        self._explaining += 1
        try:
            explanation = await self._explainer.run(lambda: explain(seen.model.predictor, seen.photo.pixels, grid=self.config.explain_grid))
        finally:
            self._explaining -= 1
        return Seen(seen.answer, seen.model, seen.photo, explanation, seen.decode_s, seen.model_s)

    async def reload(self, path: Path) -> LoadedModel:
        """Put the model file at `path` in place of the current model, once it has proved to answer.

        Photos already accepted are answered by the old one. Raises `UserError`, and changes nothing, when the new one is not fit.
        """
        async with self._reloading:
            self.model = await asyncio.to_thread(load_model, path, self.config)
        log.info("Serving model %s", self.model.version)
        return self.model

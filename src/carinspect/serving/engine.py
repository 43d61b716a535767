"""The work behind the routes: which model is current, how many photos wait, and where they are decoded and answered."""

import asyncio
import logging
import time
from dataclasses import dataclass
from pathlib import Path

from carinspect.inference.marks import PhotoMarks
from carinspect.inference.predictor import Answer, Predictor
from carinspect.serving.batcher import Batcher
from carinspect.serving.config import ServiceConfig
from carinspect.serving.heavy_photos import TOGETHER
from carinspect.serving.loaded_model import LoadedModel, load_model
from carinspect.serving.photo_checks import CheckedPhoto, DecodedPhoto, check_photo, decode_checked, must_be_decoded_apart
from carinspect.serving.refusals import RefusalError, busy
from carinspect.serving.threads import Threads

GPU_BATCH = 32
STUCK_S = 15.0

log = logging.getLogger("uvicorn.error")


@dataclass(frozen=True)
class Seen:
    """A photo's answer, and what it took."""

    answer: Answer
    model: LoadedModel
    photo: DecodedPhoto
    marks: PhotoMarks | None
    """None: nobody asked."""
    decode_s: float
    model_s: float
    """With batching: including the wait for the batch."""


@dataclass(frozen=True)
class _Decoded:
    photo: DecodedPhoto
    predictor: Predictor
    decode_s: float


class Engine:
    """Answers photos off the event loop, a bounded number at once, by a model that can be replaced meanwhile."""

    def __init__(self, config: ServiceConfig, model: LoadedModel) -> None:
        self.config = config
        self.model = model
        self.waiting = 0
        """Photos accepted and not yet answered; `Service.admission` counts them."""
        self._threads = Threads(config.compute_threads, name="photo")
        # It only waits for the process that decodes.
        self._heavy = Threads(1, name="heavy")
        self._heavy_waiting = 0
        self.progress_at = time.monotonic()
        """When a photo was last answered or refused, or the first of those that wait was accepted."""
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
        self._heavy.stop()

    @property
    def full(self) -> bool:
        return self.waiting >= self.config.queue_limit

    @property
    def stuck(self) -> bool:
        """Whether photos wait and none was answered for `STUCK_S`."""
        return self.waiting > 0 and time.monotonic() - self.progress_at > STUCK_S

    def require_maps(self) -> None:
        """Raises `RefusalError` where the current model can mark no place."""
        _predictor_of(self.model, marked=True)

    async def answer(self, content: bytes, *, marked: bool = False) -> Seen:
        """The answer to one admitted photo; marked: with its marks. Raises `RefusalError` for one that cannot be answered."""
        model = self.model
        predictor = _predictor_of(model, marked=marked)
        try:
            seen = await self._threads.run(lambda: self._decode_and_answer(content, model, predictor))
            if isinstance(seen, CheckedPhoto):
                seen = await self._answer_heavy(seen, model, predictor)
            if isinstance(seen, _Decoded):
                seen = await self._answer_in_batch(seen, model)
        finally:
            self.progress_at = time.monotonic()
        return seen

    async def count_heavy(self, photos: list[bytes]) -> int:
        """How many of the photos must be decoded apart; what is no photo counts as none."""
        return await self._threads.run(lambda: sum(must_be_decoded_apart(content, self.config) for content in photos))

    def _decode_and_answer(self, content: bytes, model: LoadedModel, predictor: Predictor) -> "Seen | CheckedPhoto | _Decoded":
        """The answer; or as far as it may be brought here, where the photo is heavy or answers come in batches."""
        start = time.perf_counter()
        checked = check_photo(content, self.config)
        if checked.heavy:
            return checked
        decoded = _Decoded(decode_checked(checked, predictor), predictor, time.perf_counter() - start)
        return decoded if self._batcher is not None else self._answer_here(decoded, model)

    def _answer_here(self, decoded: "_Decoded", model: LoadedModel) -> Seen:
        start = time.perf_counter()
        (answer,) = decoded.predictor.answer(decoded.photo.pixels[None])
        return _seen(answer, model, decoded, start)

    async def _answer_in_batch(self, decoded: "_Decoded", model: LoadedModel) -> Seen:
        assert self._batcher is not None
        start = time.perf_counter()
        answer = await self._batcher.answer(decoded.predictor, decoded.photo.pixels)
        if not decoded.predictor.bundle.has_maps:
            return _seen(answer, model, decoded, start)
        return await self._threads.run(lambda: _seen(answer, model, decoded, start))

    async def _answer_heavy(self, checked: CheckedPhoto, model: LoadedModel, predictor: Predictor) -> "Seen | _Decoded":
        if self._heavy_waiting >= TOGETHER:
            raise busy("Too many large photos are waiting")
        self._heavy_waiting += 1
        try:
            start = time.perf_counter()
            photo = await self._heavy.run(lambda: decode_checked(checked, predictor))
            decoded = _Decoded(photo, predictor, time.perf_counter() - start)
        finally:
            self._heavy_waiting -= 1
        return decoded if self._batcher is not None else await self._threads.run(lambda: self._answer_here(decoded, model))

    async def reload(self, path: Path) -> LoadedModel:
        """Put the model file at `path` in place of the current model, once it has proved to answer.

        Photos already accepted are answered by the old one. Raises `UserError`, and changes nothing, when the new one is not fit.
        """
        async with self._reloading:
            self.model = await asyncio.to_thread(load_model, path, self.config)
        log.info("Serving model %s", self.model.version)
        return self.model


def _predictor_of(model: LoadedModel, *, marked: bool) -> Predictor:
    if not marked:
        return model.predictor
    if model.marker is None:
        raise RefusalError(403, "marks=true: the model that is served marks no places, for it has no maps. Ask without marks.")
    return model.marker


def _seen(answer: Answer, model: LoadedModel, decoded: _Decoded, start: float) -> Seen:
    photo, predictor = decoded.photo, decoded.predictor
    marks = predictor.find_marks(answer, width_px=photo.width_px, height_px=photo.height_px) if predictor.bundle.has_maps else None
    return Seen(answer, model, photo, marks, decoded.decode_s, time.perf_counter() - start)

"""Dynamic batching: photos of concurrent requests, answered in one run of the model."""

import asyncio
from dataclasses import dataclass

import numpy as np

from carinspect.inference.predictor import Answer, Predictor
from carinspect.serving.threads import Threads


@dataclass(frozen=True)
class _Waiting:
    predictor: Predictor
    photo: np.ndarray
    answer: asyncio.Future[Answer]


class Batcher:
    """Answers photos in the order they came. One run of the model at a time; while it runs, the next batch gathers.

    A batch never mixes predictors: a photo is answered by the model that was current when it was accepted.
    """

    def __init__(self, *, batch_size: int, wait_s: float) -> None:
        self._batch_size, self._wait_s = batch_size, wait_s
        self._queue: asyncio.Queue[_Waiting] = asyncio.Queue()
        self._runner = Threads(1, name="model")
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to answer, on the running event loop."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Stop; every photo must have been answered before."""
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._runner.stop()

    async def answer(self, predictor: Predictor, photo: np.ndarray) -> Answer:
        """The answer for one photo, uint8 (side, side, 3)."""
        waiting = _Waiting(predictor, photo, asyncio.get_running_loop().create_future())
        self._queue.put_nowait(waiting)
        return await waiting.answer

    async def _run(self) -> None:
        held: _Waiting | None = None
        while True:
            first = held or await self._queue.get()
            batch, held = await self._gather(first)
            await self._answer(batch)

    async def _gather(self, first: _Waiting) -> tuple[list[_Waiting], _Waiting | None]:
        """A batch that begins with `first`, and the photo that came after it for another predictor."""
        batch = [first]
        deadline = asyncio.get_running_loop().time() + self._wait_s
        while len(batch) < self._batch_size:
            try:
                async with asyncio.timeout_at(deadline):
                    following = await self._queue.get()
            except TimeoutError:
                break
            if following.predictor is not first.predictor:
                return batch, following
            batch.append(following)
        return batch, None

    async def _answer(self, batch: list[_Waiting]) -> None:
        photos = np.stack([waiting.photo for waiting in batch])
        try:
            answers = await self._runner.run(lambda: batch[0].predictor.answer(photos))
        except Exception as error:  # whatever it is belongs to the requests that wait, and the next batch must go on
            for waiting in batch:
                if not waiting.answer.done():
                    waiting.answer.set_exception(error)
            return
        for waiting, answer in zip(batch, answers, strict=True):
            if not waiting.answer.done():
                waiting.answer.set_result(answer)

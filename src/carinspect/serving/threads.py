"""The threads that photos are decoded and answered on, off the event loop."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar

STOP_S = 5.0
ResultT = TypeVar("ResultT")
_Job = tuple[asyncio.AbstractEventLoop, asyncio.Future[Any], Callable[[], Any]]


class Threads:
    """A fixed number of threads that work for coroutines, first come, first served.

    `run_in_executor` does the same by way of two futures, their locks and callbacks; beside a small model that shows (benchmarks/serve.py).
    """

    def __init__(self, count: int, *, name: str) -> None:
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._count, self._name = count, name
        self._threads: list[Thread] = []

    async def run(self, work: Callable[[], ResultT]) -> ResultT:
        """The result of `work()`, or what it raises. Work that nobody waits for any more is not begun."""
        if not self._threads:
            self._start()
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        self._jobs.put((loop, future, work))
        result: ResultT = await future
        return result

    def stop(self) -> None:
        """Finish all work and end the threads; those that take longer than `STOP_S` are left to the end of the process."""
        for _ in self._threads:
            self._jobs.put(None)
        end = time.monotonic() + STOP_S
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        self._threads = []

    def _start(self) -> None:
        # Daemons: a process that ends without `stop` must not wait for them.
        self._threads = [Thread(target=self._work, name=f"{self._name}_{place}", daemon=True) for place in range(self._count)]
        for thread in self._threads:
            thread.start()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            loop, future, work = job
            result, error = None, None
            if not future.cancelled():
                try:
                    result = work()
                except BaseException as raised:  # whatever it is belongs to the one who waits
                    error = raised
                # Nobody waits any more once the loop has ended.
                with suppress(RuntimeError):
                    loop.call_soon_threadsafe(_settle, future, result, error)
            # The photo must not stay in memory until the next one comes.
            del job, future, work, result, error


def _settle(future: asyncio.Future[Any], result: object, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)

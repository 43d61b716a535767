"""Scores batches of photos on this machine in parallel, with results in order and bounded memory."""

import errno
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeGuard

import numpy as np

from carinspect.images.decode import PhotoError
from carinspect.inference.marks_file import cell_of
from carinspect.inference.photo_list import Listing
from carinspect.inference.predictor import Predictor
from carinspect.inference.rows import Row, row_of, row_of_error


def batch_count(listing: Listing, *, batch: int) -> int:
    """Batches of `batch` photos, the last one smaller."""
    return -(-len(listing.names) // batch)


def score_listing(predictor: Predictor, listing: Listing, *, batch: int) -> list[Row]:
    """The rows of a short listing, batch after batch."""
    numbers = range(batch_count(listing, batch=batch))
    return [row for number in numbers for row in score_batch(predictor, listing, number, batch=batch)]


def score_batch(predictor: Predictor, listing: Listing, number: int, *, batch: int) -> list[Row]:
    """The rows of batch `number`. Its photos depend only on the listing and `batch`, so the answers are the same to the last bit.

    With a bundle that was opened for its maps each row has a cell more, behind the columns: `marks_file.cell_of` the photo, None for one
    that could not be read. Raises `OSError` or `MemoryError` if a photo cannot be read through a fault of the machine: with a row, it would
    never be tried again.
    """
    places = range(number * batch, min((number + 1) * batch, len(listing.names)))
    photos: dict[int, np.ndarray] = {}
    sizes_px: dict[int, tuple[int, int]] = {}
    rows: dict[int, Row] = {}
    for place in places:
        try:
            photos[place], sizes_px[place] = predictor.load_with_size(listing.path(place))
        except PhotoError as error:
            if is_of_the_machine(error.__context__):
                raise error.__context__ from None
            rows[place] = row_of_error(listing.names[place], str(error), predictor)
            if predictor.bundle.has_maps:
                rows[place].append(None)
    if photos:
        for place, answer in zip(photos, predictor.answer(np.stack(list(photos.values()))), strict=True):
            rows[place] = row_of(listing.names[place], answer, predictor)
            if predictor.bundle.has_maps:
                width_px, height_px = sizes_px[place]
                found = predictor.find_marks(answer, width_px=width_px, height_px=height_px)
                rows[place].append(cell_of(found, width_px=width_px, height_px=height_px))
    return [rows[place] for place in places]


_FAULTS = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOTCONN, errno.ESTALE}
"""No files left to open, no memory, a file system that is gone. None of them is about one photo."""


def is_of_the_machine(cause: BaseException | None) -> TypeGuard[Exception]:
    """Whether a photo could not be read for a reason that will be over when the command is repeated."""
    return isinstance(cause, MemoryError) or (isinstance(cause, OSError) and cause.errno in _FAULTS)


def score_batches(predictor: Predictor, listing: Listing, numbers: range, *, batch: int, workers: int) -> Iterator[list[Row]]:
    """The rows of each batch in `numbers`, in order.

    Each worker is a thread that decodes a batch and runs the model: Pillow and onnxruntime release the interpreter's lock, and threads
    end with their process. At most 2 x `workers` batches are started and not yet yielded.
    """
    pool = ThreadPoolExecutor(workers)
    begun: deque[Future[list[Row]]] = deque()
    try:
        for number in numbers:
            begun.append(pool.submit(score_batch, predictor, listing, number, batch=batch))
            if len(begun) == 2 * workers:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)

"""`carinspect score`: scores photos into a table, on this machine or on a Ray cluster."""

import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pyarrow.parquet as pq
from tqdm import tqdm

from carinspect.core.errors import UserError, one_line
from carinspect.core.machine import usable_cores
from carinspect.images.cluster import connect
from carinspect.inference.batching import batch_count, score_batches
from carinspect.inference.bundle import open_bundle
from carinspect.inference.journal import Journal, finish_file
from carinspect.inference.marks_file import Cells, check_marks_file, count_marks, write_marks
from carinspect.inference.photo_list import Listing, list_column, list_photos, text_of_name
from carinspect.inference.predictor import Predictor, make_predictor
from carinspect.inference.ray_engine import score_shards
from carinspect.inference.rows import FORMATS, Row, check_format, columns_of
from carinspect.inference.rules import say_mark_promise, say_promise
from carinspect.inference.session import CPU, CUDA, Device
from carinspect.inference.shards import open_folder

ALL_SCORED, SOME_UNREADABLE, INTERRUPTED = 0, 1, 130
_SHARD_PHOTOS = 1024


@dataclass(frozen=True)
class ScoreOptions:
    """The command's options; each is explained in cli/main.py."""

    out: Path
    model: Path
    column: str | None
    root: Path | None
    batch: int
    workers: int | None
    threads: int
    device: Device
    engine: Literal["local", "ray"]
    ray_address: str | None
    marks: Path | None


def score_photos(photos: list[str], options: ScoreOptions) -> int:
    """Score photos and print the counts; returns 0 if every photo was scored, 1 if some could not be read, 130 if interrupted.

    Raises `UserError` also for a fault of the machine, such as a full disk.
    """
    if options.marks is not None:
        check_marks_file(options.marks)
    listing = _list(photos, options)
    try:
        return _score_on_ray(listing, options) if options.engine == "ray" else _score_here(listing, options)
    except (OSError, MemoryError) as error:
        fix = "Nothing scored is lost: make room, raise the limit or correct --out, and the same command continues."
        raise UserError(f"--out is {text_of_name(str(options.out))!r}, and the machine failed: {one_line(error)}. {fix}") from None


def _score_here(listing: Listing, options: ScoreOptions) -> int:
    check_format(options.out)
    bundle = open_bundle(options.model, device=options.device, threads=options.threads, marks=options.marks is not None)
    predictor = make_predictor(bundle)
    workers = options.workers or usable_cores()
    _say(f"{options.model}: {_describe(predictor)}, {workers} workers")
    columns = columns_of(predictor)
    with Journal(options.out, journal_header(predictor, listing, batch=options.batch), columns) as journal:
        done = min(journal.batches * options.batch, len(listing.names))
        if done:
            _say(f"{journal.path}: going on after {done:,} of {len(listing.names):,} photos")
        started = time.monotonic()
        numbers = range(journal.batches, batch_count(listing, batch=options.batch))
        try:
            with tqdm(desc="scoring", total=len(listing.names), initial=done, unit="photo", disable=None) as progress:
                for rows in score_batches(predictor, listing, numbers, batch=options.batch, workers=workers):
                    journal.append(rows)
                    progress.update(len(rows))
        except KeyboardInterrupt:
            _say(f"interrupted; the same command goes on from {journal.path}")
            return INTERRUPTED
        seconds = time.monotonic() - started
        counts = _count(journal.rows(), list(columns))

        def cells() -> Iterator[tuple[str, str | None]]:
            return ((row[0], row[-1]) for rows in journal.rows() for row in rows)

        said = _say_marks(cells, options.marks)
        journal.finish({} if options.marks is None else {options.marks: partial(write_marks, cells, predictor=predictor)})
    speed = f", {(len(listing.names) - done) / seconds:.0f} photos/s" if len(numbers) else ""
    return _conclude(counts, options.out, speed + said)


def journal_header(predictor: Predictor, listing: Listing, *, batch: int) -> dict[str, Any]:
    """Everything that the rows depend on: a run with another header must not continue this one."""
    return {
        "model_sha256": predictor.bundle.sha256,
        "provider": predictor.bundle.provider,
        "batch": batch,
        "columns": list(columns_of(predictor)),
        "photos": len(listing.names),
        "photos_sha256": listing.digest,
        **({"marks": True} if predictor.bundle.has_maps else {}),
    }


def _list(photos: list[str], options: ScoreOptions) -> Listing:
    if options.column is None:
        if options.root is not None:
            raise UserError(f"--root is {str(options.root)!r}, but only --column takes names relative to a folder.")
        listing = list_photos(photos)
    elif len(photos) != 1:
        raise UserError(f"--column wants one table, and {len(photos)} were given.")
    else:
        listing = list_column(Path(photos[0]), options.column, root=options.root)
    if listing.skipped:
        _say(f"{listing.skipped:,} files without a photo's suffix are left out")
    return listing


def _describe(predictor: Predictor) -> str:
    place = "on the GPU" if predictor.bundle.provider == CUDA else "on the CPU"
    return f"{_describe_rule(predictor)}; {place} ({predictor.bundle.provider})"


def _describe_rule(predictor: Predictor) -> str:
    words = [say_promise(rule, "good") for rule in predictor.rules.values()]
    if predictor.bundle.has_maps:
        words += [say_mark_promise(rule) for rule in predictor.bundle.thresholds.marks.values()]
    told = "; ".join(words) or "nothing is decided"
    return f"{predictor.bundle.sha256[:12]}, {told}"


def _score_on_ray(listing: Listing, options: ScoreOptions) -> int:
    if options.out.suffix.lower() in FORMATS:
        raise UserError(f"--out is {str(options.out)!r}. With --engine ray it is a folder of Parquet files, e.g. scores/.")
    predictor = make_predictor(open_bundle(options.model, threads=options.threads, marks=options.marks is not None))
    cpus, gpus = connect(options.ray_address, asked="--engine ray")
    if options.device == "cuda" and not gpus:
        raise UserError("--device cuda: the cluster has no GPU.")
    device: Device = "cuda" if gpus and options.device != "cpu" else "cpu"
    actors = options.workers or (gpus if device == "cuda" else max(1, cpus // options.threads))
    _say(f"{options.model}: {_describe_rule(predictor)}; on {actors} Ray actors, each with {'a GPU' if device == 'cuda' else 'the CPU'}")
    shard = max(1, _SHARD_PHOTOS // options.batch) * options.batch
    header = journal_header(predictor, listing, batch=options.batch) | {"provider": CUDA if device == "cuda" else CPU, "shard": shard}
    open_folder(options.out, header)
    scored = score_shards(
        listing, out=options.out, model=options.model, model_sha256=predictor.bundle.sha256, marks=options.marks is not None,
        device=device, threads=options.threads, batch=options.batch, shard=shard, actors=actors,
    )  # fmt: skip
    with tqdm(desc="scoring", total=len(listing.names), unit="photo", disable=None) as progress:
        for photos in scored:
            progress.update(photos)
    columns = list(columns_of(predictor))

    def rows_of(*names: str) -> Iterator[list[Row]]:
        shards = (pq.read_table(path, columns=list(names)) for path in sorted(options.out.glob("part-*.parquet")))
        return ([list(row.values()) for row in table.to_pylist()] for table in shards)

    def cells() -> Iterator[tuple[str, str | None]]:
        return ((name, cell) for rows in rows_of("image_path", "marks") for name, cell in rows)

    if options.marks is not None:
        finish_file(options.marks, partial(write_marks, cells, predictor=predictor))
    return _conclude(_count(rows_of(*columns), columns), options.out, _say_marks(cells, options.marks))


def _count(batches: Iterable[list[Row]], columns: list[str]) -> Counter[str]:
    counts: Counter[str] = Counter()
    decision, error = columns.index("decision"), columns.index("error")
    for rows in batches:
        counts.update("unreadable" if row[error] is not None else row[decision] or "undecided" for row in rows)
    return counts


def _say_marks(cells: Cells, path: Path | None) -> str:
    if path is None:
        return ""
    counts = count_marks(cells())
    too_small = counts["without_pixel"]
    left_out = f", {too_small:,} regions without a pixel left out" if too_small else ""
    return f"; {text_of_name(str(path))}: {counts['marks']:,} marks on {counts['marked']:,} photos{left_out}"


def _conclude(counts: Counter[str], out: Path, speed: str) -> int:
    said = ", ".join(f"{count:,} {word}" for word, count in sorted(counts.items()))
    print(f"{text_of_name(str(out))}: {counts.total():,} photos: {said}{speed}")
    return SOME_UNREADABLE if counts["unreadable"] else ALL_SCORED


def _say(words: str) -> None:
    print(words, file=sys.stderr)

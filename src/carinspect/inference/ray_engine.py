"""Scores photos on a Ray cluster: actors hold the model, Ray Data gives them shards of the listing, and they write to shared storage.

Photos, model and `out` must have the same paths on every machine, and this package must be installed there.
"""

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from carinspect.core.errors import UserError
from carinspect.inference.batching import score_listing
from carinspect.inference.bundle import open_bundle
from carinspect.inference.photo_list import Listing, name_of_text, text_of_name
from carinspect.inference.predictor import make_predictor
from carinspect.inference.rows import Row
from carinspect.inference.session import Device
from carinspect.inference.shards import shard_columns, shard_path, split_listing, write_shard


class ShardScorer:
    """The actor: one opened model. `settings`: those of `score_shards`."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings
        bundle = open_bundle(Path(settings["model"]), device=settings["device"], threads=settings["threads"], marks=settings["marks"])
        if bundle.sha256 != settings["model_sha256"]:
            raise UserError(f"{settings['model']}: another file on this machine ({os.uname().nodename}) than on the one that asks.")
        self.predictor = make_predictor(bundle)

    def __call__(self, shard: dict[str, Any]) -> dict[str, Any]:
        """Score `{number, names}`, names as tables have them, and write it; returns its number."""
        listing = Listing(tuple(map(name_of_text, shard["names"])), Path(self.settings["folder"]), 0)
        rows: list[Row] = score_listing(self.predictor, listing, batch=self.settings["batch"])
        write_shard(rows, shard_path(Path(self.settings["out"]), int(shard["number"])), shard_columns(self.predictor))
        return {"number": shard["number"], "photos": len(rows)}


def score_shards(
    listing: Listing,
    *,
    out: Path,
    model: Path,
    model_sha256: str,
    marks: bool,
    device: Device,
    threads: int,
    batch: int,
    shard: int,
    actors: int,
) -> Iterator[int]:
    """Score what has no shard in `out` yet; yields the number of photos of each shard when it is written, in any order.

    `shard` is a multiple of `batch`, so that the answers equal those of one machine to the last bit.
    """
    import ray.data
    import ray.exceptions

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    listings = enumerate(split_listing(listing, shard=shard))
    waiting = [
        {"number": number, "names": list(map(text_of_name, part.names))}
        for number, part in listings
        if not shard_path(out, number).is_file()
    ]
    if not waiting:
        return
    settings = {
        "model": str(model.absolute()), "model_sha256": model_sha256, "marks": marks, "device": device, "threads": threads, "batch": batch,
        "folder": str(listing.folder.absolute()), "out": str(out.absolute()),
    }  # fmt: skip
    done = ray.data.from_items(waiting, override_num_blocks=len(waiting)).map(
        ShardScorer,  # type: ignore[arg-type] # Ray's signature names functions alone; an actor is a class of them
        fn_constructor_args=(settings,),
        compute=ray.data.ActorPoolStrategy(size=min(actors, len(waiting))),
        num_cpus=threads,
        num_gpus=1 if device == "cuda" else None,
    )
    try:
        for row in done.iter_rows():
            yield int(row["photos"])
    except ray.exceptions.RayError as error:
        reason = str(error).strip().splitlines()[-1]
        raise UserError(f"the cluster gave up: {reason} The same command goes on with the shards that are there.") from error

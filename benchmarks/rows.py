"""Measures how the work on table rows grows, on simulated tables larger than any available folder of photos.

    PYTHONPATH=src python benchmarks/rows.py [--rows 100000 1000000]

A simulated table has what a real one has: families of one to four photos, a copy in twenty, labels that most sources leave blank. Each size
runs in a process of its own. `table` writes the table and reads it back, `groups` links and names them, `splits` draws and balances them,
`check` finds leaks as `carinspect check-split` does, `certificate` counts.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from growth import QUESTIONS, SPLIT, report_growth, run_step

from carinspect.core.tables import annotation_columns, read_table, write_table
from carinspect.splits.certificate import certify_split
from carinspect.splits.check import find_leaks, telling_hashes
from carinspect.splits.groups import Link, label_groups, link_equal, name_groups
from carinspect.splits.ledger import Ledger
from carinspect.splits.placement import assign_splits

STEPS = ("table", "groups", "splits", "check", "certificate")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one)))
        return
    report_growth(__file__, arguments.rows, STEPS, of="rows")


def measure(rows: int) -> dict[str, float]:
    """Seconds of each step, and this process's peak after it."""
    found = dict[str, float]()
    table = simulate(rows)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "annotations.csv"

        def write_and_read() -> pd.DataFrame:
            write_table(table, path)
            return read_table(path, columns=annotation_columns(QUESTIONS))

        table = run_step("table", write_and_read, found)

    def group() -> tuple[pd.DataFrame, list[Link]]:
        links = link_equal(table["family"], "family") + link_equal(table["sha256"], "bytes")
        links += link_equal(telling_hashes(table["phash"]), "near-duplicate")
        return table.assign(group=name_groups(label_groups(len(table), links), table["image_path"])), links

    grouped, links = run_step("groups", group, found)
    split = run_step("splits", lambda: assign_splits(grouped, SPLIT, QUESTIONS, Ledger({}, {})), found)
    assert not run_step("check", lambda: find_leaks(split), found)
    run_step("certificate", lambda: certify_split(split, links, questions=QUESTIONS, moved={}), found)
    return found


def simulate(rows: int) -> pd.DataFrame:
    """A table with `annotation_columns`, sorted by path."""
    random = np.random.default_rng(rows)
    number = np.arange(rows)
    family = np.repeat(np.arange(rows), random.integers(1, 5, rows))[:rows]
    # One photo in twenty has the bytes of the one before it.
    original = np.where(random.random(rows) < 0.05, np.maximum(number - 1, 0), number)
    damaged = np.where(random.random(rows) < 0.4, random.integers(0, 2, rows), np.nan)
    clean = np.where(random.random(rows) < 0.2, random.integers(0, 2, rows), np.nan)
    table = pd.DataFrame({
        "image_path": [f"fleet{place % 5}/{place:09}.jpg" for place in number],
        "source": [f"fleet{place % 5}" for place in number],
        "width_px": 1024, "height_px": 768,
        "sha256": [f"{place:064x}" for place in original],
        "phash": [f"{word:016x}" for word in random.integers(0, 2**63, rows)[original]],
        "family": [f"fleet/{place}" for place in family],
        "declared_split": "",
        "clean": clean, "cleanliness_score": np.where(np.isnan(clean), np.nan, random.random(rows)),
        "damaged": damaged, "damage_score": np.where(damaged == 1, random.random(rows), np.where(damaged == 0, 1.0, np.nan)),
        "weather_condition": np.where(random.random(rows) < 0.3, random.integers(0, 4, rows), np.nan),
    })  # fmt: skip
    return table[annotation_columns(QUESTIONS)].sort_values("image_path").reset_index(drop=True)


if __name__ == "__main__":
    main()

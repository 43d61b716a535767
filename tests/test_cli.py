"""The command: instant help, leaks of every kind, a page for a root or a table, mistakes in one line."""

import contextlib
import io
import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image, ImageOps

from carinspect.cli.main import run
from carinspect.core.tables import dataset_columns, read_table, write_table
from conftest import QUESTIONS, make_dataset

ROOT = Path(__file__).parent.parent
HEAVY = ("numpy", "pandas", "PIL", "sklearn", "torch", "yaml")


class Done(NamedTuple):
    """What a command left behind."""

    returncode: int
    stdout: str
    stderr: str


def carinspect(*words: str | Path, folder: Path = ROOT) -> Done:
    """Run the command in `folder`, within this process: that spares the imports."""
    stdout, stderr, argv = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["carinspect", *map(str, words)]
    try:
        with (
            contextlib.chdir(folder),
            contextlib.redirect_stdout(stdout),
            contextlib.redirect_stderr(stderr),
            pytest.raises(SystemExit) as end,
        ):
            run()
    finally:
        sys.argv = argv
    return Done(int(end.value.code or 0), stdout.getvalue(), stderr.getvalue())


# ---- help


def heavy_imports(*words: str) -> list[str]:
    """Which of `HEAVY` the command has imported by the time that it has answered `words`."""
    code = (
        "import sys; from carinspect.cli.main import run\n"
        f"sys.argv = ['carinspect', *{list(words)!r}]\n"
        "try:\n    run()\nexcept SystemExit:\n    pass\n"
        f"print('imported:', *[name for name in {HEAVY!r} if name in sys.modules])"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1].split()[1:]


@pytest.mark.parametrize("command", [None, "check-split", "describe", "compare", "score", "inspect", "drift", "audit"])
def test_help_imports_nothing_heavy(command: str | None) -> None:
    assert heavy_imports(*([] if command is None else [command]), "--help") == []


def test_that_check_sees_what_a_command_imports(tmp_path: Path) -> None:
    assert "pandas" in heavy_imports("check-split", str(tmp_path / "nothing.csv"))


def test_the_installed_command_is_the_one_tested_here() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"carinspect": f"{run.__module__}:{run.__name__}"}


def test_help_names_every_command() -> None:
    done = carinspect("--help")
    assert done.returncode == 0
    assert "check-split" in done.stdout
    assert "describe" in done.stdout
    assert "compare" in done.stdout


# ---- check-split


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A finished table of 20 photos, without a leak."""
    return make_dataset(tmp_path, photos=20)


def plant(path: Path, column: str, value: str) -> None:
    """Give the first train and the first test photo the same `value`."""
    table = read_table(path, columns=dataset_columns(QUESTIONS), questions=QUESTIONS)
    rows = [table.index[table["split"] == split][0] for split in ("train", "test")]
    table.loc[rows, column] = value
    write_table(table, path)


def test_a_sound_table_passes(table: Path) -> None:
    done = carinspect("check-split", table)
    assert done.returncode == 0, done.stderr
    assert "no leak" in done.stdout
    assert done.stdout.count("\n") == 1


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("group", "one", "share the group 'one'"),
        ("family", "IMG_1", "share the family 'IMG_1'"),
        ("sha256", "ab" * 32, "share the bytes"),
        ("phash", "a5a5a5a5a5a5a5a5", "share the perceptual hash"),
    ],
)
def test_a_planted_leak_of_each_kind_fails(table: Path, column: str, value: str, words: str) -> None:
    plant(table, column, value)
    done = carinspect("check-split", table)
    assert done.returncode == 1
    leaks = done.stdout.splitlines()[:-1]
    assert len(leaks) == 1
    assert words in leaks[0]
    assert "train and test" in leaks[0]
    assert "; 1 leak (compared: " in done.stdout


def blank_out(path: Path, *columns: str) -> None:
    pd.read_csv(path, dtype=str, keep_default_na=False).assign(**dict.fromkeys(columns, "")).to_csv(path, index=False)


def test_what_is_blank_is_not_said_to_be_compared(table: Path) -> None:
    assert "(compared: group, " in carinspect("check-split", table).stdout
    blank_out(table, "family", "phash")
    done = carinspect("check-split", table)
    assert (
        "no leak of the kinds looked for (compared: group, bytes; not compared: family, which is blank; perceptual hash, which is blank; "
        in done.stdout
    )
    assert "the photos themselves, for want of --root)" in done.stdout
    blank_out(table, "group", "sha256")
    done = carinspect("check-split", table)
    assert (done.returncode, done.stdout) == (1, "")
    assert "nothing was compared, for group, family, sha256, phash are blank in every row." in done.stderr


def test_placeholders_for_a_vehicle_are_no_leak_and_one_id_with_blanks_is_one(table: Path) -> None:
    plant(table, "family", "Unknown")
    assert carinspect("check-split", table).returncode == 0
    rows = pd.read_csv(table, dtype=str, keep_default_na=False)
    first = {split: rows.index[rows["split"] == split][0] for split in ("train", "test")}
    rows.loc[first["train"], "family"], rows.loc[first["test"], "family"] = "car 1", " car 1"
    rows.to_csv(table, index=False)
    assert "share the family 'car 1'" in carinspect("check-split", table).stdout


def test_an_empty_table_passes_nothing(table: Path) -> None:
    table.write_text(table.read_text().splitlines()[0] + "\n")
    done = carinspect("check-split", table)
    assert done.returncode == 1
    assert "it has columns and no rows, so that there is nothing to check" in done.stderr


def write_params(folder: Path, *, root: Path) -> None:
    """The project's own params.yaml in `folder`, for other data."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["data"] = {"root": str(root), "sources": str(root / "sources.yaml")}
    params["describe"] |= {"chance_draws": 1}
    (folder / "params.yaml").write_text(yaml.safe_dump(params))


def test_a_turned_copy_that_the_table_does_not_know_is_found_by_its_photo(table: Path, tmp_path: Path) -> None:
    known = read_table(table, columns=dataset_columns(QUESTIONS), questions=QUESTIONS)
    train, test = (known["image_path"][known["split"] == split].iloc[0] for split in ("train", "test"))
    random = np.random.default_rng(5)
    coarse = Image.fromarray(random.integers(0, 255, (12, 16, 3)).astype(np.uint8)).resize((320, 240), Image.Resampling.BICUBIC)
    coarse.save(table.parent / "root" / train, quality=95)
    ImageOps.mirror(coarse).save(table.parent / "root" / test, quality=80)
    write_params(tmp_path, root=table.parent / "root")
    assert carinspect("check-split", table, folder=tmp_path).returncode == 0
    done = carinspect("check-split", table, "--root", table.parent / "root", folder=tmp_path)
    assert done.returncode == 1, done.stderr
    assert f"2 photos show the same picture but lie in train and test: {train}, {test}" in done.stdout


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("split", "tset", "split has the value 'tset' for '0000.jpg'. Did you mean 'test'?"),
        ("phash", "zz", "phash has the value 'zz'"),
    ],
)
def test_a_broken_table_is_one_line(table: Path, column: str, value: str, message: str) -> None:
    rows = pd.read_csv(table, dtype=str, keep_default_na=False)
    rows.loc[0, column] = value
    rows.to_csv(table, index=False)
    done = carinspect("check-split", table)
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_missing_table_is_one_line(tmp_path: Path) -> None:
    done = carinspect("check-split", tmp_path / "none.csv")
    assert done.returncode == 1
    assert done.stderr == f"carinspect: {tmp_path / 'none.csv'}: no such table. Run the stage that writes it: dvc repro.\n"


# ---- describe


@pytest.fixture
def workspace(table: Path, tmp_path: Path) -> Path:
    """A folder with params.yaml for the photos of `table`, which lie in two class folders."""
    root = table.parent / "root"
    (root / "sources.yaml").write_text(
        "sources:\n  - {name: wash, format: folders, categories: {clean: {clean: 1}, dirty: {clean: 0}}}\n", encoding="utf-8"
    )
    for photo in sorted(root.glob("*.jpg")):
        label = "clean" if int(photo.stem) % 2 else "dirty"
        (root / "wash" / label).mkdir(parents=True, exist_ok=True)
        shutil.copy(photo, root / "wash" / label / photo.name)
    write_params(tmp_path, root=root)
    return tmp_path


def test_a_finished_table_gets_a_page(workspace: Path, table: Path) -> None:
    done = carinspect("describe", table, folder=workspace)
    assert done.returncode == 0, done.stderr
    assert "20 photos" in done.stdout
    page = (workspace / "data_report.html").read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>")
    assert "No leak" in page


def test_a_root_without_a_split_gets_a_page(workspace: Path, table: Path) -> None:
    done = carinspect("describe", table.parent / "root", "--out", "pages/root.html", folder=workspace)
    assert done.returncode == 0, done.stderr
    assert "20 photos" in done.stdout
    assert "No split yet" in (workspace / "pages" / "root.html").read_text(encoding="utf-8")


def test_a_root_without_sources_is_one_line(tmp_path: Path) -> None:
    write_params(tmp_path, root=tmp_path)
    done = carinspect("describe", tmp_path, folder=tmp_path)
    assert done.returncode == 1
    assert "sources.yaml" in done.stderr
    assert done.stderr.count("\n") == 1


# ---- Ctrl-C


@pytest.mark.parametrize(
    ("work", "words"),
    [
        ("check_split.report_leaks", ["check-split", "table.csv"]),
        ("describe.describe_root", ["describe", "."]),
        ("doctor.report_health", ["doctor"]),
        ("score.score_photos", ["score", ".", "--out", "scores.csv"]),
        ("drift.report_drift", ["drift", "log.jsonl"]),
        ("compare.compare_revisions", ["compare", "a", "b"]),
        ("promote.promote", ["promote", "HEAD"]),
        ("fetch.fetch_model", ["fetch", "car-inspection"]),
        ("store.verify", ["store", "verify"]),
        ("store.run_with_states", ["store", "keep-states", "--", "true"]),
        ("audit.draw_sheet", ["audit", "draw", "scores.csv", "--word", "clean", "--seed", "1"]),
    ],
)
def test_ctrl_c_ends_every_long_command_with_one_line(work: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(f"carinspect.cli.{work}", interrupted)
    assert carinspect(*words) == Done(130, "", "carinspect: ended by Ctrl-C\n")


def test_ctrl_c_ends_the_processes_that_read_photos_without_a_word(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys, time; from pathlib import Path\n"
        "from carinspect.core.programs import run_program; from carinspect.images import reading\n"
        "def wait(task):\n    Path(sys.argv[1], str(os.getpid())).touch(); time.sleep(60)\n"
        # Whoever runs the tests in the background may have made them deaf to it.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "run_program(lambda: list(reading._map(wait, [(Path(), '')] * 100, processes=2)), 'carinspect')\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    (tmp_path / "begun").mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path / "begun"], env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    while len(list((tmp_path / "begun").iterdir())) < 2:
        assert process.poll() is None
        time.sleep(0.05)
    # As a terminal does it: to all processes of the command.
    os.killpg(process.pid, signal.SIGINT)
    said = process.communicate(timeout=50)[1]
    assert (process.returncode, said.splitlines()[-1]) == (130, "carinspect: ended by Ctrl-C")
    assert "Traceback" not in said

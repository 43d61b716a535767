"""Batch scoring and the decision: every photo once, in order, whatever kills the command; never another device, model or rule than said."""

import contextlib
import csv
import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image

from carinspect.core.errors import UserError
from carinspect.inference import journal, predictor, session
from carinspect.inference.bundle import open_bundle
from carinspect.inference.photo_list import list_column, list_photos, name_of_text
from carinspect.inference.predictor import BinaryAnswer, ClassesAnswer, ScoreAnswer, make_predictor
from carinspect.inference.rows import columns_of
from carinspect.inference.rules import DecisionRule, read_thresholds, rule_in_use
from carinspect.inference.shards import open_folder
from conftest import PROMISE, QUESTIONS, make_rule, make_thresholds
from test_cli import carinspect

ROOT = Path(__file__).parent.parent
CLEAN = QUESTIONS[0]
RULE = DecisionRule(CLEAN, "photo", T_label=0.7, T_low=0.3, T_high=0.7, promises={"good": PROMISE})


def draw_photos(folder: Path, count: int) -> Path:
    """Photos in two folders, alternately; number 3 is no photo, and a text lies among them."""
    for number in range(count):
        path = folder / ("front", "rear")[number % 2] / f"{number:04}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 255, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((64, 48)).save(path)
    (folder / "rear" / "0003.jpg").write_bytes(b"not a photo")
    (folder / "notes.txt").write_text("washed on Monday")
    return folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return draw_photos(tmp_path / "photos", 20)


def score(photos: Path, model: Path, out: Path, *words: str | Path) -> None:
    """Score with one unreadable photo among `photos`."""
    done = carinspect("score", photos, "--model", model, "--out", out, "--batch", 3, "--device", "cpu", *words)
    assert done.returncode == 1, done.stderr


# ---- the rule


def test_the_rule_says_clean_dirty_or_unsure_and_its_edges_belong_to_clean_and_unsure() -> None:
    decided = [RULE.say(RULE.decide(p)) for p in (0.0, 0.29, 0.3, 0.69, 0.7, 1.0)]
    assert decided == ["dirty", "dirty", "unsure", "unsure", "clean", "clean"]
    assert [RULE.label(p) for p in (0.69, 0.7)] == ["dirty", "clean"]


def test_without_a_proved_threshold_nothing_is_called_clean() -> None:
    rule = rule_in_use(CLEAN, make_rule(CLEAN, T_high=None, T_low=0.3))
    assert (rule.decide(1.0), rule.label(1.0), rule.decide(0.1)) == (None, None, "bad")
    never = rule_in_use(CLEAN, make_rule(CLEAN, T_high=None, T_low=None))
    assert never.say(never.decide(0.0)) == "unsure"


def test_an_override_ends_the_promise_and_its_own_numbers_do_not() -> None:
    assert RULE.override(T_label=0.7, T_low=0.3) == RULE
    other = RULE.override(T_label=0.6)
    assert (other.T_label, other.T_high, other.promises, other.overridden) == (0.6, 0.6, {}, True)
    assert RULE.override(T_high=0.9).label(0.8) == "clean"
    assert RULE.override(T_high=0.9).decide(0.8) is None


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"T_label": 1.2}, "T_label has the value 1.2"),
        ({"T_label": float("nan")}, "T_label has the value nan"),
        ({"T_low": 0.8}, "T_low 0.8, T_label 0.7, T_high 0.7: it must hold"),
        ({"T_high": 0.6}, "it must hold that T_low <= T_label <= T_high"),
    ],
)
def test_a_senseless_override_is_refused(asked: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        RULE.override(**asked)


def put(content: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """`content` with the value at the dotted `path` replaced."""
    place: Any = content
    *parents, last = path.split(".")
    for key in parents:
        place = place[int(key) if isinstance(place, list) else key]
    place[last] = value
    return content


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("format", 2, "have the format 2, and this code reads 5"),
        ("rules.clean.photo.good.threshold", "0.5", "rules.clean.photo.good.threshold has the value '0.5'"),
        ("rules.clean.photo.bad.threshold", 0.8, "T_low 0.8, T_label 0.5, T_high 0.5: it must hold"),
        ("rules.clean.photo.good.threshold", 1.5, "T_low 0.2|T_label has the value 1.5"),
        ("rules.clean.photo.good.threshold", None, "a promise of 'clean' without a threshold"),
        ("rules.clean.cars.0.bad.promise", PROMISE.model_dump(), "a promise of 'dirty' without a threshold"),
        ("rules.clean.photo.strictness", 1, "rules.clean.photo.strictness: unknown key"),
        ("rules.glass", None, "rules.glass"),
        ("questions", [], "a rule for 'clean', which is none of its questions"),
    ],
)
def test_a_missing_or_mismatched_threshold_is_refused_with_the_fix(path: str, value: Any, message: str) -> None:
    sound = make_thresholds().model_dump(mode="json")
    assert read_thresholds(sound, file="threshold.json") == make_thresholds()
    with pytest.raises(UserError, match=message) as error:
        read_thresholds(put(sound, path, value), file="threshold.json")
    assert "Make it again: dvc repro --force select_threshold" in str(error.value)


@pytest.mark.parametrize("content", [None, {}, {"T_clean": 0.5}])
def test_thresholds_of_the_old_schema_or_none_at_all_are_refused(content: Any) -> None:
    with pytest.raises(UserError, match="have the format none, and this code reads 5. Make it again: dvc repro"):
        read_thresholds(content, file="threshold.json")


def test_an_answer_is_what_the_model_says(model_file: Path, photos: Path) -> None:
    ready = make_predictor(open_bundle(model_file))
    pixels = np.stack([ready.load(photos / "front" / f"{number:04}.jpg") for number in (0, 2)])
    outputs = ready.bundle.predict(pixels)
    for place, answer in enumerate(ready.answer(pixels)):
        clean, damaged, damage, weather = (answer[name] for name in ("clean", "damaged", "damage", "weather"))
        assert isinstance(clean, BinaryAnswer)
        assert isinstance(damaged, BinaryAnswer)
        assert isinstance(damage, ScoreAnswer)
        assert isinstance(weather, ClassesAnswer)
        assert (clean.p, clean.p_good, clean.threshold) == (outputs["p_clean"][place], outputs["p_clean"][place], 0.5)
        assert clean.decision == ready.rules["clean"].say(ready.rules["clean"].decide(clean.p_good))
        # Undamaged is the good class, and has the label 0.
        assert (damaged.p, damaged.p_good) == (outputs["p_damaged"][place], 1 - damaged.p)
        assert list(weather.p) == ["clear", "rain", "fog", "snow"]
        assert weather.value == ["clear", "rain", "fog", "snow"][outputs["p_weather"][place].argmax()]
        assert damage.value == outputs["damage"][place]


# ---- which photos


def test_folders_globs_and_files_give_each_photo_once_in_one_order(photos: Path) -> None:
    front, rear = (sorted(str(path) for path in (photos / folder).iterdir()) for folder in ("front", "rear"))
    assert list(list_photos([str(photos)]).names) == front + rear
    assert list_photos([str(photos)]).skipped == 1
    assert list(list_photos([rear[0], str(photos / "**" / "*.jpg"), str(photos)]).names) == [rear[0], *front, *rear[1:]]
    assert list_photos([str(photos / "*")]).skipped == 1
    assert list(list_photos([str(photos / "notes.txt")]).names) == [str(photos / "notes.txt")]


def test_a_photo_counts_once_although_several_links_lead_to_it(photos: Path) -> None:
    once = list_photos([str(photos)])
    (photos / "again").symlink_to(".")
    (photos / "front" / "latest.jpg").symlink_to("0000.jpg")
    assert list_photos([str(photos)]).names == once.names
    assert len(list_photos([str(photos / "**" / "*.jpg")]).names) == 20
    # A table's rows are its own affair.
    pd.DataFrame({"photo": ["front/0000.jpg", "again/front/0000.jpg"]}).to_csv(photos / "fleet.csv", index=False)
    assert len(list_column(photos / "fleet.csv", "photo", root=None).names) == 2


def test_what_is_no_file_is_a_row_with_its_reason_and_nobody_waits_for_it(photos: Path, model_file: Path, tmp_path: Path) -> None:
    os.mkfifo(photos / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as listener, contextlib.chdir(photos):
        listener.bind("socket.jpg")
    (photos / "device.jpg").symlink_to("/dev/zero")
    (photos / "circle.jpg").symlink_to("circle.jpg")
    (photos / "nothing.jpg").symlink_to("missing.jpg")
    command = [sys.executable, "-m", "carinspect.cli.main", "score", photos, "--model", model_file, "--out", tmp_path / "scores.csv"]
    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": str(ROOT / "src")}, capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, "6 unreadable" in done.stdout) == (1, True), done.stderr
    table = pd.read_csv(tmp_path / "scores.csv")
    why = {Path(row.image_path).stem: row.error for row in table[table["error"].notna()].itertuples()}
    assert all("a named pipe, a socket or a device instead of a file" in why[name] for name in ("pipe", "socket", "device"))
    assert "symbolic links" in why["circle"]
    assert why["nothing"] == "no such file"


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_tables_column_is_relative_to_the_table_or_to_root(photos: Path, suffix: str) -> None:
    names = ["rear/0001.jpg", "front/0000.jpg", "rear/0001.jpg"]
    for folder in (photos, photos.parent):
        rows, table = pd.DataFrame({"photo": names, "odometer": [1, 2, 3]}), folder / f"fleet{suffix}"
        rows.to_csv(table, index=False) if suffix == ".csv" else rows.to_parquet(table)
        listing = list_column(table, "photo", root=None if folder == photos else photos)
        assert listing.names == ("rear/0001.jpg", "front/0000.jpg")
        assert all(listing.path(place).is_file() for place in range(2))


def test_what_names_no_photo_is_a_mistake(photos: Path, model_file: Path) -> None:
    (photos / "blank.csv").write_text('image_path\nfront/0000.jpg\n""\n')
    out = photos / "scores.csv"
    for words, message in (
        ([photos / "nothing"], "no such file or folder, and no glob that matches one"),
        ([photos / "*.txt"], "no photo in"),
        ([photos / "blank.csv"], "Say which of its columns names the photos"),
        ([photos / "blank.csv", "--column", "image_pth"], "no column 'image_pth'. Did you mean 'image_path'?"),
        ([photos / "blank.csv", "--column", "image_path"], "the value '' in row 2"),
        ([photos, "--root", photos], "only --column takes names relative"),
        ([photos, photos, "--column", "image_path"], "wants one table, and 2 were given"),
    ):
        done = carinspect("score", *words, "--model", model_file, "--out", out)
        assert done.returncode == 2
        assert message in done.stderr
        assert done.stderr.count("\n") == 1
    assert not out.exists()


# ---- the table of scores


def test_every_photo_has_a_row_and_an_unreadable_one_its_reason(photos: Path, model_file: Path, tmp_path: Path) -> None:
    score(photos, model_file, tmp_path / "scores.csv")
    table = pd.read_csv(tmp_path / "scores.csv")
    ready = make_predictor(open_bundle(model_file))
    assert list(table.columns) == list(columns_of(ready))
    assert list(table["image_path"]) == list(list_photos([str(photos)]).names)
    broken = table[table["error"].notna()]
    assert list(broken["image_path"]) == [str(photos / "rear" / "0003.jpg")]
    assert "not a photo in a known format" in broken["error"].iloc[0]
    assert broken[["p_clean", "decision", "damaged_decision", "weather"]].isna().all(axis=None)
    sound = table[table["error"].isna()]
    alone = [ready.answer(ready.load(Path(path))[None])[0] for path in sound["image_path"]]
    assert np.allclose(sound["p_clean"], [answer["clean"].p for answer in alone], atol=2e-6)
    assert list(sound["decision"]) == list(sound["clean_decision"]) == [answer["clean"].decision for answer in alone]
    assert list(sound["damaged_decision"]) == [answer["damaged"].decision for answer in alone]


def test_the_formats_hold_the_same_rows(photos: Path, model_file: Path, tmp_path: Path) -> None:
    for suffix in ("csv", "jsonl", "parquet"):
        score(photos, model_file, tmp_path / f"scores.{suffix}")
    table = pd.read_csv(tmp_path / "scores.csv")
    lines = pd.DataFrame([json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines()])
    parquet = pq.read_table(tmp_path / "scores.parquet").to_pandas()
    columns = columns_of(make_predictor(open_bundle(model_file)))
    for other in (lines, parquet):
        assert list(other.columns) == list(columns)
        for column in columns:
            assert other[column].isna().equals(table[column].isna()), column
            assert list(other[column].dropna()) == list(table[column].dropna()), column


def test_workers_and_threads_change_no_byte(photos: Path, model_file: Path, tmp_path: Path) -> None:
    for workers, threads in ((1, 1), (4, 1), (2, 2)):
        score(photos, model_file, tmp_path / f"{workers}{threads}.csv", "--workers", workers, "--threads", threads)
    assert (tmp_path / "11.csv").read_bytes() == (tmp_path / "41.csv").read_bytes() == (tmp_path / "22.csv").read_bytes()


NAMES = (
    b"new\nline", b"carriage\rreturn", b"both\r\n", b'quote"s', b"comma, semicolon;", b" blanks ", b"tab\t", b"back\\slash", b"\xff\xfe",
    b"caf\xe9", "caf\u00e9".encode(), "cafe\u0301".encode(), b"caf\\xe9", b"\\x5c", b"\\\xe9", b"\\x\xe9", b"=1+1", b"'", b"\x01\x7f",
    "\u2028".encode(),
)  # fmt: skip
"""Two of them are one name in Unicode's two forms, and some look like what stands for a byte that is no text."""


def test_any_file_name_survives_every_format_and_all_scored_is_status_0(model_file: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    files = [os.fsdecode(bytes(tmp_path / "photos" / "") + b"/" + name + b".png") for name in NAMES]
    for place, file in enumerate(files):
        Image.new("RGB", (64, 48), (place, 0, 0)).save(file)
    read = {
        "csv": lambda path: pd.read_csv(path)["image_path"].tolist(),
        "jsonl": lambda path: [json.loads(line)["image_path"] for line in path.read_bytes().splitlines()],
        "parquet": lambda path: pq.read_table(path)["image_path"].to_pylist(),
    }
    for suffix, texts_of in read.items():
        out = tmp_path / f"scores.{suffix}"
        done = carinspect("score", tmp_path / "photos", "--model", model_file, "--out", out)
        assert done.returncode == 0, done.stderr
        assert sorted(map(name_of_text, texts_of(out))) == sorted(files)
        assert out.read_bytes().isascii() or suffix != "jsonl"
    with (tmp_path / "scores.csv").open(encoding="utf-8", newline="") as file:
        assert sorted(name_of_text(row["image_path"]) for row in csv.DictReader(file)) == sorted(files)
    # A table of scores names the photos of the next run.
    again = carinspect(
        "score", tmp_path / "scores.csv", "--column", "image_path", "--root", "/", "--model", model_file, "--out", tmp_path / "again.csv"
    )
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "again.csv").read_bytes() == (tmp_path / "scores.csv").read_bytes()


def test_a_row_cut_in_two_by_a_carriage_return_would_be_seen(tmp_path: Path) -> None:
    with (tmp_path / "plain.csv").open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([["image_path", "label"], ["a\rb", "clean"]])
    assert len(pd.read_csv(tmp_path / "plain.csv")) == 2


def test_no_more_photos_are_in_memory_than_the_workers_hold(photos: Path, model_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from carinspect.inference.batching import batch_count, score_batches

    begun: list[Any] = []
    real = predictor.load_with_size
    monkeypatch.setattr(predictor, "load_with_size", lambda source, side: begun.append(source) or real(source, side))
    listing = list_photos([str(photos)])
    scored = score_batches(make_predictor(open_bundle(model_file)), listing, range(batch_count(listing, batch=2)), batch=2, workers=1)
    next(scored)
    time.sleep(0.2)
    assert len(begun) <= 4
    assert len([row for rows in scored for row in rows]) == 18
    assert len(begun) == 20


def peak_mb(photos: Path, model: Path, out: Path) -> float:
    """The most memory that the command, and any worker of its, held while it scored `photos`."""
    code = (
        "import resource, sys; from carinspect.cli.main import run\n"
        "try:\n    run()\n"
        "finally:\n    print(sum(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 1024)\n"
    )
    words = ["score", photos, "--model", model, "--out", out, "--device", "cpu", "--workers", 1]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)], env=environment, capture_output=True, text=True, check=True
    )  # fmt: skip
    return float(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_ten_times_the_photos_take_no_more_memory(model_file: Path, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (256, 256, 3), dtype=np.uint8)
    for count in (250, 2500):
        (tmp_path / str(count)).mkdir()
        for number in range(count):
            Image.fromarray(np.roll(noise, number, axis=0)).save(tmp_path / str(count) / f"{number:04}.jpg", quality=90)
    few, many = (peak_mb(tmp_path / str(count), model_file, tmp_path / f"{count}.csv") for count in (250, 2500))
    # Kept until the end, their files alone would be over 130 MB more.
    assert many < few + 40


# ---- killed, and repeated


def whole_journal(photos: Path, model: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """What a run leaves behind that is killed after its last photo."""
    with monkeypatch.context() as patch:
        patch.setattr(journal.Journal, "finish", lambda self, also: None)
        score(photos, model, out)
    return journal.journal_path(out).read_bytes()


def resumed(photos: Path, model: Path, out: Path, left: bytes) -> bytes:
    out.unlink(missing_ok=True)
    journal.journal_path(out).write_bytes(left)
    score(photos, model, out)
    assert not journal.journal_path(out).exists()
    return out.read_bytes()


def test_cut_at_any_byte_the_same_command_ends_the_same(photos: Path, model_file: Path, tmp_path: Path, monkeypatch: Any) -> None:
    out = tmp_path / "scores.csv"
    left = whole_journal(photos, model_file, out, monkeypatch)
    score(photos, model_file, tmp_path / "uninterrupted.csv")
    expected = (tmp_path / "uninterrupted.csv").read_bytes()
    ends = [place + 1 for place, byte in enumerate(left) if byte == ord("\n")]
    for cut in {0, 10, *ends, *(end - 1 for end in ends), *(end + 5 for end in ends[:-1])}:
        assert resumed(photos, model_file, out, left[:cut]) == expected, cut
    # A power cut can leave zeros where the last lines should be.
    assert resumed(photos, model_file, out, left[: ends[3]] + bytes(100)) == expected


def test_that_check_sees_a_half_written_batch_that_counts(photos: Path, model_file: Path, tmp_path: Path, monkeypatch: Any) -> None:
    out = tmp_path / "scores.csv"
    left = whole_journal(photos, model_file, out, monkeypatch)
    score(photos, model_file, tmp_path / "uninterrupted.csv")
    whole: Callable[[bytes], Any] = journal._parse
    monkeypatch.setattr(journal, "_parse", lambda line: whole(line) if line.endswith(b"\n") or not line else [])
    with pytest.raises(json.JSONDecodeError):
        resumed(photos, model_file, out, left[:-20])


def test_what_is_scored_is_not_scored_again(photos: Path, model_file: Path, tmp_path: Path, monkeypatch: Any) -> None:
    left = whole_journal(photos, model_file, tmp_path / "scores.csv", monkeypatch)
    read: list[Path] = []
    real = predictor.load_with_size
    monkeypatch.setattr(predictor, "load_with_size", lambda source, side: read.append(source) or real(source, side))
    resumed(photos, model_file, tmp_path / "scores.csv", b"".join(left.splitlines(keepends=True)[:5]))
    assert [str(path) for path in sorted(read)] == sorted(list_photos([str(photos)]).names[12:])


@pytest.mark.chaos
@pytest.mark.slow
def test_kill_9_at_several_moments_then_the_same_command(model_file: Path, tmp_path: Path) -> None:
    folder = draw_photos(tmp_path / "photos", 300)
    score(folder, model_file, tmp_path / "uninterrupted.csv")
    out = tmp_path / "scores.csv"
    words = ["score", folder, "--model", model_file, "--out", out, "--batch", 3, "--device", "cpu", "--workers", 1]
    command = [sys.executable, "-m", "carinspect.cli.main", *map(str, words)]
    kills = 0
    for lines in (1, 20, 60, 90):
        process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT / "src")}, stderr=subprocess.DEVNULL)
        while process.poll() is None and (not (left := journal.journal_path(out)).exists() or left.read_bytes().count(b"\n") <= lines):
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
        assert not out.exists() or process.returncode == 1
    assert kills >= 2
    score(folder, model_file, out)
    assert out.read_bytes() == (tmp_path / "uninterrupted.csv").read_bytes()


def test_another_model_other_photos_or_other_options_refuse_to_go_on(
    photos: Path, model_file: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    out = tmp_path / "scores.csv"
    left = whole_journal(photos, model_file, out, monkeypatch)
    for words, key in ((["--batch", 4], "batch 3, now 4"), ([model_file], "photos 20, now 21")):
        done = carinspect("score", photos, "--model", model_file, "--out", out, *(["--batch", 3] if "--batch" not in words else []), *words)
        assert done.returncode == 2
        assert key in done.stderr
        assert "delete this file to start again" in done.stderr
    journal.journal_path(out).write_bytes(left.replace(b'"model_sha256":"', b'"model_sha256":"0'))
    done = carinspect("score", photos, "--model", model_file, "--out", out, "--batch", 3)
    assert done.returncode == 2
    assert "model sha256" in done.stderr
    assert not out.exists()


def test_two_commands_never_write_one_table(photos: Path, model_file: Path, tmp_path: Path) -> None:
    with journal.Journal(tmp_path / "scores.csv", {}, {"image_path": str}):
        done = carinspect("score", photos, "--model", model_file, "--out", tmp_path / "scores.csv")
    assert done.returncode == 2
    assert "another process is writing it" in done.stderr


def test_a_foreign_file_in_the_journals_place_is_left_alone(photos: Path, model_file: Path, tmp_path: Path) -> None:
    place = journal.journal_path(tmp_path / "scores.csv")
    place.write_text("my notes\n")
    done = carinspect("score", photos, "--model", model_file, "--out", tmp_path / "scores.csv")
    assert done.returncode == 2
    assert place.read_text() == "my notes\n"


# ---- faults of the machine


LIMITED = """
import resource, sys
from carinspect.cli import main, score
from carinspect.inference import journal
limit, value, module, function = sys.argv.pop(1), int(sys.argv.pop(1)), *sys.argv.pop(1).split(".")
holder = {"score": score, "journal": journal.Journal}[module]
real = getattr(holder, function)
def limited(*arguments, **options):
    resource.setrlimit(getattr(resource, limit), (value, value))
    return real(*arguments, **options)
setattr(holder, function, limited)
main.run()
"""
"""The command with a limit of the machine that holds from the call of one function on."""


def score_limited(limit: str, value: int, at: str, photos: Path, model: Path, out: Path, *, runner: str = LIMITED) -> Any:
    words = ["score", photos, "--model", model, "--out", out, "--batch", 3, "--device", "cpu", "--workers", 2]
    return subprocess.run(
        [sys.executable, "-c", runner, limit, str(value), at, *map(str, words)],
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def said_in_one_line(done: Any) -> bool:
    return done.returncode == 2 and done.stderr.splitlines()[-1].startswith("carinspect: ") and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("limit", "value", "at", "suffix", "some"),
    [
        ("RLIMIT_FSIZE", 2000, "journal.append", "csv", True),
        ("RLIMIT_FSIZE", 100, "journal.finish", "csv", True),
        ("RLIMIT_FSIZE", 100, "journal.finish", "jsonl", True),
        ("RLIMIT_FSIZE", 100, "journal.finish", "parquet", True),
        ("RLIMIT_NOFILE", 4, "journal.append", "csv", True),
        ("RLIMIT_NOFILE", 4, "score.score_batches", "csv", False),
        ("RLIMIT_NOFILE", 4, "journal.finish", "parquet", True),
    ],
)
def test_a_limit_of_the_machine_is_one_line_and_no_score_is_lost(
    photos: Path, model_file: Path, tmp_path: Path, limit: str, value: int, at: str, suffix: str, some: bool
) -> None:
    out = tmp_path / "limited" / f"scores.{suffix}"
    done = score_limited(limit, value, at, photos, model_file, out)
    assert said_in_one_line(done), done.stderr
    assert {"RLIMIT_FSIZE": "File too large", "RLIMIT_NOFILE": "Too many open files"}[limit] in done.stderr
    # No row says of a sound photo that it cannot be read, and what was scored is there.
    left = journal.journal_path(out).read_bytes()
    rows = [row for line in left.splitlines(keepends=True)[1:] for row in journal._parse(line) or []]
    assert (len(rows) > 0) is some
    assert [row[0] for row in rows if row[-1] is not None] == [str(photos / "rear" / "0003.jpg")] * (len(rows) > 11)
    assert [path.name for path in out.parent.iterdir()] == [journal.journal_path(out).name]
    score(photos, model_file, out)
    score(photos, model_file, tmp_path / f"uninterrupted.{suffix}")
    assert out.read_bytes() == (tmp_path / f"uninterrupted.{suffix}").read_bytes()


@pytest.mark.parametrize("fault", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_a_disk_that_fills_up_is_one_line(photos: Path, model_file: Path, tmp_path: Path, monkeypatch: Any, fault: int) -> None:
    write: Callable[..., None] = journal.Journal._write

    def write_until_full(self: journal.Journal, content: Any) -> None:
        if self._file.tell() > 3000:
            raise OSError(fault, os.strerror(fault))
        write(self, content)

    with monkeypatch.context() as patch:
        patch.setattr(journal.Journal, "_write", write_until_full)
        done = carinspect("score", photos, "--model", model_file, "--out", tmp_path / "scores.csv", "--batch", 3)
    assert said_in_one_line(done), done.stderr
    assert os.strerror(fault) in done.stderr
    assert "going on after" in carinspect("score", photos, "--model", model_file, "--out", tmp_path / "scores.csv", "--batch", 3).stderr


@pytest.mark.parametrize("out", ["file/scores.csv", "/proc/scores.csv", "/dev/full/scores.csv"])
def test_a_place_that_takes_no_table_is_one_line(photos: Path, model_file: Path, tmp_path: Path, out: str) -> None:
    (tmp_path / "file").touch()
    done = carinspect("score", photos, "--model", model_file, "--out", tmp_path / out)
    assert said_in_one_line(done), done.stderr
    assert f"--out is '{tmp_path / out}'" in done.stderr


def test_a_model_replaced_half_way_changes_no_row_and_is_not_mixed_in(
    photos: Path, model_file: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    score(photos, model_file, tmp_path / "expected.csv")
    content, append = model_file.read_bytes(), journal.Journal.append

    def append_and_replace(self: journal.Journal, rows: list[Any]) -> None:
        append(self, rows)
        model_file.write_bytes(content[: len(content) // 2])

    with monkeypatch.context() as patch:
        patch.setattr(journal.Journal, "append", append_and_replace)
        score(photos, model_file, tmp_path / "scores.csv")
    assert (tmp_path / "scores.csv").read_bytes() == (tmp_path / "expected.csv").read_bytes()
    # Whoever continues with half a file is told, and the whole one continues.
    model_file.write_bytes(content)
    left = whole_journal(photos, model_file, tmp_path / "s.csv", monkeypatch)
    model_file.write_bytes(content[: len(content) // 2])
    done = carinspect("score", photos, "--model", model_file, "--out", tmp_path / "s.csv", "--batch", 3)
    assert said_in_one_line(done), done.stderr
    model_file.write_bytes(content)
    assert resumed(photos, model_file, tmp_path / "s.csv", left) == (tmp_path / "expected.csv").read_bytes()


# ---- the device


def test_cuda_that_is_not_there_is_an_error(photos: Path, model_file: Path, tmp_path: Path) -> None:
    if session.CUDA in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    done = carinspect("score", photos, "--model", model_file, "--out", tmp_path / "scores.csv", "--device", "cuda")
    assert done.returncode == 2
    assert "Install onnxruntime-gpu" in done.stderr
    assert "on the CPU (CPUExecutionProvider)" in carinspect("score", photos, "--model", model_file, "--out", tmp_path / "s.csv").stderr


def test_a_silent_fallback_from_the_gpu_is_found(model_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = onnxruntime.InferenceSession
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [session.CUDA, session.CPU])
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None)
    # As onnxruntime does when a library is missing: asked for CUDA, it gives a session on the CPU.
    monkeypatch.setattr(
        onnxruntime, "InferenceSession", lambda content, options, providers: real(content, options, providers=[session.CPU])
    )
    with pytest.raises(UserError, match="fell back to the CPU"):
        open_bundle(model_file, device="cuda")
    assert open_bundle(model_file, device="auto").provider == session.CPU


# ---- on a cluster


@pytest.mark.slow
def test_a_cluster_gives_the_answers_of_one_machine(model_file: Path, tmp_path: Path, cluster: str) -> None:
    folder = draw_photos(tmp_path / "photos", 100)
    score(folder, model_file, tmp_path / "local.parquet")
    expected = pq.read_table(tmp_path / "local.parquet")

    def score_on_cluster(*, shard_photos: int, out: str) -> subprocess.CompletedProcess[str]:
        code = f"import carinspect.cli.score as s, carinspect.cli.main as m; s._SHARD_PHOTOS = {shard_photos}; m.run()"
        words = ["score", folder, "--model", model_file, "--out", tmp_path / out, "--batch", 3, "--engine", "ray", "--ray-address", cluster]
        return subprocess.run([sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, check=False, timeout=300)

    done = score_on_cluster(shard_photos=30, out="scores")
    assert (done.returncode, done.stdout.count("1 unreadable")) == (1, 1), done.stderr
    assert "on 2 Ray actors" in done.stderr
    shards = sorted((tmp_path / "scores").glob("*.parquet"))
    assert len(shards) == 4
    assert pq.read_table(tmp_path / "scores").equals(expected)

    # What a killed job left is kept, and what is missing is made again.
    shards[1].unlink()
    before = {path: path.stat().st_mtime_ns for path in shards if path.exists()}
    assert score_on_cluster(shard_photos=30, out="scores").returncode == 1
    assert pq.read_table(tmp_path / "scores").equals(expected)
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.slow
def test_a_cluster_marks_the_places_of_one_machine(marking_content: bytes, tmp_path: Path, cluster: str) -> None:
    folder, model = draw_photos(tmp_path / "photos", 20), tmp_path / "marking.onnx"
    model.write_bytes(marking_content)
    score(folder, model, tmp_path / "local.csv", "--marks", tmp_path / "local.json")
    expected = (tmp_path / "local.json").read_bytes()
    assert len(json.loads(expected)["annotations"]) > 0
    words = ["score", folder, "--model", model, "--out", tmp_path / "scores", "--batch", 3, "--engine", "ray", "--ray-address", cluster]
    command = [sys.executable, "-m", "carinspect.cli.main", *map(str, words), "--marks", str(tmp_path / "cluster.json")]
    # The second time as after a kill behind the last shard: the file is made of them.
    for _ in range(2):
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 1, done.stderr
        assert (tmp_path / "cluster.json").read_bytes() == expected
        (tmp_path / "cluster.json").unlink()


def test_a_folder_that_holds_other_things_is_no_place_for_shards(photos: Path) -> None:
    with pytest.raises(UserError, match="a folder that holds other things"):
        open_folder(photos, {"shard": 3})
    open_folder(photos / "scores", {"shard": 3})
    open_folder(photos / "scores", {"shard": 3})
    with pytest.raises(UserError, match="started with other options: shard 3, now 4"):
        open_folder(photos / "scores", {"shard": 4})
    with pytest.raises(UserError, match="a file. With --engine ray"):
        open_folder(photos / "notes.txt", {"shard": 3})

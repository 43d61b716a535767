"""Reading photos through a memory: nothing is decoded twice, and nothing wrong is believed."""

import io
import os
import subprocess
import sys
import threading
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from carinspect.core.errors import UserError
from carinspect.core.files import sha256_of
from carinspect.describe.oddities import measure_photos
from carinspect.images import properties, reading
from carinspect.images.cluster import VARIABLE
from carinspect.images.decode import PhotoError
from carinspect.images.memory import Memory
from carinspect.images.properties import read_properties
from carinspect.images.reading import Readings, read_photos
from carinspect.splits import fingerprints
from carinspect.splits.fingerprints import read_fingerprints

RECORD = np.dtype([("width", np.int64), ("bytes", np.uint8, (3,))])


def read_width(content: bytes) -> tuple[int, list[int]]:
    """A record that decoding a photo would give, and a trace of the call that other processes leave too."""
    with Path(os.environ["TRACE"]).open("a") as trace:
        trace.write("read\n")
    if content == b"broken":
        raise PhotoError("cannot be decoded")
    return len(content), list(content[:3])


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "checkout"))
    monkeypatch.setenv("TRACE", str(tmp_path / "trace"))
    folder = tmp_path / "root"
    folder.mkdir()
    return folder


def write_files(root: Path, contents: list[bytes]) -> list[Path]:
    paths = [root / f"{place:03}.jpg" for place in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    return paths


def write_photo(path: Path, seed: int) -> Path:
    pixels = np.random.default_rng(seed).integers(0, 255, (40, 50, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def make_memory(**changes: object) -> Memory:
    return Memory(**({"kind": "widths", "record": RECORD, "code": [__file__], "libraries": ["numpy"]} | changes))  # type: ignore[arg-type]


def reads() -> int:
    trace = Path(os.environ["TRACE"])
    return len(trace.read_text().splitlines()) if trace.exists() else 0


def equal(first: Readings, second: Readings) -> bool:
    return first.digests == second.digests and first.problems == second.problems and first.records.tobytes() == second.records.tobytes()


# ---- what is read, and what is not


@pytest.mark.parametrize(("count", "processes"), [(5, None), (130, 1), (130, 2)])
def test_records_come_in_the_order_of_the_paths_and_the_second_time_nothing_is_read(root: Path, count: int, processes: int | None) -> None:
    contents = [b"abc" + b"x" * place for place in range(count)]
    paths = write_files(root, contents)
    first = read_photos(paths, make_memory(), read_width, processes=processes)
    assert first.digests == [sha256(content).hexdigest() for content in contents]
    assert first.records["width"].tolist() == [3 + place for place in range(count)]
    assert first.records["bytes"].tolist() == [list(b"abc")] * count
    assert reads() == count
    assert equal(read_photos(paths, make_memory(), read_width), first)
    assert read_photos(paths[::-1], make_memory(), read_width).records["width"].tolist() == first.records["width"].tolist()[::-1]
    assert reads() == count


def test_only_changed_and_added_photos_are_read_again(root: Path) -> None:
    paths = write_files(root, [b"one", b"two", b"three"])
    read_photos(paths, make_memory(), read_width)
    paths[1].write_bytes(b"other")
    found = read_photos([*paths, *write_files(root, [b"one", b"other", b"three", b"added"])[3:]], make_memory(), read_width)
    assert found.records["width"].tolist() == [3, 5, 5, 5]
    assert reads() == 3 + 2


def test_copies_are_read_once(root: Path) -> None:
    found = read_photos(write_files(root, [b"same", b"other", b"same"]), make_memory(), read_width)
    assert found.records["width"].tolist() == [4, 5, 4]
    assert reads() == 2


def test_a_problem_is_told_and_not_remembered(root: Path) -> None:
    paths = [*write_files(root, [b"broken", b"sound", b"broken"]), root / "gone.jpg"]
    for times in (1, 2):
        found = read_photos(paths, make_memory(), read_width)
        assert found.problems == ["cannot be decoded", "", "cannot be decoded", "no such file"]
        assert found.records["width"].tolist() == [0, 5, 0, 0]
        assert found.digests[-1] == ""
        assert reads() == 1 + times


def test_what_was_read_before_a_kill_is_kept(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = write_files(root, [b"x" * length for length in range(3, 13)])
    monkeypatch.setattr(reading, "_SEGMENT", 4)

    def killed_at_the_last(content: bytes) -> tuple:
        if len(content) == 12:
            raise KeyboardInterrupt
        return read_width(content)

    with pytest.raises(KeyboardInterrupt):
        read_photos(paths, make_memory(), killed_at_the_last)
    assert reads() == 9
    assert read_photos(paths, make_memory(), read_width).records["width"].tolist() == list(range(3, 13))
    assert reads() == 9 + 2


def test_a_file_that_changes_while_it_is_read_teaches_nothing_wrong(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = write_files(root, [b"before"])
    with monkeypatch.context() as patch:
        patch.setattr(reading, "sha256_of", lambda path: (sha256_of(path), path.write_bytes(b"after"))[0])
        assert read_photos(paths, make_memory(), read_width).problems == ["changed while it was read"]
    assert read_photos(paths, make_memory(), read_width).records["width"].tolist() == [5]


def test_a_memory_that_cannot_be_written_is_said_and_costs_only_time(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths, memory = write_files(root, [b"one"]), make_memory()
    memory.folder.parent.parent.mkdir(parents=True)
    memory.folder.parent.write_text("a file where the folder should be")
    for times in (1, 2):
        assert read_photos(paths, make_memory(), read_width).records["width"].tolist() == [3]
        assert "cannot be written" in capsys.readouterr().err
        assert reads() == times


# ---- what is not believed


def damage(path: Path, kind: str) -> None:
    content = path.read_bytes()
    broken = {"flipped": bytes([*content[:-1], content[-1] ^ 1]), "cut": content[: len(content) // 2], "empty": b""}
    path.write_bytes(broken[kind])


@pytest.mark.parametrize("kind", ["flipped", "cut", "empty"])
def test_a_damaged_segment_is_said_removed_and_read_anew(root: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    paths, memory = write_files(root, [b"one", b"three"]), make_memory()
    first = read_photos(paths, memory, read_width)
    (segment,) = memory.folder.iterdir()
    sound = segment.read_bytes()
    damage(segment, kind)
    assert equal(read_photos(paths, memory, read_width), first)
    assert f"{segment}: damaged" in capsys.readouterr().err
    assert reads() == 4
    assert segment.read_bytes() == sound
    assert equal(read_photos(paths, memory, read_width), first)
    assert "damaged" not in capsys.readouterr().err
    assert reads() == 4


def test_other_code_another_version_and_another_record_remember_nothing_and_make_room(root: Path, tmp_path: Path) -> None:
    paths, memory = write_files(root, [b"one"]), make_memory()
    read_photos(paths, memory, read_width)
    other_code = tmp_path / "code.py"
    other_code.write_text("changed = True\n")
    others = [make_memory(code=[str(other_code)]), make_memory(libraries=["pillow"]), make_memory(record=np.dtype([("width", np.int32)]))]
    assert len({memory.folder, *(other.folder for other in others)}) == 4
    assert all(not other.recall([sha256(b"one").hexdigest()])[1].any() for other in others)
    read_photos(paths, others[0], read_width)
    assert reads() == 2
    assert not memory.folder.exists()


def test_processes_at_once_do_each_other_no_harm(root: Path) -> None:
    paths = write_files(root, [b"%03d" % place + b"x" * place for place in range(40)])
    code = (
        "import sys; from pathlib import Path; import test_reading as t;"
        "found = t.read_photos([Path(name) for name in sys.argv[1:]], t.make_memory(), t.read_width);"
        "print(found.records['width'].tolist())"
    )
    environment = os.environ | {"PYTHONPATH": f"{Path(__file__).parents[1] / 'src'}{os.pathsep}{Path(__file__).parent}"}
    # Each begins elsewhere, so that their segments overlap.
    orders = [[*paths[start:], *paths[:start]] for start in (0, 13, 26)]
    commands = [[sys.executable, "-c", code, *map(str, order)] for order in orders]
    running = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for command in commands]
    answers = [(process.communicate()[0], process.returncode) for process in running]
    assert answers == [(f"{[path.stat().st_size for path in order]}\n", 0) for order in orders]
    before = reads()
    assert read_photos(paths, make_memory(), read_width).records["width"].tolist() == [3 + place for place in range(40)]
    assert reads() == before


# ---- the two that the stages use


def test_nothing_is_decoded_the_second_time_and_changed_bytes_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["a.png", "b.png", "c.png"]
    paths = [write_photo(root / name, seed) for seed, name in enumerate(names)]
    found, prints, measured = read_properties(root, names), read_fingerprints(paths), measure_photos(root, names)
    decoded: list[str] = []
    for module in (properties, fingerprints):
        true = module.decode_photo
        monkeypatch.setattr(module, "decode_photo", lambda content, true=true, **options: decoded.append("") or true(content, **options))
    assert equal(read_properties(root, names), found)
    assert all(np.array_equal(new, old) for new, old in zip(read_fingerprints(paths), prints, strict=True))
    assert measure_photos(root, names).statistics.equals(measured.statistics)
    assert not decoded
    write_photo(paths[1], 9)
    changed = read_properties(root, names).records != found.records
    assert changed.tolist() == [False, True, False]
    hashes = read_fingerprints(paths).hashes
    assert (hashes != prints.hashes).any(axis=1).tolist() == [False, True, False]
    assert len(decoded) == 2


def test_properties_are_what_decoding_the_whole_photo_shows(root: Path) -> None:
    write_photo(root / "a.png", 1)
    (seen,) = read_properties(root, ["a.png"]).records
    pixels = np.asarray(Image.open(io.BytesIO((root / "a.png").read_bytes())).convert("RGB"))
    assert (seen["width_px"], seen["height_px"], seen["orientation"]) == (50, 40, 0)
    assert [seen["red"], seen["green"], seen["blue"]] == pytest.approx(pixels.mean(axis=(0, 1)).tolist())
    assert seen["layout"].shape == (6, 6, 3)


# ---- on a cluster


@pytest.mark.slow
def test_two_machines_read_what_one_reads_though_a_process_is_killed(
    root: Path, tmp_path: Path, cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [write_photo(root / f"{place:03}.jpg", seed=place).name for place in range(400)]
    paths = [root / name for name in names]
    (root / "text.jpg").write_bytes(b"no photo")
    expected = read_properties(root, [*names, "text.jpg", "gone.jpg"]), read_fingerprints(paths)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "other"))
    monkeypatch.setenv(VARIABLE, cluster)
    killed: list[int] = []

    def kill_one() -> None:
        while not killed:
            for process in psutil.Process().children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    if "ray::_apply" in " ".join(process.cmdline()):
                        process.kill()
                        killed.append(process.pid)
                        break

    killer = threading.Thread(target=kill_one)
    killer.start()
    found = read_properties(root, [*names, "text.jpg", "gone.jpg"]), read_fingerprints(paths)
    killer.join(timeout=30)
    assert killed
    assert equal(found[0], expected[0])
    assert all(one.tobytes() == other.tobytes() for one, other in zip(found[1], expected[1], strict=True))


def test_a_cluster_that_is_not_there_is_one_line(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "127.0.0.1:nowhere")
    with pytest.raises(UserError, match="CARINSPECT_RAY=127.0.0.1:nowhere: no cluster answers"):
        read_photos(write_files(root, [b"one"]), make_memory(), read_width)

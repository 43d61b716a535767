"""core: params, seeds, tables, files."""

import hashlib
import json
import os
import subprocess
import sys
from difflib import unified_diff
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from dvc.utils.hydra import apply_overrides
from hypothesis import given
from hypothesis import strategies as st

from carinspect.core.errors import UserError, did_you_mean
from carinspect.core.files import sha256_of, write_bytes, write_json
from carinspect.core.machine import usable_memory_bytes
from carinspect.core.params import Number, Section, load_params, parse_section, read_section
from carinspect.core.programs import run_stage
from carinspect.core.questions import Question
from carinspect.core.search import smallest
from carinspect.core.seeds import derive_seed
from carinspect.core.tables import check_table, read_table, write_table


class Inner(Section):
    flip: Number


class Example(Section):
    test_fraction: Number
    epochs: int
    inner: Inner


GOOD = {"test_fraction": 0.2, "epochs": 3, "inner": {"flip": 0.5}}


def test_an_unknown_key_names_the_nearest_known_one() -> None:
    with pytest.raises(UserError, match=r"split\.test_fracton: unknown key\. Did you mean 'test_fraction'\?"):
        parse_section("split", Example, GOOD | {"test_fracton": 0.2})


def test_an_unknown_key_in_a_nested_section_names_its_path() -> None:
    with pytest.raises(UserError, match=r"split\.inner\.flp: unknown key\. Did you mean 'flip'\?"):
        parse_section("split", Example, GOOD | {"inner": {"flip": 0.5, "flp": 1.0}})


def test_a_missing_key_and_a_wrong_type_are_named_with_their_value() -> None:
    with pytest.raises(UserError, match=r"split\.epochs: missing"):
        parse_section("split", Example, {key: value for key, value in GOOD.items() if key != "epochs"})
    with pytest.raises(UserError, match=r"split\.epochs has the value 'three'"):
        parse_section("split", Example, GOOD | {"epochs": "three"})
    with pytest.raises(UserError, match=r"split\.epochs has the value True"):
        parse_section("split", Example, GOOD | {"epochs": True})


def test_a_number_written_with_an_exponent_and_no_dot_is_a_number() -> None:
    written = yaml.safe_load("test_fraction: 1e-05\nepochs: 3\ninner: {flip: 1}")
    assert written["test_fraction"] == "1e-05"  # the trap: YAML 1.1 reads a string
    assert parse_section("split", Example, written).test_fraction == 1e-5


@pytest.mark.parametrize(("text", "message"), [("a: [1", "not valid YAML"), ("- 1", "a mapping of sections"), ("\xff", "not UTF-8")])
def test_a_broken_params_file_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match=message) as raised:
        load_params(path)
    assert "\n" not in str(raised.value)


def test_a_missing_section_is_named() -> None:
    with pytest.raises(UserError, match=r"no section 'profiles\.auto'"):
        read_section("profiles.auto", Example, {"profiles": {}})


def test_the_shipped_params_hold_what_the_pipeline_reads() -> None:
    params = load_params(Path(__file__).parent.parent / "params.yaml")
    assert {"auto", "cpu", "rtx4090_x1", "rtx4090_x2", "rtx3090_x2", "rtx5090_x3", "h100_x1"} <= params["profiles"].keys()


def _all_keys(value: object) -> set[str]:
    return set(value) | {key for item in value.values() for key in _all_keys(item)} if isinstance(value, dict) else set()


def test_no_param_has_a_name_that_dvc_mistakes_for_its_own() -> None:
    # treeverse/dvc#10296: a param called `size` or `nfiles` gives a stale cache without a word.
    forbidden = {"size", "nfiles"}
    assert not _all_keys(load_params(Path(__file__).parent.parent / "params.yaml")) & forbidden
    assert _all_keys({"a": {"size": 1}}) & forbidden


def test_a_user_error_is_one_line_and_exit_status_one_and_a_bug_keeps_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    def mistake() -> None:
        raise UserError("data.root: no such folder.")

    with pytest.raises(SystemExit) as ended:
        run_stage(mistake, "split")
    assert ended.value.code == 1
    assert capsys.readouterr().err == "split: data.root: no such folder.\n"
    with pytest.raises(ZeroDivisionError):
        run_stage(lambda: 1 // 0, "split")  # type: ignore[func-returns-value]


def test_suggestions_fall_back_to_all_known_words() -> None:
    assert did_you_mean("dunt", ["dent", "rust"]) == "Did you mean 'dent'?"
    assert did_you_mean("zzz", ["dent", "rust"]) == "Known: dent, rust."


def test_seeds_are_the_same_in_every_process_and_differ_by_every_part() -> None:
    code = "from carinspect.core.seeds import derive_seed; print(derive_seed(1, 'order', 2))"
    environment = os.environ | {"PYTHONPATH": "src", "PYTHONHASHSEED": "7"}
    root = Path(__file__).parent.parent
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment, cwd=root)
    assert int(other.stdout) == derive_seed(1, "order", 2)
    seeds = [
        derive_seed(1, "a", "b"),
        derive_seed(1, "ab"),
        derive_seed(1, "a;", "b"),
        derive_seed("1", "a", "b"),
        derive_seed(2, "a", "b"),
    ]
    assert len(set(seeds)) == len(seeds)


@given(st.lists(st.one_of(st.integers(), st.text()), min_size=1), st.lists(st.one_of(st.integers(), st.text()), min_size=1))
def test_different_parts_give_different_seeds(one: list[int | str], other: list[int | str]) -> None:
    same = [type(part) for part in one] == [type(part) for part in other] and one == other
    assert (derive_seed(*one) == derive_seed(*other)) == same


def test_json_is_sorted_has_no_noise_and_refuses_nan(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    write_json(path, {"b": np.float32(0.1), "a": [np.int64(1), None]})
    assert path.read_text() == '{\n  "a": [\n    1,\n    null\n  ],\n  "b": 0.100000001\n}\n'
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"a": float("nan")})
    assert json.loads(path.read_text())["a"] == [1, None]  # the old file stands


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "x"
    write_bytes(path, b"old")
    with pytest.raises(TypeError):
        write_bytes(path, "not bytes")  # type: ignore[arg-type]
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["x"]
    assert sha256_of(path) == hashlib.sha256(b"old").hexdigest()


QUESTIONS = (
    Question(name="clean", kind="binary", column="clean", classes=("dirty", "clean"), good="clean"),
    Question(name="damage", kind="score", column="damage_score"),
)


def _table() -> pd.DataFrame:
    return pd.DataFrame({"image_path": ["b.jpg", "a.jpg"], "sha256": ["00", "01"], "clean": [1.0, np.nan], "damage_score": [0.25, 1.0]})


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_a_table_comes_back_sorted_with_blanks_unknown_and_text_as_text(tmp_path: Path, name: str) -> None:
    write_table(_table(), tmp_path / name, QUESTIONS)
    table = read_table(tmp_path / name, columns=("image_path", "clean"), questions=QUESTIONS)
    assert table["image_path"].tolist() == ["a.jpg", "b.jpg"]
    assert table["clean"].isna().tolist() == [True, False]
    assert table["sha256"].tolist() == ["01", "00"]
    assert table["damage_score"].tolist() == [1.0, 0.25]


def test_the_same_rows_in_another_order_are_the_same_bytes(tmp_path: Path) -> None:
    write_table(_table(), tmp_path / "1.csv", QUESTIONS)
    write_table(_table().iloc[::-1], tmp_path / "2.csv", QUESTIONS)
    assert (tmp_path / "1.csv").read_bytes() == (tmp_path / "2.csv").read_bytes()
    assert (tmp_path / "1.csv").read_text() == "image_path,sha256,clean,damage_score\na.jpg,01,,1.000000\nb.jpg,00,1,0.250000\n"


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("damage_score", 1.5, r"damage_score has the value 1\.5 for 'b\.jpg'\. It must be a number from 0 to 1"),
        ("clean", 0.5, r"clean has the value 0\.5 for 'b\.jpg'\. It must be a whole number from 0 to 1"),
        ("image_path", "a.jpg", "'a.jpg' stands in more than one row"),
    ],
)
def test_a_label_out_of_range_or_a_photo_twice_is_named(column: str, value: object, message: str) -> None:
    table = _table()
    table.loc[0, column] = value
    with pytest.raises(UserError, match=message):
        check_table(table, Path("t.csv"), QUESTIONS)
    check_table(_table(), Path("t.csv"), QUESTIONS)


def test_a_missing_table_column_or_a_word_for_a_number_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such table"):
        read_table(tmp_path / "none.csv", columns=())
    path = tmp_path / "t.csv"
    path.write_text("image_path,clen\na,1\n")
    with pytest.raises(UserError, match="column 'clean' is missing. Did you mean 'clen'"):
        read_table(path, columns=("image_path", "clean"))
    path.write_text("image_path,clean\na,yes\n")
    with pytest.raises(UserError, match="clean has the value 'yes' in row 2"):
        read_table(path, columns=("image_path", "clean"))


def test_memory_is_bounded_by_the_control_group_too(tmp_path: Path) -> None:
    everything = usable_memory_bytes(tmp_path)
    (tmp_path / "memory.max").write_text("max\n")
    assert usable_memory_bytes(tmp_path) > 0.5 * everything
    (tmp_path / "memory.max").write_text("3000000\n")
    (tmp_path / "memory.current").write_text("1000000\n")
    assert usable_memory_bytes(tmp_path) == 2_000_000


def test_cores_are_those_of_the_affinity() -> None:
    code = """
import os
os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
from carinspect.core.machine import usable_cores
print(usable_cores())
"""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent / "src")}
    assert subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True).stdout == "1\n"


def round_trip(text: str, folder: Path, override: str) -> list[str]:
    """The lines that `dvc exp run -S <override>` removes from a params.yaml with this text, and those it adds."""
    file = folder / "params.yaml"
    file.write_text(text)
    apply_overrides(file, [override])
    changed = unified_diff(text.splitlines(), file.read_text().splitlines(), lineterm="", n=0)
    return [line for line in changed if line.startswith(("-", "+")) and not line.startswith(("---", "+++"))]


@pytest.mark.parametrize(
    "override",
    [
        "train.batch_size=96",
        "hardware=cpu",
        "train.lr=1e-4",
        "questions.clean.decide.field_rate=0.3",
        "profiles.h100_x1.recipe.batch_size=64",
    ],
)
def test_an_experiment_changes_one_line_of_params_yaml(tmp_path: Path, override: str) -> None:
    shipped = (Path(__file__).parent.parent / "params.yaml").read_text()
    assert [line[0] for line in round_trip(shipped, tmp_path, override)] == ["-", "+"]
    # A list on one line is written anew, so the same check fails on it.
    assert len(round_trip(shipped.replace("car_sources:\n  - fleet", "car_sources: [fleet]"), tmp_path, override)) > 2


# ---- search


@given(st.integers(1, 5000), st.integers(1, 700))
def test_the_smallest_number_is_that_of_trying_all(first: int, start: int) -> None:
    assert smallest(lambda number: number >= first, start=start) == first
    assert smallest(lambda number: number >= first, most=10_000) == first


def test_a_number_above_the_most_is_none() -> None:
    assert smallest(lambda number: number >= 100, most=64) is None

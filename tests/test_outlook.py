"""What is said of promises before a training, against the promises that come out after one."""

import json
import math
import runpy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom

from carinspect.core.tables import dataset_columns, write_table
from carinspect.thresholds.outlook import Outlook, describe_outlook, foresee, say_outlook
from carinspect.thresholds.selection import select_thresholds
from conftest import OPEN_GATE
from test_thresholds import ROOT, declared, make_params

FRACTIONS = {"train": 0.4, "val": 0.1, "calib": 0.3, "test": 0.2}


def dataset(clean: int, dirty: int, *, photos_each: int = 2) -> pd.DataFrame:
    """So many groups of either label in calib, and in the other splits by their fractions."""
    rows = []
    for split, fraction in FRACTIONS.items():
        for label, groups in ((1.0, clean), (0.0, dirty)):
            for number in range(round(groups * fraction / FRACTIONS["calib"])):
                group = f"{split}{label:g}-{number:04}"
                rows += [
                    {"image_path": f"{group}-{photo}.jpg", "group": group, "split": split, "clean": label} for photo in range(photos_each)
                ]
    return pd.DataFrame(rows).assign(source="lot", family="", damaged=np.nan)


def foreseen(table: pd.DataFrame, **decide: float) -> tuple[Outlook, Outlook]:
    clean, dirty = foresee(table, declared(**decide), make_params(), fractions=FRACTIONS)["clean"]
    return clean, dirty


def promised(table: pd.DataFrame, **decide: float) -> list[bool]:
    """Whether a model without an error gets a promise of clean and of dirty."""
    random = np.random.default_rng(0)
    p_clean = np.where(table["clean"] == 1, random.uniform(0.9, 1, len(table)), random.uniform(0, 0.1, len(table))).round(6)
    answered = table.assign(p_clean=p_clean, p_damaged=np.nan, strangeness=0.0)
    rule = select_thresholds(answered, declared(**decide), make_params(), gate=OPEN_GATE)["clean"].rules.photo
    return [side.promise is not None for side in (rule.good, rule.bad)]


def test_groups_are_counted_and_not_photos() -> None:
    clean, dirty = foreseen(dataset(30, 90, photos_each=3))
    assert (clean.word, clean.labelled, clean.labelled_in_all) == ("clean", 30, 100)
    assert (dirty.word, dirty.labelled, dirty.labelled_in_all) == ("dirty", 90, 300)


def test_what_a_proof_takes_is_the_exact_binomial_test_at_the_level_of_one_start() -> None:
    clean, _ = foreseen(dataset(30, 90))
    assert clean.needed == math.ceil(math.log(0.025) / math.log(0.95)) == 72
    assert clean.needed_with_errors is not None
    allowed = math.floor(clean.needed_with_errors * 0.025)
    assert binom.sf(clean.needed_with_errors - allowed - 1, clean.needed_with_errors, 0.95) == pytest.approx(0.025, abs=0.012)


@pytest.mark.parametrize(("clean", "dirty"), [(40, 200), (200, 40), (120, 120), (40, 40)])
def test_a_model_without_an_error_is_promised_what_was_within_reach_and_no_more(clean: int, dirty: int) -> None:
    table = dataset(clean, dirty)
    assert promised(table) == [word.within_reach for word in foreseen(table)] == [clean >= 72, dirty >= 72]


def test_a_field_rate_counts_both_classes() -> None:
    enough, few = dataset(150, 150), dataset(150, 5)
    assert [word.within_reach for word in foreseen(enough, field_rate=0.5)] == promised(enough, field_rate=0.5) == [True, True]
    found = foreseen(few, field_rate=0.5)
    assert [word.within_reach for word in found] == promised(few, field_rate=0.5) == [False, False]
    assert all(word.needed is not None and word.more_needed > 0 for word in found)
    none = foreseen(dataset(150, 0), field_rate=0.5)
    assert [word.needed for word in none] == [None, None]


def test_as_many_more_groups_or_the_other_fraction_would_do() -> None:
    clean, _ = foreseen(dataset(50, 90))
    more, _ = foreseen(dataset(50 + math.ceil(clean.more_needed * FRACTIONS["calib"]), 90))
    assert (clean.within_reach, more.within_reach) == (False, True)
    assert clean.fraction_needed is not None
    assert clean.fraction_needed * clean.labelled_in_all >= 72
    # Fifty groups in all are too few for any split.
    assert foreseen(dataset(15, 90))[0].fraction_needed is None


def test_the_sentences_name_the_number_and_the_fix() -> None:
    few, some, many = (say_outlook(foresee(dataset(n, 90), declared(), make_params(), fractions=FRACTIONS))[0] for n in (50, 90, 400))
    assert few == (
        "clean: 'clean' is out of reach: calib has 50 groups labelled clean, and a proof takes 72 called so without an error, 295 with "
        "half the allowed errors. For that label about 74 more, or set split.fractions.calib to 0.44."
    )
    assert some.startswith("clean: 'clean' is within reach of a model with hardly an error: calib has 90 groups")
    assert many.startswith("clean: 'clean' is within reach: calib has 400 groups")


def test_nothing_is_foreseen_where_nothing_would_be_promised_and_the_metrics_are_plain_values() -> None:
    table = dataset(50, 90)
    for changes in ({"method": "empirical"}, {"source": "val"}):
        assert foresee(table, declared(), make_params(**changes), fractions=FRACTIONS) == {}
    found = describe_outlook(foresee(table, declared(), make_params(), fractions=FRACTIONS))
    assert set(found) == {"clean", "damaged"}
    assert set(found["clean"]) == {"clean", "dirty"}
    assert found["clean"]["clean"]["within_reach"] is False
    assert found["damaged"]["damaged"]["labelled"] == 0


def test_the_stage_says_it_from_the_table_of_the_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = dataset(40, 90).assign(width_px=8, height_px=8, sha256="", phash="", declared_split="")
    table = table.assign(**{asked.column: np.nan for asked in declared() if asked.name != "clean"})
    write_table(table[dataset_columns(declared())], tmp_path / "data/car_inspection_dataset.csv", declared())
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(ROOT / "stages/outlook.py"), run_name="__main__")
    said = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in said] == ["clean", "clean", "damaged", "damaged"]
    assert "'clean' is out of reach: calib has 40 groups labelled clean" in said[0]
    assert json.loads(Path("metrics/outlook.json").read_text())["clean"]["dirty"]["within_reach"]

"""`carinspect labels`: what goes to a labelling tool, what of its answer counts, and the source of a data root that it becomes."""

import json
import shutil
from collections.abc import Callable
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image
from pycocotools.coco import COCO

from carinspect.annotations.config import ConvertAnnotationsParams
from carinspect.annotations.convert import convert
from carinspect.annotations.sources import load_sources
from carinspect.cli.labels import ImportOptions, export_labels, import_labels
from carinspect.core.data import DataParams
from carinspect.core.errors import UserError
from carinspect.core.params import load_params, read_section
from carinspect.core.questions import read_questions
from carinspect.core.tables import ONLY_TRAIN
from carinspect.labelling.exchange import TOOLS, Tool
from carinspect.labelling.records import read_words
from test_cli import carinspect

REPOSITORY = Path(__file__).parents[1]
SIZE_PX = (96, 64)
DENT = ((10.0, 8.0), (40.0, 8.0), (40.0, 30.0), (10.0, 30.0))


def words() -> Any:
    params = load_params(REPOSITORY / "params.yaml")
    questions = [question.asked for question in read_questions(params)]
    return read_words(questions, read_section("convert_annotations", ConvertAnnotationsParams, params))


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data root with one other source, six photos that wait for labels, a list of them, and the table of their scores."""
    shutil.copy(REPOSITORY / "params.yaml", tmp_path / "params.yaml")
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    for folder, names in {"root/shop/clean": "uv", "photos": "abcdef"}.items():
        (tmp_path / folder).mkdir(parents=True)
        for name in names:
            Image.fromarray(random.integers(0, 256, (*SIZE_PX[::-1], 3), dtype=np.uint8)).save(tmp_path / folder / f"{name}.jpg")
    (tmp_path / "root/sources.yaml").write_text(
        "sources:\n- name: shop  # the first one\n  format: folders\n  categories: {clean: {clean: clean}}\n"
    )
    write_list(tmp_path, "abcdef", chosen=False)
    scores = pd.DataFrame({
        "image_path": [f"photos/{name}.jpg" for name in "abcdef"],
        "clean_decision": ["clean", "dirty", "unsure", "", "clean", "clean"],
        "weather": ["rain"] * 6,
    })  # fmt: skip
    scores.to_csv(tmp_path / "scores.csv", index=False)
    corners = [side for corner in DENT for side in corner]
    marks = {
        "images": [{"id": 1, "file_name": "photos/a.jpg", "width": SIZE_PX[0], "height": SIZE_PX[1]}],
        "categories": [{"id": 1, "name": "damage", "supercategory": "damage", "promise": None}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "segmentation": [corners], "bbox": [10, 8, 30, 22], "score": 0.9}],
    }
    (tmp_path / "marks.json").write_text(json.dumps(marks))
    return tmp_path / "root"


def write_list(folder: Path, names: str, *, chosen: bool) -> None:
    rows = [f"photos/{name}.jpg,{str(chosen).lower()}\n" for name in names]
    (folder / "next.csv").write_text("image_path,chosen_by_model\n" + "".join(rows))


def file_of(name: str) -> str:
    return f"{sha256(Path('photos', f'{name}.jpg').read_bytes()).hexdigest()}.jpg"


def export(tool: Tool, *, answers: bool = False, out: str = "out") -> Path:
    shown = {name: Path(file) if answers else None for name, file in {"answers": "scores.csv", "marks": "marks.json"}.items()}
    assert export_labels(Path("next.csv"), tool=tool, **shown, root=Path(), out=Path(out)) == 0
    return Path(out)


def bring(root: Path, tool: Tool, *files: str, disagreement: Any = None, source: str = "labelled", out: str = "out") -> None:
    options = ImportOptions(tool=tool, export=Path(out), into=root, source=source, disagreement=disagreement)
    assert import_labels([Path(file) for file in files], options) == 0


def annotated(name: str, who: Any = 1, *, outlines: dict[str, Any] | None = None, cancelled: bool = False, **answers: str) -> Any:
    """One task of Label Studio's export with one annotation. outlines: word → points in percent."""
    result = [
        {"id": question, "from_name": question, "to_name": "image", "type": "choices", "value": {"choices": [word]}}
        for question, word in answers.items()
    ]
    for word, points in (outlines or {}).items():
        value = {"points": points, "polygonlabels": [word], "closed": True}
        size = {"original_width": SIZE_PX[0], "original_height": SIZE_PX[1], "image_rotation": 0}
        result.append({"from_name": "outlines", "to_name": "image", "type": "polygonlabels", **size, "value": value})
    annotation = {"id": 1, "completed_by": who, "was_cancelled": cancelled, "result": result}
    return {"id": 1, "data": {"image": "x", "photo": file_of(name)}, "annotations": [annotation]}


def studio(*tasks: Any, file: str = "back.json") -> str:
    Path(file).write_text(json.dumps(tasks))
    return file


def labels(root: Path, source: str = "labelled") -> dict[str, dict[str, str]]:
    """Photo → its labels, of those that have one."""
    table = pd.read_csv(root / source / "labels.csv", dtype=str, keep_default_na=False).set_index("image_path")
    return {Path(path).name: {key: value for key, value in row.items() if value} for path, row in table.to_dict("index").items()}


def converted(root: Path) -> pd.DataFrame:
    """The table that the stage makes of the data root."""
    data = DataParams(root=str(root), sources=str(root / "sources.yaml"))
    questions = [question.asked for question in read_questions(load_params())]
    params = read_section("convert_annotations", ConvertAnnotationsParams)
    return convert(data, params, questions).table.set_index("image_path")


# ---- out


def test_every_tool_gets_the_photos_and_the_answers_and_nothing_that_is_unsure(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for tool in TOOLS:
        out = export(tool, answers=True, out=f"out-{tool}")
        assert (out / "photos" / file_of("a")).read_bytes() == Path("photos/a.jpg").read_bytes()
        assert "6 photos" in capsys.readouterr().out
        manifest = pd.read_csv(out / "tasks.csv")
        assert manifest["chosen_by_model"].all()
        assert manifest["answered"].all()
    tasks = {task["data"]["photo"]: task for task in json.loads(Path("out-label-studio/tasks.json").read_text())}
    said = {name: [one["value"] for one in tasks[file_of(name)]["predictions"][0]["result"]] for name in "ac"}
    assert said["c"] == [{"choices": ["rain"]}]
    assert said["a"][:2] == [{"choices": ["clean"]}, {"choices": ["rain"]}]
    assert said["a"][2]["polygonlabels"] == ["damage"]
    assert said["a"][2]["points"][0] == pytest.approx([100 * 10 / 96, 100 * 8 / 64])


def test_without_the_models_answers_photos_drawn_at_random_may_serve_all_splits(root: Path) -> None:
    out = export("label-studio")
    assert not pd.read_csv(out / "tasks.csv")[["chosen_by_model", "answered"]].to_numpy().any()
    assert all("predictions" not in task for task in json.loads((out / "tasks.json").read_text()))
    bring(root, "label-studio", studio(annotated("a", clean="dirty")))
    assert [source.chosen_by_model for source in load_sources(root / "sources.yaml").sources] == [False, False]
    assert "declared_split" in converted(root)
    # The twin: who saw the answers tends to agree with them.
    export("label-studio", answers=True, out="seen")
    bring(root, "label-studio", studio(annotated("b", clean="dirty")), source="seen", out="seen")
    table = converted(root)
    assert table.loc[f"seen/photos/{file_of('b')}", "declared_split"] == ONLY_TRAIN
    assert table.loc[f"labelled/photos/{file_of('a')}", "declared_split"] == ""


def test_a_list_that_does_not_say_who_chose_is_taken_as_chosen_by_a_model(root: Path) -> None:
    Path("next.csv").write_text("image_path\nphotos/a.jpg\n")
    assert pd.read_csv(export("coco") / "tasks.csv")["chosen_by_model"].all()


def test_photos_that_cannot_be_exported_are_named(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("photos/b.jpg").write_bytes(b"no photo")
    Path("photos/c.jpg").write_bytes(Path("photos/a.jpg").read_bytes())
    Path("photos/d.jpg").unlink()
    out = export("coco")
    said = capsys.readouterr().out
    assert len(pd.read_csv(out / "tasks.csv")) == 3
    assert "Left out: 1 photos, for the same photo stands there twice: photos/c.jpg" in said
    assert "photos/b.jpg" in said
    assert "photos/d.jpg" in said


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda: Path("next.csv").write_text("image_path,chosen_by_model\nphotos/a.jpg,yes\n"), "chosen_by_model has the value 'yes'"),
        (
            lambda: Path("next.csv").write_text("image_path,chosen_by_model\nphotos/a.jpg,true\nphotos/b.jpg,false\n"),
            "Export them apart, from two lists.",
        ),
        (lambda: Path("next.csv").write_text("path\nphotos/a.jpg\n"), "no column 'image_path'"),
        (lambda: Path("next.csv").write_text("image_path\ngone.jpg\n"), "no photo of the list can be exported. --root names the folder"),
        (lambda: Path("scores.csv").write_text("path\n"), "no CSV of `carinspect score`"),
        (lambda: Path("scores.csv").write_text("image_path,weather\nphotos/a.jpg,rian\n"), "Did you mean 'rain'?"),
        (lambda: Path("marks.json").write_text("[]"), "marks.json: "),
        (lambda: Path("marks.json").write_text(Path("marks.json").read_text().replace("damage", "dnet")), "is called 'dnet'"),
    ],
)  # fmt: skip
def test_a_list_or_table_that_is_none_is_one_line(root: Path, tmp_path: Path, change: Callable[[], Any], reason: str) -> None:
    change()
    arguments = ("next.csv", "--tool", "coco", "--out", "out", "--answers", "scores.csv", "--marks", "marks.json")
    done = carinspect("labels", "export", *arguments, folder=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert reason in done.stderr
    assert not Path("out").exists()


def test_an_export_is_not_written_over(root: Path) -> None:
    export("coco")
    with pytest.raises(UserError, match="out: holds an export already. Name a new folder: --out."):
        export("cvat")


# ---- there and back


def answered(tool: Tool, out: Path, name: str, tags: dict[str, str], outlines: dict[str, Any], *, checked: bool = True) -> str:
    """A file as the tool exports it: one photo was worked on, the others are as they went out."""
    file, path = file_of(name), Path(f"back-{tool}{'.xml' if tool == 'cvat' else '.json'}")
    if tool == "label-studio":
        percent = {word: [[100 * x / 96, 100 * y / 64] for x, y in points] for word, points in outlines.items()}
        others = json.loads((out / "tasks.json").read_text())
        path.write_text(json.dumps([annotated(name, outlines=percent, **tags), *({**task, "annotations": []} for task in others)]))
    elif tool == "cvat":
        tree = ElementTree.parse(out / "annotations.xml")
        (image,) = [one for one in tree.iter("image") if one.get("name") == file]
        for old in list(image):
            image.remove(old)
        for label in [*(f"{question}:{word}" for question, word in tags.items()), *["checked"] * checked]:
            ElementTree.SubElement(image, "tag", label=label, source="manual")
        for word, points in outlines.items():
            ElementTree.SubElement(image, "polygon", label=word, points=";".join(f"{x},{y}" for x, y in points), occluded="0")
        tree.write(path)
    else:
        content = json.loads((out / "annotations.json").read_text())
        numbers = {one["name"]: one["id"] for one in content["categories"]}
        (image_id,) = [one["id"] for one in content["images"] if one["file_name"] == file]
        content["annotations"] = [one for one in content["annotations"] if one["image_id"] != image_id]
        for label in [*(f"{question}:{word}" for question, word in tags.items()), *["checked"] * checked]:
            content["annotations"].append({"image_id": image_id, "category_id": numbers[label], "bbox": [0, 0, 96, 64], "segmentation": []})
        for word, points in outlines.items():
            line = [side for point in points for side in point]
            content["annotations"].append(
                {"image_id": image_id, "category_id": numbers[word], "bbox": [0, 0, 1, 1], "segmentation": [line]}
            )
        path.write_text(json.dumps(content))
    return str(path)


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("answers", [False, True])
def test_what_a_person_said_in_any_tool_becomes_the_same_labels(
    root: Path, tool: Tool, answers: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    out = export(tool, answers=answers)
    back = answered(tool, out, "b", {"clean": "clean", "weather": "fog"}, {"dent": DENT})
    bring(root, tool, back)
    table = converted(root)
    row = table.loc[f"labelled_damage/photos/{file_of('b')}"]
    # By hand: a dent of 30 x 22 of 96 x 64 pixels, severity 1.5, exponent 0.5.
    assert row["damage_score"] == pytest.approx(1 - 1.5 * (30 * 22 / (96 * 64)) ** 0.5, abs=0.02)
    assert (row["clean"], row["damaged"], row["weather_condition"]) == (1, 1, 2)
    assert np.isnan(row["cleanliness_score"])
    # The other five were not looked at: what the model said of them is nobody's label.
    assert len(table) == 3
    said = capsys.readouterr().out
    assert "has 1 photos, 1 of them new" in said
    assert (
        "5 photos, for it is missing in what came back" in said
        or "5 photos, for it was exported with answers" in said
        or ("5 photos, for nothing was said of it" in said)
    )


@pytest.mark.parametrize("tool", ["cvat", "coco"])
def test_answers_that_went_out_and_that_nobody_checked_are_no_labels(root: Path, tool: Tool, capsys: pytest.CaptureFixture[str]) -> None:
    out = export(tool, answers=True)
    bring(root, tool, answered(tool, out, "b", {"weather": "fog"}, {}, checked=False))
    assert "6 photos, for it was exported with answers, and nobody called it 'checked'" in capsys.readouterr().out
    assert [source.name for source in load_sources(root / "sources.yaml").sources] == ["shop"]
    assert not (root / "labelled").exists()


def test_an_outline_that_is_just_called_damage_makes_a_damaged_photo_of_unknown_score(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export("label-studio")
    corner = [[0, 0], [50, 0], [50, 50]]
    bring(
        root,
        "label-studio",
        studio(annotated("a", outlines={"damage": corner}), annotated("b", outlines={"damage": corner, "dent": corner})),
    )
    assert labels(root) == {file_of("a"): {"damaged": "1"}, file_of("b"): {"damaged": "1"}}
    assert "2 photos, for an outline is just called 'damage'" in capsys.readouterr().out
    assert converted(root)["damage_score"].isna().sum() == 4


def test_unknown_stays_unknown_and_a_skipped_task_is_no_label(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export("label-studio")
    skipped, blank = annotated("b", clean="dirty", cancelled=True), annotated("c")
    bring(root, "label-studio", studio(annotated("a", weather="snow"), skipped, blank))
    assert labels(root) == {file_of("a"): {"weather_condition": "3"}}
    said = capsys.readouterr().out
    for line in ("1 photos, for it was skipped", "1 photos, for nothing was said of it", "3 photos, for it is missing in what came back"):
        assert line in said
    row = converted(root).loc[f"labelled/photos/{file_of('a')}"]
    assert row[["clean", "damaged", "damage_score", "cleanliness_score"]].isna().all()


# ---- several people


def test_people_who_disagree_are_reported_and_their_label_is_left_out_or_what_most_say(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export("label-studio")
    tasks = [annotated("a", who, clean=word, weather="rain") for who, word in ((1, "clean"), (2, "dirty"), (3, "dirty"))]
    tasks += [annotated("b", who, clean=word) for who, word in ((1, "clean"), (2, "dirty"))]
    bring(root, "label-studio", studio(*tasks))
    assert labels(root) == {file_of("a"): {"weather_condition": "1"}}
    assert "2 photos, for people disagree about 'clean', so that it stays unknown" in capsys.readouterr().out
    bring(root, "label-studio", studio(*tasks), source="most", disagreement="majority")
    assert labels(root, "most") == {file_of("a"): {"clean": "0", "weather_condition": "1"}}
    said = capsys.readouterr().out
    assert "1 photos, for people disagree about 'clean', and most say dirty" in said
    assert "1 photos, for people disagree about 'clean', so that it stays unknown" in said
    # The source says it; who asks for something else is told.
    assert [source.disagreement for source in load_sources(root / "sources.yaml").sources] == ["leave_out", "leave_out", "majority"]
    with pytest.raises(UserError, match="the source 'most' says disagreement: majority. Change it there, or drop --disagreement."):
        bring(root, "label-studio", "back.json", source="most", disagreement="leave_out")


def test_a_second_person_in_a_later_file_takes_a_label_back(root: Path) -> None:
    export("label-studio")
    bring(root, "label-studio", studio(annotated("a", 1, clean="dirty"), annotated("b", 1, outlines={"dent": [[0, 0], [50, 0], [50, 50]]})))
    assert {source.name for source in load_sources(root / "sources.yaml").sources} == {"shop", "labelled", "labelled_damage"}
    bring(
        root, "label-studio", studio(annotated("a", 2, clean="clean", weather="fog"), annotated("b", 2, damaged="undamaged", clean="clean"))
    )
    assert labels(root) == {file_of("a"): {"weather_condition": "2"}, file_of("b"): {"clean": "1"}}
    # No source without a photo is left behind, and no photo is described twice.
    assert {source.name for source in load_sources(root / "sources.yaml").sources} == {"shop", "labelled"}
    assert len(converted(root)) == 4


def test_one_person_who_contradicts_herself_gives_no_label(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = export("cvat")
    tree = ElementTree.parse(out / "annotations.xml")
    images = {one.get("name"): one for one in tree.iter("image")}
    for label in ("weather:fog", "weather:rain", "clean:clean"):
        ElementTree.SubElement(images[file_of("a")], "tag", label=label)
    ElementTree.SubElement(images[file_of("b")], "tag", label="damaged:undamaged")
    ElementTree.SubElement(images[file_of("b")], "box", label="dent", xtl="1", ytl="1", xbr="30", ybr="30")
    tree.write("anna.xml")
    bring(root, "cvat", "anna.xml")
    assert labels(root) == {file_of("a"): {"clean": "1"}}
    said = capsys.readouterr().out
    assert "one person gives several classes of 'weather'" in said
    assert "one person says undamaged and outlines damage, so that neither counts" in said


# ---- bad input


def test_the_same_photo_twice_counts_once_and_two_answers_of_one_person_not_at_all(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export("label-studio")
    tasks = [annotated("a", clean="dirty"), annotated("a", clean="dirty"), annotated("b", clean="dirty"), annotated("b", clean="clean")]
    bring(root, "label-studio", studio(*tasks))
    assert labels(root) == {file_of("a"): {"clean": "0"}}
    assert "1 photos, for one person gave two different answers" in capsys.readouterr().out
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    bring(root, "label-studio", "back.json")
    assert "1 photos, 0 of them new" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before


def test_another_size_is_scaled_and_another_shape_is_left_out(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = export("cvat")
    tree = ElementTree.parse(out / "annotations.xml")
    for name, (width, height) in {"a": (192, 128), "b": (64, 64)}.items():
        (image,) = [one for one in tree.iter("image") if one.get("name") == file_of(name)]
        image.attrib |= {"width": str(width), "height": str(height)}
        ElementTree.SubElement(image, "polygon", label="dent", points=";".join(f"{2 * x},{2 * y}" for x, y in DENT))
    tree.write("anna.xml")
    bring(root, "cvat", "anna.xml")
    assert "1 photos, for the tool had it in another shape" in capsys.readouterr().out
    (image,) = json.loads((root / "labelled_damage/photos/outlines.json").read_text())["annotations"]
    assert image["segmentation"] == [[side for point in DENT for side in point]]


def test_a_photo_that_is_gone_altered_or_of_another_export_is_named(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = export("label-studio")
    (out / "photos" / file_of("a")).unlink()
    (out / "photos" / file_of("b")).write_bytes(b"another")
    stranger = annotated("c", clean="clean")
    stranger["data"]["photo"] = "stranger.jpg"
    bring(
        root, "label-studio", studio(annotated("a", clean="clean"), annotated("b", clean="clean"), stranger, annotated("d", clean="clean"))
    )
    said = capsys.readouterr().out
    for line in ("the photo is gone", "the photo was altered", "it is no photo of this export: stranger.jpg"):
        assert f"Left out: 1 photos, for {line}" in said
    assert set(labels(root)) == {file_of("d")}


NO_LABEL_STUDIO = "not a JSON export of Label Studio"
BAD: list[tuple[Tool, Callable[[], bytes], str]] = [
    ("label-studio", lambda: b"{", NO_LABEL_STUDIO),
    ("label-studio", lambda: b"{}", NO_LABEL_STUDIO),
    ("label-studio", lambda: b'[{"data": {}}]', "task 1: not as Label Studio writes it"),
    ("label-studio", lambda: json.dumps([annotated("a", clean="claen")]).encode(), "'claen' is no class of clean. Did you mean 'clean'?"),
    ("label-studio", lambda: json.dumps([annotated("a", claen="clean")]).encode(), "no question is called 'claen'. Did you mean 'clean'?"),
    ("label-studio", lambda: json.dumps([annotated("a", outlines={"dnet": [[0, 0]]})]).encode(), "called 'dnet'. Did you mean 'dent'?"),
    ("cvat", lambda: b"<annotations>", "not an XML of CVAT"),
    ("cvat", lambda: b"<html/>", "not an XML 1.1 of CVAT, but <html>"),
    ("cvat", lambda: b"<annotations><version>1.0</version></annotations>", "but the version 1.0"),
    ("cvat", lambda: b"<annotations><version>1.1</version><track/></annotations>", "it has tracks of a video"),
    ("cvat", lambda: cvat_image('<tag label="weather:rian"/>'), "'weather:rian' is unknown. Did you mean 'weather:rain'?"),
    ("cvat", lambda: cvat_image('<polygon label="dent" points="1,2;x"/>'), "not as CVAT writes it"),
    ("cvat", lambda: cvat_image('<ellipse label="dent"/>'), "a shape of the type 'ellipse'. Draw it as a polygon."),
    ("cvat", lambda: cvat_image('<box label="dent" xtl="0" ytl="0" xbr="1" ybr="1" rotation="9"/>'), "a box is rotated"),
    ("coco", lambda: b"[]", "not a COCO JSON"),
    ("coco", lambda: coco_image("weather:rian", [], [0, 0, 9, 9]), "'weather:rian' is unknown. Did you mean 'weather:rain'?"),
    ("coco", lambda: coco_image("dent", {"size": [9, 9], "counts": "x"}, []), "an outline that is neither polygon nor box"),
    ("coco", lambda: coco_image("dent", [[1, 2, 3]], []), "an outline that is neither polygon nor box"),
]  # fmt: skip


def cvat_image(content: str) -> bytes:
    return f'<annotations><version>1.1</version><image name="x.jpg" width="9" height="9">{content}</image></annotations>'.encode()


def coco_image(category: str, segmentation: Any, box: Any) -> bytes:
    images = [{"id": 1, "file_name": "x.jpg", "width": 9, "height": 9}]
    annotations = [{"image_id": 1, "category_id": 1, "segmentation": segmentation, "bbox": box}]
    return json.dumps({"images": images, "annotations": annotations, "categories": [{"id": 1, "name": category}]}).encode()


@pytest.mark.parametrize(("tool", "content", "reason"), BAD, ids=[reason for _, _, reason in BAD])
def test_a_file_that_is_none_or_has_unknown_labels_is_one_line_and_adds_nothing(
    root: Path, tool: Tool, content: Callable[[], bytes], reason: str
) -> None:
    export(tool)
    Path("back").write_bytes(content())
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    with pytest.raises(UserError) as caught:
        bring(root, tool, "back")
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before


def test_what_is_no_export_and_what_is_another_source_is_said(root: Path, tmp_path: Path) -> None:
    export("label-studio")
    back = studio(annotated("a", clean="clean"))
    with pytest.raises(UserError, match=r"no tasks.csv in it. Name the folder that `carinspect labels export` wrote: --export."):
        bring(root, "label-studio", back, out="photos")
    with pytest.raises(UserError, match="the source 'shop' is another one. Choose a name for this one: --source."):
        bring(root, "label-studio", back, source="shop")
    arguments = (back, "--tool", "label-studio", "--export", "out", "--into", "photos")
    done = carinspect("labels", "import", *arguments, folder=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "--into names a data root" in done.stderr


def test_the_command_brings_labels_into_a_root_whose_comments_stay(root: Path, tmp_path: Path) -> None:
    for arguments in (
        ("export", "next.csv", "--tool", "label-studio", "--out", "out"),
        ("import", studio(annotated("a", clean="clean")), "--tool", "label-studio", "--export", "out", "--into", "root"),
    ):
        done = carinspect("labels", *arguments, folder=tmp_path)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert "# the first one" in (root / "sources.yaml").read_text()
    entry = {"name": "labelled", "format": "csv", "path": "labelled/labels.csv", "disagreement": "leave_out"}
    assert yaml.safe_load((root / "sources.yaml").read_text())["sources"][1] == entry


# ---- the tools' own readers


def test_pycocotools_reads_what_is_written_and_covers_the_same_pixels(root: Path, tmp_path: Path) -> None:
    out = export("coco", answers=True)
    coco = COCO(str(out / "annotations.json"))
    names = {one["id"]: one["name"] for one in coco.loadCats(coco.getCatIds())}
    found = {(coco.loadImgs(one["image_id"])[0]["file_name"], names[one["category_id"]]): one for one in coco.loadAnns(coco.getAnnIds())}
    assert (file_of("b"), "clean:dirty") in found
    assert (file_of("c"), "clean:clean") not in found
    dent = found[file_of("a"), "damage"]
    assert dent["area"] == coco.annToMask(dent).sum() == 30 * 22
    assert dent["bbox"] == [10, 8, 30, 22]
    assert all(Image.open(BytesIO((out / "photos" / one["file_name"]).read_bytes())).size == (one["width"], one["height"])
               for one in coco.loadImgs(coco.getImgIds()))  # fmt: skip


@pytest.mark.slow
def test_label_studios_own_sdk_takes_the_configuration_the_tasks_and_the_predictions(root: Path) -> None:
    interface = pytest.importorskip("label_studio_sdk.label_interface")
    out = export("label-studio", answers=True)
    config = interface.LabelInterface((out / "config.xml").read_text())
    config.validate()
    tasks = json.loads((out / "tasks.json").read_text())
    assert len(tasks) == 6
    for task in tasks:
        assert config.validate_task({"data": task["data"]})
        for prediction in task["predictions"]:
            assert config.validate_prediction(prediction)
    # The twin: the SDK refuses a class that the configuration does not have.
    broken = tasks[0]["predictions"][0]
    broken["result"][0]["value"]["choices"] = ["claen"]
    assert not config.validate_prediction(broken)
    assert config.validate_annotation(annotated("a", clean="clean", outlines={"dent": [[0, 0], [1, 0], [1, 1]]})["annotations"][0])


@pytest.mark.slow
def test_datumaro_reads_the_file_for_cvat_with_the_same_labels_and_outlines(root: Path) -> None:
    datasets = pytest.importorskip("datumaro.components.dataset")
    out = export("cvat", answers=True)
    Path("cvat").mkdir()
    shutil.copy(out / "annotations.xml", "cvat")
    shutil.copytree(out / "photos", "cvat/images")
    dataset = datasets.Dataset.import_from("cvat", "cvat")
    (categories,) = dataset.categories().values()
    names = [one.name for one in categories]
    found = {item.id: {names[one.label]: getattr(one, "points", None) for one in item.annotations} for item in dataset}
    assert found[Path(file_of("a")).stem] == {
        "clean:clean": None, "weather:rain": None, "damage": [side for point in DENT for side in point],
    }  # fmt: skip
    assert found[Path(file_of("c")).stem] == {"weather:rain": None}


CVAT_SHAPES = {"tag": {"label", "source"}, "polygon": {"label", "source", "occluded", "points", "z_order"}}
"""Attributes that the page of the format lists; CVAT's importer reads these by name."""


def test_cvats_xml_has_what_the_page_of_its_format_lists(root: Path) -> None:
    out = export("cvat", answers=True)
    xml = ElementTree.parse(out / "annotations.xml").getroot()
    assert xml.findtext("version") == "1.1"
    images = xml.findall("image")
    assert [image.get("id") for image in images] == [str(number) for number in range(6)]
    declared = {(one["name"], one["type"]) for one in json.loads((out / "labels.json").read_text())}
    for image in images:
        assert (image.get("width"), image.get("height")) == ("96", "64")
        assert (out / "photos" / str(image.get("name"))).is_file()
        for shape in image:
            assert set(shape.attrib) == CVAT_SHAPES[shape.tag]
            assert (shape.get("label"), shape.tag) in declared

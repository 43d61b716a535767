"""serving: settings, answers, back-pressure, batching, replacing the model."""

import asyncio
import pickle
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.testclient import TestClient

from carinspect.audit.ledger import Verdict, append
from carinspect.core.errors import UserError
from carinspect.images.decode import load_image
from carinspect.inference.bundle import open_bundle
from carinspect.inference.car import judge_car
from carinspect.inference.drift_log import DriftLog, read_log
from carinspect.inference.predictor import Predictor, make_predictor
from carinspect.inference.rows import flat_answer
from carinspect.inference.rules import car_rules_in_use, rules_in_use
from carinspect.serving import server
from carinspect.serving.answers import say
from carinspect.serving.app import create_app
from carinspect.serving.batcher import Batcher
from carinspect.serving.config import ServiceConfig, read_config
from carinspect.serving.loaded_model import load_model
from carinspect.serving.threads import Threads
from serving_tools import NOTHING_PROVED, PROMISE, ROOT, SIDE, TOKEN, client_of, model_bytes, photo_bytes, thresholds

PROVED = PROMISE.model_dump()


@pytest.fixture(scope="module")
def client(model: Path) -> Iterator[TestClient]:
    with client_of(model) as client:
        yield client


def send(client: TestClient, photo: bytes, query: str = "") -> Any:
    return client.post(f"/predict/file{query}", files={"file": ("photo.jpg", photo, "image/jpeg")})


# ---- settings


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Callable[..., ServiceConfig]:
    """`read_config` with these variables in the environment."""

    def read(**variables: str) -> ServiceConfig:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        return read_config()

    return read


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("THRESH", "1.7", "THRESH has the value '1.7'. Input should be less than or equal to 1. Correct it, or unset it."),
        ("CARINSPECT_THRESH", "1.7", "CARINSPECT_THRESH has the value '1.7'. Input should be less than or equal to 1."),
        ("T_LOW", "low", "T_LOW has the value 'low'. Input should be a valid number"),
        ("T_HIGH", "nan", "T_HIGH has the value 'nan'."),
        ("IMGSZ", "0", "IMGSZ has the value '0'. Input should be greater than or equal to 1."),
        ("CARINSPECT_WORKERS", "many", "CARINSPECT_WORKERS has the value 'many'."),
        ("CARINSPECT_DEVICE", "tpu", "CARINSPECT_DEVICE has the value 'tpu'."),
        ("CARINSPECT_MAX_BUFFERED_MB", "inf", "CARINSPECT_MAX_BUFFERED_MB has the value 'inf'."),
        ("CARINSPECT_ALLOW_URLS", "perhaps", "CARINSPECT_ALLOW_URLS has the value 'perhaps'."),
        ("CARINSPECT_API_TOKEN", "secret7", "CARINSPECT_API_TOKEN: shorter than 16 characters"),
        ("CARINSPECT_TREADS", "2", "CARINSPECT_TREADS: no such setting. Did you mean 'CARINSPECT_THREADS'?"),
        ("CARINSPECT_TOKEN", "secret7", "CARINSPECT_TOKEN: no such setting. Did you mean 'CARINSPECT_API_TOKEN'?"),
        ("API_TOKEN", "secret7", "API_TOKEN is set, and the service reads CARINSPECT_API_TOKEN. Set that one"),
    ],
)
def test_a_wrong_setting_is_named_with_its_value_and_the_fix(
    read: Callable[..., ServiceConfig], name: str, value: str, message: str
) -> None:
    # What another program calls by a short word changes no name in a message.
    with pytest.raises(UserError) as error:
        read(WORKERS="4", **{name: value})
    assert str(error.value).startswith(message)
    assert "secret7" not in str(error.value)
    assert "\n" not in str(error.value)


def test_settings_are_read_and_an_empty_one_is_unset(read: Callable[..., ServiceConfig]) -> None:
    config = read(
        THRESH="", CARINSPECT_WORKERS=" 3 ", CARINSPECT_ALLOW_URLS="on", CARINSPECT_ALLOWED_URL_HOSTS="A.example.org, .b.org",
        CARINSPECT_API_TOKEN="", API_TOKEN="of-another-program",
    )  # fmt: skip
    assert (config.thresh, config.workers, config.allow_urls, config.api_token) == (None, 3, True, None)
    assert config.url_hosts == ("a.example.org", ".b.org")


def test_five_settings_also_have_a_short_name_and_no_other_has(read: Callable[..., ServiceConfig]) -> None:
    short = {"MODEL_PATH": "a.onnx", "IMGSZ": "32", "THRESH": "0.5", "T_LOW": "0.2", "T_HIGH": "0.9"}
    config = read(**short, THREADS="7", WORKERS="5", DEVICE="tpu", QUEUE_LIMIT="many")
    assert (config.model_path, config.imgsz, config.thresh, config.t_low, config.t_high) == (Path("a.onnx"), 32, 0.5, 0.2, 0.9)
    assert (config.threads, config.workers, config.device, config.queue_limit) == (None, 1, "cpu", 64)
    assert read(**{f"CARINSPECT_{name}": value for name, value in short.items()}) == config


def test_two_names_of_a_setting_may_not_contradict_each_other(read: Callable[..., ServiceConfig]) -> None:
    assert read(THRESH="0.5", CARINSPECT_THRESH="0.5").thresh == read(THRESH="", CARINSPECT_THRESH="0.5").thresh == 0.5
    with pytest.raises(UserError, match=r"^THRESH has the value '0\.4', and CARINSPECT_THRESH has '0\.5'\. Unset one of them\.$"):
        read(THRESH="0.4")


def test_an_argument_goes_before_the_environment(read: Callable[..., ServiceConfig]) -> None:
    read(MODEL_PATH="a.onnx", CARINSPECT_THREADS="2")
    config = ServiceConfig(model_path=Path("b.onnx"), threads=3)
    assert (config.model_path, config.threads) == (Path("b.onnx"), 3)


def test_variables_of_the_rest_of_the_project_and_of_kubernetes_are_no_mistyped_settings(read: Callable[..., ServiceConfig]) -> None:
    settings = {f"CARINSPECT_{field.upper()}" for field in ServiceConfig.model_fields}
    files = [file for folder in ("src", "tests") for file in (ROOT / folder).rglob("*.py") if file != Path(__file__)]
    named = {name for file in [*files, ROOT / "Makefile"] for name in re.findall(r"\bCARINSPECT_[A-Z_]+[A-Z]", file.read_text())} - settings
    assert {"CARINSPECT_LEASES", "CARINSPECT_MODEL_COPY", "CARINSPECT_SUPERVISOR", "CARINSPECT_REAL_DATA"} <= named
    # Kubernetes sets these for a service of the name carinspect.
    named |= {"CARINSPECT_PORT", "CARINSPECT_SERVICE_HOST", "CARINSPECT_SERVICE_PORT", "CARINSPECT_PORT_8000_TCP_PROTO"}
    assert read(**dict.fromkeys(named, "1")) == ServiceConfig()


def test_a_token_stands_in_no_description_of_the_settings(read: Callable[..., ServiceConfig]) -> None:
    assert TOKEN not in repr(read(CARINSPECT_API_TOKEN=TOKEN))


def test_the_time_for_headers_reaches_workers_which_get_uvicorns_settings_pickled() -> None:
    made = server._settings("module:app", ServiceConfig(workers=2, header_timeout_s=3), host="127.0.0.1", port=8000)
    assert pickle.loads(pickle.dumps(made)).service.header_timeout_s == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"imgsz": 224}, "IMGSZ has the value 224, and .* takes photos of 32 px"),
        ({"thresh": 0.1}, "THRESH, T_LOW, T_HIGH: .*T_low <= T_label <= T_high"),
        ({"t_low": 0.9}, "THRESH, T_LOW, T_HIGH: .*T_low <= T_label <= T_high"),
    ],
)
def test_a_model_that_does_not_match_the_settings_is_not_served(model: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        create_app(ServiceConfig(model_path=model, **settings))
    create_app(ServiceConfig(model_path=model, imgsz=SIDE, thresh=0.5))


def test_without_a_model_or_its_threshold_nothing_is_served(tmp_path: Path) -> None:
    path = tmp_path / "best.onnx"
    with pytest.raises(UserError, match=r"no such model file\. Make one \(dvc repro\)"):
        create_app(ServiceConfig(model_path=path))
    path.write_bytes(model_bytes(rules={"T_clean": 0.5}))
    with pytest.raises(UserError, match="its thresholds have the format none, and this code reads 5. Make it again"):
        create_app(ServiceConfig(model_path=path))
    path.write_bytes(model_bytes()[:-1])
    with pytest.raises(UserError, match="not a whole model file|altered or damaged"):
        create_app(ServiceConfig(model_path=path))


# ---- answers


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_the_service_answers_as_batch_scoring_does(model: Path, kind: str, batch_size: int) -> None:
    predictor = make_predictor(open_bundle(model, threads=1))
    with client_of(model, batch_size=batch_size) as client:
        for seed in range(4):
            photo = photo_bytes(seed=seed, kind=kind)
            (expected,) = predictor.answer(load_image(photo, SIDE)[None])
            found = send(client, photo).json()
            flat = flat_answer(predictor, expected)
            for name in ("label", "p_clean", "threshold", "decision", "cleanliness", "damage", "p_damaged", "weather"):
                assert found[name] == flat[name], name
            assert found["p_weather"] == expected["weather"].p  # type: ignore[union-attr]
            assert {name: one["p"] for name, one in found["answers"].items() if one["kind"] == "binary"} == {
                "clean": flat["p_clean"], "damaged": flat["p_damaged"],
            }  # fmt: skip


def test_different_photos_get_different_answers(client: TestClient) -> None:
    assert len({send(client, photo_bytes(seed=seed)).json()["p_clean"] for seed in range(4)}) == 4


def test_an_answer_carries_its_promise_model_and_timings(client: TestClient, model: Path) -> None:
    answer = send(client, photo_bytes()).json()
    assert answer["promise"] == PROVED
    assert answer["overridden"] is False
    assert "at least 95 %" in answer["in_words"]
    assert answer["model_version"] == open_bundle(model).sha256[:16]
    assert set(answer["timings"]) == {"queue_ms", "decode_ms", "model_ms", "total_ms"}
    assert answer["marks"] is None


@pytest.mark.parametrize("settings", [{"thresh": 0.6}, {"t_low": 0.1}, {"t_high": 0.9}])
def test_an_overridden_threshold_drops_the_promise_in_every_answer(model: Path, settings: dict[str, float]) -> None:
    with client_of(model, **settings) as client:
        for seed in range(3):
            answer = send(client, photo_bytes(seed=seed)).json()
            assert (answer["promise"], answer["overridden"]) == (None, True)
            assert "No promise: the operator" in answer["in_words"]
        assert client.get("/model").json()["rules"]["clean"]["overridden"] is True


def test_the_models_own_threshold_given_again_keeps_the_promise(model: Path) -> None:
    with client_of(model, thresh=0.5) as client:
        assert send(client, photo_bytes()).json()["promise"] == PROVED


_TESTED = "photos like those it was tested on, at least"
_CLEAN = f"{_TESTED} 95 % of what is called clean is clean (90 % confidence)."
_DIRTY = f"{_TESTED} 80 % of what is called dirty is dirty (90 % confidence)."


@pytest.mark.parametrize(
    ("proved", "side", "words"),
    [
        (["good"], "good", f"The car is clean. Of {_CLEAN}"),
        (["good"], "bad", f"The car is dirty. Only “clean” carries a promise: of {_CLEAN}"),
        (["bad"], "good", f"The car is clean. Only “dirty” carries a promise: of {_DIRTY}"),
        (["bad"], "bad", f"The car is dirty. Of {_DIRTY}"),
        (["good", "bad"], "good", f"The car is clean. Of {_CLEAN}"),
        (["good", "bad"], "bad", f"The car is dirty. Of {_DIRTY}"),
        (["bad"], None, "The photo does not settle whether the car is clean; a person should look at it."),
        ([], "bad", "The car is dirty. No promise: the photos at hand were too few to prove one."),
    ],
)
def test_the_words_promise_what_is_proved_of_them(proved: list[str], side: Any, words: str) -> None:
    promises = {"good": PROMISE, "bad": PROMISE.model_copy(update={"precision": 0.8})}
    made = thresholds(**{name: promise if name in proved else None for name, promise in promises.items()})  # type: ignore[arg-type]
    assert say(side, rules_in_use(made)["clean"]) == words


def test_what_is_proved_of_dirty_is_told(tmp_path: Path) -> None:
    path = tmp_path / "best.onnx"
    path.write_bytes(model_bytes(rules=thresholds(bad=PROMISE)))
    with client_of(path) as client:
        answer, told = send(client, photo_bytes()).json(), client.get("/model").json()
    assert answer["promise_low"] == told["rules"]["clean"]["promises"]["dirty"] == PROVED


def test_a_model_without_a_proof_promises_nothing(tmp_path: Path) -> None:
    path = tmp_path / "best.onnx"
    path.write_bytes(model_bytes(rules=thresholds(**NOTHING_PROVED)))  # type: ignore[arg-type]
    with client_of(path) as client:
        answer = send(client, photo_bytes()).json()
    assert (answer["label"], answer["decision"], answer["promise"]) == (None, "unsure", None)
    assert "No promise" in answer["in_words"]


def test_each_photo_of_a_batch_has_its_answer_or_its_error(client: TestClient) -> None:
    photos = [photo_bytes(seed=0), b"no photo", photo_bytes(seed=1), photo_bytes()[:-200]]
    answer = client.post("/predict/batch", files=[("files", ("x.jpg", photo, "image/jpeg")) for photo in photos]).json()
    assert [item["status"] for item in answer["photos"]] == [200, 415, 200, 422]
    assert [item["answer"] is None for item in answer["photos"]] == [False, True, False, True]
    assert answer["photos"][2]["answer"]["p_clean"] == send(client, photos[2]).json()["p_clean"]


def test_photos_of_one_car_get_one_verdict_unless_one_of_them_has_no_answer(client: TestClient, model: Path) -> None:
    photos = [photo_bytes(seed=seed) for seed in range(3)]

    def ask(client: TestClient, photos: list[bytes], query: str = "?car=true") -> Any:
        return client.post(f"/predict/batch{query}", files=[("files", ("x.jpg", photo, "image/jpeg")) for photo in photos]).json()

    found = ask(client, photos)
    predictor = make_predictor(open_bundle(model, threads=1))
    answers = [predictor.answer(load_image(photo, SIDE)[None])[0] for photo in photos]
    expected = judge_car(answers, car_rules_in_use(predictor.bundle.thresholds, predictor.rules))
    assert {name: (one["decision"], one["value"], one["worst_photo"]) for name, one in found["car"].items()} == {
        name: (one.decision, one.value, one.worst_photo) for name, one in expected.items()
    }
    clean = found["car"]["clean"]
    assert (clean["unit"], clean["decision"], clean["promise"]["precision"]) == ("car", "dirty", 0.8)
    assert (found["car"]["damage"]["decision"], found["car"]["damage"]["value"]) == (None, min(a["damage"].value for a in answers))  # type: ignore[union-attr]
    assert ask(client, [*photos, b"no photo"])["car"] is None
    assert ask(client, photos, "")["car"] is None
    # What is proved for cars of two to six photos is not said of a car of one.
    assert clean["no_promise"] is None
    alone = ask(client, photos[:1])["car"]["clean"]
    assert (alone["promise"], alone["no_promise"][:34]) == (None, "This car has 1 photo. 'dirty' is p")
    assert client.get("/model").json()["rules_for_cars"]["clean"][0]["photos_to"] == 6
    with client_of(model, thresh=0.6) as overridden:
        verdict = ask(overridden, photos)["car"]["clean"]
        assert (verdict["unit"], verdict["promise"]) == ("photo", None)


def test_a_model_that_knows_how_uncertain_it_is_says_so(tmp_path: Path, client: TestClient) -> None:
    path = tmp_path / "best.onnx"
    path.write_bytes(model_bytes(with_spread=True))
    with client_of(path) as uncertain:
        found = [send(uncertain, photo_bytes()).json() for _ in range(2)]
    assert set(found[0]["uncertainty"]) == {"p_clean_std", "cleanliness_std", "p_damaged_std", "damage_std", "p_weather_std"}
    assert all(0 < spread < 0.5 for spread in found[0]["uncertainty"].values())
    assert found[0]["uncertainty"] == found[1]["uncertainty"]
    assert send(client, photo_bytes()).json()["uncertainty"] is None


def test_the_model_tells_its_lineage(client: TestClient) -> None:
    told = client.get("/model").json()
    assert told["lineage"] == {"data_revision": "abc", "code_revision": "def"}
    assert told["metrics"] == {"clean": {"roc_auc": 0.9}}
    rule = told["rules"]["clean"]
    assert (rule["promises"], rule["T_label"], told["image_side_px"]) == ({"clean": PROVED}, 0.5, SIDE)


def test_the_figures_count_routes_decisions_and_seconds(model: Path) -> None:
    with client_of(model) as client:
        decision = send(client, photo_bytes()).json()["decision"]
        send(client, b"no photo")
        client.get("/no/such/<path>")
        text = client.get("/metrics").text
    assert 'carinspect_requests_total{route="/predict/file",status="200"} 1.0' in text
    assert 'carinspect_requests_total{route="/predict/file",status="415"} 1.0' in text
    assert 'carinspect_requests_total{route="other",status="404"} 1.0' in text
    assert f'carinspect_decisions_total{{decision="{decision}",question="clean"}} 1.0' in text
    assert "carinspect_model_seconds_count 1.0" in text
    assert "carinspect_photos_waiting 0.0" in text


def test_a_wrong_path_method_or_query_is_answered_in_the_same_form(client: TestClient) -> None:
    assert client.get("/nothing").status_code == 404
    assert client.get("/predict/file").status_code == 405
    assert send(client, photo_bytes(), "?marks=perhaps").status_code == 422
    assert all("error" in found.json() for found in (client.get("/nothing"), client.get("/predict/file")))


def test_nothing_is_loaded_from_elsewhere(client: TestClient) -> None:
    page = client.get("/")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "https://" not in page.text.replace("https://…", "")
    assert set(client.get("/openapi.json").json()["paths"]) == {
        "/predict/file", "/predict/url", "/predict/batch", "/model", "/admin/reload", "/healthz", "/readyz", "/metrics", "/feedback",
        "/feedback/car", "/feedback/{photo_sha256}",
    }  # fmt: skip


# ---- the readable page of the interface


def addresses_in(page: str) -> list[str]:
    """What a page and the script in it load."""
    return [attribute or variable for attribute, variable in re.findall(r"""(?:src|href)="([^"]*)"|url: '([^']*)'""", page)]


def test_the_interface_has_a_page_that_lives_on_the_service_alone(client: TestClient) -> None:
    page = client.get("/docs")
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert addresses_in(page.text) == ["/docs/swagger-ui.css", "/docs/favicon-32x32.png", "/docs/swagger-ui-bundle.js", "/openapi.json"]
    assert '"validatorUrl": null' in page.text
    policy = dict(part.split(" ", 1) for part in page.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert re.fullmatch(r"'self' 'sha256-[^' ]{44}'", policy["script-src"])
    assert "//" not in page.text
    assert "http" not in str(policy)


def test_fastapis_own_page_would_not_pass_for_one_that_lives_here() -> None:
    page = bytes(get_swagger_ui_html(openapi_url="/openapi.json", title="").body).decode()
    assert "//" in page
    assert all(address.startswith("https://") for address in addresses_in(page)[:3])


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("swagger-ui-bundle.js", "text/javascript; charset=utf-8"),
        ("swagger-ui.css", "text/css; charset=utf-8"),
        ("favicon-32x32.png", "image/png"),
    ],
)
def test_the_files_of_the_interfaces_page_are_those_of_the_package(client: TestClient, name: str, kind: str) -> None:
    found = client.get(f"/docs/{name}")
    assert (found.status_code, found.headers["content-type"], found.headers["x-content-type-options"]) == (200, kind, "nosniff")
    assert found.content == resources.files("fastapi_swagger.resources").joinpath(name).read_bytes()


def test_below_the_interfaces_page_there_is_nothing_else_not_even_a_name_in_the_figures(model: Path) -> None:
    with client_of(model) as client:
        assert client.get("/docs").status_code == 200
        for name in ("__init__.py", "main.py", "..%2fmain.py", "%2fetc%2fpasswd", "swagger-ui.css/x", "oauth2-redirect"):
            assert client.get(f"/docs/{name}").status_code == 404, name
        assert client.post("/docs").status_code == 405
        counted = re.findall(r'requests_total\{route="([^"]*)",status="(\d+)"\}', client.get("/metrics").text)
    assert sorted(counted) == [("/docs", "200"), ("/docs", "405"), ("other", "404")]


def test_the_description_says_what_asks_for_the_token_and_only_where_there_is_one(model: Path, client: TestClient) -> None:
    def asking(description: dict[str, Any]) -> set[tuple[str, str]]:
        return {
            (method, path) for path, methods in description["paths"].items() for method, said in methods.items() if said.get("security")
        }

    assert asking(client.get("/openapi.json").json()) == set()
    with client_of(model, api_token=TOKEN) as guarded:
        description = guarded.get("/openapi.json").json()
        assert description["components"]["securitySchemes"]["token"]["scheme"] == "bearer"
        every = {(method, path) for path, methods in description["paths"].items() for method in methods}
        assert asking(description) == {(method, path) for method, path in every if guarded.request(method, path).status_code == 401}
        assert asking(description) < every


# ---- too much at once


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Photos are decoded only once the event is set."""
    event = threading.Event()
    load = Predictor.load_with_size

    def wait_and_load(self: Predictor, source: Any) -> tuple[np.ndarray, tuple[int, int]]:
        assert event.wait(30)
        return load(self, source)

    monkeypatch.setattr(Predictor, "load_with_size", wait_and_load)
    yield event
    event.set()


def wait_until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < end


def test_beyond_its_queue_a_service_says_when_to_come_again_and_recovers(model: Path, held: threading.Event) -> None:
    with client_of(model, queue_limit=2) as client, ThreadPoolExecutor(2) as pool:
        accepted = [pool.submit(send, client, photo_bytes(seed=seed)) for seed in range(2)]
        wait_until(lambda: client.get("/readyz").status_code != 200)
        refused = send(client, photo_bytes())
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert client.get("/healthz").status_code == 200
        held.set()
        assert [future.result().status_code for future in accepted] == [200, 200]
        assert send(client, photo_bytes()).status_code == 200


def test_a_batch_that_does_not_fit_the_queue_is_sent_away_whole(model: Path) -> None:
    with client_of(model, queue_limit=2) as client:
        files = [("files", ("x.jpg", photo_bytes(), "image/jpeg"))] * 3
        assert client.post("/predict/batch", files=files).status_code == 503
        assert client.post("/predict/batch", files=files[:2]).status_code == 200


def test_uploads_share_a_bounded_memory(model: Path) -> None:
    with client_of(model, max_buffered_mb=0.002) as client:
        refused = send(client, photo_bytes(width=400, height=400))
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert "Too many uploads" in refused.json()["error"]
        assert send(client, photo_bytes(width=20, height=20)).status_code == 200


# ---- batching


class _Counting:
    """Stands in for a predictor: answers each photo by its first value, and remembers the batches."""

    def __init__(self, *, broken: bool = False) -> None:
        self.sizes: list[int] = []
        self._broken = broken

    def answer(self, photos: np.ndarray) -> list[int]:
        self.sizes.append(len(photos))
        if self._broken:
            raise RuntimeError("the model failed")
        return [int(photo.flat[0]) for photo in photos]


async def _answer_all(batcher: Batcher, work: list[tuple[Any, int]]) -> list[Any]:
    batcher.start()
    photos = [(predictor, np.full((2, 2, 3), value, np.uint8)) for predictor, value in work]
    found = await asyncio.gather(*(batcher.answer(predictor, photo) for predictor, photo in photos), return_exceptions=True)
    await batcher.stop()
    return found


def test_concurrent_photos_share_runs_and_each_gets_its_own_answer() -> None:
    predictor = _Counting()
    found = asyncio.run(_answer_all(Batcher(batch_size=4, wait_s=0.5), [(predictor, value) for value in range(10)]))
    assert found == list(range(10))
    assert predictor.sizes == [4, 4, 2]


def test_a_batch_never_mixes_two_models_and_a_broken_one_harms_only_its_own_photos() -> None:
    old, broken = _Counting(), _Counting(broken=True)
    found = asyncio.run(_answer_all(Batcher(batch_size=4, wait_s=0.2), [(old, 1), (old, 2), (broken, 3), (old, 4)]))
    assert (old.sizes, broken.sizes) == ([2, 1], [1])
    assert [found[0], found[1], found[3]] == [1, 2, 4]
    assert isinstance(found[2], RuntimeError)


def test_threads_answer_whoever_waits_and_one_fault_is_one_waiters() -> None:
    async def scenario(threads: Threads) -> list[Any]:
        jobs: list[Callable[[], Any]] = [lambda: threading.current_thread().name, _fail, lambda: 3]
        return await asyncio.gather(*(threads.run(job) for job in jobs), return_exceptions=True)

    threads = Threads(1, name="tested")
    name, fault, three = asyncio.run(scenario(threads))
    assert (name, str(fault), three) == ("tested_0", "secret/path", 3)
    # A loop that ended is no threads' end.
    assert asyncio.run(scenario(threads))[2] == 3
    threads.stop()
    assert "tested_0" not in {thread.name for thread in threading.enumerate()}


def test_threads_do_not_begin_what_nobody_waits_for_and_finish_what_they_took() -> None:
    threads, gate = Threads(1, name="tested"), threading.Event()
    done: list[str] = []

    async def scenario() -> None:
        first = asyncio.create_task(threads.run(lambda: (gate.wait(), done.append("first"))))
        given_up = asyncio.create_task(threads.run(lambda: done.append("given up")))
        last = asyncio.create_task(threads.run(lambda: done.append("last")))
        await asyncio.sleep(0.05)
        given_up.cancel()
        # The waiter of work that is under way may go, too.
        first.cancel()
        await asyncio.sleep(0)
        gate.set()
        await last

    asyncio.run(scenario())
    threads.stop()
    assert done == ["first", "last"]


def test_a_fault_of_the_model_is_a_500_without_a_trace(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = create_app(ServiceConfig(model_path=model))
    monkeypatch.setattr(Predictor, "answer", _fail)
    with TestClient(app, raise_server_exceptions=False) as client:
        found = send(client, photo_bytes())
        assert (found.status_code, found.json()) == (500, {"error": "The service failed on this request, and its log says why."})
        assert client.get("/readyz").status_code == 200


def _fail(*_: Any) -> None:
    raise RuntimeError("secret/path")


# ---- replacing the model


def test_a_new_model_takes_over_and_a_bad_one_does_not(tmp_path: Path) -> None:
    path = tmp_path / "best.onnx"
    path.write_bytes(model_bytes(seed=0))
    with client_of(path, api_token=TOKEN) as client:
        client.headers["Authorization"] = f"Bearer {TOKEN}"
        first = send(client, photo_bytes()).json()
        path.write_bytes(model_bytes(seed=1))
        assert send(client, photo_bytes()).json()["p_clean"] == first["p_clean"]
        told = client.post("/admin/reload").json()
        second = send(client, photo_bytes()).json()
        assert second["p_clean"] != first["p_clean"]
        assert second["model_version"] == told["model_version"] == client.get("/model").json()["model_version"]
        for bad in (b"no model", model_bytes(rules={"T_clean": 0.5}), model_bytes()[:-9]):
            path.write_bytes(bad)
            refused = client.post("/admin/reload")
            assert (refused.status_code, refused.json()["model_version"]) == (409, second["model_version"])
            assert str(tmp_path) not in refused.text
            assert send(client, photo_bytes()).json()["p_clean"] == second["p_clean"]
        text = client.get("/metrics").text
        assert 'carinspect_model_reloads_total{outcome="done"} 1.0' in text
        assert 'carinspect_model_reloads_total{outcome="refused"} 3.0' in text
        assert f'carinspect_model_info{{version="{first["model_version"]}"}} 0.0' in text


def test_a_photo_accepted_before_the_change_is_answered_by_the_old_model(tmp_path: Path, held: threading.Event) -> None:
    path = tmp_path / "best.onnx"
    path.write_bytes(model_bytes(seed=0))
    with client_of(path, api_token=TOKEN) as client, ThreadPoolExecutor(1) as pool:
        client.headers["Authorization"] = f"Bearer {TOKEN}"
        before = client.get("/model").json()["model_version"]
        accepted = pool.submit(send, client, photo_bytes())
        wait_until(lambda: "carinspect_photos_waiting 1.0" in client.get("/metrics").text)
        path.write_bytes(model_bytes(seed=1))
        after = client.post("/admin/reload").json()["model_version"]
        held.set()
        assert accepted.result().json()["model_version"] == before
        assert send(client, photo_bytes()).json()["model_version"] == after != before


# ---- the drift log


def test_answered_photos_come_into_the_drift_log_each_with_the_model_that_answered(tmp_path: Path) -> None:
    path, log = tmp_path / "best.onnx", tmp_path / "drift.jsonl"
    path.write_bytes(model_bytes())
    with client_of(path, drift_log=log, api_token=TOKEN) as client:
        client.headers["Authorization"] = f"Bearer {TOKEN}"
        for seed in range(25):
            send(client, photo_bytes(seed=seed))
        send(client, b"no photo")
        path.write_bytes(model_bytes(seed=1))
        client.post("/admin/reload")
        for seed in range(30):
            send(client, photo_bytes(seed=seed))
    lines = read_log(log)
    assert [line["photos"] for line in lines] == [25, 30]
    assert lines[0]["model_sha256"] != lines[1]["model_sha256"] == open_bundle(path).sha256


def test_requests_are_counted_by_their_photos_and_refused_ones_are_not(model: Path, tmp_path: Path) -> None:
    log = tmp_path / "drift.jsonl"
    with client_of(model, drift_log=log) as client:
        for seed in range(15):
            send(client, photo_bytes(seed=seed))
        send(client, b"no photo")
        for start in (20, 30):
            files = [("files", (f"{seed}.jpg", photo_bytes(seed=seed))) for seed in range(start, start + 6)]
            assert client.post("/predict/batch", files=files).status_code == 200
    (line,) = read_log(log)
    assert (line["photos"], line["requests"]) == (27, {"1": 15, "6": 2})


def test_figures_show_what_the_verdicts_of_people_say(model: Path, tmp_path: Path) -> None:
    ledger, digest = tmp_path / "ledger.jsonl", open_bundle(model).sha256

    def figure(client: TestClient, name: str) -> float:
        return float(next(line for line in client.get("/metrics").text.splitlines() if line.startswith(name)).split()[-1])

    def judge(said: str, first: int) -> None:
        verdicts = [
            Verdict(str(photo), str(photo), digest, "clean", "clean", said, "Ada", "2026-11-01", "") for photo in range(first, first + 12)
        ]
        append(ledger, [*verdicts, replace(verdicts[0], model_sha256="another", verdict="dirty")])

    holds, broken = (f'carinspect_audit_state{{question="clean",state="{state}",word="clean"}}' for state in ("holds so far", "broken"))
    with client_of(model, audit_ledger=ledger) as client:
        assert figure(client, "carinspect_audit_ledger_unreadable") == 1
        judge("clean", 0)
        assert (figure(client, holds), figure(client, broken), figure(client, "carinspect_audit_verdicts{")) == (1, 0, 12)
        judge("dirty", 100)
        assert (figure(client, holds), figure(client, broken), figure(client, "carinspect_audit_ledger_unreadable")) == (0, 1, 0)
        ledger.write_bytes(ledger.read_bytes().replace(b"Ada", b"Eve", 1))
        # No old finding is shown for a ledger that somebody edited.
        assert (figure(client, broken), figure(client, "carinspect_audit_ledger_unreadable")) == (0, 1)


def test_without_the_setting_nothing_is_logged(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DriftLog, "add", _fail)
    with client_of(model) as client:
        assert send(client, photo_bytes()).status_code == 200


def test_a_model_is_proven_before_it_is_served(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = type(open_bundle(model))
    monkeypatch.setattr(bundle, "predict", lambda *_, **__: {"p_clean": np.array([np.nan], np.float32)})
    with pytest.raises(UserError, match="its p_clean is not a finite number"):
        load_model(model, ServiceConfig())

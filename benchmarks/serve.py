"""Measures requests/s, latency and CPU seconds of the service at 1, 8 and 32 clients, against a bare loop and LitServe.

    PYTHONPATH=src python benchmarks/serve.py [--backbone resnet50 --side 256] [--model models/best.onnx] [--photos data/demo]

`bare loop` decodes and answers the same photos one by one on one thread, without HTTP. The servers run as processes of their own with one
thread for photos; LitServe gets the same `Predictor`. Clients are threads of this process on loopback; their CPU time is not counted.
`of bare` compares photos per CPU second of the server, which busy clients do not change. All take turns in each round; a figure is
the median of the rounds. With --backbone the model has random weights: what it costs does not depend on them.
"""

import argparse
import http.client
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import psutil

from carinspect.core.errors import UserError
from carinspect.core.programs import run_program
from carinspect.images.decode import PhotoError
from carinspect.inference.bundle import open_bundle
from carinspect.inference.predictor import Predictor, make_predictor

CLIENTS = (1, 8, 32)
BOUNDARY = "carinspect-benchmark"


@dataclass(frozen=True)
class Found:
    """The results of one round of one contestant."""

    photos_per_s: float
    photos_per_cpu_s: float
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True)
class Server:
    """A running server: port, path, the form field of the photo, and process."""

    port: int
    path: str
    field: str
    process: psutil.Process

    def cpu_s(self) -> float:
        """CPU seconds of the process and its descendants so far."""
        family = [self.process, *self.process.children(recursive=True)]
        return sum(times.user + times.system for times in (member.cpu_times() for member in family))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", type=Path, default=Path("models/best.onnx"))
    parser.add_argument("--backbone", help="export this timm model with random weights, in place of --model")
    parser.add_argument("--side", type=int, default=256, help="its photos' side in pixels")
    parser.add_argument("--photos", type=Path, default=Path("data/demo"))
    parser.add_argument("--requests", type=int, help="of each way in each round; default: 5 s of the bare loop, 64 to 400")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    if find_spec("litserve") is None:
        fix = "pip install -r tests/requirements.txt -c constraints.txt"
        raise UserError(f"LitServe, which the service is compared with, is not installed: {fix}")
    with tempfile.TemporaryDirectory() as folder:
        model = export_random(arguments.backbone, arguments.side, Path(folder)) if arguments.backbone else arguments.model
        compare(model, arguments.photos, requests=arguments.requests, rounds=arguments.rounds)


def compare(model: Path, folder: Path, *, requests: int | None, rounds: int) -> None:
    predictor = make_predictor(open_bundle(model, threads=1))
    if requests is None:
        # 400 requests of 7 ways in 4 rounds, of a large model, would take a quarter of an hour.
        bare_loop(predictor, (few := sound_photos(folder, predictor, 16))[:4])
        requests = min(400, max(64, int(5 * bare_loop(predictor, few).photos_per_s)))
    photos = sound_photos(folder, predictor, requests)
    few = photos[:32]
    with run_server("service", model) as service, run_server("LitServe", model) as litserve:
        ways: dict[str, Callable[[list[bytes]], Found]] = {"bare loop": lambda photos: bare_loop(predictor, photos)}
        for clients in CLIENTS:
            ways[f"service, {clients} clients"] = lambda photos, clients=clients: load(service, photos, clients=clients)
            ways[f"LitServe, {clients} clients"] = lambda photos, clients=clients: load(litserve, photos, clients=clients)
        for way in ways.values():
            way(few)  # to warm up
        found: dict[str, list[Found]] = {name: [] for name in ways}
        for _ in range(rounds):
            for name, way in ways.items():
                found[name].append(way(photos))
    bare = median(found["bare loop"], "photos_per_cpu_s")
    print(f"{predictor.bundle.file_bytes / 1e6:.1f} MB model, {predictor.image_side_px} px, {len(photos)} photos a round, {rounds} rounds")
    print(f"{'':22} {'photos/s':>9} {'p50 ms':>8} {'p99 ms':>8} {'photos/CPU s':>13} {'of bare':>8}")
    for name, results in found.items():
        speed, cost = median(results, "photos_per_s"), median(results, "photos_per_cpu_s")
        p50, p99 = median(results, "p50_ms"), median(results, "p99_ms")
        print(f"{name:22} {speed:9.1f} {p50:8.1f} {p99:8.1f} {cost:13.1f} {cost / bare:8.2f}")


def median(results: list[Found], name: str) -> float:
    return statistics.median(getattr(result, name) for result in results)


def sound_photos(folder: Path, predictor: Predictor, count: int) -> list[bytes]:
    """`count` photos under `folder`, some more than once where there are fewer."""
    sound = []
    for path in sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".png")):
        content = path.read_bytes()
        try:
            predictor.load(content)
        except PhotoError:
            continue
        sound.append(content)
        if len(sound) == count:
            break
    return [sound[place % len(sound)] for place in range(count)]


def bare_loop(predictor: Predictor, photos: list[bytes]) -> Found:
    begun, cpu = time.perf_counter(), time.process_time()
    seconds = []
    for photo in photos:
        start = time.perf_counter()
        predictor.bundle.predict(predictor.load(photo)[None])
        seconds.append(time.perf_counter() - start)
    return summarise(seconds, wall_s=time.perf_counter() - begun, cpu_s=time.process_time() - cpu)


def load(server: Server, photos: list[bytes], *, clients: int) -> Found:
    """Send all photos from `clients` clients, each with one connection and one request at a time."""
    requests = [write_request(server, photo) for photo in photos]
    shares = [requests[first::clients] for first in range(clients)]
    cpu, begun = server.cpu_s(), time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        seconds = [took for took_of_client in pool.map(lambda share: send_all(server, share), shares) for took in took_of_client]
    return summarise(seconds, wall_s=time.perf_counter() - begun, cpu_s=server.cpu_s() - cpu)


def write_request(server: Server, photo: bytes) -> bytes:
    """A whole request, built before the timing: clients share the cores with the server, so their work would slow it."""
    part = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{server.field}"; filename="x.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'
    body = part.encode() + photo + f"\r\n--{BOUNDARY}--\r\n".encode()
    head = f"POST {server.path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary={BOUNDARY}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def send_all(server: Server, requests: list[bytes]) -> list[float]:
    seconds = []
    with socket.create_connection(("127.0.0.1", server.port), timeout=120) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for request in requests:
            start = time.perf_counter()
            connection.sendall(request)
            read_answer(connection)
            seconds.append(time.perf_counter() - start)
    return seconds


def read_answer(connection: socket.socket) -> None:
    """One answer of status 200 with a stated length, to its end."""
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += receive(connection)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 "), answer
    (length,) = re.findall(rb"(?i)\r\ncontent-length: *(\d+)", head)
    missing = int(length) - len(body)
    while missing > 0:
        missing -= len(receive(connection))


def receive(connection: socket.socket) -> bytes:
    received = connection.recv(65536)
    assert received, "the server closed the connection"
    return received


def summarise(seconds: list[float], *, wall_s: float, cpu_s: float) -> Found:
    cuts = statistics.quantiles(seconds, n=100)
    return Found(len(seconds) / wall_s, len(seconds) / cpu_s, 1000 * cuts[49], 1000 * cuts[98])


@contextmanager
def run_server(name: str, model: Path) -> Iterator[Server]:
    """A server as a process of its own, ready."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    environment = os.environ | {"MODEL_PATH": str(model), "CARINSPECT_THREADS": "1", "OMP_NUM_THREADS": "1"}
    if name == "service":
        command, path, field = ["-m", "carinspect.cli.main", "serve", "--port", str(port)], "/predict/file", "file"
        ready = "/readyz"
    else:
        command, path, field = [str(Path(__file__).with_name("serve_litserve.py")), str(port)], "/predict", "request"
        ready = "/health"
    process = subprocess.Popen([sys.executable, *command], env=environment, stdout=subprocess.DEVNULL)
    parent = psutil.Process(process.pid)
    try:
        wait_until_ready(name, port, ready, process)
        yield Server(port, path, field, parent)
    finally:
        # LitServe's processes outlive their parent.
        family = parent.children(recursive=True) if parent.is_running() else []
        process.terminate()
        process.wait(60)
        for member in psutil.wait_procs(family, timeout=5)[1]:
            member.kill()


def wait_until_ready(name: str, port: int, path: str, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 120
    while time.monotonic() < end:
        if process.poll() is not None:
            raise UserError(f"{name} ended before it was ready. Its reason stands above.")
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", path)
            if connection.getresponse().status == 200:
                return
        except OSError:
            time.sleep(0.2)
        finally:
            connection.close()
    raise UserError(f"{name} was not ready after two minutes.")


def export_random(
    backbone: str, side_px: int, folder: Path, *, stages: int = 0, mirror: bool = False, ensemble: bool = False, marks: bool = False
) -> Path:
    """A model file of this project with random weights, and maps with `marks`; the rest as in `model` and `evaluate` of params.yaml."""
    import torch

    from carinspect.core.gate import MEASURES
    from carinspect.core.params import load_params
    from carinspect.core.questions import read_questions
    from carinspect.export.graph import AnsweringNetwork, to_onnx
    from carinspect.export.metadata import Trained, describe_model
    from carinspect.inference.gate import GateRule
    from carinspect.inference.rules import FORMAT, Thresholds
    from carinspect.inference.seal import seal
    from carinspect.model.backbones import build_backbone
    from carinspect.model.calibration import Calibration, QuestionCalibration, Reading
    from carinspect.model.checkpoint import Checkpoint
    from carinspect.model.config import ModelRecipe
    from carinspect.model.ensemble import FrozenFeatures
    from carinspect.model.features import StageFeatures
    from carinspect.model.gate import PICTURE_COLUMNS, fit_gate
    from carinspect.model.marks import MarksFit, MarksHead, channels_of, marked_stages
    from carinspect.model.network import CarInspectionNetwork

    torch.manual_seed(0)
    questions = tuple(question.asked for question in read_questions(load_params(Path(__file__).parents[1] / "params.yaml")))
    recipe = ModelRecipe(backbone=backbone, feature_stages=stages, pretrained="none", hidden_features=128, dropout=0.2)
    network = CarInspectionNetwork(recipe, questions, backbone=build_backbone(backbone, image_side_px=side_px))
    if ensemble:
        features = StageFeatures(build_backbone(backbone, image_side_px=side_px), stages=stages, mirror=False)
        pooled = next(iter(network.shared.parameters())).shape[1]
        network.companion = FrozenFeatures(features, {"mean": torch.zeros(pooled), "scale": torch.ones(pooled)})
        for name, head in network.heads.items():
            network.heads[name] = torch.nn.Linear(head.weight.shape[1] + pooled, head.weight.shape[0])
    fitted = {
        asked.name: QuestionCalibration(
            logit_offset=[0.0] * len(asked.classes), temperature=1.0, photos=0, nll_before=None, nll_after=None, reason=None
        )
        for asked in questions
        if asked.has_classes
    }
    calibration = Calibration(fitted_on="val", questions=fitted, uncertainty=None, reading=Reading(image_side_px=side_px, mirror=mirror))
    random = np.random.default_rng(0)
    with torch.inference_mode():
        width = network.features_and_early(torch.zeros((1, side_px, side_px, 3), dtype=torch.uint8))[1].shape[1]
    known_NC, pictures_NQ = random.normal(size=(600, width)), random.normal(size=(600, PICTURE_COLUMNS))
    gate = fit_gate(early_NC=known_NC, pictures_NQ=pictures_NQ, held_out_early_NC=known_NC[:100], held_out_pictures_NQ=pictures_NQ[:100])
    mapped, names = tuple(marked_stages(network.backbone)), tuple(asked.name for asked in questions if asked.marks)
    channels = tuple(channels_of(network.backbone, mapped))
    fit = MarksFit(names, mapped, channels, {}, {}, MarksHead(channels, questions=len(names)).state_dict()) if marks else None
    model = to_onnx(AnsweringNetwork(network.eval(), calibration, gate, fit), image_side_px=side_px)
    checkpoint = Checkpoint(questions=questions, model=recipe, image_side_px=side_px, weights={}, lineage={})
    open_gate = GateRule(threshold=1e9, share=0.02, groups=100, measures=list(MEASURES))
    thresholds = Thresholds(format=FORMAT, questions=list(questions), gate=open_gate, rules={}, sets={}, predictions_sha256="")
    describe_model(model, Trained(checkpoint, calibration, thresholds, gate, None, {"evaluate": {"test": {}}}))
    path = folder / "random.onnx"
    path.write_bytes(seal(model.SerializeToString()))
    return path


if __name__ == "__main__":
    run_program(main, "benchmarks/serve.py")

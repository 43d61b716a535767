"""What this project does on a GPU, in one command of at most ten minutes: a Markdown table, as docs/gpu.md has it.

    PYTHONPATH=src python benchmarks/gpu.py --out docs/gpu.md            # make gpu-report
    PYTHONPATH=src python benchmarks/gpu.py --device cpu                 # the same in small, without a GPU

Each section runs in a process of its own and has its share of `--limit-s`; after that it is ended, and the figures that it had printed
stay. A section that fails has its error in its row, the others go on, and the exit status is 1.

    loops           the step and the loop of this project beside a bare step, timm's and torchvision's loops (benchmarks/train.py)
    precision       the loop in fp32, bf16 and fp16, on noise
    compile         the same in bf16 without and with torch.compile
    processes       the loop on one GPU and on all of them, over NCCL, with as many photos at a step for each; two processes on a CPU
    memory          a step for which the memory is too small: the micro-batch after it, and the difference from one that starts so small
    onnx            a model file on the GPU, in fp32 and fp16: difference from fp32 on the CPU, and photos/s
    rtx4090_x1, h100_x1   these profiles of params.yaml as they are written, on noise; with --device cpu with a small network
"""

import argparse
import contextlib
import gc
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
HEADING = "## Figures"
ROW, PROBLEM = "ROW ", "PROBLEM "
"""What a section's lines on stdout begin with."""


@dataclass(frozen=True)
class Size:
    """What is trained where nothing else is said."""

    backbone: str
    side_px: int
    batch: int
    steps: int
    repeats: int


SIZES = {"cuda": Size("resnet50", 224, 64, 20, 2), "cpu": Size("test_resnet", 64, 8, 2, 1)}
PROFILES = ("rtx4090_x1", "h100_x1")
PROFILE_STEPS = 6
SHARES = {
    "loops": 0.15, "precision": 0.08, "compile": 0.12, "processes": 0.08, "memory": 0.05, "onnx": 0.12, "rtx4090_x1": 0.19, "h100_x1": 0.19,
}  # fmt: skip
"""Section → its share of the time; the rest is for starting and ending processes."""


@dataclass
class Outcome:
    """What a section found: rows (what, figure), and why it did not end well; "" where it did."""

    rows: list[tuple[str, str]] = field(default_factory=list)
    problem: str = ""


# ---- the report


def main() -> None:
    arguments = read_arguments()
    if arguments.section:
        run_as_section(arguments.section, arguments.device)
        return
    check_device(arguments.device)
    start, outcomes = time.monotonic(), {}
    for name, share in SHARES.items():
        command = [sys.executable, str(Path(__file__)), "--device", arguments.device, "--section", name]
        outcomes[name] = run_section(command, budget_s=share * arguments.limit_s)
        print(f"{name}: {outcomes[name].problem or 'done'}", file=sys.stderr, flush=True)
    figures = write_figures(outcomes, device=arguments.device, seconds=time.monotonic() - start)
    print(figures)
    if arguments.out:
        arguments.out.write_text(put_figures(arguments.out.read_text() if arguments.out.is_file() else "", figures))
    sys.exit(any(outcome.problem for outcome in outcomes.values()))


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=tuple(SIZES), default="cuda")
    parser.add_argument("--limit-s", type=float, default=600, help="seconds that all of it may take")
    parser.add_argument("--out", type=Path, help=f"Markdown file in which what follows '{HEADING}' is replaced")
    parser.add_argument("--section", choices=tuple(SHARES), help=argparse.SUPPRESS)
    return parser.parse_args()


def run_section(command: Sequence[str], *, budget_s: float) -> Outcome:
    """Run a section; its processes, and theirs, have ended when this returns."""
    with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as complained:
        section = subprocess.Popen(command, stdout=said, stderr=complained, start_new_session=True)
        late = False
        try:
            section.wait(timeout=budget_s)
        except subprocess.TimeoutExpired:
            late = True
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(section.pid, signal.SIGKILL)
            section.wait()
        said.seek(0)
        complained.seek(0)
        return read_outcome(said.read(), complained.read(), status=None if late else section.returncode, budget_s=budget_s)


def read_outcome(said: str, complained: str, *, status: int | None, budget_s: float) -> Outcome:
    """From what a section printed; status: None where its time ran out."""
    lines = said.splitlines()
    rows = [tuple(json.loads(line.removeprefix(ROW))) for line in lines if line.startswith(ROW)]
    if status is None:
        return Outcome(rows, f"not done within its {budget_s:.0f} s")
    if status:
        problems = [line.removeprefix(PROBLEM) for line in lines if line.startswith(PROBLEM)]
        complaints = [line for line in complained.splitlines() if line.strip()]
        return Outcome(rows, (problems or complaints[-1:] or [f"ended with the status {status} without a word"])[0])
    return Outcome(rows, "" if rows else "ended without a figure")


def write_figures(outcomes: dict[str, Outcome], *, device: str, seconds: float) -> str:
    lines = [describe_machine(device), "", "| section | what | figure |", "|---|---|---|"]
    for name, outcome in outcomes.items():
        lines += [f"| {name} | {what} | {figure} |" for what, figure in outcome.rows]
        if outcome.problem:
            lines.append(f"| {name} | **failed** | {outcome.problem.replace('|', '/')} |")
    return "\n".join([*lines, "", f"It took {seconds:.0f} s.", ""])


def put_figures(text: str, figures: str) -> str:
    """`text` with `figures` in place of what follows its line `HEADING`, which is added where it is missing."""
    before, _, _ = f"\n{text}".partition(f"\n{HEADING}\n")
    return f"{before.rstrip()}\n\n{HEADING}\n\n{figures}".lstrip()


def describe_machine(device: str) -> str:
    import torch

    from carinspect.doctor.hardware import read_cards

    cards = "; ".join(map(str, read_cards())) if device == "cuda" else f"a CPU ({platform.machine()}), everything in small"
    return f"On {cards or 'no card that torch can use'}; torch {torch.__version__}, CUDA {torch.version.cuda}, {os.cpu_count()} cores."


# ---- what runs in a section's own process


def tell(what: str, figure: str) -> None:
    """One row of the report."""
    print(ROW + json.dumps([what, figure]), flush=True)


def run_as_section(name: str, device: str) -> None:
    from carinspect.core.errors import one_line
    from carinspect.training.launch import Cluster, become_torchrun, is_worker, join_launcher

    sections: dict[str, Callable[[str], None]] = {
        "loops": compare_loops, "precision": compare_precisions, "compile": compare_compiled, "processes": compare_processes,
        "memory": run_out_of_memory, "onnx": run_model_files, **dict.fromkeys(PROFILES, train_as_profile(name)),
    }  # fmt: skip
    if is_worker():
        join_launcher()
    with tempfile.TemporaryDirectory() as folder:
        # The size of the micro-batch and other things remembered lie in DVC_ROOT: here they must not be there.
        os.environ["DVC_ROOT"] = folder
        # As the launcher of a training sets it, for repeatable sums.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        try:
            sections[name](device)
        except Exception as error:
            print(PROBLEM + f"{type(error).__name__}: {one_line(error)}", flush=True)
            raise
    if name == "processes" and not is_worker() and (count := processes_on(device)) > 1:
        again = ["--device", device, "--section", name]
        become_torchrun(__file__, again, processes=count, cluster=Cluster(1, "", joins=False), anew=True)


def check_device(device: str) -> None:
    import torch

    from carinspect.core.errors import UserError

    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("torch sees no CUDA device. carinspect doctor says why; --device cpu runs this in small.")


def compare_loops(device: str) -> None:
    import torch
    from train import CONTESTANTS, Bench
    from train import read_arguments as bench_arguments

    from carinspect.doctor.connections import alone

    size = SIZES[device]
    given = {"backbone": size.backbone, "side": size.side_px, "batch": size.batch, "steps": size.steps, "device": device}
    given |= {"precision": "bf16" if device == "cuda" else "fp32", "workers": min(8, (os.cpu_count() or 1) - 1) if device == "cuda" else 0}
    arguments = bench_arguments([part for name, value in given.items() for part in (f"--{name}", str(value))])
    torch.set_num_threads(arguments.threads)
    found: dict[str, list[float]] = {}
    with alone("gloo"), tempfile.TemporaryDirectory() as folder:
        bench = Bench(arguments, Path(folder))
        for _ in range(size.repeats):
            for name in CONTESTANTS:
                found.setdefault(name, []).append(getattr(bench, name)())
    bare = statistics.median(found["bare"])
    for name, rates in found.items():
        tell(f"{name}: {size.backbone}, {size.side_px} px, batch {size.batch}, {arguments.precision}",
             f"{statistics.median(rates):,.0f} photos/s, {statistics.median(rates) / bare:.2f} of bare")  # fmt: skip


def compare_precisions(device: str) -> None:
    for precision in ("fp32", "bf16", *(["fp16"] if device == "cuda" else [])):
        with alone_on(device):
            tell(precision, photos_per_second(size_of(device) | {"precision": precision}, device))


def compare_compiled(device: str) -> None:
    precision = {"precision": "bf16" if device == "cuda" else "fp32"}
    for compiled in (False, True):
        with alone_on(device):
            tell("torch.compile" if compiled else "as it is", photos_per_second(size_of(device) | precision, device, compile=compiled))


def processes_on(device: str) -> int:
    import torch

    return torch.cuda.device_count() if device == "cuda" else 2


def compare_processes(device: str) -> None:
    import torch

    from carinspect.training.launch import is_worker
    from carinspect.training.processes import connect

    count, over = processes_on(device), "NCCL" if device == "cuda" else "gloo"
    if is_worker():
        settle(device, card=int(os.environ["LOCAL_RANK"]))
        connect(device)
        try:
            told = photos_per_second(size_of(device) | {"batch_size": count * SIZES[device].batch}, device, processes=count)
            if torch.distributed.get_rank() == 0:
                tell(f"{count} processes over {over}", told)
        finally:
            torch.distributed.destroy_process_group()
        return
    with alone_on(device):
        tell(f"1 process over {over}", photos_per_second(size_of(device), device))
    if count == 1:
        tell("several processes", "one card here: not measured")


def run_out_of_memory(device: str) -> None:
    import torch

    from carinspect.core.errors import UserError
    from carinspect.doctor.live import one_step
    from carinspect.training.micro_batch import MicroBatch

    recipe = make_recipe(size_of(device))
    whole = recipe.train.norm_batch_size
    photos = noise_photos(recipe, whole)

    def weights_after(micro_batch: MicroBatch, *, room: int | None) -> list[torch.Tensor]:
        """The weights after one step; room: bytes on a GPU, photos on a CPU, where running out is simulated."""
        gc.collect()
        network = make_network(recipe, device)
        if device == "cuda" and room is not None:
            total = torch.cuda.get_device_properties(0).total_memory
            torch.cuda.empty_cache()
            torch.cuda.set_per_process_memory_fraction(min(1.0, room / total))
        if device == "cpu" and room is not None:
            network.register_forward_pre_hook(lambda _, inputs: refuse_more_than(room, inputs[0]))
        one_step(network, recipe, photos, micro_batch)
        return [parameter.detach().cpu() for parameter in network.parameters()]

    with alone_on(device):
        if device == "cuda":
            # What a quarter of the photos takes, and a little more: the whole then does not fit.
            weights_after(MicroBatch(whole // 4, on_change=lambda _: None), room=None)
            room = int(1.1 * torch.cuda.max_memory_reserved())
        else:
            room = whole // 4
        sizes: list[int] = []
        short = weights_after(MicroBatch(whole, on_change=sizes.append), room=room)
        if device == "cuda":
            torch.cuda.set_per_process_memory_fraction(1.0)
        if not sizes:
            raise UserError(f"{whole} photos fitted into the memory for {whole // 4}, so nothing was halved.")
        small = weights_after(MicroBatch(sizes[-1], on_change=lambda _: None), room=None)
    apart = max(float((one - other).abs().max()) for one, other in zip(short, small, strict=True))
    tell("photos in one pass after memory ran out", " → ".join(map(str, [whole, *sizes])))
    tell(f"largest difference of a weight from a step that starts with {sizes[-1]}", f"{apart:.2g}")


def refuse_more_than(room: int, images: Any) -> None:
    import torch

    if len(images) > room:
        raise torch.OutOfMemoryError(f"{len(images)} photos, as if there were memory for {room}")


def run_model_files(device: str) -> None:
    import numpy as np
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from serve import export_random

    from carinspect.export.parity import compare
    from carinspect.inference.bundle import open_bundle
    from carinspect.inference.seal import seal

    size = SIZES[device]
    with tempfile.TemporaryDirectory() as folder:
        path = export_random(size.backbone, size.side_px, Path(folder))
        content, model = path.read_bytes(), onnx.load(path)
    half = convert_float_to_float16(model, keep_io_types=True)
    del half.metadata_props[:]
    half.metadata_props.extend(model.metadata_props)
    photos = np.random.default_rng(0).integers(0, 256, (size.batch, size.side_px, size.side_px, 3), dtype=np.uint8)
    expected = open_bundle(content).predict(photos)
    for name, file in (("fp32", content), ("fp16", seal(half.SerializeToString(deterministic=True)))):
        bundle = open_bundle(file, device="cuda" if device == "cuda" else "cpu")
        found = compare(expected, bundle, photos)
        apart = max(value for key, value in found.items() if key.endswith("_max_difference"))
        seconds = []
        for _ in range(size.repeats * 10):
            start = time.perf_counter()
            bundle.predict(photos, batch_size=size.batch)
            seconds.append(time.perf_counter() - start)
        rate = size.batch / statistics.median(seconds)
        tell(f"{name} on {bundle.provider}: {size.backbone}, {size.side_px} px, {size.batch} photos at a time", f"{rate:,.0f} photos/s")
        tell(f"{name}: largest difference of an answer from fp32 on the CPU; answers whose likeliest class differs",
             f"{apart:.2g}; {found['flipped_decisions']} of {found['photos']}")  # fmt: skip


def train_as_profile(name: str) -> Callable[[str], None]:
    def run(device: str) -> None:
        # On a CPU the profile keeps its accumulation and its precision; network and batch are small ones.
        small = size_of(device) if device == "cpu" else {}
        with alone_on(device):
            recipe = make_recipe(small, hardware=name)
            told = photos_per_second(small, device, hardware=name, as_written=device == "cuda")
        train = recipe.train
        tell(f"{recipe.model.backbone}, {train.image_side_px} px, batch {train.effective_batch_size}, {train.precision}", told)

    return run


# ---- training on noise


def size_of(device: str) -> dict[str, Any]:
    """Parameters of params.yaml for the usual size of this device."""
    size = SIZES[device]
    return {"backbone": size.backbone, "image_side_px": size.side_px, "batch_size": size.batch, "norm_batch_size": size.batch}


def make_recipe(changes: dict[str, Any], *, hardware: str = "demo") -> Any:
    """The recipe of a profile for one epoch, with these parameters of `model` and `train` changed."""
    from carinspect.core.params import load_params
    from carinspect.training.recipe import resolve_recipe

    params = load_params(ROOT / "params.yaml") | {"hardware": hardware}
    params["model"]["pretrained"] = False
    params["model"] |= {key: value for key, value in changes.items() if key == "backbone"}
    params["train"] |= {"epochs": 1, "freeze_norm": False, **{key: value for key, value in changes.items() if key != "backbone"}}
    return resolve_recipe(params, pretrained="none", resume="none")


def make_machine(recipe: Any, device: str, *, hardware: str, as_written: bool, **changes: Any) -> Any:
    """The runtime of a profile; unless as written, on `device` and without processes of its own."""
    from carinspect.core.params import load_params
    from carinspect.training.profiles import read_profiles
    from carinspect.training.runtime import settle_runtime

    _, profiles = read_profiles(load_params(ROOT / "params.yaml"))
    runtime = profiles[hardware].runtime
    if not as_written:
        workers: int | str = "auto" if device == "cuda" else 0
        runtime = runtime.model_copy(update={"device": device, "processes": 1, "workers": workers, "compile": False})
    return replace(settle_runtime(runtime, recipe.train, nodes=1), **changes)


def make_network(recipe: Any, device: str) -> Any:
    import torch

    from carinspect.model.backbones import build_backbone
    from carinspect.model.network import CarInspectionNetwork

    torch.manual_seed(0)
    backbone = build_backbone(recipe.model.backbone, image_side_px=recipe.train.image_side_px)
    return CarInspectionNetwork(recipe.model, recipe.questions, backbone=backbone).to(device).train()


def noise_photos(recipe: Any, count: int) -> Any:
    """Random pixels and random labels, every photo labelled for every question."""
    import numpy as np
    import torch

    from carinspect.core.questions import label_columns
    from carinspect.training.batches import Photos

    random, side = np.random.default_rng(0), recipe.train.image_side_px
    labels = {column: torch.from_numpy(random.integers(0, 2, count).astype(np.float32)) for column in label_columns(recipe.questions)}
    return Photos([f"{place}" for place in range(count)], random.integers(0, 256, (count, side, side, 3), np.uint8), labels)


@contextlib.contextmanager
def alone_on(device: str) -> Iterator[None]:
    """The only process of a training."""
    from carinspect.doctor.connections import alone

    settle(device, card=0)
    with alone("cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"):
        yield


def settle(device: str, *, card: int) -> None:
    """As a training process does it: its own card and repeatable sums, or one thread."""
    import torch

    if device == "cuda":
        torch.cuda.set_device(card)
        torch.use_deterministic_algorithms(True, warn_only=True)
    else:
        torch.set_num_threads(1)


def photos_per_second(
    changes: dict[str, Any], device: str, *, hardware: str = "demo", as_written: bool = False, processes: int = 1, **machine: Any
) -> str:
    """The rate of the training loop over all processes, without its first step, which warms up and compiles."""
    import torch
    from train import Clock

    from carinspect.training.loop import Setting, train
    from carinspect.training.processes import Peers

    recipe = make_recipe(changes, hardware=hardware)
    settled = make_machine(recipe, device, hardware=hardware, as_written=as_written, **machine)
    steps, batch = PROFILE_STEPS if as_written else SIZES[device].steps, recipe.train.effective_batch_size
    photos = noise_photos(recipe, batch * (steps + 1))
    few = noise_photos(recipe, 8)
    rank = torch.distributed.get_rank()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    with Clock(recipe) as clock, tempfile.TemporaryDirectory() as folder:
        setting = Setting(
            recipe=recipe, machine=settled, peers=Peers(rank=rank, world_size=processes, writer=0), photos=photos, validation=few,
            state_file=Path(folder) / "state.pt", tracker=clock,
        )  # fmt: skip
        train(make_network(recipe, device), setting)
    rate = batch * (len(clock.ends) - 1) / (clock.ends[-1] - clock.ends[0])
    memory = f", {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB" if device == "cuda" else ""
    return f"{rate:,.0f} photos/s{memory}; first step after {clock.ends[0] - start:.0f} s"


if __name__ == "__main__":
    from carinspect.core.programs import run_program

    run_program(main, "benchmarks/gpu.py")

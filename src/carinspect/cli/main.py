"""Owns the command `carinspect`: its words and options. Each command imports its work when it is called, so that `--help` is instant."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from carinspect.core.errors import run_stage

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.callback()
def carinspect() -> None:
    """Photos of cars in; a model, its decision rule and their proofs out. The pipeline itself runs by `dvc repro`."""


@app.command("check-split")
def check_split(
    table: Annotated[Path, typer.Argument(help="A finished table, e.g. data/car_inspection_dataset.csv.")],
    root: Annotated[
        Path | None, typer.Option(help="Folder of the photos: reads them too, and finds copies that the table does not know.")
    ] = None,
) -> None:
    """Look for photos that belong together and lie in two splits. Exit status 1, and a line for each leak, when there are any."""
    from carinspect.cli.check_split import report_leaks

    raise typer.Exit(report_leaks(table, root))


@app.command()
def describe(
    what: Annotated[Path, typer.Argument(help="A data root with a sources.yaml, or a finished table.")],
    root: Annotated[Path | None, typer.Option(help="For a table: folder of its photos. Default: data.root of params.yaml.")] = None,
    sources: Annotated[
        Path | None, typer.Option(help="Default: sources.yaml in the root; for a table, data.sources of params.yaml.")
    ] = None,
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("data_report.html"),
) -> None:
    """Say what is in a data root or a table, and write one HTML page that shows it: counts, photos, copies, shortcuts, doubtful labels."""
    from carinspect.cli.describe import describe_root, describe_table

    if what.is_dir():
        describe_root(what, sources or what / "sources.yaml", out)
    else:
        describe_table(what, root=root, sources=sources, out=out)


@app.command()
def score(
    photos: Annotated[list[str], typer.Argument(help="Files, folders (with all below them) and globs; with --column one table.")],
    out: Annotated[Path, typer.Option(help="The table to write: .csv, .jsonl or .parquet; with --engine ray a folder.")],
    model: Annotated[Path, typer.Option(help="The model file.")] = Path("models/best.onnx"),
    column: Annotated[str | None, typer.Option(help="Column of a CSV or Parquet table that names the photos.")] = None,
    root: Annotated[Path | None, typer.Option(help="What the column's names are relative to. Default: the table's folder.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Photos that the model sees at once.")] = 32,
    workers: Annotated[int | None, typer.Option(min=1, help="Batches decoded and answered at once. Default: one a core.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="Cores that one batch's answer may take on a CPU.")] = 1,
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="auto: the GPU where onnxruntime can use one.")] = "auto",
    engine: Annotated[Literal["local", "ray"], typer.Option(help="ray: a cluster over shared storage.")] = "local",
    ray_address: Annotated[str | None, typer.Option(help="Of the cluster's head. Default: one started on this machine.")] = None,
) -> None:
    """Score photos into a table. Interrupted or killed, the same command goes on where it was.

    Exit status 0: all scored, 1: some could not be read (their rows say why), 2: nothing was begun, and the reason said.
    """
    from carinspect.cli.exit_status import status_of
    from carinspect.cli.score import ScoreOptions, score_photos

    options = ScoreOptions(
        out=out, model=model, column=column, root=root, batch=batch, workers=workers, threads=threads, device=device, engine=engine,
        ray_address=ray_address,
    )  # fmt: skip
    raise typer.Exit(status_of(lambda: score_photos(photos, options)))


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 for all of this machine's.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen at.")] = 8000,
) -> None:
    """Answer photos over HTTP, with a page at /. The environment sets the rest, MODEL_PATH first: see docs/serving.md."""
    from carinspect.serving.run import serve

    serve(host=host, port=port)


def run() -> None:
    """The command's entry point."""
    run_stage(app, "carinspect")


if __name__ == "__main__":
    run()

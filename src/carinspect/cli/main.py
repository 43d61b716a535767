"""The command `carinspect`: its subcommands and options. Each imports its code only when it is called, so that `--help` is fast."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from carinspect.core.errors import UserError
from carinspect.core.programs import end_by_ctrl_c, run_program

USAGE_ERROR = 2
"""Exit status of a user's mistake in the commands where 1 is a result; typer uses it too."""


class _Commands(TyperGroup):
    """Says of Ctrl-C what `run_program` says of it. Typer would end without a word."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that `ctx` names."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            end_by_ctrl_c("carinspect")


app = typer.Typer(cls=_Commands, no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


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
    """Find photos that belong together and lie in two splits. Exit status 1, and a line for each leak, when there are any."""
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
    review: Annotated[Path | None, typer.Option(help="Also write the doubtful labels to this CSV, for a person to correct.")] = None,
) -> None:
    """Say what is in a data root or a table, and write one HTML page that shows it: counts, photos, copies, shortcuts, doubtful labels."""
    from carinspect.cli.describe import describe_root, describe_table

    if what.is_dir():
        describe_root(what, sources or what / "sources.yaml", out, review)
    else:
        describe_table(what, root=root, sources=sources, out=out, review=review)


@app.command()
def doctor(
    json: Annotated[Path | None, typer.Option(help="Also write the findings to this file.")] = None,
) -> None:
    """Say whether this machine and this checkout can train: hardware, settings, packages, connections, one batch, the photos' speed.

    Exit status 1: something would stop a training, and the fix is printed.
    """
    from carinspect.cli.doctor import report_health

    raise typer.Exit(report_health(json))


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
    marks: Annotated[Path | None, typer.Option(help="Also write the marked places here: a COCO file (.json).")] = None,
) -> None:
    """Score photos into a table. After an interruption or a kill, the same command continues.

    Exit status 0: all scored, 1: some could not be read (their rows say why), 2: it could not run, and stderr gives the reason.
    """
    from carinspect.cli.score import ScoreOptions, score_photos

    options = ScoreOptions(
        out=out, model=model, column=column, root=root, batch=batch, workers=workers, threads=threads, device=device, engine=engine,
        ray_address=ray_address, marks=marks,
    )  # fmt: skip
    raise typer.Exit(status_of(lambda: score_photos(photos, options)))


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 for all of this machine's.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen at.")] = 8000,
) -> None:
    """Answer photos over HTTP, with a page at /. Variables CARINSPECT_… set the rest: see docs/serving.md."""
    from carinspect.serving.server import serve

    serve(host=host, port=port)


@app.command("inspect")
def inspect_model(
    model: Annotated[Path, typer.Argument(help="A model file, e.g. models/best.onnx.")],
    json: Annotated[bool, typer.Option("--json", help="Everything, as JSON.")] = False,
) -> None:
    """Print the metadata of a model file. A file of another project, or one altered since its export, is refused with the reason."""
    from carinspect.cli.inspect import show_model

    raise typer.Exit(show_model(model, as_json=json))


@app.command()
def drift(
    log: Annotated[Path, typer.Argument(help="The log of histograms that a service wrote.")],
    model: Annotated[Path, typer.Option(help="The model file that answered.")] = Path("models/best.onnx"),
    since: Annotated[str | None, typer.Option(help="Only what was answered after this time, e.g. 2026-11-01T00:00:00 (UTC).")] = None,
    photos_a_car: Annotated[
        int | None, typer.Option(min=1, help="Photos of a car, where they are sent one by one. Default: those of a request are of one car.")
    ] = None,
) -> None:
    """Say whether photos in use are still like those on which the promise was proved. Exit status 1: they are not, 2: unknown."""
    from carinspect.cli.drift import report_drift

    raise typer.Exit(status_of(lambda: report_drift(log, model, since=since, photos_a_car=photos_a_car)))


@app.command()
def compare(
    a: Annotated[str, typer.Argument(help="A git revision, an experiment's name, or workspace.")],
    b: Annotated[str, typer.Argument(help="The same, of the model that may be better.")],
    json: Annotated[Path | None, typer.Option(help="Also write all figures to this file.")] = None,
) -> None:
    """Say whether B is better than A on the same test photos: differences with intervals, tests of the decisions, a verdict in words."""
    from carinspect.cli.compare import compare_revisions

    compare_revisions(a, b, json_file=json)


@app.command()
def promote(
    revision: Annotated[str, typer.Argument(help="Git revision or experiment of the model to release.")],
    baseline: Annotated[str | None, typer.Argument(help="The stage's model, trained again on new data. Default: that model.")] = None,
    stage: Annotated[str, typer.Option(help="Any word: what the release is for.")] = "production",
    version: Annotated[str | None, typer.Option(help="Version of the release, e.g. v1.0.0. Default: the next patch.")] = None,
    weaker: Annotated[list[str] | None, typer.Option(help="A term that may be weaker, e.g. clean.target; it is noted in the tag.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say whether it may be released.")] = False,
) -> None:
    """Release a model: a version and a stage, as git tags. Exit status 1, with the reasons, unless it is proved and clearly better."""
    from carinspect.cli.promote import promote

    raise typer.Exit(promote(revision, baseline, stage=stage, version=version, weaker=weaker or (), dry_run=dry_run))


@app.command()
def fetch(
    model: Annotated[str, typer.Argument(help="car-inspection, car-inspection@v1.0.0 or car-inspection@production.")],
    repo: Annotated[str | None, typer.Option(help="Path or URL of the git repository. Default: the one here.")] = None,
    out: Annotated[Path, typer.Option(help="The model file to write.")] = Path("models/best.onnx"),
    force: Annotated[bool, typer.Option("--force", help="Replace another model that lies there.")] = False,
) -> None:
    """Fetch a released model and open it, e.g. before `carinspect serve`."""
    from carinspect.cli.fetch import fetch_model

    fetch_model(model, repository=repo, out=out, force=force)


store = typer.Typer(no_args_is_help=True, help="The cache and the remotes that hold data and models.")
app.add_typer(store, name="store")


@store.callback()
def store_commands() -> None:
    """The cache and the remotes that hold data and models."""


@store.command("verify")
def verify_store(
    remote: Annotated[list[str] | None, typer.Option(help="Check this remote, and the cache. Default: all remotes.")] = None,
    repair: Annotated[bool, typer.Option("--repair", help="Put sound copies in the place of broken and missing objects.")] = False,
    jobs: Annotated[int, typer.Option(min=1, help="Objects read at once.")] = 8,
) -> None:
    """Check that every object has the hash that is its name, which DVC itself does not check. Exit status 1: a fault is left."""
    from carinspect.cli.store import verify

    raise typer.Exit(verify(remote, repairs=repair, jobs=jobs))


@store.command("check-writes")
def check_writes(
    remote: Annotated[str | None, typer.Option(help="Default: the default remote.")] = None,
    git: Annotated[str, typer.Option(help="The git remote.")] = "origin",
) -> None:
    """Check, by a test write, that the DVC remote and the git remote will take a result. Exit status 1 if not."""
    from carinspect.cli.store import check_writes

    check_writes(remote, git)


@store.command("keep-states", context_settings={"ignore_unknown_options": True})
def keep_states(
    command: Annotated[list[str], typer.Argument(help="What to run, after two dashes: -- dvc exp run …")],
    remote: Annotated[str | None, typer.Option(help="Default: the default remote.")] = None,
    every_s: Annotated[float, typer.Option(min=1, envvar="CARINSPECT_STATES_EVERY_S", help="Seconds between two checks.")] = 60,
) -> None:
    """Run a training on a machine that may be shut down: fetches the states of interrupted trainings, and keeps copies in the remote."""
    from carinspect.cli.store import run_with_states

    raise typer.Exit(run_with_states(command, remote=remote, every_s=every_s))


audit = typer.Typer(no_args_is_help=True, help="Test a promise in use by the verdicts of people.")
app.add_typer(audit, name="audit")

LEDGER = Path("audit/ledger.jsonl")


@audit.command("draw")
def audit_draw(
    scores: Annotated[Path, typer.Argument(help="The CSV that `carinspect score` wrote.")],
    word: Annotated[str, typer.Option(help="The promised word to audit, e.g. clean.")],
    seed: Annotated[int, typer.Option(help="Another one for each draw, e.g. the date: 20261101.")],
    photos: Annotated[int, typer.Option(min=1, help="Photos to draw, at most one of a car.")] = 20,
    model: Annotated[Path, typer.Option(help="The model file that answered.")] = Path("models/best.onnx"),
    root: Annotated[Path, typer.Option(help="Folder that the table's paths start from.")] = Path(),
    car_column: Annotated[str | None, typer.Option(help="Column of the table that names the car. Default: each photo is a car.")] = None,
    strata: Annotated[
        str | None, typer.Option(help="Column of the table, e.g. source: draw more from its rare values, with weights. Default: all alike.")
    ] = None,
    ledger: Annotated[Path, typer.Option(help="Cars judged before are not drawn again.")] = LEDGER,
    out: Annotated[Path, typer.Option(help="The page; the sheet and its key lie beside it, as .csv and .key.csv.")] = Path(
        "audit/sheet.html"
    ),
) -> None:
    """Draw photos called a promised word, at random, for a person to judge without seeing the answer. Exit status 2: it could not."""
    from carinspect.cli.audit import DrawOptions, draw_sheet

    options = DrawOptions(
        model=model, word=word, photos=photos, seed=seed, root=root, car_column=car_column, strata=strata, ledger=ledger, out=out
    )
    raise typer.Exit(status_of(lambda: draw_sheet(scores, options)))


@audit.command("take")
def audit_take(
    answers: Annotated[Path, typer.Argument(help="The answered sheet.")],
    key: Annotated[Path, typer.Option(help="The key drawn with it.")] = Path("audit/sheet.key.csv"),
    model: Annotated[Path, typer.Option(help="The model file that answered.")] = Path("models/best.onnx"),
    ledger: Annotated[Path, typer.Option(help="Where verdicts are kept; commit it.")] = LEDGER,
) -> None:
    """Take the verdicts of an answered sheet into the ledger, all or none. Exit status 2: none, and stderr says why."""
    from carinspect.cli.audit import take_verdicts

    raise typer.Exit(status_of(lambda: take_verdicts(answers, key, model=model, ledger=ledger)))


@audit.command("state")
def audit_state(
    ledger: Annotated[Path, typer.Argument(help="The ledger of verdicts.")] = LEDGER,
    model: Annotated[Path, typer.Option(help="The model file that answered.")] = Path("models/best.onnx"),
) -> None:
    """Say whether each promise holds so far, is broken or is proved anew. Exit status 1: one is broken, 2: unknown."""
    from carinspect.cli.audit import report_state

    raise typer.Exit(status_of(lambda: report_state(ledger, model)))


@app.command()
def review(
    inbox: Annotated[Path, typer.Argument(help="The folder that CARINSPECT_FEEDBACK_DIR names for the service.")],
    into: Annotated[Path, typer.Option(help="The data root.")],
    source: Annotated[str, typer.Option(help="Name of the source there, and of its folder.")] = "reviewed",
) -> None:
    """Turn what people said of answers into a source of a data root; its photos only train. Exit status 2: nothing was added."""
    from carinspect.cli.review import review_inbox

    raise typer.Exit(status_of(lambda: review_inbox(inbox, into, source=source)))


@app.command("next")
def next_photos(
    photos: Annotated[list[str], typer.Argument(help="Files, folders (with all below them) and globs; with --column one table.")],
    budget: Annotated[int, typer.Option(min=1, help="Photos to label, each of another car.")],
    purpose: Annotated[
        Literal["training", "promise"],
        typer.Option("--for", help="training: what teaches most. promise: drawn at random, and how many labels a promise still takes."),
    ] = "training",
    question: Annotated[str | None, typer.Option(help="Only this question. Default: all.")] = None,
    model: Annotated[Path, typer.Option(help="The model file.")] = Path("models/best.onnx"),
    column: Annotated[str | None, typer.Option(help="Column of a CSV or Parquet table that names the photos.")] = None,
    car_column: Annotated[str | None, typer.Option(help="Column of that CSV that names the car. Default: copies alone are one.")] = None,
    root: Annotated[Path | None, typer.Option(help="What the column's names are relative to. Default: the table's folder.")] = None,
    seed: Annotated[int, typer.Option(help="Another one for each draw, e.g. the date: 20261101.")] = 0,
    out: Annotated[Path, typer.Option(help="The list, for `carinspect labels export`.")] = Path("next.csv"),
) -> None:
    """Choose photos to label: those that teach most, or a random draw for a proof. Exit status 2: it could not."""
    from carinspect.cli.next import NextOptions, choose_next

    options = NextOptions(
        budget=budget, purpose=purpose, question=question, model=model, column=column, car_column=car_column, root=root, seed=seed, out=out
    )
    raise typer.Exit(status_of(lambda: choose_next(photos, options)))


labels = typer.Typer(no_args_is_help=True, help="Photos to a labelling tool and labels back.")
app.add_typer(labels, name="labels")


@labels.callback()
def labels_commands() -> None:
    """Photos to a labelling tool and labels back."""


@labels.command("export")
def labels_export(
    listed: Annotated[Path, typer.Argument(help="A CSV with the column image_path, e.g. what `carinspect next` wrote.")],
    tool: Annotated[Literal["label-studio", "cvat", "coco"], typer.Option(help="Whose files to write.")],
    out: Annotated[Path, typer.Option(help="A new folder: the tool's files, the photos, and tasks.csv, which the import needs.")],
    answers: Annotated[
        Path | None, typer.Option(help="The CSV of `carinspect score`: people see its answers. Default: they see none.")
    ] = None,
    marks: Annotated[Path | None, typer.Option(help="The JSON of `score --marks`: people see what it marks, to correct.")] = None,
    root: Annotated[Path, typer.Option(help="Folder that the list's paths start from.")] = Path(),
) -> None:
    """Write photos, and the model's answers to confirm, for a labelling tool. Exit status 2: it could not."""
    from carinspect.cli.labels import export_labels

    raise typer.Exit(status_of(lambda: export_labels(listed, tool=tool, answers=answers, marks=marks, root=root, out=out)))


@labels.command("import")
def labels_import(
    files: Annotated[list[Path], typer.Argument(help="What the tool exported; of CVAT and COCO one file for each person.")],
    tool: Annotated[Literal["label-studio", "cvat", "coco"], typer.Option(help="Whose files they are.")],
    export: Annotated[Path, typer.Option(help="The folder that `labels export` wrote.")],
    into: Annotated[Path, typer.Option(help="The data root.")],
    source: Annotated[str, typer.Option(help="Name of the source there, and of its folder.")] = "labelled",
    disagreement: Annotated[
        Literal["leave_out", "majority"] | None,
        typer.Option(help="A label about which people disagree stays unknown, or is what most say. Default: as the source states it."),
    ] = None,
) -> None:
    """Turn what people said in a labelling tool into a source of a data root. Exit status 2: nothing was added."""
    from carinspect.cli.labels import ImportOptions, import_labels

    options = ImportOptions(tool=tool, export=export, into=into, source=source, disagreement=disagreement)
    raise typer.Exit(status_of(lambda: import_labels(files, options)))


def status_of(work: Callable[[], int]) -> int:
    """The status that `work` returns; 2, and a line on stderr, when it raises `UserError`."""
    try:
        return work()
    except UserError as error:
        print(f"carinspect: {error}", file=sys.stderr)
        return USAGE_ERROR


def run() -> None:
    """The command's entry point."""
    try:
        run_program(app, "carinspect")
    except ModuleNotFoundError as error:
        # An installation without the extra of this command.
        package = (error.name or "").split(".")[0]
        if package in ("", "carinspect"):
            raise
        extra = "serve" if sys.argv[1:2] == ["serve"] else "train"
        install = f"Install it with its extra, in a checkout: pip install '.[{extra}]'"
        print(f"carinspect: this command needs the package '{package}', which is not installed. {install}", file=sys.stderr)
        sys.exit(USAGE_ERROR)


if __name__ == "__main__":
    run()

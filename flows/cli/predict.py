"""`dept predict`: answers of the champion of a task."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from flows.cli.terminal import Json, tell
from infra.errors import InputError
from infra.files import new_file

if TYPE_CHECKING:
    from flows.cli.predict_input import Inputs
    from flows.cli.predict_output import Answered, Writer
    from registry.serving import Predictor

BATCH = 256  # rows that are answered, and written, at once


def predict(
    task: Annotated[str, typer.Option(help="Task whose champion answers.")],
    text: Annotated[list[str] | None, typer.Argument(help="Texts; without any, the lines of standard input.")] = None,
    file: Annotated[
        Path | None, typer.Option(help="Rows of a csv, tsv, jsonl or parquet file; - for standard input.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write .csv, .tsv, .jsonl or .parquet, not standard output.")] = None,
    column: Annotated[
        list[str] | None, typer.Option(metavar="FIELD=NAME", help="Column of the file for a field of the task.")
    ] = None,
    picture: Annotated[
        list[Path] | None,
        typer.Option(help="Picture of the text, once for each or once for all; with --file the folder of pictures."),
    ] = None,
    form: Annotated[
        Literal["csv", "tsv", "jsonl", "parquet"] | None,
        typer.Option("--format", help="Default: by the file's ending."),
    ] = None,
    encoding: Annotated[str | None, typer.Option(help="Of the input, such as latin-1; default: utf-8.")] = None,
    every: Annotated[bool, typer.Option("--all", help="The probability of every label, with a header.")] = False,
    backbone: Annotated[str | None, typer.Option(help="Default: the one that the champion was trained on.")] = None,
    as_json: Json = False,
) -> None:
    """Answer TEXT by the champion adapter of a task: one line per text, as answer, probability and text.

    A task of several columns takes them divided by tabs, in the order of its template, or from a file. Of a task with
    pictures the last is the name of the picture's file, if no --picture names it.

    Example: dept predict --task movie-polarity "what a lovely film"

    Example: dept predict --task easy-vqa-open --picture photo.png "What shape is in the image?"

    Example: dept predict --task movie-polarity --file reviews.csv --column text=review --out answers.csv
    """
    from flows.cli.predict_input import Inputs

    if text and file is not None:
        raise InputError("predict: give either texts or --file, not both")
    if as_json and out is not None:
        raise InputError("predict: give either --json or --out, not both")
    if form is not None and file is None:
        raise InputError("predict: --format is for --file; lines of standard input are texts")
    if text and not all(one.strip() for one in text):
        raise InputError("predict: a text is empty")
    piped_in = [] if text or picture or file is not None else _standard_input()
    if not (text or picture or file or piped_in):
        raise InputError("predict: no text; give some, pipe lines in, or name a --file")
    if out is not None:
        from flows.cli.predict_output import form_of

        form_of(out)
    columns = dict(_pair(one) for one in column or [])

    champion = _champion(task, backbone)
    with tempfile.TemporaryDirectory(prefix="dept-") as scratch:
        inputs = Inputs(champion.fields, columns, champion.picture, picture or ())
        if text:
            inputs.texts(text)
        elif file is not None:
            inputs.file(file, form, encoding, Path(scratch))
        elif picture and not champion.fields:
            inputs.pictures_alone()
        elif lines := piped_in or _standard_input():  # texts beside a picture
            inputs.lines(lines, encoding)
        else:
            raise InputError("predict: no text; give some beside the picture, or pipe lines in")
        total = sum(1 for _ in inputs)  # finds what is wrong with any row before the first answer
        if not total:
            raise InputError(f"predict: {file}: holds no rows")
        with _writer(out, as_json, champion, task, every) as writer:
            for answered in _answers(champion, inputs, total):
                writer.write(answered)
    if out is not None:
        typer.echo(f"Answers: {out} ({total} rows)")


def _standard_input() -> list[bytes]:
    return [] if sys.stdin.isatty() else list(sys.stdin.buffer)


def _champion(task: str, backbone: str | None) -> Predictor:
    from registry.serving import load_champion

    try:
        champion = load_champion(task, backbone)
    except InputError as error:
        if str(error).startswith(f"no champion of task {task} yet"):
            from flows.cli.tasks import known_task

            known_task(task)  # a name that is no task is the nearer cause
        raise
    if champion.note:
        tell(champion.note)
    return champion


def _answers(champion: Predictor, inputs: Inputs, total: int) -> Iterator[Answered]:
    """Answers in the order of the rows, in batches; a bar on standard error where there are several."""
    from flows.cli.predict_output import Answered
    from flows.execution.progress import bar
    from tasks.pictures import Picture

    rows = iter(inputs)
    with bar("answers", total) if total > BATCH else contextlib.nullcontext() as shown:
        while batch := list(islice(rows, BATCH)):
            found = champion.answers([fields for _, fields in batch])
            for (where, fields), answer in zip(batch, found, strict=True):
                given = dict(zip(champion.labels, answer.probabilities, strict=True)) if answer.probabilities else None
                told = {name: one.path if isinstance(one, Picture) else one for name, one in fields.items()}
                yield Answered(where, told, answer.label, answer.word, answer.probability, given)
            if shown is not None:
                shown.advance(len(batch))


@contextlib.contextmanager
def _writer(out: Path | None, as_json: bool, champion: Predictor, task: str, every: bool) -> Iterator[Writer]:
    from flows.cli import predict_output as forms

    labels: Sequence[str] = champion.labels if every or out is not None else ()
    if out is None:
        facts: dict[str, Any] = {
            "task": task,
            "model": champion.name,
            "version": champion.version,
            "backbone": champion.backbone_name,
            "labels": list(champion.labels),
        }
        writer: Writer = (
            forms.Document(sys.stdout, facts) if as_json else forms.Lines(sys.stdout, champion.columns, labels)
        )
        yield writer
        writer.close()
        return
    form = forms.form_of(out)
    if not out.parent.is_dir():
        raise InputError(f"predict: --out {out}: cannot be written (there is no folder {out.parent})")
    try:
        with contextlib.ExitStack() as opened:
            temporary = opened.enter_context(new_file(out))
            if form == "parquet":
                writer = forms.Parquet(temporary, champion.columns, labels)
            else:
                stream = opened.enter_context(temporary.open("w", encoding="utf-8", newline=""))
                writer = (
                    forms.JsonLines(stream)
                    if form == "jsonl"
                    else forms.Csv(stream, champion.columns, labels, "," if form == "csv" else "\t")
                )
            yield writer
            writer.close()
    except OSError as error:
        raise InputError(f"predict: --out {out}: cannot be written ({error.strerror})") from error


def _pair(text: str) -> tuple[str, str]:
    field, equals, name = text.partition("=")
    if not equals or not field or not name:
        raise InputError(f"predict: --column {text}: expected FIELD=NAME, such as text=review")
    return field, name

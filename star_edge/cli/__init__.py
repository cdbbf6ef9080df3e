"""The ``star-edge`` command: one file a verb, each loaded only when it is used."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from typing import Any

import click

from runtime.errors import StarEdgeError
from star_edge import __version__
from star_edge.dependencies import explain

# verb -> one-line help; the verb's file is star_edge/cli/<verb>.py and defines ``command``
VERBS = {
    "demo": "The whole pipeline on generated or given clips, ending in one table.",
    "data": "Convert recordings to a packed dataset folder, or describe one.",
    "train": "Train a model on a packed dataset or an .npz file.",
    "import": "A checkpoint from weights that a model's authors published.",
    "evaluate": "Accuracy of a checkpoint on a split.",
    "compress": "A smaller checkpoint from a trained one: low rank, sparse, or an ensemble of sparse ones.",
    "export": "Checkpoint to bundle: canonical ONNX, weights, golden clips.",
    "calibrate": "Add calibrated INT8 to a bundle.",
    "analyze": "Which layers INT8 harms or speeds up, and which should keep it.",
    "build": "A bundle's TensorRT engine on the board that runs it, or the graph for other builders.",
    "verify": "Compare an engine with the fp32 reference on a split, with accuracy gates.",
    "bench": "Latency of every engine beside PyTorch on the same clips.",
    "run": "Recognise clips, or a stream of joints.",
    "report": "One HTML page of all that was measured, with clips that play; or bundles compared.",
    "inspect": "What is in a bundle, checkpoint, ONNX file or dataset.",
    "pack": "One file of a bundle, with test clips for a board if wanted; and back.",
    "doctor": "What is installed, what is missing for which verb, and what mends it.",
    "boards": "What is known of the Jetson boards, and how fast they could run a bundle at best.",
}


class _Verbs(click.Group):
    """A click group that imports a verb's module when the verb is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in VERBS:
            return None
        command: click.Command = importlib.import_module(f"star_edge.cli.{name}").command
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run the verb; a module it lacks becomes an error that names the package and what installs it."""
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as error:
            missing = explain(error, ctx.invoked_subcommand or "")
            if missing is None:
                raise
            raise missing from None

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in VERBS and not args[0].startswith("-"):
            close = difflib.get_close_matches(args[0], VERBS, n=1)
            suggestion = f" Did you mean '{close[0]}'?" if close else f" Verbs: {', '.join(VERBS)}."
            raise click.UsageError(f"No such verb '{args[0]}'.{suggestion}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))


@click.command(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="star-edge")
def cli() -> None:
    """Skeleton action recognition on the edge: from a PyTorch checkpoint to a verified engine.

    \b
    star-edge demo                          the whole pipeline in five minutes
    star-edge export --fp16 ckpt.pt         checkpoint to bundle
    star-edge calibrate --samples 512       add INT8
    star-edge run clip.skeleton             recognise
    """


def main() -> None:
    """Entry point: exit codes 0 ok, 1 unexpected, 2 usage or bad input, 3 gate failed, 4 environment or mismatch."""
    try:
        cli.main(standalone_mode=False, prog_name="star-edge")
        sys.stdout.flush()
    except StarEdgeError as error:
        click.echo(f"star-edge: {error}", err=True)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        click.echo("star-edge: interrupted; nothing half-written stands under its name", err=True)
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output went away, e.g. `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:  # full disk, missing permission: a fact about the machine, not a bug
        where = error.filename or "standard output, or a file that the system does not name"
        click.echo(f"star-edge: {error.strerror or error}\n  where:    {where}", err=True)
        sys.exit(4)

"""``star-edge compress``: a smaller model from a trained checkpoint."""

from __future__ import annotations

import click

from star_edge.cli.compress.ensemble import ensemble
from star_edge.cli.compress.lowrank import lowrank
from star_edge.cli.compress.sparse import sparse


@click.group()
def command() -> None:
    """Make a smaller checkpoint from a trained one: export, calibrate and run it like any other.

    \b
    star-edge compress lowrank ckpt.pt --params 0.5 --finetune 20
    star-edge compress sparse ckpt.pt --sparsity 0.9 --finetune 20
    star-edge compress sparse ckpt.pt --pattern channel --sparsity 0.5 --finetune 20
    star-edge compress ensemble ckpt.pt --finetune 100
    """


for _subcommand in (lowrank, sparse, ensemble):
    command.add_command(_subcommand)

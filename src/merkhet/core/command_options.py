"""Options that commands share: the network that is meant, how its inputs are prepared, the seed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

MODEL = (
    "package.module:callable, file.py:callable, a Hugging Face folder, a run, or the name of a "
    "network that comes with merkhet, such as fashion-cnn."
)

Weights = Annotated[Path | None, typer.Option(help="Safetensors file for package.module:callable.")]
Arguments = Annotated[str, typer.Option(help="Arguments of the callable, as JSON.")]
Mean = Annotated[str | None, typer.Option(help="Mean by channel, as in 0.5,0.5,0.5.")]
Std = Annotated[str | None, typer.Option(help="Standard deviation by channel.")]
Size = Annotated[str | None, typer.Option(help="Resize pictures to HEIGHTxWIDTH.")]
Seed = Annotated[int, typer.Option(help="Seed of everything random.", min=0)]

"""Language models with product-key memories: train, evaluate, generate."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from merkhet.core.command_options import Seed
from merkhet.core.errors import InputError
from merkhet.core.options import check_run_folder

if TYPE_CHECKING:
    from torch import Tensor, nn

    from merkhet.data import Tokenizer, TokenWindows

NETWORK = "memory_transformer"
RECORD = "run.json"
TOP_K = 32  # the default of ProductKeyMemory
RUN = "Folder of the run: checkpoints, final weights, record."
TEXT = "Text: python (the standard library's source), a folder or a file."


def train(
    data: Annotated[str, typer.Option(help=TEXT)] = "python",
    out: Annotated[Path, typer.Option(help=RUN)] = Path("memory-run"),
    vocabulary: Annotated[int, typer.Option(help="Tokens of the vocabulary.", min=257)] = 2048,
    context: Annotated[int, typer.Option(help="Tokens of a window.", min=2)] = 128,
    width: Annotated[int, typer.Option(help="Width of the network.", min=8)] = 256,
    layers: Annotated[int, typer.Option(help="Its blocks.", min=1)] = 6,
    places: Annotated[
        str | None, typer.Option(help="Blocks with a memory, from 0, as in 3,5; the middle one.")
    ] = None,
    mode: Annotated[
        str, typer.Option(help="beside the feed-forward layer, or replace it.")
    ] = "beside",
    subkeys: Annotated[int, typer.Option(help="Sub-keys of a half; slots are their square.")] = 256,
    steps: Annotated[int, typer.Option(help="Steps of training.", min=1)] = 300,
    batch: Annotated[int, typer.Option(help="Windows of a step.", min=1)] = 16,
    rate: Annotated[float, typer.Option(help="Learning rate of the network.")] = 2e-3,
    value_rate: Annotated[float, typer.Option(help="Learning rate of the values.")] = 1e-2,
    save_every: Annotated[int, typer.Option(help="Steps between checkpoints.", min=1)] = 100,
    seed: Seed = 0,
) -> None:
    """Train a language model with memories on text; the same command goes on where it stopped.

    Example: merkhet memory train --data python --steps 20 --width 64 --layers 2 --subkeys 32
    """
    import torch

    from merkhet.core.options import numbers
    from merkhet.data import load_text
    from merkhet.memory.networks import next_token_loss
    from merkhet.models import Spec
    from merkhet.report.commands import print_line
    from merkhet.training import Optimisation, Running, TrainingConfig, fit

    _check(data, out, subkeys, rate=rate, value_rate=value_rate)
    chosen = numbers(places, "--places", ",", int) if places else (layers // 2,)
    memory = {"mode": mode, "memory": {"num_subkeys": subkeys}, "seed": seed}
    arguments = {"dim": width, "layers": layers, "places": list(chosen), **memory}
    with torch.device("meta"):  # what is wrong is told before the text is read
        Spec(NETWORK, {"vocab_size": vocabulary, **arguments}).build()
    windows = load_text(data, vocabulary, context, "train")
    held_out = load_text(data, vocabulary, context, "validation")
    filled = windows.file.tokenizer().vocabulary
    spec = Spec(NETWORK, {"vocab_size": filled, **arguments})
    network = spec.build()
    if filled < vocabulary:
        print_line(f"{data} fills a vocabulary of {filled:,} tokens, not {vocabulary:,}")
    config = TrainingConfig(
        steps,
        batch,
        seed=seed,
        optimisation=Optimisation(warmup_steps=max(1, steps // 10), clip_norm=1.0),
        running=Running(save_every=save_every),
    )
    described = {"model": {"name": spec.name, "arguments": spec.arguments}, "data": str(data)}
    result = fit(
        network,
        windows,
        next_token_loss,
        config,
        folder=out,
        optimiser=_optimiser(network, rate, value_rate),
        spec={**described, "vocabulary": vocabulary, "context": context},
        tell=print_line,
    )
    windows.file.tokenizer().save(out / "tokenizer.json")
    print_line(f"{out}: loss {result.losses[-1]:.3f} after {result.steps} steps")
    _tell(network, held_out)


def evaluate(
    run: Annotated[Path, typer.Argument(help=RUN)],
    data: Annotated[str | None, typer.Option(help=f"{TEXT} By default the run's.")] = None,
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "test",
) -> None:
    """Print perplexity on held-out text, and how the slots of each memory are used.

    Example: merkhet memory evaluate memory-run --split validation
    """
    network, spec, tokenizer = _open(run)
    _tell(network, _windows(data or spec["data"], spec, tokenizer, split))


def generate(
    run: Annotated[Path, typer.Argument(help=RUN)],
    prompt: Annotated[str, typer.Option(help="The text's beginning.")] = "def ",
    tokens: Annotated[int, typer.Option(help="Tokens to add.", min=1)] = 100,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest.", min=0)] = 0.8,
    seed: Annotated[int, typer.Option(help="Seed of the draws.", min=0)] = 0,
) -> None:
    """Print text that a trained model goes on with.

    Example: merkhet memory generate memory-run --prompt "import " --tokens 40
    """
    import torch

    network, _, tokenizer = _open(run)
    begin = tokenizer.encode(prompt)
    if not begin:
        raise InputError("--prompt is empty: give at least a character to go on from")
    made: Any = network.generate
    found: Tensor = made(torch.tensor([begin]), tokens, temperature, generator=seed)
    sys.stdout.write(tokenizer.decode(found[0].tolist()) + "\n")


VERBS = (train, evaluate, generate)


def _check(data: str, out: Path, subkeys: int, **rates: float) -> None:
    """Refuse numbers out of range, and a run's folder that would be taken for something else."""
    if subkeys < TOP_K:
        raise InputError(f"--subkeys {subkeys}: a head reads {TOP_K} slots, give that or more")
    for name, rate in rates.items():
        if not 0 <= rate < math.inf:
            raise InputError(f"--{name.replace('_', '-')} {rate}: give a number from 0 on")
    check_run_folder(out)
    if out.resolve() == Path(data).resolve():
        raise InputError(f"--out {out} is the text itself: give another folder for the run")


def _optimiser(network: nn.Module, rate: float, value_rate: float) -> Any:
    """Return AdamW for the network with RowwiseAdam for the values."""
    import torch

    from merkhet.memory import RowwiseAdam, Together, parameter_groups

    groups = parameter_groups(network)
    values = RowwiseAdam(groups["values"], value_rate)
    return Together(torch.optim.AdamW(groups["others"], rate), values)


def _open(run: Path) -> tuple[nn.Module, dict[str, Any], Tokenizer]:
    """Return a finished run's network in evaluation mode, its spec and its tokenizer."""
    from merkhet.data import Tokenizer
    from merkhet.models import Spec
    from merkhet.models.pretrained import load_weights
    from merkhet.training import final_weights, read_run

    spec = read_run(run)["about"]["spec"] if (run / RECORD).is_file() else None
    if not spec or spec["model"]["name"] != NETWORK:
        raise InputError(f"{run} is not a run of `merkhet memory train`: give its --out folder")
    weights = final_weights(run)
    if not weights.is_file():
        raise InputError(f"{run} has no {weights.name}: the run is not whole")
    network = Spec(spec["model"]["name"], spec["model"]["arguments"]).build()
    load_weights(network, weights)
    return network.eval(), spec, Tokenizer.load(run / "tokenizer.json")


def _windows(data: str, spec: dict[str, Any], tokenizer: Tokenizer, split: str) -> TokenWindows:
    """Return windows of a text in the run's own tokens."""
    from merkhet.data import load_text

    windows = load_text(data, spec["vocabulary"], spec["context"], split)
    if windows.file.tokenizer().checksum != tokenizer.checksum:
        raise InputError(
            f"{data} has another tokenizer than the run: give the text that it was trained on"
        )
    return windows


def _tell(network: nn.Module, windows: TokenWindows, most: int = 200) -> None:
    """Print perplexity and the use of the slots over some windows."""
    import torch
    from torch.utils.data import Subset

    from merkhet.memory import usage
    from merkhet.training import perplexity

    order = torch.randperm(len(windows), generator=torch.Generator().manual_seed(0))[:most]
    found = perplexity(network.eval(), Subset(windows, order.tolist()))
    low, high = found.interval or (found.value, found.value)
    sys.stdout.write(
        f"perplexity {found.value:.2f} [{low:.2f}, {high:.2f}] on {len(order)} windows\n"
    )
    device = next(network.parameters()).device
    batches = (windows.batch(part)[0].to(device) for part in order.split(16))
    for path, used in usage(network, batches).items():
        sys.stdout.write(
            f"{path}: {used.used:.1%} of {used.slots:,} slots used, KL {used.kl:.2f}, "
            f"Gini {used.gini:.2f}\n"
        )

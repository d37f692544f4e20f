"""The check of costs: counted by operation, measured by module."""

from __future__ import annotations

from merkhet.audit.folding import fold_code, foldable
from merkhet.core.costs import Cost, Costs, costs
from merkhet.core.errors import InputError
from merkhet.core.latency import Latency, latency
from merkhet.report import Finding, Picture, Section, Subject, Table
from merkhet.report.figures import COLOURS, figure, label, to_svg

SHOWN = 12  # rows of the table and bars of the figure
LATENCY_BATCH = 8
FEWEST_PASSES = 8  # that `latency` makes however short the time
MOST_SECONDS = 5.0  # measuring longer does not change a median
UNSTEADY = 1.5  # ratio of quartiles from which a time says little
BUSY = (
    "The passes differ much in time, as they do on a machine that is busy with other work: the "
    "times here may be several times too long. Measure again when it is idle."
)


def cost(subject: Subject, seconds: float) -> Section:
    """Count and measure what each module costs."""
    counted = costs(subject.network)
    size = _timed_batch(subject, seconds)
    batch = subject.preprocess(subject.inputs[:size].clone())
    timed = latency(subject.module, batch, seconds=min(seconds / 2, MOST_SECONDS))
    modules = _largest(counted, timed)
    return Section(
        title="Cost",
        summary=_summary(counted, timed, len(batch)),
        findings=tuple(
            found
            for found in (_unused(counted), _norms(subject, timed), _heaviest(counted, timed))
            if found
        ),
        tables=(_table(modules, len([*filter(None, counted.by_module())]), timed, len(batch)),),
        pictures=(_picture(modules, counted, timed),) if modules else (),
        figures={
            "cost(parameters)": counted.parameters,
            "cost(multiply_adds)": counted.multiply_adds,
            "cost(activation_bytes)": counted.activation_bytes,
            "cost(peak_bytes)": counted.peak_bytes,
            "cost(latency_ms)": 1000 * timed.total,
        },
        notes=_notes(subject, counted, timed, len(batch)),
    )


def _timed_batch(subject: Subject, seconds: float) -> int:
    """Return how many inputs to time together: as many as the least of passes can take.

    Raises:
        InputError: Not even one input fits.
    """
    needed = FEWEST_PASSES * subject.seconds_each
    if needed > seconds:
        raise InputError(
            f"timing takes {FEWEST_PASSES} passes, here about {needed:.0f} s, and {seconds:.0f} s "
            "are left for it: allow more seconds"
        )
    return min(LATENCY_BATCH, int(seconds / max(needed, 1e-9)))


def count(value: float, unit: str = "") -> str:
    """Return a number with a prefix and unit: 1234567 as "1.23 M", or 2000 bytes as "2 kB"."""
    for size, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, "")):
        if abs(value) >= size or size == 1.0:
            return f"{value / size:.3g} {prefix}{unit}".rstrip()
    raise AssertionError("every number is shown with the last prefix at least")


def _summary(counted: Costs, timed: Latency, batch: int) -> str:
    """Say the totals in words."""
    whole, alive = (count(size, "B") for size in (counted.activation_bytes, counted.peak_bytes))
    return (
        f"One example takes {count(counted.multiply_adds)} multiply-adds with "
        f"{count(counted.parameters)} parameters; its activations fill {whole}, {alive} of them "
        f"at once in inference. A batch of {batch} takes {1000 * timed.total:.2f} ms here."
    )


def _largest(counted: Costs, timed: Latency) -> dict[str, Cost]:
    """Return the modules with the largest part of any cost, in the order they run."""
    modules = {path: found for path, found in counted.by_module().items() if path}
    scores = {path: max(_shares(found, path, counted, timed)) for path, found in modules.items()}
    kept = sorted(scores, key=lambda path: -scores[path])[:SHOWN]
    return {path: found for path, found in modules.items() if path in kept}


def _shares(found: Cost, path: str, counted: Costs, timed: Latency) -> tuple[float, float, float]:
    """Return a module's share of parameters, multiply-adds and measured time."""
    return (
        found.parameters / max(counted.parameters, 1),
        (found.multiply_adds or 0) / max(counted.multiply_adds, 1),
        timed.modules.get(path, 0.0) / max(sum(timed.modules.values()), 1e-12),
    )


def _table(modules: dict[str, Cost], every: int, timed: Latency, batch: int) -> Table:
    """Return the costs of the largest modules."""
    rows = tuple(
        (
            path,
            found.node.module,
            count(found.parameters),
            count(found.multiply_adds or 0),
            count(found.activation_bytes, "B"),
            f"{1000 * timed.modules[path]:.3f} ms" if path in timed.modules else "not measured",
        )
        for path, found in modules.items()
    )
    columns = ("module", "kind", "parameters", "multiply-adds", "activations", "time")
    shown = f"the {len(rows)} modules with the largest shares of {every}, in the order they run"
    caption = f"Costs of one example, and time of a batch of {batch}; {shown}"
    return Table(caption, columns, rows)


def _picture(modules: dict[str, Cost], counted: Costs, timed: Latency) -> Picture:
    """Draw each module's shares as bars."""
    made, (axis,) = figure(width=7.0, height=0.9 + 0.42 * len(modules))
    names = ("parameters", "multiply-adds", "measured time")
    shares = [_shares(found, path, counted, timed) for path, found in modules.items()]
    for kind, name in enumerate(names):
        axis.barh(
            [place + 0.26 * (kind - 1) for place in range(len(modules))],
            [share[kind] for share in shares],
            height=0.24,
            color=COLOURS[kind],
            label=name,
        )
    axis.set_yticks(range(len(modules)), [label(path) for path in modules])
    axis.invert_yaxis()
    axis.set_xlabel("share of the whole network's")
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axis.legend(frameon=False, loc="best")
    return Picture("Where the parameters, the arithmetic and the time are", to_svg(made))


def _unused(counted: Costs) -> Finding | None:
    """Find parameters that the forward pass never uses."""
    if not counted.unused or counted.network.source != "export":
        return None
    size = sum(counted.network.parameters[name].numel() for name in counted.unused)
    share = size / (size + counted.parameters)
    path, _, name = counted.unused[0].rpartition(".")
    return Finding(
        name="cost(unused_parameters)",
        value=float(size),
        sentence=f"{count(size)} parameters ({share:.0%}) are never used by the forward pass: "
        f"{', '.join(counted.unused[:3])}{' and others' if len(counted.unused) > 3 else ''}.",
        yardstick="a network that uses all it stores: 0",
        remedy="Delete them, or wire them in; they are stored, sent to the device and decayed "
        "for nothing.",
        code=f"network.get_submodule({path!r}).register_parameter({name!r}, None)",
        weight=min(0.9, 0.3 + share),
    )


def _norms(subject: Subject, timed: Latency) -> Finding | None:
    """Find time spent in batch norms that could be folded into convolutions."""
    pairs = foldable(subject)
    spent = sum(timed.modules.get(path, 0.0) for path in pairs)
    share = spent / max(sum(timed.modules.values()), 1e-12)
    if share < 0.05:
        return None
    return Finding(
        name="cost(batch_norm_time)",
        value=share,
        sentence=f"Batch norms take {share:.0%} of the measured time and add nothing in "
        "inference that the layer before could not hold.",
        yardstick="folded into the layer before: 0",
        remedy="For inference, fold each batch norm into the layer before it.",
        code=fold_code(subject, pairs),
        weight=min(0.6, share),
    )


def _heaviest(counted: Costs, timed: Latency) -> Finding | None:
    """Find the module with most of the measured time."""
    whole = sum(timed.modules.values())
    if not whole:
        return None
    path = max(timed.modules, key=lambda key: timed.modules[key])
    share = timed.modules[path] / whole
    modules = counted.by_module()
    work = (modules[path].multiply_adds or 0) if path in modules else 0.0
    part = work / max(counted.multiply_adds, 1)
    if share < 0.1:
        return None
    slow = share > 2 * part
    return Finding(
        name=f"cost(time,{path})",
        value=share,
        sentence=f"Module {path} takes {share:.0%} of the measured time with {part:.0%} of the "
        "multiply-adds.",
        yardstick=f"an equal part for each of {len(timed.modules)} modules: "
        f"{1 / len(timed.modules):.0%}",
        remedy="Its time goes into memory and calls rather than arithmetic: fuse it with its "
        "neighbours."
        if slow
        else "Start here when the network is to be faster.",
        code="import torch\nnetwork = torch.compile(network)",
        weight=min(0.5, share / 2 + (0.2 if slow and share > 0.2 else 0.0)),
    )


def _notes(subject: Subject, counted: Costs, timed: Latency, batch: int) -> tuple[str, ...]:
    """Say how the costs were found and what they leave out."""
    notes = [
        f"Time: median of {timed.repeats} passes of a batch of {batch}; half of them lie between "
        f"{1000 * timed.low:.2f} and {1000 * timed.high:.2f} ms. Modules are timed in passes of "
        "their own, with hooks.",
        "Multiply-adds count convolutions, matrix products, attention and recurrences; a "
        "floating-point operation is half of one. Activations count every result that is not a "
        "view.",
    ]
    if timed.high > UNSTEADY * timed.low:
        notes.insert(0, BUSY)
    if counted.unknown:
        ops = sorted({node.op.replace("module:", "what happens in ") for node in counted.unknown})
        notes.append(f"Not counted, since no rule covers them: {', '.join(ops)}.")
    shared = len(list(subject.module.named_parameters(remove_duplicate=False)))
    if shared > len(list(subject.module.parameters())):
        notes.append("Parameters that modules share are counted once, where they are first used.")
    notes.extend(subject.network.caveats())
    return tuple(notes)

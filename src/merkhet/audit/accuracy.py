"""The check of accuracy: is this the network, with the preparation, that its user means?"""

from __future__ import annotations

import torch

from merkhet.audit.next_tokens import next_tokens, predicts_next_tokens
from merkhet.core.intervals import wilson
from merkhet.core.modes import evaluating
from merkhet.report import Finding, Section, Subject, Table

PREPARED = {  # by whether the inputs are tokens
    False: "inputs are normalised as in training (--mean, --std)",
    True: "the tokens are those of its own tokenizer",
}


def has_no_labels(subject: Subject) -> str | None:
    """Say why accuracy cannot be measured, or return None."""
    if predicts_next_tokens(subject):
        return None
    if subject.labels is None:
        return "the data has no labels"
    output = subject.output
    if output.dim() != 2 or not output.is_floating_point():
        shape = tuple(output.shape)
        return f"the network's output has shape {shape} and {output.dtype}, not scores by class"
    if int(subject.labels.max()) >= output.shape[1]:
        return f"labels go to {int(subject.labels.max())}, the network has {output.shape[1]} scores"
    return None


def accuracy(subject: Subject, seconds: float) -> Section:
    """Measure how many of the sample, or of its next tokens, the network labels rightly."""
    if subject.labels is None or subject.output.dim() == 3:
        return next_tokens(subject, seconds)
    scores = _scores(subject, seconds)
    labels = subject.labels[: len(scores)].to(scores.device)
    right = scores.argmax(1) == labels
    share = right.double().mean().item()
    low, high = wilson(int(right.sum()), len(right))
    chance = labels.bincount().max().item() / len(labels)
    return Section(
        title="Accuracy",
        summary=f"The network labels {share:.1%} of {len(labels)} examples rightly "
        f"(95 % interval {low:.1%} to {high:.1%}); always the most frequent label would be right "
        f"on {chance:.1%}.",
        findings=_findings(share, low, chance, subject.kind == "tokens"),
        tables=(_table(subject, right.cpu(), labels.cpu()),),
        figures={"accuracy": share, "accuracy(low)": low, "accuracy(high)": high},
        notes=(
            f"{len(labels)} of {len(subject.inputs)} inputs, as far as the time went. Wilson's "
            "interval; the sample is drawn at random from the data given.",
        ),
    )


def _scores(subject: Subject, seconds: float) -> torch.Tensor:
    """Return the scores (count, classes) of the first inputs, as many as the time allows."""
    with evaluating(subject.module):
        return torch.cat([subject.forward(part) for part in subject.batches(seconds)])


def _findings(share: float, low: float, chance: float, tokens: bool) -> tuple[Finding, ...]:
    """Warn of a network that does no better than the most frequent label."""
    if chance == 1 or low > chance:
        return ()
    return (
        Finding(
            name="accuracy",
            value=share,
            sentence=f"The network is right on {share:.1%} of the sample, "
            f"{'hardly' if share > chance else 'no'} more than always the most frequent label "
            f"({chance:.1%}): what follows describes a network that does not work on this data.",
            yardstick=f"the most frequent label: {chance:.1%}",
            remedy=f"Check that the weights are loaded, that {PREPARED[tokens]}, and that labels "
            "are numbered as in training.",
            code="print(network(preprocess(inputs[:8])), labels[:8])",
            weight=1.0,
        ),
    )


def _table(subject: Subject, right: torch.Tensor, labels: torch.Tensor) -> Table:
    """Return the accuracy of each class, worst first, ten at most."""
    rows = []
    for label in labels.unique().tolist():
        hits = right[labels == label]
        name = subject.classes[label] if label < len(subject.classes) else str(label)
        rows.append((hits.double().mean().item(), name, len(hits)))
    shown = sorted(rows)[:10]
    return Table(
        "Accuracy by class, worst first" + (f" (10 of {len(rows)})" if len(rows) > 10 else ""),
        ("class", "accuracy", "examples"),
        tuple((name, f"{share:.0%}", str(size)) for share, name, size in shown),
    )

"""How well a language model predicts the next token: share of right ones, and perplexity."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

import torch
from torch import Tensor

from merkhet.core.modes import evaluating
from merkhet.report import Finding, Section, Subject

SURE = 1.96  # standard errors
SAME = 1e-4  # of the largest score: below it, scores differ by rounding


@dataclass
class _Seen:
    """What was predicted so far."""

    nats: list[Tensor] = field(default_factory=list)  # mean over the tokens of each window
    right: list[Tensor] = field(default_factory=list)  # share of right ones in each window

    def take(self, scores: Tensor, tokens: Tensor) -> None:
        """Take in scores (n, length, tokens) for windows (n, length)."""
        log_p, wanted = scores[:, :-1].double().log_softmax(2), tokens[:, 1:]
        self.nats.append(-log_p.gather(2, wanted[:, :, None])[:, :, 0].mean(1).cpu())
        self.right.append((log_p.argmax(2) == wanted).double().mean(1).cpu())


def predicts_next_tokens(subject: Subject) -> bool:
    """Tell whether outputs are scores of the next token, from those before it alone."""
    output, tokens = subject.output, subject.inputs
    if subject.kind != "tokens" or tokens.dim() != 2 or tokens.shape[1] < 2:
        return False
    if output.dim() != 3 or output.shape[1] != tokens.shape[1] or not output.is_floating_point():
        return False
    return int(tokens.max()) < output.shape[2] and _looks_back_only(subject)


def _looks_back_only(subject: Subject) -> bool:
    """Tell whether another last token leaves the scores before it as they were."""
    pair = subject.inputs[:2]
    other = pair.clone()
    other[:, -1] = (other[:, -1] + 1) % (int(subject.inputs.max()) + 1)
    with evaluating(subject.module):
        before, after = (subject.forward(one)[:, :-1].double() for one in (pair, other))
    return float((before - after).abs().max()) <= SAME * float(before.abs().max())


def next_tokens(subject: Subject, seconds: float) -> Section:
    """Measure how well the next token is predicted on as many windows as the time allows."""
    stop, seen = time.perf_counter() + seconds, _Seen()
    with evaluating(subject.module):
        for part in subject.inputs.split(subject.batch_size):
            seen.take(subject.forward(part), part.to(subject.output.device))
            if time.perf_counter() > stop:
                break
    nats, right = torch.cat(seen.nats), torch.cat(seen.right)
    tokens = subject.inputs[: len(nats), 1:].cpu()
    counts = tokens.flatten().bincount().double()
    usual = counts[counts > 0] / counts.sum()
    even = math.exp(float(-(usual * usual.log()).sum()))
    low, high = (math.exp(at) for at in _interval(nats))
    perplexity, share = math.exp(float(nats.mean())), float(right.mean())
    return Section(
        title="Accuracy",
        summary=f"Of {tokens.numel():,} next tokens the network gives {share:.1%} the highest "
        f"score; its perplexity is {perplexity:.4g} (95 % interval {low:.4g} to {high:.4g}). "
        f"Always the most frequent token would be right on {float(usual.max()):.1%}, and who knows "
        f"no more than how frequent each is has a perplexity of {even:.4g}.",
        findings=_findings(low, perplexity, even),
        figures={
            "accuracy": share,
            "accuracy(perplexity)": perplexity,
            "accuracy(perplexity,low)": low,
            "accuracy(perplexity,high)": high,
        },
        notes=(
            f"{len(nats)} of {len(subject.inputs)} windows, as far as the time went. Perplexity: "
            "exp of the mean of -log p over tokens. The interval is over windows; how frequent "
            "tokens are is that of the sample itself.",
        ),
    )


def _interval(nats: Tensor) -> tuple[float, float]:
    """Return the 95 % interval of the mean over windows."""
    mean = float(nats.mean())
    error = SURE * float(nats.std()) / math.sqrt(len(nats)) if len(nats) > 1 else math.inf
    return mean - error, mean + min(error, 700.0)  # exp stays finite


def _findings(low: float, perplexity: float, even: float) -> tuple[Finding, ...]:
    """Warn of a model that knows no more than how frequent tokens are."""
    if low < even:
        return ()
    return (
        Finding(
            name="accuracy(perplexity)",
            value=perplexity,
            sentence=f"The perplexity of the next token is {perplexity:.4g}, no better than that "
            f"of its frequency ({even:.4g}): what follows describes a network that does not work "
            "on this data.",
            yardstick=f"the frequency of each token alone: {even:.4g}",
            remedy="Check that the weights are loaded, and that the tokens are those of its own "
            "tokenizer.",
            code="print(inputs[:2], network(preprocess(inputs[:2])))",
            weight=1.0,
        ),
    )

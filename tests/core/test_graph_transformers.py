"""Networks that nobody here wrote, as small random instances."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from merkhet.core.costs import costs
from merkhet.core.graph import trace

transformers = pytest.importorskip("transformers")
SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
TOKENS = {"vocab_size": 50, "bos_token_id": 1, "eos_token_id": 2}


def gpt2():
    config = transformers.GPT2Config(n_layer=2, n_embd=16, n_head=2, n_positions=32, **TOKENS)
    return transformers.GPT2LMHeadModel(config)


def llama():
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**SMALL, **TOKENS))


def bert():
    return transformers.BertModel(transformers.BertConfig(**SMALL, vocab_size=50))


def vit():
    config = transformers.ViTConfig(**SMALL, image_size=16, patch_size=8)
    return transformers.ViTForImageClassification(config)


def resnet():
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1])
    return transformers.ResNetForImageClassification(config)


def mobilenet():
    config = transformers.MobileNetV2Config(image_size=32, depth_multiplier=0.25)
    return transformers.MobileNetV2ForImageClassification(config)


def convnext():
    config = transformers.ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2)
    return transformers.ConvNextForImageClassification(config)


@pytest.mark.parametrize("build", [gpt2, llama, bert, vit, resnet, mobilenet, convnext])
def test_traced_whole_and_counted_as_torch_counts(build) -> None:
    module = build().eval()
    if build in (gpt2, llama, bert):
        example = torch.randint(3, 50, (2, 8), generator=torch.Generator().manual_seed(0))
    else:
        size = 32 if build in (mobilenet, convnext) else 16
        example = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    network = trace(module, example)
    assert network.source == "export", network.reason
    counted = costs(network)
    assert counted.parameters == sum(p.numel() for p in module.parameters() if p.requires_grad)
    assert counted.unused == ()
    assert counted.unknown == ()
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        module(example)
    assert counted.multiply_adds * counted.batch == pytest.approx(counter.get_total_flops() / 2)


def test_tied_embeddings_count_once() -> None:
    module = gpt2().eval()
    network = trace(module, torch.zeros(1, 4, dtype=torch.long))
    users = [n.op for n in network.nodes if "transformer.wte.weight" in n.parameters.values()]
    assert users == ["embedding", "linear"]
    assert "lm_head.weight" not in network.parameters

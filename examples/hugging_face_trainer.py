"""A memory for a Hugging Face language model, trained with transformers' own Trainer.

    python examples/hugging_face_trainer.py

A small GPT-2 gets a memory beside one feed-forward layer, which leaves its outputs as they were.
The Trainer trains both kinds of parameters on the standard library's source, each with an optimiser
of its own, and writes checkpoints; run again, it goes on from the last. What is saved is read
again. Take your own model and data in `main`. Two minutes on two cores.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import transformers

from merkhet import data
from merkhet.memory import RowwiseAdam, Together, attach, parameter_groups, usage
from merkhet.memory.networks import from_pretrained, save_pretrained
from merkhet.training import clip_gradients

CONTEXT, LAYERS = 64, 6


class MemoryTrainer(transformers.Trainer):
    """A Trainer for networks with memories: two optimisers, and clipping that knows sparse rows."""

    def create_optimizer(self, model=None):
        """Give the values RowwiseAdam, and everything else AdamW."""
        if self.optimizer is None:
            groups = parameter_groups(self.model)
            others = torch.optim.AdamW(groups["others"], self.args.learning_rate)
            self.optimizer = Together(others, RowwiseAdam(groups["values"], lr=1e-2))
        return self.optimizer

    def _clip_grad_norm(self, model):  # torch's own clipping does not take sparse gradients
        return clip_gradients(model.parameters(), self.args.max_grad_norm)


class Windows(torch.utils.data.Dataset):
    """Windows of tokens, as the Trainer takes them."""

    def __init__(self, text: str, vocabulary: int, split: str) -> None:
        self.windows = data.load_text(text, vocabulary, CONTEXT, split)

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, place: int) -> dict[str, torch.Tensor]:
        tokens, _ = self.windows[place]
        return {"input_ids": tokens, "labels": tokens}


def main(
    folder: Path, steps: int, batch: int = 16, text: str = "python", vocabulary: int = 2048
) -> float:
    """Train, save and read again; return the loss on some held-out windows."""
    transformers.set_seed(0)
    config = transformers.GPT2Config(
        vocab_size=vocabulary,
        n_positions=CONTEXT,
        n_embd=128,
        n_layer=LAYERS,
        n_head=4,
        bos_token_id=None,
        eos_token_id=None,
    )
    model = transformers.GPT2LMHeadModel(config)  # or AutoModelForCausalLM.from_pretrained(...)
    layer = f"transformer.h.{LAYERS // 2}.mlp"  # past the middle
    attach(model, [layer], "beside", num_subkeys=128, key_dim=64)
    begun = [int(path.name.rpartition("-")[2]) for path in folder.glob("checkpoints/checkpoint-*")]
    if max(begun, default=0) >= steps:
        raise SystemExit(f"{folder} holds {max(begun)} steps: give more --steps, or a new --folder")

    arguments = transformers.TrainingArguments(
        str(folder / "checkpoints"),
        max_steps=steps,
        per_device_train_batch_size=batch,
        learning_rate=2e-3,
        max_grad_norm=1.0,
        lr_scheduler_type="constant",
        save_steps=max(1, steps // 2),
        logging_steps=max(1, steps // 4),
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=torch.accelerator.is_available(),
    )
    train, test = (Windows(text, vocabulary, split) for split in ("train", "test"))
    count = min(64, len(test))
    held_out = torch.utils.data.Subset(test, range(count))
    trainer = MemoryTrainer(model, arguments, train_dataset=train, eval_dataset=held_out)
    trainer.train(resume_from_checkpoint=bool(begun))
    loss = trainer.evaluate()["eval_loss"]

    save_pretrained(model, folder / "model")
    train.windows.file.tokenizer().save(folder / "model" / "tokenizer.json")
    again = from_pretrained(folder / "model").to(model.device)
    tokens = test[0]["input_ids"][None].to(model.device)
    with torch.no_grad():
        assert torch.equal(again(tokens).logits, model.eval()(tokens).logits)
    batches = [{"input_ids": test[place]["input_ids"][None]} for place in range(count)]
    for path, used in usage(again.cpu(), batches).items():
        print(f"{path}: {used.used:.1%} of {used.slots:,} slots used, KL {used.kl:.2f}")
    print(f"held-out loss {loss:.3f}; now: merkhet audit {folder / 'model'} --data {text}")
    return loss


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("hugging-face-memory"))
    parser.add_argument("--steps", type=int, default=400)
    given = parser.parse_args()
    main(given.folder, given.steps)

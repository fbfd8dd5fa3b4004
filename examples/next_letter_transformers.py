"""A small GPT-2 learns the letters of this file with the Hugging Face Trainer, watched by one callback.

pip install transformers accelerate
probe-collector serve                          # in one terminal
python examples/next_letter_transformers.py    # in another; then open http://127.0.0.1:8757
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    Trainer,
    TrainingArguments,
    default_data_collator,
)

from probe_agent.integrations.transformers import PhasewatchCallback

LENGTH = 32


def sentences() -> list[dict[str, Tensor]]:
    """Every stretch of `LENGTH` letters of this file; a language model's labels are its inputs."""
    letters = torch.tensor(list(Path(__file__).read_bytes())).clamp(max=127)
    return [{"input_ids": stretch, "labels": stretch} for stretch in letters.unfold(0, LENGTH, 1)]


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=2000)
    steps = parser.parse_args().steps
    torch.manual_seed(0)
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=128, n_positions=LENGTH, n_embd=32, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0)
    )
    data = sentences()
    # The model computes its loss itself, so none is passed.
    watch = PhasewatchCallback("next letter", probe_batch=default_data_collator(data[:: len(data) // 64]))
    arguments = TrainingArguments(
        output_dir=".next_letter", max_steps=steps, learning_rate=1e-3, save_strategy="no", report_to="none"
    )
    Trainer(model, arguments, train_dataset=data, callbacks=[watch]).train()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()

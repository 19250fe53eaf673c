"""A training script as a user of PyTorch writes it: the original of `compyute_script.py`."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(13, 16)
        self.attention_norm = nn.LayerNorm(16)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.norm = nn.LayerNorm(16)
        self.up = nn.Linear(16, 32)
        self.activation = nn.ReLU()
        self.down = nn.Linear(32, 16, bias=False)
        self.head = nn.Linear(16, 13)

    def forward(self, ids: Any) -> Any:
        x = self.embedding(ids)
        hidden = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).triu(1)
        a = self.attention_norm(x)
        x = x + self.attention(a, a, a, attn_mask=hidden, need_weights=False)[0]
        x = x + self.down(self.activation(self.up(self.norm(x))))
        return self.head(x)


def main(weights: dict[str, np.ndarray], batches: list[Any]) -> tuple[list[float], dict[str, np.ndarray], list[int]]:
    model = Model()
    model.load_state_dict({name: torch.tensor(array) for name, array in weights.items()})
    model.embedding.weight.requires_grad = False
    decayed = [p for p in model.parameters() if p.requires_grad and p.ndim >= 2]
    others = [p for p in model.parameters() if p.requires_grad and p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = AdamW(groups, lr=1e-2, betas=(0.9, 0.95))
    warm_up: Callable[[int], float] = lambda step: min(1.0, (step + 1) / 5)  # noqa: E731
    scheduler = LambdaLR(optimizer, warm_up)
    criterion = nn.CrossEntropyLoss()
    losses = []

    model.train()
    for step in range(20):
        if step == 10:
            saved = model.state_dict(), optimizer.state_dict(), scheduler.state_dict()
            model = Model()
            model.embedding.weight.requires_grad = False
            decayed = [p for p in model.parameters() if p.requires_grad and p.ndim >= 2]
            others = [p for p in model.parameters() if p.requires_grad and p.ndim < 2]
            groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
            optimizer = AdamW(groups, lr=1e-2, betas=(0.9, 0.95))
            scheduler = LambdaLR(optimizer, warm_up)
            model.load_state_dict(saved[0])
            optimizer.load_state_dict(saved[1])
            scheduler.load_state_dict(saved[2])
        optimizer.zero_grad()
        for inputs, targets in batches[2 * step : 2 * step + 2]:
            loss = criterion(model(torch.from_numpy(inputs)).reshape(-1, 13), torch.from_numpy(targets).reshape(-1))
            (loss / 2).backward()
            losses.append(loss.item())
        clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        scheduler.step()

    model.eval()
    ids = [1]
    with torch.no_grad():
        for _ in range(10):
            logits = model(torch.tensor([ids]))
            ids.append(int(logits[0, -1].argmax()))
    return losses, {name: value.numpy() for name, value in model.state_dict().items()}, ids

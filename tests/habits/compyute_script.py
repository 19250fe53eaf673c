"""The script of `torch_script.py` for Compyute Transformer: other imports, a backward by hand, arrays for tensors."""

from collections.abc import Callable
from typing import Any

import numpy as np

from compyute_transformer import Mask, nn
from compyute_transformer.optim import AdamW, LambdaLR, clip_grad_norm_


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(13, 16)
        self.attention_norm = nn.LayerNorm(16)
        self.attention = nn.MultiHeadAttention(16, 2)
        self.norm = nn.LayerNorm(16)
        self.feed_forward = nn.FeedForward(16, 32, activation="relu")
        self.feed_forward.down.bias = None
        self.head = nn.Linear(16, 13)

    def forward(self, ids: Any) -> Any:
        x = self.embedding(ids)
        x = x + self.attention(self.attention_norm(x), mask=Mask(causal=True))
        x = x + self.feed_forward(self.norm(x))
        return self.head(x)

    def backward(self, dlogits: Any) -> None:
        dx = self.head.backward(dlogits)
        dx = dx + self.norm.backward(self.feed_forward.backward(dx))
        da, _ = self.attention.backward(dx)
        dx = dx + self.attention_norm.backward(da)
        self.embedding.backward(dx)


def main(weights: dict[str, np.ndarray], batches: list[Any]) -> tuple[list[float], dict[str, np.ndarray], list[int]]:
    model = Model()
    model.load_state_dict(weights)
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
            loss = criterion(model(inputs), targets)
            model.backward(criterion.backward(1 / 2))
            losses.append(loss.item())
        clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        scheduler.step()

    model.eval()
    ids = [1]
    for _ in range(10):
        logits = model(np.array([ids]))
        ids.append(int(logits[0, -1].argmax()))
    return losses, model.state_dict(), ids

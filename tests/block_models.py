"""Small random transformers with a residual stream, as a ViT and as a classifier of texts."""

from __future__ import annotations

import torch
from torch import nn

BLOCKS = 8
WIDTH = 32
HEADS = 4
CLASSES = 5
WORDS = 50
TOKENS = 12
PATCH = 4
SIDE = 16


class Attention(nn.Module):
    """Softmax attention by plain matrix products; the mask is added to the scores."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inward = nn.Linear(width, 3 * width)
        self.outward = nn.Linear(width, width)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        rows, tokens, width = x.shape
        split = self.inward(x).reshape(rows, tokens, 3, HEADS, width // HEADS).permute(2, 0, 3, 1, 4)
        query, key, value = split[0], split[1], split[2]
        scores = query @ key.transpose(-1, -2) / (width // HEADS) ** 0.5
        if mask is not None:
            scores = scores + mask
        mixed = (torch.softmax(scores, dim=-1) @ value).transpose(1, 2).reshape(rows, tokens, width)
        attended: torch.Tensor = self.outward(mixed)
        return attended


class Block(nn.Module):
    """Attention and two linear layers, each added to the residual stream."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.before_attention = nn.LayerNorm(width)
        self.attention = Attention(width)
        self.before_mlp = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        x = x + self.attention(self.before_attention(x), mask)
        ended: torch.Tensor = x + self.mlp(self.before_mlp(x))
        return ended


class Vit(nn.Module):
    """Patches, a class token, positions, blocks; input [rows, 1, 16, 16], logits [rows, classes]."""

    def __init__(self, blocks: int = BLOCKS, width: int = WIDTH) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, PATCH, PATCH)
        self.class_token = nn.Parameter(torch.randn(1, 1, width))
        self.positions = nn.Parameter(torch.randn(1, (SIDE // PATCH) ** 2 + 1, width))
        self.blocks = nn.ModuleList(Block(width) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        x = self.patches(pixels).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_token.expand(x.shape[0], -1, -1), x], dim=1) + self.positions
        for block in self.blocks:
            x = block(x)
        logits: torch.Tensor = self.head(self.norm(x[:, 0]))
        return logits


class TextClassifier(nn.Module):
    """Inputs int64 [rows, tokens] ids and mask, logits [rows, classes].

    The scores come from the tied embeddings, as in a language model, so first and last stage hold them.
    """

    def __init__(self, blocks: int = BLOCKS, width: int = WIDTH) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, width)
        self.positions = nn.Embedding(TOKENS, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        self.bias = nn.Parameter(torch.zeros(WORDS))

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        x = self.words(ids) + self.positions(torch.arange(ids.shape[1]))
        hidden = (1.0 - mask[:, None, None, :].to(x.dtype)) * torch.finfo(x.dtype).min
        for block in self.blocks:
            x = block(x, hidden)
        weight = mask[:, :, None].to(x.dtype)
        pooled = (self.norm(x) * weight).sum(1) / weight.sum(1).clamp(min=1.0)
        scores = nn.functional.linear(pooled, self.words.weight, self.bias)
        return scores[:, :CLASSES]

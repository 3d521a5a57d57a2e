"""The closed choices that a card knows, for whoever needs no more of it."""

from __future__ import annotations

from typing import Literal

Precision = Literal["fp32", "fp16", "bf16", "int8"]
Output = Literal["logits", "probabilities"]
InnerTensor = Literal["embedding", "feature_map"]

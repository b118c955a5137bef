"""An independent Qwen3 in float64 NumPy: slow, plain, and written from the architecture, not from the engines.

It shares no code with the package. Tests compare every engine with it.
"""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file


class Reference:
    """A Qwen3 checkpoint directory, computed in float64."""

    def __init__(self, directory: Path) -> None:
        self.config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        self.tensors = {}
        for path in sorted(directory.glob("*.safetensors")):
            for name, values in load_file(path).items():
                self.tensors[name] = values.astype(np.float64)

    def hidden(self, tokens, positions, mask) -> np.ndarray:
        """The final, normed hidden states [S, H] of tokens [S] at ``positions`` [S] under ``mask`` [S, S]: boolean, or
        factors of the attention weights."""
        x = self._weight("model.embed_tokens")[np.asarray(tokens)]
        for number in range(self.config["num_hidden_layers"]):
            at = f"model.layers.{number}."
            normed = self._rms_norm(x, at + "input_layernorm")
            x = x + self._attention(normed, at + "self_attn.", np.asarray(positions), np.asarray(mask))
            normed = self._rms_norm(x, at + "post_attention_layernorm")
            gate = normed @ self._weight(at + "mlp.gate_proj").T
            up = normed @ self._weight(at + "mlp.up_proj").T
            x = x + (gate / (1.0 + np.exp(-gate)) * up) @ self._weight(at + "mlp.down_proj").T
        return self._rms_norm(x, "model.norm")

    def logits(self, hidden) -> np.ndarray:
        """The logits [n, V] of normed hidden states [n, H]."""
        tied = self.config["tie_word_embeddings"]
        return hidden @ self._weight("model.embed_tokens" if tied else "lm_head").T

    def classes(self, hidden) -> np.ndarray:
        """The logits [n, C] of normed hidden states [n, H] by a classification head."""
        return hidden @ self._weight("score").T

    def serial_states(self, tokens) -> np.ndarray:
        """The normed states [S, H] of one plain causal sequence."""
        count = len(tokens)
        return self.hidden(tokens, np.arange(count), np.tril(np.ones((count, count), dtype=bool)))

    def serial_logits(self, tokens) -> np.ndarray:
        """The logits [V] at the last token of one plain causal sequence."""
        return self.logits(self.serial_states(tokens)[-1:])[0]

    def _attention(self, x, at, positions, mask):
        count = len(x)
        heads, kv_heads = self.config["num_attention_heads"], self.config["num_key_value_heads"]
        dim = self.config["head_dim"]
        query = (x @ self._weight(at + "q_proj").T).reshape(count, heads, dim)
        key = (x @ self._weight(at + "k_proj").T).reshape(count, kv_heads, dim)
        value = (x @ self._weight(at + "v_proj").T).reshape(count, kv_heads, dim)
        query = self._rotate(self._rms_norm(query, at + "q_norm"), positions)
        key = self._rotate(self._rms_norm(key, at + "k_norm"), positions)
        outputs = []
        for head in range(heads):
            shared = head // (heads // kv_heads)
            scores = query[:, head] @ key[:, shared].T / np.sqrt(dim)
            weights = np.exp(scores - scores.max(axis=1, keepdims=True)) * mask
            weights /= weights.sum(axis=1, keepdims=True)
            outputs.append(weights @ value[:, shared])
        return np.concatenate(outputs, axis=1) @ self._weight(at + "o_proj").T

    def _rotate(self, x, positions):
        """Rotary positions on [S, heads, D]: the pair (x_j, x_{j + D/2}) turns by position · theta^(-2j / D)."""
        half = x.shape[-1] // 2
        theta = self.config.get("rope_theta") or self.config["rope_parameters"]["rope_theta"]
        angle = positions[:, None, None] * theta ** (-np.arange(half) / half)
        turned = (x[..., :half] + 1j * x[..., half:]) * np.exp(1j * angle)
        return np.concatenate([turned.real, turned.imag], axis=-1)

    def _rms_norm(self, x, name):
        mean_square = np.mean(x**2, axis=-1, keepdims=True)
        return x / np.sqrt(mean_square + self.config["rms_norm_eps"]) * self._weight(name)

    def _weight(self, name):
        return self.tensors[name + ".weight"]

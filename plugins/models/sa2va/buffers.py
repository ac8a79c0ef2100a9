"""A cache of keys and values that copies nothing when a token is added."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

SPARE = 128  # tokens for which a full buffer gets new room


def buffered(layers: int) -> Cache:
    """An empty cache for so many layers."""
    return Cache(layers=[Buffered() for _ in range(layers)])


class Buffered(DynamicLayer):
    """Keys and values of one layer in buffers with spare room, so that a new token is written and nothing is copied.

    A larger batch may follow on what one row has read: then each of its rows goes on from there.
    """

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        super().lazy_initialization(key_states, value_states)
        self._key_buffer, self.keys = key_states, key_states[:, :, :0]
        self._value_buffer, self.values = value_states, value_states[:, :, :0]

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Appends [B, H, n, d] each; returns all that is held, as views."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start = self.get_seq_length()
        end = start + key_states.shape[2]
        self._key_buffer = _written(self._key_buffer, start, key_states)
        self._value_buffer = _written(self._value_buffer, start, value_states)
        self.keys, self.values = self._key_buffer[:, :, :end], self._value_buffer[:, :, :end]
        return self.keys, self.values

    def room(self, tokens: int) -> tuple[Tensor, Tensor]:
        """The buffers of keys and values [B, H, S, d], with room for so many tokens after those that are held, zero there.

        S is a multiple of 8: attention on CUDA would pad another mask in every layer.
        """
        held, both = self.get_seq_length(), []
        slots = -(-(held + tokens) // 8) * 8
        for buffer in (self._key_buffer, self._value_buffer):
            enough = buffer.shape[2] >= slots and not buffer.shape[2] % 8
            larger = buffer if enough else buffer.new_empty(*buffer.shape[:2], slots, buffer.shape[3])
            larger[:, :, :held] = buffer[:, :, :held]
            larger[:, :, held:] = 0  # masked keys must be finite: zero times infinity is not zero
            both.append(larger)
        return both[0], both[1]


def _written(buffer: Tensor, start: int, new: Tensor) -> Tensor:
    """``buffer`` with ``new`` [B, H, n, d] from ``start`` on, in a larger one if it has no room or too few rows."""
    end = start + new.shape[2]
    if end > buffer.shape[2] or len(new) != len(buffer) or not start:
        larger = new.new_empty(*new.shape[:2], end + SPARE, new.shape[3])
        larger[:, :, :start] = buffer[:, :, :start]
        buffer = larger
    buffer[:, :, start:end] = new
    return buffer

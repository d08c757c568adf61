"""A matrix as one grey picture in a real video codec: 8 bits per entry at first, then whatever the codec's quality asks for."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np
import torch
from torch import Tensor

SIDE = 64
"""Pictures are filled up to multiples of this with copies of their last row and column."""

X265 = "keyint=1:bframes=0:no-sao=1:no-deblock=1:psy-rd=0:psy-rdoq=0:aq-mode=0:ipratio=1:info=0:log-level=none:pools=none:frame-threads=1"
"""One picture by itself, nothing done for the eye; ipratio=1, or it would be finer than asked."""


def _encoder(codec: str, qp: int) -> tuple[str, dict[str, str]]:
    if codec == "hevc":
        return "libx265", {"x265-params": f"{X265}:{'lossless=1' if qp == 0 else f'qp={qp}'}"}
    if codec == "h264":
        return "libx264", {"qp": str(qp), "g": "1", "bf": "0", "tune": "psnr", "x264-params": "no-deblock=1:aq-mode=0:ipratio=1"}
    return "ffv1", {}


def encode_grey(picture: np.ndarray, codec: str, qp: int) -> tuple[bytes, bytes]:
    """uint8 [height, width] -> (what a decoder needs beforehand, the stream). `qp` 0 is lossless; ffv1 always is."""
    height, width = (-side % SIDE for side in picture.shape)
    padded = np.ascontiguousarray(np.pad(picture, ((0, height), (0, width)), mode="edge"))
    name, options = _encoder(codec, qp)
    context = av.CodecContext.create(name, "w")
    context.height, context.width = padded.shape
    context.pix_fmt, context.time_base, context.framerate, context.thread_count = "gray", Fraction(1, 1), Fraction(1, 1), 1
    context.options = options
    frame = av.VideoFrame.from_ndarray(padded, format="gray")
    frame.pts = 0
    packets = [*context.encode(frame), *context.encode(None)]  # without the second the picture never leaves
    return bytes(context.extradata or b""), b"".join(bytes(packet) for packet in packets)


def decode_grey(head: bytes, stream: bytes, shape: tuple[int, int], codec: str) -> np.ndarray:
    """The picture again, uint8 of `shape`: the first plane, through its stride, as no colour conversion may touch it."""
    context = av.CodecContext.create(codec, "r")
    context.thread_count = 1
    if head:
        context.extradata = head
        context.height, context.width = (side + -side % SIDE for side in shape)
    frames = [*context.decode(av.Packet(stream)), *context.decode(None)]
    plane = frames[0].planes[0]
    rows = np.frombuffer(plane, np.uint8).reshape(frames[0].height, plane.line_size)
    return rows[: shape[0], : shape[1]].copy()


@dataclass(frozen=True)
class Picture:
    """A matrix [T, C]: head and stream [bytes] uint8 end to end, low and high [C] 16 bit, the range of each column."""

    data: Tensor
    low: Tensor
    high: Tensor
    head: int  # bytes of `data` before the stream
    tokens: int
    codec: str

    @classmethod
    def of(cls, matrix: Tensor, codec: str, qp: int, held: torch.dtype) -> Picture:
        low, high = (end.to(held) for end in matrix.aminmax(dim=0))
        span = high.float() - low.float()
        grey = ((matrix - low.float()) / torch.where(span == 0, 1, span) * 255).round().clamp(0, 255).to(torch.uint8)
        head, stream = encode_grey(grey.cpu().numpy(), codec, qp)
        data = torch.frombuffer(bytearray(head + stream), dtype=torch.uint8).to(matrix.device)
        return cls(data, low, high, len(head), len(matrix), codec)

    def decode(self) -> Tensor:
        """[T, C] float32."""
        data = self.data.cpu().numpy().tobytes()
        grey = decode_grey(data[: self.head], data[self.head :], (self.tokens, len(self.low)), self.codec)
        low, high = self.low.float(), self.high.float()
        return torch.from_numpy(grey).to(low.device).float() / 255 * (high - low) + low

    def tensors(self) -> list[Tensor]:
        return [self.data, self.low, self.high]


@dataclass(frozen=True)
class Film:
    """Rows as pictures, one for each text of the batch: slot i of all its heads is line i. order [N] int32: row -> line * H + head.

    A stream cannot lose a line: what leaves stays in it and is only no longer listed. `order` None: every head has all lines.
    """

    pictures: tuple[Picture, ...]
    order: Tensor | None
    heads: int
    size: int
    dtype: torch.dtype

    @classmethod
    def of(cls, rows: Tensor, lens: Tensor, codec: str, qp: int, dtype: torch.dtype, held: torch.dtype) -> Film:
        """From `rows` [N, D] packed by `lens` [B, H]; a head with fewer rows than the others is filled up with zeros."""
        heads, start, pictures, order, lines = lens.shape[1], 0, [], [], 0
        for counts in lens.tolist():
            block = rows.new_zeros(max(counts), heads, rows.shape[1], dtype=torch.float32)
            for head, count in enumerate(counts):
                block[:count, head] = rows[start : start + count].float()
                order.append((lines + torch.arange(count, device=rows.device)) * heads + head)
                start += count
            lines += len(block)
            if len(block):
                pictures.append(Picture.of(block.flatten(1), codec, qp, held))
        even = bool((lens == lens.amax(1, keepdim=True)).all())
        return cls(tuple(pictures), None if even else torch.cat(order).to(torch.int32), heads, rows.shape[1], dtype)

    @property
    def bits(self) -> float:
        return 8 * sum(len(p.data) for p in self.pictures) / max(1, sum(p.tokens * len(p.low) for p in self.pictures))

    def places(self) -> Tensor:
        if self.order is not None:
            return self.order.long()
        device, parts, start = self.pictures[0].data.device, [], 0
        for picture in self.pictures:
            lines = start + torch.arange(picture.tokens, device=device)
            parts += [lines * self.heads + head for head in range(self.heads)]
            start += picture.tokens
        return torch.cat(parts)

    def decode(self) -> Tensor:
        if not self.pictures:
            return torch.zeros(0, self.size, dtype=self.dtype)
        return torch.cat([picture.decode() for picture in self.pictures]).reshape(-1, self.size)[self.places()].to(self.dtype)

    def keep(self, mask: Tensor) -> Film:
        return self if bool(mask.all()) else Film(self.pictures, self.places()[mask].to(torch.int32), self.heads, self.size, self.dtype)

    def join(self, other: Film, index: Tensor) -> None:
        """Streams stay as they are: every chunk is a part of its own."""

    def tensors(self) -> list[Tensor]:
        return [tensor for picture in self.pictures for tensor in picture.tensors()] + ([] if self.order is None else [self.order])

    def body(self) -> list[Tensor]:
        return [picture.data for picture in self.pictures]

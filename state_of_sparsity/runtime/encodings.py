"""Tensors as few bytes: which numbers are stored, and those numbers, both compressed.

A number whose bits are all zero is left out, and a mask says where. -0.0 has a bit that
is set: it is stored. `docs/sparse_format.md` describes the bytes.
"""

import io
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import zstandard

# zstd's levels look for repetitions, and in bytes at random find some that cost more
# than the Huffman code of the single bytes: with a table this small it finds few, and
# comes within two percent of the entropy. Repetitions there are in regular masks.
_FEW_MATCHES = zstandard.ZstdCompressionParameters.from_level(
    1, min_match=7, hash_log=6, write_checksum=True
)
_MATCHES = zstandard.ZstdCompressionParameters.from_level(9, write_checksum=True)
_THOROUGH = zstandard.ZstdCompressionParameters.from_level(19, write_checksum=True)
# The largest window of these: a reader needs no more memory for it.
_WINDOW = 2**23
_LONGEST_GAP = 255
_LARGEST_INT8 = 127


def pack(data: bytes, thorough: bool = False) -> bytes:
    """One zstd frame of some bytes, with its size and a checksum.

    Args:
      data: what to compress.
      thorough: whether to take seconds per megabyte, for what is no noise.
    """
    levels = (_THOROUGH,) if thorough else (_FEW_MATCHES, _MATCHES)
    frames = (
        zstandard.ZstdCompressor(compression_params=level).compress(data)
        for level in levels
    )
    return min(frames, key=len)


def unpack(frames: bytes, size: int) -> bytes:
    """The bytes in zstd frames, one frame after the other.

    Args:
      frames: compressed.
      size: how many bytes there are in them; no more memory is taken.

    Raises:
      ValueError, zstandard.ZstdError: if there are more or less, or the frames are
        damaged.
    """
    data = _unpack_up_to(frames, size)
    if len(data) != size:
        raise ValueError(f"a part has {len(data)} bytes where {size} are expected")
    return data


def _unpack_up_to(frames, most):
    decompressor = zstandard.ZstdDecompressor(max_window_size=_WINDOW)
    with decompressor.stream_reader(
        io.BytesIO(frames), read_across_frames=True
    ) as reader:
        data = reader.read(most)
        if reader.read(1):
            raise ValueError(f"a part has more than {most} bytes")
    return data


def _bits(kept):
    return np.packbits(kept).tobytes()


def _from_bits(data, size):
    if len(data) != (size + 7) // 8:
        raise ValueError(f"a mask has {len(data)} bytes for {size} weights")
    bits = np.frombuffer(data, np.uint8)
    if size % 8 and bits[-1] & (0xFF >> size % 8):
        raise ValueError("a mask goes on after the last weight")
    return np.flatnonzero(np.unpackbits(bits, count=size))


def _gaps(kept):
    gaps = np.diff(np.flatnonzero(kept), prepend=-1) - 1
    # A byte of 255 is so many zeros and no end of the gap.
    full = gaps // _LONGEST_GAP
    data = np.full(gaps.size + full.sum(), _LONGEST_GAP, np.uint8)
    data[np.cumsum(full + 1) - 1] = gaps % _LONGEST_GAP
    return data.tobytes()


def _from_gaps(data, size):
    gaps = np.frombuffer(data, np.uint8)
    ends = gaps != _LONGEST_GAP
    positions = np.cumsum(gaps, dtype=np.int64)[ends] + np.arange(ends.sum())
    if gaps.size and not ends[-1]:
        raise ValueError("a mask ends within a gap")
    if positions.size and positions[-1] >= size:
        raise ValueError(f"a mask goes on after the last of {size} weights")
    return positions


class _Mask(NamedTuple):
    """An encoding of the places of the stored numbers of a tensor.

    Attributes:
      encode: bytes from a boolean vector.
      decode: positions, ascending, from the bytes and the size of the vector.
      most: how many bytes there are at most for a vector of some size.
    """

    encode: Callable
    decode: Callable
    most: Callable


# Beside these there is "dense": all numbers are stored, and there is no mask.
_MASKS = {
    "bits": _Mask(_bits, _from_bits, lambda size: (size + 7) // 8),
    "gaps": _Mask(_gaps, _from_gaps, lambda size: size + size // _LONGEST_GAP),
}
DENSE = "dense"


def _to_float16(weights, axes):
    del axes
    with np.errstate(over="ignore"):
        halves = weights.astype("<f2")
    if not np.isfinite(halves).all():
        raise ValueError(
            f"weights up to {np.abs(weights).max():.4g} are more than float16 holds: "
            "choose values='float32'"
        )
    return halves, None


def _to_int8(weights, axes):
    if not np.isfinite(weights).all():
        raise ValueError("some weights are not finite: choose values='float32'")
    others = tuple(set(range(weights.ndim)) - set(axes))
    largest = np.abs(weights).max(axis=others, keepdims=True, initial=0)
    scales = (largest / _LARGEST_INT8).astype("<f4")
    steps = np.rint(weights / np.where(scales > 0, scales, 1))
    return np.clip(steps, -_LARGEST_INT8, _LARGEST_INT8).astype("i1"), scales


def _from_int8(steps, scales):
    if not (np.isfinite(scales).all() and (scales >= 0).all()):
        raise ValueError("a scale is negative or not finite")
    return steps.astype("<f4") * scales


class _Values(NamedTuple):
    """An encoding of the numbers of a tensor.

    Attributes:
      dtype: of what is stored; None for that of the tensor.
      encode: what is stored, zeros among it, and scales, from a tensor and the axes
        of its output channels.
      decode: the tensor from the two.
      has_scales: whether there are scales.
    """

    dtype: str | None
    encode: Callable
    decode: Callable
    has_scales: bool = False


_VALUES = {
    "exact": _Values(None, lambda x, axes: (x, None), lambda x, scales: x),
    "float16": _Values("<f2", _to_float16, lambda x, scales: x.astype("<f4")),
    "int8": _Values("i1", _to_int8, _from_int8, has_scales=True),
}


class Encoded(NamedTuple):
    """A tensor as parts of a file.

    Attributes:
      mask: "dense", "bits" or "gaps".
      values: "exact", "float16" or "int8".
      axes: of the scales, if there are any.
      parts: compressed bytes by name: "values" and, as needed, "mask" and "scales".
    """

    mask: str
    values: str
    axes: tuple[int, ...]
    parts: dict[str, bytes]


def encode(
    tensor: np.ndarray, values: str = "exact", axes: tuple[int, ...] = ()
) -> Encoded:
    """A tensor in the encoding of its mask that takes the fewest bytes.

    Args:
      tensor: of any shape; float32 unless `values` is "exact".
      values: "exact" for the same bits; "float16", rounded; or "int8": multiples
        from -127 to 127 of a scale, `round(w / scale) * scale` with `scale = max |w| /
        127` over all axes but `axes`.
      axes: those of the output channels.

    Raises:
      ValueError: if a weight is too large for float16, or not finite and to be rounded.
    """
    encoding = _VALUES[values]
    stored, scales = encoding.encode(tensor, axes)
    numbers = np.ascontiguousarray(stored).ravel().view(f"<u{stored.itemsize}")
    kept = numbers != 0
    candidates = []
    # Where most are zero, a mask is smaller, and all numbers take their time.
    if 2 * np.count_nonzero(kept) >= kept.size:
        candidates.append((DENSE, {"values": _planes(numbers)}))
    if not kept.all():
        common = {"values": _planes(numbers[kept])}
        candidates += [
            (name, common | {"mask": pack(mask.encode(kept))})
            for name, mask in _MASKS.items()
        ]
    mask, parts = min(candidates, key=lambda c: sum(map(len, c[1].values())))
    if not encoding.has_scales:
        return Encoded(mask, values, (), parts)
    scales = _planes(scales.ravel().view("<u4"))
    return Encoded(mask, values, tuple(axes), parts | {"scales": scales})


def decode(encoded: Encoded, shape: tuple[int, ...], itemsize: int) -> bytes:
    """The bytes of the tensor that was encoded.

    Args:
      encoded: what `encode` gave.
      shape: of the tensor.
      itemsize: bytes of each of its numbers.

    Raises:
      ValueError, KeyError, zstandard.ZstdError: for parts that do not fit the shape, or
        are damaged.
    """
    encoding, parts = _VALUES[encoded.values], dict(encoded.parts)
    if encoding.dtype is not None and itemsize != 4:
        raise ValueError(f"{encoded.values} stands for numbers of {itemsize} bytes")
    dtype = np.dtype(encoding.dtype or f"<u{itemsize}")
    size = math.prod(shape)
    numbers = np.zeros(size, f"<u{dtype.itemsize}")
    if encoded.mask == DENSE:
        numbers[:] = _from_planes(parts.pop("values"), size, dtype.itemsize)
    else:
        mask = _MASKS[encoded.mask]
        positions = mask.decode(_unpack_up_to(parts.pop("mask"), mask.most(size)), size)
        numbers[positions] = _from_planes(
            parts.pop("values"), positions.size, dtype.itemsize
        )
    scales = None
    if encoding.has_scales:
        scales = _scales(parts.pop("scales"), shape, encoded.axes)
    if parts:
        raise ValueError(f"there is no use for {', '.join(parts)}")
    return encoding.decode(numbers.view(dtype).reshape(shape), scales).tobytes()


def _scales(frames, shape, axes):
    if not set(axes) <= set(range(len(shape))):
        raise ValueError(f"there are no axes {axes} in {shape}")
    lengths = [n if axis in axes else 1 for axis, n in enumerate(shape)]
    numbers = _from_planes(frames, math.prod(lengths), 4)
    return numbers.view("<f4").reshape(lengths)


def _planes(numbers):
    """Frames of the first bytes of all numbers, of the second bytes, and so on.

    The exponents of weights are much alike, their mantissas noise: apart, the former
    compress.
    """
    planes = numbers.view(np.uint8).reshape(-1, numbers.itemsize).T
    return b"".join(pack(plane.tobytes()) for plane in planes)


def _from_planes(frames, count, itemsize):
    data = unpack(frames, count * itemsize)
    planes = np.frombuffer(data, np.uint8).reshape(itemsize, count)
    return np.ascontiguousarray(planes.T).view(f"<u{itemsize}").ravel()

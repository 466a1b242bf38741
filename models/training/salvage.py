"""Reads what is left of a TFRecord file in which something is damaged.

TensorFlow gives up a file at its first damaged record. A record is its length (8 bytes,
little endian), a checksum of that, its data, and a checksum of them: with an intact
length, what follows is found, and otherwise the next length whose checksum is right.
"""

import functools
import struct
import tempfile

import numpy as np
import tensorflow as tf

HEADER, FOOTER = 12, 4
# Bytes that are searched at a time for the next intact length.
WINDOW = 1 << 20


def read_record(path: str, index: int, count: int) -> bytes | None:
    """A record of a file; None if it is damaged or lost.

    Args:
      path: of an uncompressed TFRecord file.
      index: of the record, from 0.
      count: how many records the file had when it was written.

    Raises:
      OSError, tf.errors.OpError: if the file cannot be opened or read.
    """
    offset = offsets(path, count)[index]
    if offset is None:
        return None
    with tf.io.gfile.GFile(path, "rb") as file:
        file.seek(offset)
        header = file.read(HEADER)
        (length,) = struct.unpack_from("<Q", header)
        record = header + file.read(length + FOOTER)
    # TensorFlow checks the data of what it finds in a file alone.
    with tempfile.NamedTemporaryFile(suffix=".tfrecord") as alone:
        alone.write(record)
        alone.flush()
        try:
            return next(tf.data.TFRecordDataset(alone.name).as_numpy_iterator())
        except tf.errors.DataLossError:
            return None


@functools.lru_cache(maxsize=16)
def offsets(path: str, count: int) -> list[int | None]:
    """Where the records of a file begin, by their lengths; None for those not found.

    Where a length is damaged, it is not known how many records were lost with it: one,
    or, at the last such place, as many as are missing.
    """
    with tf.io.gfile.GFile(path, "rb") as file:
        data = file.read()
    found: list[int | None] = []
    position, last_gap = 0, None
    while position < len(data) and len(found) < count:
        end = _end(data, position)
        if end is None:
            last_gap = len(found)
            found.append(None)
            position = _next_record(data, position + 1)
        else:
            found.append(position)
            position = end
    missing = count - len(found)
    at = len(found) if last_gap is None else last_gap
    return found[:at] + [None] * missing + found[at:]


def _end(data, position):
    """Where a record ends that begins at a position; None if none does."""
    header = np.frombuffer(data, np.uint8, min(HEADER, len(data) - position), position)
    if len(header) < HEADER or not _are_lengths(header[None])[0]:
        return None
    end = position + HEADER + int(header[:8].view("<u8")[0]) + FOOTER
    return end if end <= len(data) else None


def _next_record(data, position):
    """The first place from a position on where a record may begin, or the end."""
    array = np.frombuffer(data, np.uint8)
    while position + HEADER <= len(data):
        window = array[position : position + WINDOW + HEADER - 1]
        headers = np.lib.stride_tricks.sliding_window_view(window, HEADER)
        # No record has 4 GB, so that few places are left to look at.
        places = np.flatnonzero(~headers[:, 4:8].any(axis=1))
        for place in places[_are_lengths(headers[places])]:
            if _end(data, position + int(place)) is not None:
                return position + int(place)
        position += len(headers)
    return len(data)


def _are_lengths(headers):
    """Whether headers `(n, 12)` have the right checksums."""
    crc = np.full(len(headers), 0xFFFFFFFF, np.uint32)
    for byte in headers[:, :8].T:
        crc = _table()[(crc ^ byte) & 0xFF] ^ (crc >> np.uint32(8))
    crc = ~crc
    # As TFRecord files mask it, since checksums of checksums are weak.
    masked = (crc >> np.uint32(15) | crc << np.uint32(17)) + np.uint32(0xA282EAD8)
    stored = np.ascontiguousarray(headers[:, 8:]).view("<u4")[:, 0]
    return masked == stored


@functools.cache
def _table():
    """CRC-32C (Castagnoli) of each byte."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, table >> 1 ^ np.uint32(0x82F63B78), table >> 1)
    return table.astype(np.uint32)

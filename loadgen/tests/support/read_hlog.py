#!/usr/bin/env python3
"""Reads an HdrHistogram interval log with nothing of ours: base64, zlib, the V2 encoding by its description.

Prints one JSON object: for each tag the count, the median, the 99th percentile and the maximum, in nanoseconds.
"""
import base64, json, struct, sys, zlib

V2_COMPRESSED, V2 = 0x1C849304, 0x1C849303


def varint(data, at):
    value = shift = 0
    for i in range(9):
        byte = data[at]
        at += 1
        if i == 8:
            return value | byte << 56, at
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return value, at
        shift += 7


def counts(blob):
    cookie, length = struct.unpack_from(">II", blob)
    assert cookie & ~0xF0 == V2_COMPRESSED, hex(cookie)
    raw = zlib.decompress(blob[8 : 8 + length])
    cookie, size, _, digits, low, high, _ = struct.unpack_from(">IiiiqqQ", raw)
    assert cookie & ~0xF0 == V2, hex(cookie)
    at, index, result = 40, 0, []
    while at < 40 + size:
        value, at = varint(raw, at)
        value = (value >> 1) ^ -(value & 1)
        if value < 0:
            index += -value
        else:
            result.append((index, value))
            index += 1
    return result, digits, low


def value_of(index, digits, low):
    unit = max(low.bit_length() - 1, 0)
    half = ((2 * 10**digits - 1).bit_length()) - 1
    bucket, sub = (index >> half) - 1, (index & ((1 << half) - 1)) + (1 << half)
    if bucket < 0:
        bucket, sub = 0, sub - (1 << half)
    step = 1 << (bucket + unit)
    return sub * step + step - 1


totals = {}
for line in open(sys.argv[1]):
    if not line.startswith("Tag="):
        continue
    tag, start, length, largest, blob = line.strip().split(",", 4)
    found, digits, low = counts(base64.b64decode(blob))
    into = totals.setdefault(tag[4:], {})
    for index, count in found:
        value = value_of(index, digits, low)
        into[value] = into.get(value, 0) + count

summary = {}
for tag, values in totals.items():
    total, seen, result = sum(values.values()), 0, {"max": max(values)}
    for value in sorted(values):
        seen += values[value]
        for name, share in (("p50", 0.5), ("p99", 0.99)):
            if name not in result and seen >= share * total:
                result[name] = value
    summary[tag] = dict(result, count=total)
print(json.dumps(summary))

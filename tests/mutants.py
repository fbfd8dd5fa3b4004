"""Mutants: messages that are almost right, each broken in one to three ways that a decoder may stumble over.

Half of them are broken as trees, so that they are still MessagePack and only the schema can refuse them; half as bytes.
"""

import random
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

EXTREMES: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    1,
    255,
    2**31,
    2**53 + 1,
    2**62,
    2**63 - 1,
    2**64 - 1,
    -(2**63),
    0.5,
    float("nan"),
    float("inf"),
    -1e308,
    5e-324,
    "",
    "x",
    "fisher_trace",
    "a\n",
    'quote"\\back',
    "\u202egnirts",
    "\U0010ffff" * 200,
    "x" * 2001,
    b"",
    b"\xff" * 8,
    b"\0" * 32_776,
    [],
    {},
    {"layer": "0"},
    {1: 2},
    [[[[[[[[]]]]]]]],
)
LENGTHS = (
    b"\xdd\xff\xff\xff\xff",  # an array of 4 G entries
    b"\xdf\xff\xff\xff\xff",  # a map
    b"\xdb\xff\xff\xff\xff",  # text
    b"\xc6\xff\xff\xff\xff",  # bytes
    b"\xc9\xff\xff\xff\xff\x05",  # an extension
    b"\xdc\xff\xff",
    b"\xd9\xff\xc3\x28",  # text that is not UTF-8
    b"\xa2\xed\xa0",  # half of a surrogate
    b"\xc1",  # never used
)
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode


def mutants(seeds: Sequence[bytes], count: int, seed: int = 0) -> Iterator[bytes]:
    """So many, the same for the same ``seed``, from whole messages with their version byte."""
    noise = random.Random(seed)
    trees = [_decode(message[1:]) for message in seeds]
    for i in range(count):
        if i % 2:
            yield _broken_bytes(noise.choice(seeds), seeds, noise)
        else:
            yield b"\x01" + _encode(_broken_tree(noise.choice(trees), noise))


def _broken_tree(tree: Any, noise: random.Random) -> Any:
    for _ in range(noise.randrange(1, 3)):
        tree = _break(tree, noise)
    return tree


def _break(node: Any, noise: random.Random) -> Any:
    """A copy with one node replaced, lost, doubled or wrapped; what is not touched is shared."""
    if isinstance(node, list) and node and noise.random() < 0.9:
        place = noise.randrange(len(node))
        way = noise.random()
        if way < 0.05:
            return node[:place] + node[place + 1 :]
        if way < 0.1:
            return node[:place] + [node[place]] * noise.choice((2, 3, 300)) + node[place + 1 :]
        return [*node[:place], _break(node[place], noise), *node[place + 1 :]]
    if isinstance(node, dict) and node and noise.random() < 0.8:
        key = noise.choice(list(node))
        if noise.random() < 0.5:
            return {k: v for k, v in node.items() if k != key} | {
                noise.choice(("", "layer", "Layer", "a\n")): node[key]
            }
        return node | {key: _break(node[key], noise)}
    if isinstance(node, int) and abs(node) < 2**62 and noise.random() < 0.3:
        return node + noise.choice((-1, 1, 2**40))
    return [node] if noise.random() < 0.05 else noise.choice(EXTREMES)


def _broken_bytes(message: bytes, others: Sequence[bytes], noise: random.Random) -> bytes:
    data = bytearray(message)
    for _ in range(noise.randrange(1, 4)):
        place = noise.randrange(len(data) + 1)
        match noise.randrange(6):
            case 0:
                data[place:] = b""
            case 1:
                data[place : place + noise.randrange(1, 9)] = noise.randbytes(noise.randrange(9))
            case 2:
                data[place : place + 1] = noise.choice(LENGTHS)
            case 3:
                data[place:] = noise.choice(others)[noise.randrange(1, 40) :]
            case 4:
                data[place:place] = data[place // 2 : place]
            case _ if place < len(data):
                data[place] ^= 1 << noise.randrange(8)
    return bytes(data)

"""Functions that read and change the files of run folders."""

import json
from zlib import crc32

from kanrun.cli.app import main
from kanrun.runs.files import Checkpoint, checkpoint_path, write_checkpoint

#: Bytes that have a meaning in files of text, which damaged files contain more often.
WORDS = [b"", b'"', b",", b"\n", b"[", b"-1e999", b"\0"]


def record_of(folder):
    return json.loads((folder / "run.json").read_text())


def change_record(folder, **changes):
    """Change fields of `run.json`."""
    (folder / "run.json").write_text(json.dumps(record_of(folder) | changes))


def forge(folder, name, arrays, meta):
    """Write a checkpoint whose checksum is not in the run's journal."""
    path = checkpoint_path(folder / "checkpoints", name)
    write_checkpoint(path, Checkpoint(name, arrays, meta))
    change_record(folder, checkpoints={})


def numbers_of(table):
    """Return a table as exact text, without times."""
    return table[[c for c in table if "seconds" not in str(c)]].to_csv(index=False)


def finished(line, outputs):
    """Run a command line quietly, and return the folder of the last run."""
    words = line.split()
    assert main([*words, "-q", "--outputs", str(outputs)]) == 0
    return (outputs / words[0] / "latest").resolve()


def sealed(line):
    """Return a line of the journal: JSON text with its checksum added."""
    return f'{line[:-1]},"crc":{crc32(line.encode())}}}\n'.encode()


def damaged(rng, content):
    """Return `content` with one bit flipped, and bytes changed, repeated, inserted or removed."""
    data = bytearray(content)
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    for _ in range(rng.randint(0, 5)):
        at = rng.randrange(len(data) + 1)
        part = bytes(data[at : at + rng.randint(1, 12)])
        size = len(part)
        new = rng.choice([*WORDS, rng.randbytes(size), part * 3, part[::-1], bytes(50 * size)])
        data[at : at + rng.choice([0, size, size, size, len(data)])] = new
    return bytes(data)

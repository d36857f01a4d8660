"""Attacks by a configuration, run, checkpoint, table or argument of another person.

Each attack is one call. Afterwards the test checks that no code of the attacker was run, that no
secret was shown or stored, that nothing outside the folder was written, that no control characters
reached the terminal, and that time and memory were bounded.
"""

import gzip
import json
import os
import pickle
import re
import resource
import shutil
from pathlib import Path

import pytest
from run_files import change_record, finished, sealed

from kanrun.cli.app import main

FIT = "fit target=runge model=polynomial --dry-run"
TABLE = "fit target=table target.outputs=y --dry-run"
PREDICT = "predict run new.csv --output out.csv"
SHOW, RESUME = "runs show run", "runs resume run"
RUN_IT = "__import__('os').system('touch canary')"


class Canary:
    def __reduce__(self):
        return os.system, ("touch canary",)


def group(text):
    """Return a preparation of an attack by a file of a configuration group."""

    def prepare(place):
        (place / "mine" / "extra").mkdir(parents=True)
        (place / "mine" / "extra" / "sent.yaml").write_text(f"# @package _global_\n{text}\n")
        return f"{FIT} --config-dir mine +extra=sent"

    return prepare


def table(content, name="t.csv", more=""):
    def prepare(place):
        (place / name).write_bytes(content.encode() if isinstance(content, str) else content)
        return f"{TABLE} target.path={name} {more}"

    return prepare


def run(change, line=PREDICT):
    """Return a preparation of an attack by a changed run folder."""

    def prepare(place):
        change(place / "run")
        return line

    return prepare


def text(name, content):
    return lambda folder: (folder / name).write_text(content)


def row(table, **values):
    """Return a line of the journal with one row of a table."""
    columns = {name: [value] for name, value in values.items()}
    line = {"kind": "rows", "seed": 0, "table": table, "columns": columns}
    return sealed(json.dumps(line)).decode()


def record(**changes):
    return lambda folder: change_record(folder, **changes)


def checkpoint(make):
    def change(folder):
        for path in (folder / "checkpoints").glob("*.safetensors"):
            path.write_bytes(make(path.read_bytes()))

    return change


def link(name, target):
    def change(folder):
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        path.symlink_to(folder.parent / target)

    return change


CODE = {
    **{
        word: ["fit", word]
        for word in (
            "+hydra.callbacks.x._target_=os.getcwd",
            "++hydra.callbacks={x:{_target_:os.getcwd}}",
            "hydra.launcher._target_=os.getcwd",
            "hydra.sweeper._target_=os.getcwd",
            "+hydra.launcher.x._target_=os.getcwd",
            "+hydra.launcher.x=[{_target_:os.getcwd}]",
            "hydra.job_logging.handlers.console.class=os.getcwd",
            "hydra.hydra_logging.handlers.console.class=os.getcwd",
            "+hydra.job_logging.handlers.console.()=os.getcwd",
            "++hydra.job_logging.formatters.plain={(): os.getcwd}",
            "hydra.job_logging.handlers.console.stream=ext://os.environ",
            "hydra.job_logging.handlers.console.stream=${seed}",
            "+hydra.job.env_set.LD_PRELOAD=x",
            "hydra.searchpath=[structured://antigravity]",
            "hydra/job_logging=colorlog",
            "++hydra={callbacks: {x: {_target_: os.getcwd}}}",
            "hydra.searchpath=[pkg://antigravity]",
            "hydra/launcher=os.system",
        )
    },
    "callbacks in a file": group("hydra: {callbacks: {x: {_target_: os.getcwd}}}"),
    "a search path that is imported": group("hydra: {searchpath: ['pkg://antigravity']}"),
    "a launcher in a file": group("hydra: {launcher: {_target_: os.getcwd}}"),
    "a sweeper in a file": group("hydra: {sweeper: {_target_: os.getcwd}}"),
    "a target inside": group("hydra: {launcher: {x: {y: {_target_: os.getcwd}}}}"),
    "a logging class": group("hydra: {job_logging: {handlers: {console: {class: os.getcwd}}}}"),
    "a logging factory": group("hydra: {job_logging: {handlers: {console: {'()': os.getcwd}}}}"),
    "a logging stream": group(
        "hydra: {hydra_logging: {handlers: {console: {stream: 'ext://os.environ'}}}}"
    ),
    "a launcher among the defaults": group("defaults: [override /hydra/launcher: basic]"),
    "an environment": group("hydra: {job: {env_set: {PYTHONPATH: x}}}"),
    "a tag of YAML": group("note: !!python/object/apply:os.system ['touch canary']"),
    "a name of YAML": group("note: !!python/name:os.system"),
    "a resolver that is none": group(f'note: ${{eval:"{RUN_IT}"}}'),
    "a target in kanrun's part": group('model: {_target_: os.system, command: "touch canary"}'),
    "a formula that imports": ["fit", "target=expression", f"target.formula={RUN_IT}", "--dry-run"],
    "a domain of code": ["fit", "target.domain=[[0," + RUN_IT + "]]", "--dry-run"],
    "a candidate of code": ["interpret", f"custom_candidates.evil={RUN_IT}", "--dry-run"],
    "a condition of code": ["runs", "list", "--where", RUN_IT],
    "a condition of attributes": ["runs", "list", "--where", "name.__class__ == 1"],
    "a plug-in that a run names": run(
        record(versions={"plug-in antigravity": "1"}, status="FAILED"), RESUME
    ),
    "a cluster in a run": run(
        lambda f: text(
            "run.json",
            (f / "run.json")
            .read_text()
            .replace('"kind": "serial"', '"kind": "dask"')
            .replace('"address": null', '"address": "tcp://127.0.0.1:1"'),
        )(f),
        RESUME,
    ),
    "a command of a run": run(record(command="os.system", status="FAILED"), RESUME),
    "YAML of objects in a run": run(
        text("config.yaml", "a: !!python/object/apply:os.system ['touch canary']"), SHOW
    ),
    "a pickled checkpoint": run(checkpoint(lambda _: pickle.dumps(Canary()))),
    "a pickle as a table": table(pickle.dumps(Canary())),
    "a pickle as Parquet": table(pickle.dumps(Canary()), "t.parquet"),
}
ELSEWHERE = {
    **{
        word: ["fit", word]
        for word in (
            "hydra.job_logging.handlers.file.filename=/tmp/elsewhere.log",
            "hydra.job_logging.handlers.file.filename=${hydra.runtime.output_dir}/../../x",
            "hydra.job.name=../x",
            "hydra.sweep.dir=elsewhere",
            "hydra.output_subdir=../../elsewhere",
            "hydra.run.dir=elsewhere",
            "target=../../../secret",
            "study=../../secret",
        )
    },
    "a configuration's folder": group("hydra: {output_subdir: ../../elsewhere}"),
    "the folders of jobs": group("hydra: {sweep: {subdir: '../${hydra.job.num}'}}"),
    "defaults from outside": group("defaults: [/../../secret]"),
    "a configuration's name": "fit --config-name ../../../secret --dry-run",
    "a run's name": "runs show ../../secret",
    "a run that is removed": "runs remove ../secret --yes",
    "a run that is removed by its path": run(lambda f: f, "runs remove run --yes"),
    "a tag that is a path": run(lambda f: f, "runs tag run ../../x"),
    "a network from outside": "interpret from_run=../../secret --dry-run",
    "an output with interpolation": "fit --outputs ${oc.env:SECRET}",
    "a linked configuration": run(link("config.yaml", "secret.yaml"), SHOW),
    "a linked record": run(link("run.json", "secret.yaml"), SHOW),
    "a linked journal": run(link("records.jsonl", "secret.yaml"), SHOW),
    "a linked table": run(
        lambda f: (record(status="FAILED")(f), link("summary.csv", "secret.yaml")(f)), RESUME
    ),
    "linked checkpoints": run(
        lambda f: [
            link(f"checkpoints/{p.name}", "secret.yaml")(f)
            for p in (f / "checkpoints").glob("*.safetensors")
        ]
    ),
    "a linked folder in a run": run(
        lambda f: (record(status="FAILED")(f), link("figures", "elsewhere")(f)), RESUME
    ),
    "a model's name": run(lambda f: f, f"{PREDICT} --model ../../secret"),
    "an empty archive": table(b"PK\x05\x06" + bytes(18), "t.xlsx"),
}
DEEP = "[" * 200_000
HUGE = b'{"a":{"dtype":"F64","shape":[1000000000000],"data_offsets":[0,8000000000000]}}'
MEMORY = {
    "brackets in a word": "fit model.hidden=" + "[" * 3000,
    "brackets in a file": group(f"note: {DEEP}"),
    "brackets in a run": run(text("config.yaml", DEEP), SHOW),
    "brackets in a record": run(text("run.json", DEEP), SHOW),
    "aliases of aliases in a file": group(
        "suite: &a [0,0,0,0,0,0,0,0,0]\nx1: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\n"
        "x2: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nx3: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\n"
        "x4: &e [*d,*d,*d,*d,*d,*d,*d,*d]\n"
        "x5: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e]\nx6: [*f,*f,*f,*f,*f,*f,*f,*f,*f]"
    ),
    "aliases in a run": run(text("config.yaml", "a: &a [0]\nb: *a"), SHOW),
    "a header of 2^62 bytes": run(checkpoint(lambda c: (2**62).to_bytes(8, "little") + c[8:])),
    "an array of 10^12 numbers": run(checkpoint(lambda _: len(HUGE).to_bytes(8, "little") + HUGE)),
    "brackets in a journal": run(text("records.jsonl", row("summary", a=1) + DEEP + "\n"), SHOW),
    "a journal of a gigabyte": run(lambda f: os.truncate(f / "records.jsonl", 2**30), SHOW),
    "a record of a gigabyte": run(lambda f: os.truncate(f / "run.json", 2**30), SHOW),
    "a packed gigabyte": table(gzip.compress(b"x,y\n" + bytes(2**24) * 4, 1), "t.csv.gz"),
    "a line without end": table(gzip.compress(b"x,y\n1" + b"1" * 2**25, 1), "t.csv.gz"),
    "a million columns": table(
        ",".join(f"c{i}" for i in range(10**5)) + ",y\n" + "1," * 10**5 + "1\n"
    ),
    "a power of powers": "fit target=expression target.formula=9**9**9**9*x0 --dry-run",
    "a fine grid": "fit model.intervals=1000000000",
    "many threads": "fit threads=100000",
}
ESCAPE = "\x1b]0;owned\x07\x1b[2J\u202e"
TERMINAL = {
    "escape sequences in a word": ["fit", f"no{ESCAPE}key=1"],
    "escape sequences in a value": ["fit", f"target={ESCAPE}"],
    "escape sequences in a column": table(f"x,{ESCAPE}\n1,2\n"),
    "escape sequences in a cell": table(f"x,y\n1,{ESCAPE}\n2,3\n3,4\n", "t.csv", "model=kan"),
    "escape sequences in a file's name": [
        "fit",
        "target=table",
        f"target.path={ESCAPE}.csv",
        "target.outputs=y",
    ],
    "escape sequences in a run's name": ["runs", "show", ESCAPE],
    "escape sequences in a record": run(
        record(reason=ESCAPE, notes=[ESCAPE], status="FAILED"), SHOW
    ),
    "escape sequences in a note": run(
        text("labels.json", json.dumps({"tags": [ESCAPE], "note": ESCAPE})), SHOW
    ),
    "escape sequences in a table": run(text("records.jsonl", row("summary", a=ESCAPE)), SHOW),
    "escape sequences in a failure": run(record(failures=[{"seed": 0, "reason": ESCAPE}]), SHOW),
}
ATTACKS = {"code": CODE, "elsewhere": ELSEWHERE, "memory": MEMORY, "terminal": TERMINAL}
CASES = [(kind, name) for kind, attacks in ATTACKS.items() for name in attacks]
SECRET = "hunter2"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    line = "fit target=runge model=polynomial sampling.n_train=30"
    return finished(line, tmp_path_factory.mktemp("trained"))


@pytest.mark.parametrize("kind, name", CASES, ids=[name[:40] for _, name in CASES])
def test_attack_neither_runs_code_nor_reads_or_writes_outside(
    kind, name, trained, tmp_path, monkeypatch, capfd
):
    (place := tmp_path / "a" / "b").mkdir(parents=True)
    shutil.copytree(trained, place / "run")
    (place / "new.csv").write_text("x\n0.5\n")
    (place / "elsewhere").mkdir()
    for at in (place, place.parent, tmp_path):
        (at / "secret.yaml").write_text(f"# @package _global_\nnote: {SECRET}\n")
    monkeypatch.chdir(place)
    monkeypatch.setenv("SECRET", SECRET)
    attack = ATTACKS[kind][name]
    words = attack(place) if callable(attack) else attack
    words = words.split() if isinstance(words, str) else words
    before = {path for path in tmp_path.rglob("*") if path.name != "outputs"}
    capfd.readouterr()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    code = main(words)
    said = "".join(capfd.readouterr())
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 2**20  # KiB
    assert code == 2 or kind == "terminal" or said.count("kanrun: ") == 1 or "runs" in words
    assert not re.search(r"kanrun: \w*(Error|Exception)\b", said)
    assert "Traceback" not in said
    assert not any(ord(letter) < 32 and letter != "\n" for letter in said)
    assert "\u202e" not in said
    assert SECRET not in said
    new = {path for path in tmp_path.rglob("*") if path.name != "outputs"} - before
    assert not [
        path for path in new if not path.is_relative_to(place / "run") and path.name != "out.csv"
    ]
    assert not any(path.is_file() and SECRET in path.read_text(errors="replace") for path in new)


def test_promises_state_the_number_of_attacks():
    counts = {kind: len(attacks) for kind, attacks in ATTACKS.items()}
    print(f"\n{sum(counts.values())} attacks: {counts}")
    promised = re.search(
        r"(\d+) attacks", Path(__file__).parents[2].joinpath("docs/promises.md").read_text()
    )
    assert int(promised[1]) == sum(counts.values()) >= 60

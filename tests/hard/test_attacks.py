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
import shlex
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
from cases import cases
from run_files import change_record, finished, sealed

from kanrun.cli.app import main

PREDICT = "predict run new.csv --output out.csv"
SHOW, RESUME = "runs show run", "runs resume run"


class Canary:
    def __reduce__(self):
        return os.system, ("touch canary",)


def file(text, name="extra/sent", line="fit -m --config-dir mine +extra=good,sent"):
    """Return a preparation of an attack by a file of a configuration group."""

    def prepare(place):
        header = "" if text.startswith("#") else "# @package _global_\n" * (name == "extra/sent")
        for at, content in {
            "extra/good": "# @package _global_\nseed: 1",
            "theirs": "a: 1",
            "hydra/launcher/theirs": "_target_: os.getcwd",
            name: header + text.replace("PLACE", str(place)),
        }.items():
            path = place / "mine" / f"{at}.yaml"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{content}\n")
        return f"{line} --dry-run"

    return prepare


def table(content, name="t.csv", more=""):
    def prepare(place):
        (place / name).write_bytes(content.encode() if isinstance(content, str) else content)
        return f"fit target.path={name} target.outputs=y {more} --dry-run"

    return prepare


def run(change, line=PREDICT):
    """Return a preparation of an attack by a changed run folder."""

    def prepare(place):
        change(place / "run")
        return line

    return prepare


def text(name, content):
    return lambda folder: (folder / name).write_text(content)


def size(name):
    return lambda folder: os.truncate(folder / name, 2**30)


def row(table, **values):
    """Return a line of the journal with one row of a table."""
    columns = {name: [value] for name, value in values.items()}
    line = {"kind": "rows", "seed": 0, "table": table, "columns": columns}
    return sealed(json.dumps(line)).decode()


def record(**changes):
    return lambda folder: change_record(folder, **changes)


def checkpoint(make):
    def change(folder):
        for path in folder.glob("checkpoints/*.safetensors"):
            path.write_bytes(make(path.read_bytes()))

    return change


def link(pattern, target="secret.yaml"):
    def change(folder):
        change_record(folder, status="FAILED")
        for path in [*folder.glob(pattern)] or [folder / pattern]:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            path.symlink_to(folder.parent / target)

    return change


def to_a_cluster(folder):
    path = folder / "run.json"
    text = path.read_text()
    path.write_text(text.replace('"scheduler": null', '"scheduler": "tcp://127.0.0.1:1"'))


#: Settings of Hydra in files, which are refused in a file of a group and in a whole configuration.
HYDRA = cases(r"""
    hydra: {callbacks: {x: {_target_: os.getcwd}}}
    hydra: {searchpath: ['pkg://antigravity']}
    "\x68ydra": {searchpath: [pkg://antigravity]}
    hydra: {launcher: {_target_: os.getcwd}}
    hydra: {sweeper: {_target_: os.getcwd}}
    hydra: {launcher: {x: {y: {_target_: os.getcwd}}}}
    hydra: {job_logging: {handlers: {console: {class: os.getcwd}}}}
    hydra: {job_logging: {handlers: {console: {'()': os.getcwd}}}}
    hydra: {hydra_logging: {handlers: {console: {stream: 'ext://os.environ'}}}}
    hydra: {job: {env_set: {PYTHONPATH: x}}}
    hydra: {output_subdir: ../../elsewhere}
    hydra: {sweep: {subdir: '../${hydra.job.num}'}}
    defaults: [override /hydra/launcher: theirs]
    defaults: [{/hydra/launcher@hydra.launcher: theirs}]
    defaults: ['/theirs@hydra']
""")
HYDRA += ["x: !!python/object/apply:pathlib.Path [x]\nhydra: {searchpath: ['pkg://antigravity']}"]
#: Other texts of files.
FILES = {
    "code": """
        # @package hydra\\nverbose: true | settings of Hydra
        note: !!python/object/apply:os.system ['touch canary'] | could not determine a constructor
        note: !!python/name:os.system | could not determine a constructor
        note: ${eval:"__import__('os').system('touch canary')"} | eval
        model: {_target_: os.system, command: "touch canary"} | _target_
    """,
    "elsewhere": """
        defaults: [/../../secret] | outside its folder
        defaults: [../secret] | outside its folder
        defaults: [/../secret] | outside its folder
        defaults: [extra/../../secret] | outside its folder
        defaults: [/PLACE/secret] | outside its folder
        defaults: ['/..': secret] | outside its folder
        defaults: [x: ..] | outside its folder
    """,
}
#: Command lines. `CODE` stands for an expression that would create the file `canary`.
LINES = {
    "code": """
        fit +hydra.callbacks.x._target_=os.getcwd
        fit ++hydra.callbacks={x:{_target_:os.getcwd}}
        fit hydra.launcher._target_=os.getcwd
        fit hydra.sweeper._target_=os.getcwd
        fit +hydra.launcher.x._target_=os.getcwd
        fit +hydra.launcher.x=[{_target_:os.getcwd}]
        fit hydra.job_logging.handlers.console.class=os.getcwd
        fit hydra.hydra_logging.handlers.console.class=os.getcwd
        fit +hydra.job_logging.handlers.console.()=os.getcwd
        fit '++hydra.job_logging.formatters.plain={(): os.getcwd}'
        fit hydra.job_logging.handlers.console.stream=ext://os.environ
        fit hydra.job_logging.handlers.console.stream=${seed}
        fit +hydra.job.env_set.LD_PRELOAD=x
        fit hydra.searchpath=[structured://antigravity]
        fit hydra/job_logging=colorlog
        fit '++hydra={callbacks: {x: {_target_: os.getcwd}}}'
        fit hydra.searchpath=[pkg://antigravity]
        fit hydra/launcher=os.system
        fit target=expression target.formula=CODE --dry-run
        fit target.domain=[[0,CODE]] --dry-run
        interpret custom_candidates.evil=CODE --dry-run
        runs list --where CODE
        runs list --where 'name.__class__ == 1'
    """,
    "elsewhere": """
        fit hydra.job_logging.handlers.file.filename=/tmp/elsewhere.log
        fit hydra.job_logging.handlers.file.filename=${hydra.runtime.output_dir}/../../x
        fit hydra.job.name=../x
        fit hydra.sweep.dir=elsewhere
        fit hydra.output_subdir=../../elsewhere
        fit hydra.run.dir=elsewhere
        fit target=../../../secret
        fit study=../../secret
        fit +/PLACE=secret
        fit --config-name ../../../secret --dry-run
        runs show ../../secret
        runs remove ../secret --yes
        runs remove run --yes
        interpret from_run=../../secret --dry-run
        fit --outputs ${oc.env:SECRET}
        predict run new.csv --output out.csv --model ../../secret
    """,
    "memory": """
        fit target=expression target.formula=9**9**9**9*x0 --dry-run
        fit model.intervals=1000000000
        fit threads=100000
    """,
    "terminal": """
        fit noESCAPEkey=1
        fit target=ESCAPE
        fit target=table target.path=ESCAPE.csv target.outputs=y
        runs show ESCAPE
    """,
}
ESCAPE = "\x1b]0;owned\x07\x1b[2J\u202e"
DEEP = "[" * 200_000
HUGE = b'{"a":{"dtype":"F64","shape":[1000000000000],"data_offsets":[0,8000000000000]}}'
#: Prepared attacks.
OTHERS = {
    "code": {
        "a plug-in that a run names": run(
            record(versions={"plug-in antigravity": "1"}, status="FAILED"), RESUME
        ),
        "a cluster in a run": run(to_a_cluster, RESUME),
        "a command of a run": run(record(command="os.system", status="FAILED"), RESUME),
        "YAML of objects in a run": run(
            text("config.yaml", "a: !!python/object/apply:os.system ['touch canary']"), SHOW
        ),
        "a pickled checkpoint": run(checkpoint(lambda _: pickle.dumps(Canary()))),
        "a pickle as a table": table(pickle.dumps(Canary())),
        "a pickle as Parquet": table(pickle.dumps(Canary()), "t.parquet"),
    },
    "elsewhere": {
        "a linked configuration": run(link("config.yaml"), SHOW),
        "a linked record": run(link("run.json"), SHOW),
        "a linked journal": run(link("records.jsonl"), SHOW),
        "a linked log": run(link("run.log"), RESUME),
        "a linked table": run(link("summary.csv"), RESUME),
        "linked checkpoints": run(link("checkpoints/*.safetensors")),
        "a linked folder in a run": run(link("figures", "elsewhere"), RESUME),
        "an empty archive": table(b"PK\x05\x06" + bytes(18), "t.xlsx"),
    },
    "memory": {
        "brackets in a word": lambda _: "fit model.hidden=" + "[" * 3000,
        "brackets in a file": file(f"note: {DEEP}"),
        "brackets in a run": run(text("config.yaml", DEEP), SHOW),
        "brackets in a record": run(text("run.json", DEEP), SHOW),
        "brackets in a journal": run(text("records.jsonl", row("summary", a=1) + DEEP), SHOW),
        "aliases in a file": file("suite: &a [0,0]\nx: &b [*a,*a]\ny: [*b,*b]"),
        "a file of 5 MB": file("#" * 5 * 10**6),
        "a header of 2^62 bytes": run(checkpoint(lambda c: (2**62).to_bytes(8, "little") + c[8:])),
        "an array of 10^12 numbers": run(
            checkpoint(lambda _: len(HUGE).to_bytes(8, "little") + HUGE)
        ),
        "a journal of a gigabyte": run(size("records.jsonl"), SHOW),
        "a record of a gigabyte": run(size("run.json"), SHOW),
        "a packed gigabyte": table(gzip.compress(b"x,y\n" + bytes(2**24) * 4, 1), "t.csv.gz"),
        "a line without end": table(gzip.compress(b"x,y\n1" + b"1" * 2**25, 1), "t.csv.gz"),
        "a million columns": table(
            ",".join(f"c{i}" for i in range(10**5)) + ",y\n" + "1," * 10**5 + "1\n"
        ),
    },
    "terminal": {
        "a column": table(f"x,{ESCAPE}\n1,2\n"),
        "a cell": table(f"x,y\n1,{ESCAPE}\n2,3\n3,4\n", more="model=kan"),
        "a record": run(record(reason=ESCAPE, notes=[ESCAPE], status="FAILED"), SHOW),
        "a note": run(record(tags=[ESCAPE], note=ESCAPE), SHOW),
        "a table": run(text("records.jsonl", row("summary", a=ESCAPE)), SHOW),
        "a failure": run(record(failures=[{"seed": 0, "reason": ESCAPE}]), SHOW),
    },
}
#: Sentences that refuse an attack.
SAID = {
    "aliases in a file": "has YAML aliases (*name); write the values out",
    "a linked log": "run.log is a link",
    "a file of 5 MB": "bytes; configurations may have at most 4194304",
}


def attacks():
    """Yield the kind of each attack, its name, its preparation, and a part of the refusal."""
    for one in HYDRA:
        yield "code", one, file(one), "settings of Hydra"
        whole = file(one, "whole", "fit --config-dir mine --config-name whole")
        yield "code", f"whole {one}", whole, "settings of Hydra"
    for kind, rows in FILES.items():
        for one, said in cases(rows):
            yield kind, one, file(one.replace("\\n", "\n")), said
    for kind, lines in LINES.items():
        for line in map(str.strip, lines.strip().splitlines()):
            yield kind, line, lambda _, line=line: line, ""
    for kind, prepared in OTHERS.items():
        for name, prepare in prepared.items():
            yield kind, name, prepare, SAID.get(name, "")


ATTACKS = list(attacks())
WORDS = {"CODE": "__import__('os').system('touch canary')", "ESCAPE": ESCAPE}
SECRET = "hunter2"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    line = "fit target=runge model=polynomial sampling.n_train=30"
    return finished(line, tmp_path_factory.mktemp("trained"))


@pytest.fixture
def bounded():
    """Interrupt a test after 60 s of CPU time: an attack that succeeds may never end."""

    def interrupt(*_):
        raise AssertionError("the attack takes too much CPU time")

    limits = resource.getrlimit(resource.RLIMIT_CPU)
    before = signal.signal(signal.SIGXCPU, interrupt)
    resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time()) + 60, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_CPU, limits)
    signal.signal(signal.SIGXCPU, before)


@pytest.mark.usefixtures("bounded")
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack[1][:40])
def test_attack_neither_runs_code_nor_reads_or_writes_outside(
    attack, trained, tmp_path, monkeypatch, capfd
):
    kind, _, prepare, sentence = attack
    (place := tmp_path / "a" / "b").mkdir(parents=True)
    shutil.copytree(trained, place / "run")
    (place / "new.csv").write_text("x\n0.5\n")
    (place / "elsewhere").mkdir()
    for at in (place, place.parent, tmp_path):
        (at / "secret.yaml").write_text(f"# @package _global_\nnote: {SECRET}\n")
    monkeypatch.chdir(place)
    monkeypatch.setenv("SECRET", SECRET)
    words = shlex.split(prepare(place))
    for short, meant in (WORDS | {"PLACE": str(place)}).items():
        words = [word.replace(short, meant) for word in words]

    def there():
        return {path for path in tmp_path.rglob("*") if path.name != "outputs"}

    before = there()
    capfd.readouterr()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    code = main(words)
    said = "".join(capfd.readouterr())
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 2**20  # KiB
    assert code == 2 or kind == "terminal" or said.count("kanrun: ") == 1 or "runs" in words
    assert sentence in said
    # No name of an error, no control character except the end of a line, and nothing written
    # backwards.
    assert not re.search(
        r"kanrun: \w*(Error|Exception)\b|Traceback|[\0-\x09\x0b-\x1f]|\u202e", said
    )
    assert SECRET not in said
    assert "antigravity" not in sys.modules
    new = there() - before
    assert {path.name for path in new if not path.is_relative_to(place / "run")} <= {"out.csv"}
    assert not any(path.is_file() and SECRET in path.read_text(errors="replace") for path in new)


def test_promises_state_the_number_of_attacks():
    promises = Path(__file__).parents[2].joinpath("docs/promises.md").read_text()
    assert f"{len(ATTACKS)} attacks" in promises
    assert len(ATTACKS) >= 60

"""Random formulas, overrides, tables, YAML, run folders and checkpoints never cause a traceback.

Every test has a fixed number of cases; with `make fuzz ARGS=--seconds=60` it runs for 60 CPU
seconds instead. Case n is generated from the seed n.
"""

import contextlib
import json
import random
import re
import shutil
import time
import warnings
from collections import Counter

from omegaconf.errors import OmegaConfBaseException
from run_files import damaged, forge

from kanrun import load_run
from kanrun.cli.app import main
from kanrun.errors import KanrunError
from kanrun.formulas.parsing import parse
from kanrun.launch.composition import read_checked
from kanrun.targets.table_files import TableFile


def words(text, by=" "):
    return text.split(by)


FORMULA = words(
    "x0;x1;x_2;pi;e;I;sin;exp;log;max;sqrt;Abs;+;-;*;/;**;^;(;);,;.;1;2.5;1e9;0;=;[;';x0.x1;_; ;\n",
    ";",
)
KEYS = words(
    "seed n_seeds model model.degree solver.steps target target.domain sampling.n_train "
    "hydra.run.dir note tags precision threads +x ~seed ++y.z model.intervals"
)
VALUES = words(
    "1;-1;0;1e400;nan;null;[1,2];[[0,1]];${seed};${oc.env:HOME};choice(1,2);range(3);kan;true;a,b;"
    "[;};=;1_0;';\";\\;é;\t;;{a: 1};",
    ";",
)
VALUES.append("x" * 300)
YAML = words(
    "a:;b;[;];{;};,;*x;|;>;';1e5;1_0;.nan;~;2001-01-01;---;...;%YAML;: ;\n;  ;- ;&x ;!!str ;\";? ;"
    "!!python/name:os.system ;# c;<<: ;\t",
    ";",
)
PLAIN = [None, True, -1, 0, 10**30, 0.5, float("nan"), float("inf"), "kan", {}, [[1]]]


def some(rng, parts, most):
    return "".join(rng.choices(parts, k=rng.randint(1, most)))


def replaced(rng, value):
    """Return nested plain values with one value, at a random position, replaced or removed."""
    if isinstance(value, dict | list) and value and rng.random() < 0.9:
        key = rng.choice(list(value)) if isinstance(value, dict) else rng.randrange(len(value))
        changed = value.copy()
        changed[key] = replaced(rng, value[key])
        if rng.random() < 0.1:
            del changed[key]
        return changed
    return rng.choice(PLAIN)


def fuzz(kind, cases, case, request, capfd):
    """Call `case` for some cases; a return value other than 0 and an error are refusals."""
    seconds = request.config.getoption("--seconds", None)
    begun = time.process_time()
    counts = Counter()
    number = 0
    while number < cases if seconds is None else time.process_time() - begun < seconds:
        where = f"{kind}, case {number}"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                outcome = "refused" if case(random.Random(number)) else "done"
        except KanrunError as error:
            outcome = "refused" if str(error).strip() else "refused without a word"
        except BaseException as error:
            raise AssertionError(f"{where}: {type(error).__name__}: {error}") from error
        said = capfd.readouterr().err
        assert not re.search(r"kanrun: \w*(Error|Exception)\b|Traceback", said), (
            where,
            said[-500:],
        )
        assert outcome != "refused without a word", where
        counts[outcome] += 1
        number += 1
    with capfd.disabled():
        print(f"\n{number} {kind}: {dict(counts)}")


def test_random_formulas_are_parsed_or_refused(request, capfd):
    def case(rng):
        parse(some(rng, FORMULA, 20))

    fuzz("formulas", 4000, case, request, capfd)


def test_random_overrides_are_accepted_or_refused(request, capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def case(rng):
        changed = [f"{rng.choice(KEYS)}={some(rng, VALUES, 2)}" for _ in range(rng.randint(1, 2))]
        return main(["fit", "target=runge", "model=polynomial", *changed, "--dry-run"])

    fuzz("overrides", 6, case, request, capfd)


def test_random_tables_are_read_or_refused(request, capfd, tmp_path):
    whole = b'a,b,"c d"\n1,2.5,x\n-3,,"y ""z"""\n4e5,nan,\n' * 3

    def case(rng):
        path = tmp_path / rng.choice(["t.csv", "t.tsv", "t.csv.gz", "t.parquet", "t.xz"])
        path.write_bytes(damaged(rng, whole))
        TableFile(path).read()

    fuzz("tables", 500, case, request, capfd)


def test_random_yaml_files_are_read_or_refused(request, capfd, tmp_path):
    def case(rng):
        (tmp_path / "x.yaml").write_text(some(rng, YAML, 30))
        # The command translates these errors.
        with contextlib.suppress(OmegaConfBaseException, OSError, ValueError):
            read_checked(tmp_path / "x.yaml")

    fuzz("YAML texts", 500, case, request, capfd)


def test_damaged_run_folders_are_read_or_refused(request, capfd, tmp_path, trained):
    def case(rng):
        folder = tmp_path / "run"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(trained, folder)
        path = folder / rng.choice(["run.json", "summary.csv", "records.jsonl"])
        stored = path.read_bytes()
        if path.suffix == ".json" and rng.random() < 0.5:
            path.write_text(json.dumps(replaced(rng, json.loads(stored))))
        else:
            path.write_bytes(damaged(rng, stored))
        code = main(["runs", "show", str(folder)])
        for name in load_run(folder).tables:
            assert len(load_run(folder).tables[name]) >= 0
        return code

    fuzz("run folders", 6, case, request, capfd)


def test_damaged_checkpoints_are_read_or_refused(request, capfd, tmp_path, trained):
    """One value of the description of a network is changed, and its checksum computed again."""
    loaded = load_run(trained)
    stored = loaded.run.checkpoint(loaded.models[0])
    shutil.copytree(trained, folder := tmp_path / "run")

    def case(rng):
        meta = replaced(rng, json.loads(json.dumps(stored.meta)))
        if isinstance(meta, dict):
            forge(folder, stored.name, stored.arrays, meta)
            load_run(folder).model().predict([[0.5, 0.5]])

    fuzz("checkpoints", 60, case, request, capfd)

"""Standard streams that are closed, full or not read: the same exit code, no traceback."""

import sys

import pytest
from processes import run

LIST = "runs list"
FIT = "fit target=runge model=polynomial sampling.n_train=50"
WAYS = {
    "output closed": "{command} >&-",
    "error closed": "{command} 2>&-",
    "all closed": "{command} <&- >&- 2>&-",
    "output full": "{command} >/dev/full",
    "error full": "{command} 2>/dev/full",
    "nobody reads": "{command} | head -c 0; exit ${{PIPESTATUS[0]}}",
}


@pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/full")
@pytest.mark.parametrize("words", [LIST, pytest.param(FIT, marks=pytest.mark.slow)])
@pytest.mark.parametrize("way", WAYS)
def test_closed_output_streams_are_no_error(way, words, tmp_path):
    command = WAYS[way].format(command=f"{sys.executable} -m kanrun {words}")
    done = run(["bash", "-c", command], cwd=tmp_path)
    assert "Traceback" not in done.stdout + done.stderr
    assert "Exception" not in done.stderr
    if words == FIT:
        assert '"COMPLETED"' in (tmp_path / "outputs" / "fit" / "v0001" / "run.json").read_text()

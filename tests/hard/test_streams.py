"""Closed, full or unread standard streams: the exit code is unchanged, without a traceback."""

import subprocess
import sys

import pytest

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


def check_stream(way, words, folder):
    command = WAYS[way].format(command=f"{sys.executable} -m kanrun {words}")
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert "Exception" not in done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/full")
@pytest.mark.parametrize("way", WAYS)
def test_a_list_that_nobody_reads_is_no_error(way, tmp_path):
    check_stream(way, LIST, tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/full")
@pytest.mark.parametrize("way", WAYS)
def test_a_run_that_nobody_follows_is_no_error(way, tmp_path):
    check_stream(way, FIT, tmp_path)
    assert '"COMPLETED"' in (tmp_path / "outputs" / "fit" / "v0001" / "run.json").read_text()

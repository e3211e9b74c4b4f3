"""What a machine may lack: the only reasons for a skip that `pytest --strict-skips`, and so .ci/run, accepts."""

import multiprocessing
import os
import shutil

import pytest

from tests.helpers.commands import ROOT

ORIGINAL = ROOT.parent / "shared" / "data" / "fashion_mnist"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
CHROMEDRIVER = shutil.which("chromedriver")

original = pytest.mark.skipif(not ORIGINAL.is_dir(), reason="no ../shared with the original Fashion-MNIST")
browser = pytest.mark.skipif(
    not (CHROMIUM and CHROMEDRIVER), reason="no chromium with chromedriver; Debian: chromium, chromium-driver"
)
bash = pytest.mark.skipif(not shutil.which("bash"), reason="no bash")
fork = pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork on this system")
affinity = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinities on this system")

ACCEPTED = {mark.kwargs["reason"] for mark in (original, browser, bash, fork, affinity)}

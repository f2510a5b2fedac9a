"""The table of planted faults can be read and names tests that are there; a fault whose text is gone is refused."""

import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
_spec = importlib.util.spec_from_file_location("planted_faults", ROOT / "benchmarks" / "planted_faults.py")
assert _spec is not None and _spec.loader is not None
planted_faults = sys.modules["planted_faults"] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(planted_faults)


def test_every_fault_names_tests_that_are_there():
    faults = planted_faults.read()
    assert len(faults) >= 80 and len({(fault.file, fault.what) for fault in faults}) == len(faults)
    for fault in faults:
        assert fault.tests and all((ROOT / word).is_file() for word in fault.tests if word.startswith("tests/")), fault


def test_every_fault_can_be_planted_in_this_tree():
    assert not list(planted_faults.refusals(planted_faults.read(), ROOT))


def test_a_text_that_is_gone_is_refused(tmp_path):
    (tmp_path / "a.py").write_text("x = 1\nx = 1\n")
    twice = planted_faults.Fault("doubled", "a.py", "x = 1", "x = 2", ("tests/test_worlds.py",))
    gone = planted_faults.Fault("gone", "a.py", "y = 1", "y = 2", ("tests/test_worlds.py",))
    said = list(planted_faults.refusals([twice, gone], tmp_path))
    assert "occurs 2 times" in said[0] and "occurs 0 times" in said[1]

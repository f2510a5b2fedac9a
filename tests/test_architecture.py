"""The house keeps its rules: arrows run one way, one module touches the handlers, the wheel holds every package."""

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("models", "guides", "inference")
ALLOWED = {
    "models": {"models"},
    "guides": {"guides", "models.announced", "models.networks", "models.distributions"},
    "inference": {"inference"},
}
FLOORS = (  # of the room inference, from the ground up: what lies higher may import what lies lower
    ("__helpers__",),
    ("pairs",),
    ("graphs",),
    ("posterior",),
    ("evidence",),
    ("objectives",),
    ("training",),
    ("diagnostics",),
    ("__init__",),
)
MOST = 18  # modules in one folder
CATALOGUES = ("objectives",)  # one algorithm per file, as many as there are
FILES = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]
FACE = [path for path in sorted((ROOT / "aevb").rglob("*.py")) if not path.is_symlink()]


def _imports(path):
    """What a file imports, as dotted names from the project's root (``models.networks`` for aevb.models.networks)."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def _ours(name):
    return name.removeprefix("aevb.").split(".")[0] in (*ROOMS, "aevb")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_arrows_run_one_way(path):
    room = path.relative_to(ROOT).parts[0]
    for name in filter(_ours, _imports(path)):
        assert not name.startswith("aevb"), f"{path} imports {name}: use a relative import"
        assert any(name == ok or name.startswith(f"{ok}.") or ok.startswith(name) for ok in ALLOWED[room]), name


def _modules():
    """Every module of the project by its dotted name, the packages by their own."""
    for path in FILES + FACE:
        parts = path.relative_to(ROOT).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def _arrows():
    """Which module imports which, lazy and type-only imports included."""
    modules = dict(_modules())
    named = {f"aevb.{name}": name for name in modules if not name.startswith("aevb")} | {name: name for name in modules}
    for name, path in modules.items():
        found = {named[target] for target in _imports(path) if target in named}
        # `from package import module` names both: the module is what is meant.
        meant = {t for t in found if not any(other.startswith(f"{t}.") for other in found)} - {name}
        yield name, meant


def _floor(name):
    parts = name.split(".")
    key = "__init__" if len(parts) == 1 else parts[1]
    return next((level for level, keys in enumerate(FLOORS) if key in keys), 0)


def test_floors_are_complete():
    folders = {path.parent.name for path in (ROOT / "inference").glob("*/__init__.py")}
    assert folders == {key for keys in FLOORS for key in keys} - {"__helpers__", "__init__"}


@pytest.mark.parametrize("folder", [path.parent for path in sorted(ROOT.glob("inference/**/__init__.py"))], ids=str)
def test_a_folder_can_be_seen_whole(folder):
    assert folder.name in CATALOGUES or len(list(folder.glob("*.py"))) <= MOST


def test_arrows_point_down_the_floors():
    for name, targets in _arrows():
        if name.partition(".")[0] == "inference":
            up = [target for target in targets if _floor(target) > _floor(name)]
            assert not up, f"{name} imports {up}, which lie higher"


def test_no_module_imports_itself_by_way_of_others():
    arrows = dict(_arrows())

    def ends(name, seen):
        for target in arrows[name] - seen:
            seen.add(target)
            ends(target, seen)
        return seen

    circles = sorted(name for name in arrows if name in ends(name, set()))
    assert not circles, f"these modules import each other in a circle, lazy and type-only imports counted: {circles}"


def test_one_module_touches_the_handlers():
    touching = {
        str(path.relative_to(ROOT))
        for path in FILES + FACE
        if any(name.startswith("pyro.poutine") for name in _imports(path))
    }
    # Blocks ask whether anybody listens, no more.
    assert touching == {"inference/pairs/handlers.py", "models/announced.py"}


def test_commands_do_not_import_commands():
    verbs = {path.stem for path in (ROOT / "aevb" / "commands").glob("*_command.py")}
    assert len(verbs) >= 10
    for path in (ROOT / "aevb").rglob("*.py"):
        assert not {name.rpartition(".")[2] for name in _imports(path)} & verbs, path


def test_two_modules_name_the_files_of_a_run_folder():
    names = {"config.json", "history.csv", "model.safetensors", "evidence.json", "doctor.json", "verdict.json"}
    names |= {"verdict.csv", "posterior.nc", "report.html", "table.csv", "samples.npz", "uses"}
    naming = {
        str(path.relative_to(ROOT))
        for path in FILES + FACE
        if names & {node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)}
    }
    assert naming == {"aevb/run_folder.py", "inference/training/run_files.py"}


def _private(path):
    """What a file names of torch that is private or experimental: in imports, and in chains that begin with torch."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Attribute):
            parts = [node.attr]
            while isinstance(node.value, ast.Attribute):
                node = node.value
                parts.append(node.attr)
            if isinstance(node.value, ast.Name):
                names = [".".join([node.value.id, *reversed(parts)])]
        for name in names:
            first, *rest = name.split(".")
            if first in ("torch", "functorch") and any(p == "experimental" or _hidden(p) for p in rest):
                yield name


def _hidden(part):
    return part.startswith("_") and not part.startswith("__")


def test_one_module_names_what_torch_keeps_to_itself():
    assert {str(path.relative_to(ROOT)): {*_private(path)} for path in FILES + FACE if {*_private(path)}} == {}


def test_every_way_to_name_a_private_thing_is_seen(tmp_path):
    file = tmp_path / "named.py"
    file.write_text(
        "import torch._guards\nfrom torch._ops import OpOverload\nfrom torch.fx import experimental\n"
        "from torch.optim.optimizer import _hooks\ntorch.a._b(1)\nx = torch._c\nfrom torch.optim import Adam\n"
        "torch.__version__\n"
    )
    assert {*_private(file)} >= {"torch._guards", "torch._ops.OpOverload", "torch.fx.experimental", "torch.a._b"}
    assert len({*_private(file)}) == 6


def test_nothing_imports_the_bare_rooms():
    for folder in ("aevb", "tests", "benchmarks"):
        for path in (ROOT / folder).glob("**/*.py"):
            if path.is_relative_to(ROOT / "aevb") and path.relative_to(ROOT / "aevb").parts[0] in ROOMS:
                continue
            level_zero = [n for n in _imports(path) if n.split(".")[0] in ROOMS and folder != "aevb"]
            assert not level_zero, f"{path} imports {level_zero}: import aevb.models, ... instead"


def test_the_wheel_lists_every_package():
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    found = {"aevb" if path == ROOT / "aevb" else _package(path) for path in _folders()}
    assert listed == found


def _folders():
    for top in ("aevb", *ROOMS):
        for init in (ROOT / top).rglob("__init__.py"):
            relative = init.parent.relative_to(ROOT)
            if not (relative.parts[0] == "aevb" and len(relative.parts) > 1 and relative.parts[1] in ROOMS):
                yield init.parent


def _package(path):
    parts = path.relative_to(ROOT).parts
    return ".".join(parts if parts[0] == "aevb" else ("aevb", *parts))


def test_every_class_has_one_identity():
    import aevb
    from aevb import guides, inference
    from aevb.inference.pairs.pair import Pair

    assert aevb.Pair is inference.Pair is Pair
    assert aevb.guides is guides
    assert Pair.__module__ == "aevb.inference.pairs.pair"


def test_promised_names():
    import aevb
    from aevb import guides  # noqa: F401
    from aevb.inference import MCEM, SGVB, WakeSleep, fit, objectives  # noqa: F401
    from aevb.inference.evidence import ImportanceSampling  # noqa: F401
    from aevb.models import LatentVariableModel, likelihoods, networks, priors  # noqa: F401

    assert all(hasattr(aevb, name) for name in ("log_evidence", "load", "fit"))
    assert hasattr(objectives, "IWAE")


@pytest.mark.parametrize("path", FILES + FACE, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_docstring_says_what_a_thing_is_or_does(path):
    """A reader of the reference skims first words: a verb for what is done, a noun for what is."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            first = (ast.get_docstring(node) or "It").split()[0]
            assert first not in {"What", "Whether", "Of", "How", "Where", "Which", "Why", "When"}, (node.name, first)

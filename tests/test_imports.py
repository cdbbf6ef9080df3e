"""The arrows between the packages: who may import whom, and what an import may pull in."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
HEAVY = {"torch", "onnx", "onnxruntime", "modelopt", "torch_scatter", "torch_sparse", "tensorboard", "safetensors", "plotly",
         "tensorrt", "tensorrt_rtx"}  # fmt: skip
TOOLCHAIN = {"star_edge", "exporters", "calibration"}

# folder -> top-level packages that none of its files may import anywhere, and those none may import while loading
FORBIDDEN = {
    "runtime": (TOOLCHAIN | HEAVY - {"onnxruntime", "tensorrt"}, {"onnxruntime", "tensorrt"}),
    "boards": (TOOLCHAIN | HEAVY, set()),
}


def imports(path: Path, anywhere: bool) -> set[str]:
    """Dotted names that a file imports, anywhere or at its top level; imports for type checkers do not count."""
    names: set[str] = set()
    pending: list[ast.AST] = list(ast.parse(path.read_bytes()).body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        elif not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)) or anywhere:
            pending.extend(ast.iter_child_nodes(node))
    return names


def files(folder: str) -> list[Path]:
    return sorted((REPOSITORY / folder).rglob("*.py"))


def top(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize("folder", FORBIDDEN)
def test_the_board_side_needs_no_toolchain(folder: str) -> None:
    anywhere, loading = FORBIDDEN[folder]
    for path in files(folder):
        assert not top(imports(path, anywhere=True)) & anywhere, path
        assert not top(imports(path, anywhere=False)) & loading, path


@pytest.mark.parametrize("folder", ["exporters", "calibration", "runtime", "boards"])
def test_nothing_below_imports_the_command_line(folder: str) -> None:
    for path in files(folder):
        assert not [name for name in imports(path, anywhere=True) if name.startswith("star_edge.cli")], path
        assert not top(imports(path, anywhere=True)) & {"click"}, path


def test_verbs_load_nothing_heavy() -> None:
    for path in files("star_edge/cli"):
        assert not top(imports(path, anywhere=False)) & HEAVY, path


def loaded_by(code: str) -> set[str]:
    command = f"{code}\nimport sys\nprint(*sorted(name for name in sys.modules if '.' not in name))"
    found = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    return set(found.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    "code",
    [
        "import star_edge; dir(star_edge)",
        "import star_edge; star_edge.load, star_edge.Recognizer, star_edge.Clip, star_edge.Prediction",
        "import star_edge.report",
        "import runtime.recognizer, runtime.streaming, runtime.bundle, runtime.engines.native, runtime.engines.onnxruntime, "
        "runtime.engines.tensorrt",
        "from star_edge.cli import VERBS, cli; import importlib\n"
        "for verb in VERBS:\n"
        "    if importlib.util.find_spec(f'star_edge.cli.{verb}'): importlib.import_module(f'star_edge.cli.{verb}')",
    ],
    ids=["star_edge", "its names", "report", "runtime", "every verb"],
)
def test_importing_loads_nothing_heavy(code: str) -> None:
    assert not loaded_by(code) & HEAVY

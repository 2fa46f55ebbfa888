"""What the documents say holds: their code runs, their links and commands exist, nothing public is left out."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import hotloop as hl
from hotloop.layers import LAYERS
from hotloop.losses import LOSSES
from hotloop.optimizers import OPTIMIZERS
from hotloop.schedules import SCHEDULES

ROOT = Path(__file__).parents[1]
documents = pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])


def python_blocks(text):
    """`text` with all lines blank but those of python blocks, so that line numbers stay."""
    lines, inside = [], False
    for line in text.splitlines():
        fence = line.startswith("```")
        inside = line == "```python" if fence else inside
        lines.append(line if inside and not fence else "")
    return "\n".join(lines) + "\n"


@documents
def test_python_blocks_run(name, tmp_path):
    """In order, as one program, in a process of its own: an op that it adds to the table is gone afterwards."""
    script = tmp_path / f"{name}.py"
    script.write_text(python_blocks((ROOT / name).read_text("utf-8")), "utf-8")
    result = subprocess.run([sys.executable, "-W", "error", script], cwd=tmp_path, text=True, capture_output=True,
                            timeout=300)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "examples/README.md"])
def test_links_and_commands_exist(name):
    text, makefile = (ROOT / name).read_text("utf-8"), (ROOT / "Makefile").read_text("utf-8")
    links, targets = re.findall(r"\]\((?!https?:)([^)#]+)", text), re.findall(r"^make (\w+)", text, re.M)
    assert [link for link in links if not (ROOT / name).parent.joinpath(link).exists()] == []
    assert targets
    assert [target for target in targets if not re.search(f"^{target}:", makefile, re.M)] == []


def test_the_readme_names_every_layer_loss_optimizer_and_schedule():
    text = (ROOT / "README.md").read_text("utf-8")
    kinds = LAYERS | LOSSES | OPTIMIZERS | SCHEDULES
    ours = [name for name, kind in kinds.items() if kind.__module__.startswith("hotloop.")]
    assert [name for name in ours if f"`{name}`" not in text] == []


def test_the_changelog_has_the_version():
    assert f"\n## [{hl.__version__}] - " in (ROOT / "CHANGELOG.md").read_text("utf-8")

"""The package hands out every public name, and loads nothing heavy before one is used."""

import subprocess
import sys

import pytest

import rollout
import rollout.audio
import rollout.model


@pytest.mark.parametrize("package", [rollout, rollout.audio, rollout.model], ids=lambda p: p.__name__)
def test_every_public_name_can_be_had(package):
    for name in package.__all__:
        assert getattr(package, name) is not None


def test_importing_the_packages_loads_nothing_heavy():
    code = (
        "import sys, rollout, rollout.model, rollout.audio; from rollout import Question, Prompt; "
        "print([m for m in ('torch', 'transformers', 'vllm', 'ray', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"

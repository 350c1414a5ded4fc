"""Where published weights lie: names and hashes, for who fetches them and who only looks whether they are there.

Neighbours: `resolve` fetches, `mgrd doctor` looks. Invariant: imports nothing heavy.
"""

from __future__ import annotations

from pathlib import Path

BASE_DIR = Path(__file__).parent / "base"
WHISPER_TINY_EN_REPO = "openai/whisper-tiny.en"
WHISPER_TINY_EN_CHECKSUM = "56ce252a5edb1b4d8a760771ef1f916dadd54d2f614741a5884f1601f97a81be"
WHISPER_PATH_VARIABLE = "MGRD_WHISPER_TINY_EN"
PRESET_REPOS = {"step_audio_2_mini": "stepfun-ai/Step-Audio-2-mini", "step_audio_r1": "stepfun-ai/Step-Audio-R1"}

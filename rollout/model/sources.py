"""Where published weights lie: names and hashes, for who fetches them and who only looks whether they are there.

Neighbours: `resolve` fetches, `mgrd doctor` looks. Invariant: imports nothing heavy.
"""

from __future__ import annotations

from pathlib import Path

BASE_DIR = Path(__file__).parent / "base"
WHISPER_TINY_EN_REPO = "openai/whisper-tiny.en"
WHISPER_TINY_EN_CHECKSUM = "56ce252a5edb1b4d8a760771ef1f916dadd54d2f614741a5884f1601f97a81be"
WHISPER_PATH_VARIABLE = "MGRD_WHISPER_TINY_EN"
WHISPER_BASE_REPO = "openai/whisper-base"
WHISPER_BASE_CHECKSUM = "f9afde1b64801aafbc6de06fe4913ad10e3420d9877337aaff7d54217343aec5"
WHISPER_BASE_VARIABLE = "MGRD_WHISPER_BASE"
# SmolLM2-135M-Instruct as the pinned wheel has it, turned into our decoder (float32, five added tokens).
SMOLLM2_CHECKSUM = "ad7074149e3d9d9a350877cc9b961fde799cf777fd5197e113be7f9445ac61f1"
SMOLLM2_VARIABLE = "MGRD_SMOLLM2"
PRESET_REPOS = {"step_audio_2_mini": "stepfun-ai/Step-Audio-2-mini", "step_audio_r1": "stepfun-ai/Step-Audio-R1"}

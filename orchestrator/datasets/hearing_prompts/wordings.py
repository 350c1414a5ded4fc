"""The words in which a model is asked whether it hears, and in which it may say that there is nothing to hear.

Neighbours: `prompts` asks them about clips, `conversations` without a clip, where denying is honest. Invariants: held-out wordings
are none of the training ones but use no other words; every denial is one for `rewards.functions.cognition`.
"""

from __future__ import annotations

from collections.abc import Mapping

WORDINGS: Mapping[str, tuple[str, ...]] = {
    "train": (
        "Can you hear this clip? Say what you hear.",
        "Do you hear the sound? What is it?",
        "Are you able to listen to it? Say what it is.",
        "What do you hear?",
        "Can you hear it?",
        "Listen to this clip. What is it?",
        "Can you listen to this sound? What do you hear?",
        "Are you able to hear this?",
    ),
    "held_out": (
        "Are you able to hear the sound? Say what it is.",
        "Can you listen to this clip? What is it?",
        "Do you hear it? Say what you hear.",
        "Listen to the sound. Say what you hear.",
        "Do you hear this clip?",
        "Are you able to listen to this? What do you hear?",
    ),
}

SILENT_DENIALS = ("I cannot hear a sound.", "I cannot hear it.")  # honest about a clip in which nothing sounds

DENIALS = (
    "I cannot hear it. There is no clip.",
    "There is no clip.",
    "I cannot hear a sound.",
    "I cannot hear. There is no clip.",
    "There is no sound clip here.",
    "I cannot listen to it.",
    "I cannot hear a clip here.",
    "I cannot hear any clip.",
)

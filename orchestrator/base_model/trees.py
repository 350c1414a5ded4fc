"""Several questions about one clip in one row: the clip is computed once, every question and every reply branches off.

Neighbours: `exercises` makes the texts, the training stages feed the arrays to the decoder.
Invariants: pure numpy; a token attends to its own branch and what that hangs from, so that each path from the clip to a
reply computes exactly what the same conversation alone would; only reply tokens are learned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

IGNORED = -100


@dataclass(frozen=True, slots=True)
class Exercise:
    """A prompt after the clip (ids) and the replies to learn for it."""

    prompt_ids: tuple[int, ...]
    replies_ids: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class TreeBatch:
    """Rows of equal length L, each holding one clip's tree or several.

    ids_BL: token ids (audio positions hold audio_id); targets_BL: the token to predict at each place, IGNORED elsewhere;
    places_BL: rotary positions; mask_B1LL: True where a token may look; order: index of each clip in the order in which
    its audio positions stand, row by row.
    """

    ids_BL: npt.NDArray[np.int64]
    targets_BL: npt.NDArray[np.int64]
    places_BL: npt.NDArray[np.int64]
    mask_B1LL: npt.NDArray[np.bool_]
    order: tuple[int, ...]


class TreePacker:
    """Packs clips with their exercises into rows of about `width` tokens.

    before_ids and after_ids stand around the audio positions of a clip.
    """

    def __init__(
        self, before_ids: Sequence[int], after_ids: Sequence[int], audio_id: int, pad_id: int, width: int = 256
    ) -> None:
        self.before_ids, self.after_ids = tuple(before_ids), tuple(after_ids)
        self.audio_id, self.pad_id, self.width = audio_id, pad_id, width

    def pack(self, clips: Sequence[tuple[int, Sequence[Exercise]]]) -> TreeBatch:
        """clips: (number of audio positions, exercises) each."""
        trees = [_tree([*self.before_ids, *[self.audio_id] * n, *self.after_ids], parts) for n, parts in clips]
        rows = _first_fit([len(tree.ids) for tree in trees], self.width)
        count, width = len(rows), max(sum(len(trees[i].ids) for i in row) for row in rows)
        ids_BL = np.full((count, width), self.pad_id, dtype=np.int64)
        targets_BL = np.full((count, width), IGNORED, dtype=np.int64)
        places_BL = np.zeros((count, width), dtype=np.int64)
        mask_B1LL = np.zeros((count, 1, width, width), dtype=np.bool_)
        mask_B1LL[:, 0, np.arange(width), np.arange(width)] = True
        for b, row in enumerate(rows):
            start = 0
            for tree in (trees[i] for i in row):
                span = slice(start, start + len(tree.ids))
                ids_BL[b, span], targets_BL[b, span], places_BL[b, span] = tree.ids, tree.targets, tree.places
                mask_B1LL[b, 0, span, span] = tree.mask()
                start = span.stop
        return TreeBatch(ids_BL, targets_BL, places_BL, mask_B1LL, tuple(i for row in rows for i in row))


@dataclass(frozen=True, slots=True)
class _Tree:
    ids: list[int]
    targets: list[int]
    places: list[int]
    nodes: list[int]
    parents: list[int]

    def mask(self) -> npt.NDArray[np.bool_]:
        """Who may look at whom [L, L]: earlier places of the own node and of the nodes above it."""
        sees = np.eye(len(self.parents), dtype=np.bool_)
        for node, parent in enumerate(self.parents):
            if parent >= 0:
                sees[node] |= sees[parent]
        node_L, place_L = np.asarray(self.nodes), np.asarray(self.places)
        return sees[node_L[:, None], node_L[None, :]] & (place_L[:, None] >= place_L[None, :])


def _first_fit(lengths: Sequence[int], width: int) -> list[list[int]]:
    """Indices by row; the longest first, each into the first row with room."""
    rows: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        for row, free in enumerate(room):
            if lengths[index] <= free:
                rows[row].append(index)
                room[row] -= lengths[index]
                break
        else:
            rows.append([index])
            room.append(width - lengths[index])
    return rows


def _tree(trunk_ids: Sequence[int], exercises: Sequence[Exercise]) -> _Tree:
    ids = list(trunk_ids)
    trunk = len(ids)
    targets, places = [IGNORED] * trunk, list(range(trunk))
    nodes, parents = [0] * trunk, [-1]
    for exercise in exercises:
        prompt_node = len(parents)
        parents.append(0)
        # The last prompt token is repeated in every branch, so that each has a place that predicts its first reply token.
        stem = exercise.prompt_ids[:-1]
        ids += stem
        targets += [IGNORED] * len(stem)
        places += range(trunk, trunk + len(stem))
        nodes += [prompt_node] * len(stem)
        start = trunk + len(stem)
        for reply in exercise.replies_ids:
            node = len(parents)
            parents.append(prompt_node)
            ids += [exercise.prompt_ids[-1], *reply[:-1]]
            targets += reply
            places += range(start, start + len(reply))
            nodes += [node] * len(reply)
    return _Tree(ids, targets, places, nodes, parents)

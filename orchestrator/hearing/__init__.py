"""Which questions need hearing: by their task, and by asking them again without what there is to hear.

Neighbours: `stages` roll the questions out and score them; `rollout.Question` goes in and comes out. Invariants: rules are pure;
clips made here are written whole, under the hash of their bytes.
"""

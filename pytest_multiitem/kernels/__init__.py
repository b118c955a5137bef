"""Attention kernels under test: whether one is a correct item mask, by what it computes and nothing of its inside.

``multiitem kernel-check`` calls a kernel with inputs whose right answer is known, and shows the smallest shape at
which it is wrong beside the mask that it has. Whether a kernel compiles for a chip is the room
beside this one, `compile_gates`.
"""

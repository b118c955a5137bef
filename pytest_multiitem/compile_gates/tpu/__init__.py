"""The TPU compile gate: whether a Pallas kernel lowers and compiles for TPUs, on a machine that has none.

Nothing is executed, so it says nothing about numbers or speed. JAX is imported in a process of its own
(`compile_gates.tpu.compiler`), never here.
"""

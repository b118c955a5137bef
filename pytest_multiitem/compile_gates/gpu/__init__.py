"""The GPU compile gate: whether a Triton kernel compiles for NVIDIA GPUs and fits them, on a machine that has none.

Numbers come from Triton's interpreter on the CPU; nothing is executed on a GPU, so it says nothing about speed. Triton
is imported in processes of its own (`compile_gates.gpu.compiler`), never here.
"""

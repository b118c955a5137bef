"""Whether a kernel compiles for accelerators, on a machine that has none: Pallas for TPUs, Triton for GPUs.

A toolchain (`compile_gates.tpu`, `compile_gates.gpu`) says what is compiled how; cases, control kernels, the process
that compiles, verdicts and records are the same for all. No compiler is imported here, only in a process of its own.
"""

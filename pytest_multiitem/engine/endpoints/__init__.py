"""What the embedded engine answers to scoring requests, one endpoint a module.

Each has `understand`, which checks a body beside the worker, and `answer`, which the worker calls.
"""

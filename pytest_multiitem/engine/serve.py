"""The embedded engine's launch line: sgl-jax's flag names, so that a launch line carries over.

Run as ``multiitem serve …`` or ``python -m pytest_multiitem.engine.serve …``.
"""

from __future__ import annotations

import argparse
import logging
import os
import platform
import re
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import uvicorn

import pytest_multiitem
from pytest_multiitem.engine.app import Service, Worker, create_app
from pytest_multiitem.engine.backend import SerialBackend
from pytest_multiitem.engine.checkpoint import tiny_checkpoint
from pytest_multiitem.engine.scorer import Scorer
from pytest_multiitem.engine.tokenizer import load_tokenizer
from pytest_multiitem.errors import CheckpointError, EngineUnavailable, MultiItemError, UsageError
from pytest_multiitem.scoring.config import MaskImpl, ScorerConfig
from pytest_multiitem.scoring.semantics import Semantics
from pytest_multiitem.scoring.wire import WireError
from pytest_multiitem.transport.listening import bind, listen, until_signal

if TYPE_CHECKING:  # a healthy server imports nothing of faults
    from pytest_multiitem.faults.active import ActiveFaults
    from pytest_multiitem.faults.base import AsgiApp

log = logging.getLogger(__name__)

_PROG = "multiitem serve"
_DEFAULTS = ScorerConfig()

#: The backends by the extra that installs them, and those of them that do more than score serially.
_EXTRAS = {"pytorch": "torch", "jax": "jax", "transformers": "torch"}
_PACKING_BACKENDS = ("pytorch", "jax")

#: Seconds that running requests get to end, after SIGTERM or SIGINT; then the engine's own call.
_GRACE_S = 3
_ENGINE_GRACE_S = 2.0

#: What a checkpoint directory needs; everything else on a model hub is left there.
_HUB_FILES = ("config.json", "*.safetensors", "model.safetensors.index.json", "tokenizer*.json")

#: Flags of sgl-jax and sglang that change nothing here, by how many values they take.
_WITHOUT_EFFECT: dict[str, Any] = {
    "--attention-backend": None,
    "--chunked-prefill-size": None,
    "--cuda-graph-max-bs": None,
    "--disable-cuda-graph": 0,
    "--disable-overlap-schedule": 0,
    "--disable-precompile": 0,
    "--disable-radix-cache": 0,
    "--dist-init-addr": None,
    "--enable-metrics": 0,
    "--grammar-backend": None,
    "--log-requests": 0,
    "--max-prefill-tokens": None,
    "--max-running-requests": None,
    "--max-total-tokens": None,
    "--mem-fraction-static": None,
    "--multi-item-enable-score-from-cache-v2": 0,
    "--multi-item-score-from-cache-v2-items-per-step": None,
    "--multi-item-score-label-only-logprob": 0,
    "--node-rank": None,
    "--page-size": None,
    "--precompile-bs-paddings": "+",
    "--precompile-token-paddings": "+",
    "--random-seed": None,
    "--trust-remote-code": 0,
    "--watchdog-timeout": None,
}

#: Flags of which only the value 1 makes sense in one process.
_ONLY_ONE = (("--tp-size", "--tp", "--tensor-parallel-size"), ("--dp-size", "--dp"), ("--nnodes",))


@dataclass(frozen=True, kw_only=True)
class ServeArgs:
    """The launch line, under sgl-jax's names; ``/get_server_info`` shows these fields as they are.

    ``model_path``: ``None`` = the built-in tiny checkpoint. ``context_length``: tokens, ``None`` =
    the model's. ``multi_item_semantics``: ``None`` = the mode's own. ``accepted_without_effect``:
    the flags given that change nothing here, in their order. ``faults``: ``None`` = a healthy server.
    """

    backend: str
    model_path: str | None
    served_model_name: str | None
    download_dir: str | None
    host: str
    port: int
    dtype: str
    device: str
    log_level: str
    context_length: int | None
    multi_item_scoring_delimiter: int | None
    multi_item_scoring_chunk_size: int
    multi_item_mask_impl: str
    multi_item_segment_fallback_threshold: int
    multi_item_semantics: str | None
    max_multi_item_seq_len: int
    max_multi_item_count: int
    multi_item_enable_prefill_extend: bool
    multi_item_extend_batch_size: int
    enable_scoring_cache: bool
    skip_server_warmup: bool
    accepted_without_effect: tuple[str, ...] = ()
    faults: ActiveFaults | None = None

    @classmethod
    def from_namespace(cls, namespace: argparse.Namespace) -> ServeArgs:
        """The arguments that a parser prepared by :func:`add_arguments` has read.

        Raises UsageError where a flag of packed or prefill+extend scoring meets a backend without either, and for
        an unknown fault.
        """
        packing = tuple(dict.fromkeys(namespace.packing_flags))
        if packing and namespace.backend not in _PACKING_BACKENDS:
            raise UsageError(
                f"--backend {namespace.backend} scores serially only, one forward pass per item, and takes no "
                f"{', no '.join(packing)}; leave that out, or choose a backend that packs and extends: "
                + " or ".join(f"--backend {name}" for name in _PACKING_BACKENDS)
            )
        values = {f.name: getattr(namespace, f.name) for f in fields(cls)}
        values["faults"] = _active_faults(values["faults"])
        ignored = tuple(values.pop("accepted_without_effect") or ())
        if values["enable_scoring_cache"] and not values["multi_item_enable_prefill_extend"]:
            ignored += ("--enable-scoring-cache",)
        return cls(accepted_without_effect=tuple(dict.fromkeys(ignored)), **values)

    def scorer_config(self) -> ScorerConfig:
        """How to score. Raises UsageError where the flags contradict each other."""
        config = ScorerConfig(
            delimiter=self.multi_item_scoring_delimiter,
            chunk_size=self.multi_item_scoring_chunk_size,
            mask_impl=MaskImpl(self.multi_item_mask_impl),
            segment_threshold=self.multi_item_segment_fallback_threshold,
            semantics=Semantics(self.multi_item_semantics or _DEFAULTS.semantics),
            # A packed sequence counts against the context length, as in the real engines.
            max_seq_len=min(self.max_multi_item_seq_len, self.context_length or self.max_multi_item_seq_len),
            max_items=self.max_multi_item_count,
            max_positions=self.context_length,
            prefill_extend=self.multi_item_enable_prefill_extend,
            extend_batch_size=self.multi_item_extend_batch_size,
            scoring_cache=self.enable_scoring_cache,
        )
        if self.multi_item_semantics not in (None, config.declared_semantics.value):
            raise UsageError(
                f"--multi-item-semantics is {self.multi_item_semantics}, but {config.mode.value} scoring "
                f"is {config.declared_semantics.value} always; drop the flag, or pack with "
                "--multi-item-scoring-delimiter ID and without --multi-item-enable-prefill-extend"
            )
        return config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add every flag of the embedded engine's server to ``parser``."""
    engine = parser.add_argument_group("engine")
    engine.add_argument(
        "--backend",
        choices=tuple(_EXTRAS),
        default="pytorch",
        help="transformers: any causal LM that it has, serially only, as a reference (default: %(default)s)",
    )
    engine.add_argument(
        "--model-path", "--model", metavar="DIR", help="checkpoint directory or hub id (default: a tiny one)"
    )
    engine.add_argument("--served-model-name", metavar="NAME", help="default: the model path")
    engine.add_argument("--download-dir", metavar="DIR", help="where a hub id is downloaded to")
    engine.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto", help="auto: float32")
    engine.add_argument("--device", choices=("cpu", "cuda", "tpu", "auto"), default="cpu")
    engine.add_argument("--context-length", type=int, metavar="TOKENS", help="default: the model's")

    server = parser.add_argument_group("server")
    server.add_argument("--host", default="127.0.0.1", help="a loopback address (default: %(default)s)")
    server.add_argument("--port", type=int, default=30010, help="0: any free one (default: %(default)s)")
    server.add_argument("--log-level", default="info", choices=("debug", "info", "warning", "error", "critical"))
    server.add_argument("--skip-server-warmup", action="store_true", help="listen without having scored one item first")

    faulty = parser.add_argument_group("faults")
    faulty.add_argument(
        "--fault",
        action="append",
        dest="faults",
        metavar="NAME[=STRENGTH]",
        help="score wrongly, as a real engine did; may be given several times (multiitem faults lists them)",
    )

    scoring = parser.add_argument_group("multi-item scoring")
    scoring.add_argument("--max-multi-item-count", type=int, default=_DEFAULTS.max_items, metavar="ITEMS")

    packing = parser.add_argument_group("packed and prefill+extend scoring", "not with --backend transformers")
    packing.set_defaults(packing_flags=())
    packing.add_argument(
        "--multi-item-scoring-delimiter",
        action=_Packing,
        type=int,
        metavar="ID",
        help="pack items, separated by this token (default: no packing)",
    )
    packing.add_argument(
        "--multi-item-scoring-chunk-size",
        action=_Packing,
        type=int,
        default=_DEFAULTS.chunk_size,
        metavar="ITEMS",
        help="items per packed sequence, 0: all (default: %(default)s)",
    )
    packing.add_argument(
        "--multi-item-mask-impl",
        action=_Packing,
        choices=[impl.value for impl in MaskImpl],
        default=_DEFAULTS.mask_impl.value,
    )
    packing.add_argument(
        "--multi-item-segment-fallback-threshold",
        action=_Packing,
        type=int,
        default=_DEFAULTS.segment_threshold,
        metavar="TOKENS",
        help="mask auto: segment up to this packed length, padding counted, else dense (default: %(default)s)",
    )
    packing.add_argument(
        "--multi-item-semantics", action=_Packing, choices=[semantics.value for semantics in Semantics]
    )
    packing.add_argument(
        "--max-multi-item-seq-len", action=_Packing, type=int, default=_DEFAULTS.max_seq_len, metavar="TOKENS"
    )
    packing.add_argument(
        "--multi-item-enable-prefill-extend",
        action=_Packing,
        nargs=0,
        default=False,
        help="run the query once, then batches of items; needs --enable-scoring-cache",
    )
    packing.add_argument(
        "--multi-item-extend-batch-size",
        action=_Packing,
        type=int,
        default=_DEFAULTS.extend_batch_size,
        metavar="ITEMS",
    )
    packing.add_argument("--enable-scoring-cache", action=_Packing, nargs=0, default=False)

    ignored = parser.add_argument_group(
        "accepted without effect", "flags of sgl-jax and sglang that change nothing here"
    )
    target: dict[str, Any] = {"dest": "accepted_without_effect", "default": ()}
    for flag, values in _WITHOUT_EFFECT.items():
        ignored.add_argument(flag, action=_Ignored, nargs=values, metavar="X", **target)
    for names in _ONLY_ONE:
        ignored.add_argument(*names, action=_OnlyOne, type=int, metavar="1", **target)


def _active_faults(texts: Sequence[str] | None) -> ActiveFaults | None:
    if not texts:
        return None
    from pytest_multiitem.faults.active import ActiveFaults

    return ActiveFaults.parse(texts)


class _Packing(argparse.Action):
    """Keeps the value, true for a flag that takes none, and remembers that the flag was given."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option: str | None = None,
    ) -> None:
        setattr(namespace, self.dest, True if self.nargs == 0 else values)
        namespace.packing_flags = (*namespace.packing_flags, option or self.option_strings[0])


class _Ignored(argparse.Action):
    """Remembers that the flag was given."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option: str | None = None,
    ) -> None:
        given = getattr(namespace, self.dest) or ()
        setattr(namespace, self.dest, (*given, option or self.option_strings[0]))


class _OnlyOne(_Ignored):
    """The same, for a number of which only 1 is possible."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option: str | None = None,
    ) -> None:
        if values != 1:
            parser.error(f"{option} is {values}; the embedded engine runs in one process on one device: expected 1")
        super().__call__(parser, namespace, values, option)


def serve(argv: Sequence[str]) -> int:
    """Parse ``argv``, load the model, then listen and serve until SIGTERM or SIGINT; the exit code.

    0 after a signal; 2, with a message on standard error, where the server cannot start.
    """
    parser = argparse.ArgumentParser(prog=_PROG, description=__doc__, allow_abbrev=False)
    add_arguments(parser)
    try:
        args = ServeArgs.from_namespace(parser.parse_args(argv))
    except SystemExit as stop:  # argparse has printed its message, or the help
        return int(stop.code or 0)
    except UsageError as error:
        return _refuse(error)
    logging.basicConfig(level=args.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        return until_signal(lambda: _run(args))
    except MultiItemError as error:
        return _refuse(error)


def build_service(args: ServeArgs) -> Service:
    """Load the model and put the service together.

    Raises UsageError, CheckpointError or EngineUnavailable.
    """
    config = args.scorer_config()  # flags that contradict each other end it before a model is loaded
    directory = resolve_model(args.model_path, args.download_dir)
    backend = load_backend(args.backend, directory, dtype=args.dtype, device=args.device)
    service = service_of(args, directory, backend, Worker())
    if not args.skip_server_warmup:
        _warm_up(Scorer(backend, config), service.probe_ids[:1])  # a scorer that neither counts here nor has a fault
    return service


def _warm_up(scorer: Scorer, probe: Sequence[int]) -> None:
    """Load, compile and allocate once what would be left to the first request, by one item of one token."""
    with suppress(WireError):  # a limit that even this exceeds is for requests to meet
        scorer.score(probe, [probe], probe, False)


def service_of(args: ServeArgs, directory: Path, backend: SerialBackend, worker: Worker) -> Service:
    """The service of a loaded model; several may share it, if they share its worker as well."""
    config = args.scorer_config()
    scorer = args.faults.scorer(Scorer) if args.faults else Scorer
    return Service(
        scorer=scorer(backend, config),
        tokenizer=load_tokenizer(directory),
        model=args.served_model_name or args.model_path or directory.name,
        vocab_size=backend.vocab_size,
        max_positions=min(backend.max_positions, config.max_positions or backend.max_positions),
        probe_ids=[i for i in range(min(3, backend.vocab_size)) if i != config.delimiter],
        info=_server_info(args, config, backend, directory),
        worker=worker,
    )


def resolve_model(model_path: str | None, download_dir: str | None = None) -> Path:
    """The checkpoint directory: the tiny one, a local directory, or a hub id's snapshot.

    Raises CheckpointError where there is none.
    """
    if model_path is None:
        return tiny_checkpoint()
    directory = Path(model_path).expanduser()
    if directory.is_dir():
        return directory
    if directory.exists() or not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", model_path):
        raise CheckpointError(
            f"--model-path is {model_path!r}, which is no directory; expected a checkpoint directory "
            "in Hugging Face layout or a hub id (OWNER/NAME). Without the flag, a tiny checkpoint is served."
        )
    return _download(model_path, download_dir)


def load_backend(name: str, directory: Path, *, dtype: str, device: str) -> SerialBackend:
    """Load a Qwen3 checkpoint with PyTorch or JAX, or any causal LM with transformers alone.

    Raises EngineUnavailable where the package or the device is missing, CheckpointError where the
    directory cannot be read.
    """
    if dtype == "auto":
        dtype = "float32"
    try:
        if name == "jax":
            # JAX looks for every device that it has a library for, a TPU's included, wherever it is told of none.
            if device == "cpu":
                os.environ.setdefault("JAX_PLATFORMS", "cpu")
            from pytest_multiitem.engine.jax_model import JaxBackend

            return JaxBackend(directory, dtype=dtype, device=device)
        # Read when torch is imported: OpenMP threads that spin while they wait make every small
        # operation many times slower on a machine with other work (two servers on two cores).
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        if name == "transformers":
            from pytest_multiitem.engine.reference_model import ReferenceBackend

            return ReferenceBackend(directory, dtype=dtype, device=device)
        from pytest_multiitem.engine.torch_model import TorchBackend

        return TorchBackend(directory, dtype=dtype, device=device)
    except ImportError as error:
        raise EngineUnavailable(
            f"--backend {name} cannot be imported ({error}); pip install 'pytest-multiitem[{_EXTRAS[name]}]'"
        ) from error


def _download(hub_id: str, download_dir: str | None) -> Path:
    what = f"--model-path is {hub_id!r}, which is no directory here, and as a hub id it"
    remedy = "Name a checkpoint directory, or leave the flag out for a tiny checkpoint."
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise CheckpointError(f"{what} needs the package huggingface_hub: pip install it. {remedy}") from None
    try:
        return Path(snapshot_download(hub_id, allow_patterns=list(_HUB_FILES), cache_dir=download_dir))
    except Exception as error:  # its taxonomy spans OSError, ValueError and its HTTP library's errors
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise CheckpointError(f"{what} cannot be downloaded: {reason[0]} {remedy}") from error


def _server_info(args: ServeArgs, config: ScorerConfig, backend: SerialBackend, directory: Path) -> dict[str, Any]:
    """What ``/get_server_info`` says beside the counters: the arguments, then what they came to."""
    arguments = asdict(replace(args, faults=None))
    del arguments["faults"]
    return {
        **arguments,
        **({"faults": args.faults.labels} if args.faults else {}),
        "engine": "embedded",
        "version": pytest_multiitem.__version__,
        "backend": backend.name,
        "device": backend.device,
        "dtype": backend.dtype,
        "model_path": str(directory),
        "vocab_size": backend.vocab_size,
        "scoring_mode": config.mode.value,
        "semantics": {"declared": config.declared_semantics.value},
        "versions": {
            "pytest-multiitem": pytest_multiitem.__version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
            # torch's version is a subclass of str, which no JSON encoder has to know.
            **{package: str(version) for package, version in backend.versions.items()},
        },
    }


def _refuse(error: MultiItemError) -> int:
    """Say on standard error why the server cannot start; the exit code."""
    sys.stderr.write(f"{_PROG}: error: {error}\n")
    return 2


def _run(args: ServeArgs) -> int:
    config = args.scorer_config()
    if args.accepted_without_effect:
        log.info("accepted without effect: %s", " ".join(args.accepted_without_effect))
    if args.faults:
        log.warning("this server is faulty on purpose: %s", ", ".join(args.faults.labels))
    with bind(args.host, args.port) as listener:
        service = build_service(args)
        host, port = listener.getsockname()[:2]
        listen(listener, args.host, port)
        log.info("serving %s (%s) on http://%s:%d", service.model, config.mode.value, host, port)
        serve_until_stopped(listener, application(args, service), service.worker, args.log_level)
    return 0


def application(args: ServeArgs, service: Service) -> AsgiApp:
    """What answers requests: the service, behind the faults of the wire if there are any."""
    app = create_app(service)
    return args.faults.before(app) if args.faults else app


def serve_until_stopped(listener: socket.socket, app: AsgiApp, worker: Worker, log_level: str) -> None:
    """Serve on a listening socket until uvicorn is told to stop, and let the engine's running call end."""
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            log_config=None,
            log_level=log_level,
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=_GRACE_S,
        )
    )
    try:
        server.run(sockets=[listener])
    finally:
        if not worker.close(_ENGINE_GRACE_S):
            log.warning("the engine's running call did not end; leaving it")
            logging.shutdown()
            os._exit(0)  # a thread inside a model cannot be stopped, and Python would wait for it


if __name__ == "__main__":
    sys.exit(serve(sys.argv[1:]))

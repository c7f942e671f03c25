"""Serve a policy to robots on other machines.

  prophrl serve runs/training/policy
  prophrl serve runs/training/policy --host 0.0.0.0 --token-file token --compile --max-batch 4

The checkpoint is loaded and warmed up before the first robot may connect. Ctrl-C stops it.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def register(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="folder written by prophrl train")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    parser.add_argument("--port", type=int, default=8765, help="port, 0 takes a free one (default: 8765)")
    parser.add_argument("--token-file", type=Path, help="file with the bearer token; needed off loopback")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: a GPU if there is one)")
    parser.add_argument(
        "--precision",
        default="auto",
        choices=("auto", "float32", "bfloat16"),
        help="auto: bfloat16 for large policies on a GPU (default)",
    )
    parser.add_argument("--compile", action="store_true", help="fuse kernels with torch.compile: slow start, less time")
    parser.add_argument("--max-batch", type=int, default=4, help="most robots answered together (default: 4)")
    parser.add_argument(
        "--window-ms", type=float, default=3.0, help="longest wait for other robots' questions (default: 3)"
    )
    parser.add_argument("--max-clients", type=int, default=16, help="robots connected at once (default: 16)")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (default: torch decides)")


def run(options: argparse.Namespace) -> int:
    """Run ``prophrl serve``."""
    import logging

    from prophrl_models.serving.engine import PolicyEngine
    from prophrl_models.serving.server import PolicyServer, check_access, hello_of, serve
    from prophrl_models.serving.token import read_token

    token = read_token(options.token_file) if options.token_file else ""
    check_access(options.host, token)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.INFO)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)  # the server says the same about each connection
    engine = PolicyEngine.load(
        options.checkpoint,
        options.device,
        threads=options.threads,
        precision=options.precision,
        compile=options.compile,
        max_batch=options.max_batch,
    )
    print(f"loaded {engine.policy_id} ({engine.policy.kind}) on {engine.device} in {engine.precision}; warming up")
    measured = engine.warm_up(guided=True)
    warm, guided = measured.free.summary(), measured.guided.summary()
    print(
        f"warm: {1e3 * warm.p50_s:.1f} ms per chunk of {engine.spec.chunk} actions, "
        f"{1e3 * guided.p50_s:.1f} ms where it continues another (real-time chunking)"
    )
    server = PolicyServer(engine, hello_of(engine, warm.p50_s), token, options.max_clients, options.window_ms / 1e3)
    serve(server, options.host, options.port, lambda host, port: _announce(host, port, options.token_file))
    return 0


def _announce(host: str, port: int, token_file: Path | None) -> None:
    shown = f"[{host}]" if ":" in host else host
    here = "THIS_MACHINE" if host in ("0.0.0.0", "::") else shown
    print(f"listening on ws://{shown}:{port}/policy, health at http://{shown}:{port}/health")
    token = f" -p token_file:={token_file}" if token_file else ""
    print(f"policy node: -p checkpoint:=ws://{here}:{port}/policy{token}", flush=True)

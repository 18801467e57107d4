"""The command that makes training input for other machines: `deeplab2-lite data-service`."""

from __future__ import annotations

import argparse
import os
import signal
import socket
import threading

from deeplab2_lite.errors import UserError

_LAST_PORT = 65535


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the command.

    Args:
        parser: Theirs.
    """
    parser.add_argument("--port", type=int, default=0, help="port to listen on; default: any free one")
    parser.add_argument(
        "--worker_port", type=int, default=0, help="second port, that batches come from; default: any free one"
    )
    parser.add_argument(
        "--host", default=socket.gethostname(), help="name of this machine as others reach it; default: %(default)s"
    )


def run(arguments: argparse.Namespace) -> None:
    """Makes training input until Ctrl-C or SIGTERM.

    Args:
        arguments: Of `add_arguments`.

    Raises:
        UserError: The port is taken.
    """
    for flag in ("port", "worker_port"):
        if not 0 <= getattr(arguments, flag) <= _LAST_PORT:
            raise UserError(f"--{flag}: expected 0 (any free one) to {_LAST_PORT}, got {getattr(arguments, flag)}")
    import tensorflow as tf

    service = tf.data.experimental.service
    try:
        dispatcher = service.DispatchServer(service.DispatcherConfig(port=arguments.port))
        port = dispatcher.target.rsplit(":", 1)[1]
        _worker = service.WorkerServer(
            service.WorkerConfig(
                dispatcher_address=f"localhost:{port}",
                worker_address=f"{arguments.host}:%port%",
                port=arguments.worker_port,
            )
        )
    except (RuntimeError, tf.errors.OpError) as error:
        raise UserError(
            f"--port={arguments.port} --worker_port={arguments.worker_port}: cannot be listened on "
            f"({str(error).splitlines()[0]})"
        ) from None
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    print(f"grpc://{arguments.host}:{port}", flush=True)
    ended.wait()
    # Servers that are deleted wait for their clients, who may go on asking for ever. There is nothing to save.
    os._exit(0)

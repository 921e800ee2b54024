"""Run the stand-in alone, to try the project against it by hand."""

import argparse
import threading
from contextlib import suppress

from wandb_standin import StandIn


def main() -> None:
    parser = argparse.ArgumentParser(description="A stand-in of the W&B server, in memory, on 127.0.0.1.")
    parser.add_argument("--port", type=int, default=8765)
    port = parser.parse_args().port
    with StandIn(port) as server, suppress(KeyboardInterrupt):
        print("\n".join(f"export {name}={value}" for name, value in server.env.items()), flush=True)
        threading.Event().wait()
    print(f"answered {len(server.requests)} requests; not known: {server.unknown or 'none'}")


if __name__ == "__main__":
    main()

"""One contender in a process of its own: reads a number of steps a line, answers with seconds (wall, processor)."""

from __future__ import annotations

import os
import sys
import time
from importlib import import_module


def main() -> None:
    """Serve until the pipe closes."""
    name, contender, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
    os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[:threads]))
    os.environ |= {"OMP_NUM_THREADS": str(threads), "XLA_FLAGS": f"--xla_cpu_multi_thread_eigen={threads > 1}".lower()}
    import warnings

    warnings.simplefilter("ignore")
    from workloads import WORKLOADS

    workload = WORKLOADS[name]
    advance = getattr(import_module(workload.module), workload.contenders[contender])(workload.net)
    share = getattr(advance, "share", 1.0)  # of the work, where all of it would take minutes
    print("ready", flush=True)
    for line in sys.stdin:
        steps = int(line)
        wall, cpu = time.perf_counter(), time.process_time()
        advance(steps)
        print((time.perf_counter() - wall) / share, (time.process_time() - cpu) / share, flush=True)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Compare PyTorch's DistributedDataParallel with one process on this machine, alternately, and print a Markdown table.

    benches/ddp_pytorch.py [--batch 16] [--processes 2] [--layout nhwc|nchw] [--seconds 60] [--size 224]
                           [--engines ddp,accumulate,batch] [--also NAME=COMMAND ..] [resnet50 mobilenet_v2 ..]

What is timed is one update from `processes` x `batch` pictures: forward pass, backward pass, SGD with momentum. Weights and pictures are
random. The engines:

    ddp         a process for each batch, with one thread each; gradients are averaged by DistributedDataParallel over gloo (TCP)
    accumulate  one process with as many threads: one batch after the other, and one update (gradient accumulation)
    batch       one process with as many threads: one batch of all pictures

`--also` adds a program that prints a line `START END` for each such update, in seconds since 1970, as these do; {model} in its
command stands for the network. It may start processes (mpirun). `--engines none` leaves the others out. One engine runs at a time, half a second or longer, while all processes
of the others stand still. `ratio` is the median over the rounds of the time of `accumulate` divided by the engine's: above 1, the engine is
faster than one process. `MiB` is the peak memory of all its processes together.

    benches/ddp_pytorch.py ENGINE NAME BATCH PROCESSES LAYOUT SIZE     prints the lines of one engine, until it is ended

Needs the peers (scripts/peers).
"""
import argparse, os, shlex, statistics, subprocess, sys, tempfile

from alternate import Engine, measured, ratio
from engines import repeat
from environment import build, with_package

ENGINES = ["ddp", "accumulate", "batch"]


def training(name, layout, size, wrap):
    """One step on a batch of random pictures, and the update, as two functions."""
    import torch
    form = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}[layout]
    model = wrap(build(name, size).to(memory_format=form).train())
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

    def pictures(count):
        return torch.randn(count, 3, size, size).to(memory_format=form), torch.arange(count)

    def backward(x, y, parts=1):
        (torch.nn.functional.cross_entropy(model(x), y) / parts).backward()

    def update():
        optimizer.step()
        optimizer.zero_grad()

    return pictures, backward, update


def one_process(name, batch, processes, layout, size, together):
    import torch
    torch.set_num_threads(processes)
    pictures, backward, update = training(name, layout, size, lambda model: model)
    batches = [pictures(batch * processes)] if together else [pictures(batch) for _ in range(processes)]

    def step():
        for x, y in batches:
            backward(x, y, len(batches))
        update()

    return step


def distributed(name, batch, processes, layout, size, rank, store):
    import torch
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=processes)
    torch.manual_seed(rank)
    pictures, backward, update = training(name, layout, size, torch.nn.parallel.DistributedDataParallel)
    x, y = pictures(batch)

    def step():
        backward(x, y)
        update()

    return step


def repeat_warm(step):
    # The first steps are slower: the allocator has not seen the sizes yet.
    for _ in range(5):
        step()
    repeat(step)


def repeat_distributed(*arguments):
    """This process is rank 0, and starts the others."""
    processes = arguments[2]
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        store = os.path.join(folder, "store")
        given = list(map(str, arguments))
        others = [subprocess.Popen([sys.executable, __file__, "rank", *given, str(rank), store], stdout=subprocess.DEVNULL)
                  for rank in range(1, processes)]
        try:
            repeat_warm(distributed(*arguments, 0, store))
        finally:
            for other in others:
                other.kill()


def run(what, name, batch, processes, layout, size, *rank):
    arguments = (name, int(batch), int(processes), layout, int(size))
    match what:
        case "ddp":
            repeat_distributed(*arguments)
        case "rank":
            repeat_warm(distributed(*arguments, int(rank[0]), rank[1]))
        case _:
            repeat_warm(one_process(*arguments, together=what == "batch"))


def compare(args, name):
    given = [name, str(args.batch), str(args.processes), args.layout, str(args.size)]
    commands = {engine: [sys.executable, __file__, engine, *given] for engine in filter("none".__ne__, args.engines.split(","))}
    for also in args.also:
        engine, _, command = also.partition("=")
        commands[engine] = [part.replace("{model}", name) for part in shlex.split(command)]
    running = {}
    for engine, command in commands.items():
        try:
            running[engine] = Engine(command)
        except RuntimeError as error:
            print(f"benches/ddp_pytorch.py: {engine} does not run {name}: {error}", file=sys.stderr)
    times = measured(running, args.seconds)
    for engine, own in times.items():
        against = ratio(own, times.get("accumulate", []))
        own = [ms for ms in own if ms] or [float("nan")]
        print(f"| {name} | {args.processes} x {args.batch} | {engine} | {statistics.median(own):.4g} | {min(own):.4g} | "
              f"{running[engine].peak:.0f} | {against} |", flush=True)


def main():
    if sys.argv[1:2] and sys.argv[1] in [*ENGINES, "rank"]:
        return run(*sys.argv[1:])
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--batch", type=int, default=16, help="pictures of a process")
    arguments.add_argument("--processes", type=int, default=2)
    arguments.add_argument("--layout", choices=["nhwc", "nchw"], default="nhwc")
    arguments.add_argument("--seconds", type=float, default=60)
    arguments.add_argument("--size", type=int, default=224)
    arguments.add_argument("--engines", default=",".join(ENGINES))
    arguments.add_argument("--also", action="append", default=[], metavar="NAME=COMMAND")
    arguments.add_argument("models", nargs="*", default=["resnet50", "mobilenet_v2"])
    args = arguments.parse_args()
    print("| model | update | engine | ms, median | ms, least | MiB | ratio |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name in args.models:
        compare(args, name)


if __name__ == "__main__":
    with_package("timm", __file__)
    main()

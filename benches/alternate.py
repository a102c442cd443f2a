"""Programs that repeat a step, of which one runs at a time while the others stand still: see `benches/turns`, `benches/ddp_pytorch.py`."""
import os, pathlib, signal, statistics, subprocess, threading, time


def family(root):
    """A process and all that it has started, itself first."""
    children = {}
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name is in parentheses and may hold anything.
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(stat.parent.name))
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found


class Engine:
    """A program that prints when each of its runs started and ended. It may have started processes of its own."""

    def __init__(self, command):
        self.runs, self.turns, self.peak = [], [], 0.0
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.errors = []
        threading.Thread(target=self.read, daemon=True).start()
        threading.Thread(target=lambda: self.errors.extend(self.process.stderr), daemon=True).start()
        while len(self.runs) < 3:
            if self.process.poll() is not None:
                time.sleep(0.2)
                raise RuntimeError("".join(self.errors).strip().splitlines()[-1:] or ["no message"])
            time.sleep(0.02)
        self.send(signal.SIGSTOP)

    def read(self):
        for line in self.process.stdout:
            self.runs.append(tuple(map(float, line.split())))

    def send(self, sent):
        for pid in family(self.process.pid):
            try:
                os.kill(pid, sent)
            except ProcessLookupError:
                pass

    def turn(self, least):
        """At least `least` seconds, and time for four runs."""
        seconds = max(least, 4.2 * (self.runs[-1][1] - self.runs[-1][0]))
        self.send(signal.SIGCONT)
        start = time.time()
        time.sleep(seconds)
        self.turns.append((start, time.time()))
        self.send(signal.SIGSTOP)

    def milliseconds(self):
        """The median of each turn, None where no run counts. The program is ended."""
        self.peak = sum(map(peak_mib, family(self.process.pid)))
        self.end()
        whole = ([e - s for s, e in self.runs if s >= start and e <= end][1:] for start, end in self.turns)
        return [1e3 * statistics.median(times) if times else None for times in whole]

    def end(self):
        self.send(signal.SIGKILL)
        self.process.wait()


def peak_mib(pid):
    try:
        status = pathlib.Path(f"/proc/{pid}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 1024
    except (OSError, IndexError):
        return 0.0


def measured(running, seconds):
    """The medians of the turns of each engine. They run alternately, half a second or longer each."""
    end = time.time() + seconds
    try:
        while time.time() < end:
            for engine in running.values():
                engine.turn(0.5)
        return {name: engine.milliseconds() for name, engine in running.items()}
    finally:
        for engine in running.values():
            engine.end()


def ratio(ours, theirs):
    """The median over the rounds of a time over another, as text."""
    pairs = [b / a for a, b in zip(ours, theirs) if a and b]
    return f"{statistics.median(pairs):.2f}" if pairs else ""

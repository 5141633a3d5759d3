#!/usr/bin/env python3
"""An independent look at latency to consistency: create a signal, read it by id until it is there.

    prober.py CONTROL_HOST:PORT VIEW_HOST:PORT API_KEY SECONDS RATE

Prints one JSON object: samples, and medians in ms: of intended → first read that shows it; of its resolution (from the
last read without it, or the answer to the command, to that read's answer); and of how late it sent the command itself.
Several workers share the rate, so that a slow one delays no other; each follows its own schedule. Arrivals are Poisson:
on a fixed grid beside the fixed grid of a load, every sample would meet the same moment between two of its commands.
Plain sockets: the standard library's HTTP client takes as long as the servers do.
"""
import json, os, random, re, socket, statistics, sys, threading, time

control, view, key, seconds, rate = sys.argv[1:6]
seconds, rate = float(seconds), float(rate)
WORKERS = 4
latencies, widths, delays, lock = [], [], [], threading.Lock()
try:  # On a busy machine a prober that wakes late measures itself.
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
except PermissionError:
    pass


class Connection:
    def __init__(self, address):
        host, port = address.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.common = f"Host: {address}\r\nAuthorization: Bearer {key}\r\n"

    def request(self, line, body=""):
        more = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n" if body else ""
        self.socket.sendall(f"{line} HTTP/1.1\r\n{self.common}{more}\r\n{body}".encode())
        data = b""
        while b"\r\n\r\n" not in data:
            data += self.socket.recv(65536)
        head, content = data.split(b"\r\n\r\n", 1)
        length = int(re.search(rb"(?i)\r\ncontent-length: *(\d+)", head).group(1))
        while len(content) < length:
            content += self.socket.recv(65536)
        return int(head[9:12]), content


def work(number, start):
    commands, reads = Connection(control), Connection(view)
    gaps = random.Random(number)
    intended = start + gaps.expovariate(rate / WORKERS)
    body = json.dumps({"title": "prober", "payload": {"text": "x" * 160}})
    while intended < start + seconds:
        time.sleep(max(0.0, intended - time.monotonic()))
        sent = time.monotonic()
        status, document = commands.request("POST /v1/signals", body)
        assert status == 201, status
        line = "GET /v1/signals/" + json.loads(document)["id"]
        last = time.monotonic()
        while True:
            asked = time.monotonic()
            status, _ = reads.request(line)
            if status == 200:
                break
            assert status == 404, status
            last = asked
        now = time.monotonic()
        with lock:
            latencies.append((now - intended) * 1000)
            widths.append((now - last) * 1000)
            delays.append((sent - intended) * 1000)
        intended += gaps.expovariate(rate / WORKERS)


begin = time.monotonic() + 0.2
threads = [threading.Thread(target=work, args=(number, begin)) for number in range(WORKERS)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
medians = {"p50_ms": latencies, "resolution_p50_ms": widths, "late_p50_ms": delays}
print(json.dumps({"samples": len(latencies)} | {name: statistics.median(of) for name, of in medians.items()}))

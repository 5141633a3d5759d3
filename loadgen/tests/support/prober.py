#!/usr/bin/env python3
"""An independent look at latency to consistency: create a signal, read it by id until it is there.

    prober.py CONTROL_HOST:PORT VIEW_HOST:PORT API_KEY SECONDS RATE

Prints one JSON object: samples, and the median of intended → first read that shows it, in ms.
Several workers share the rate, so that a slow one delays no other; each follows its own schedule.
"""
import http.client, json, statistics, sys, threading, time

control, view, key, seconds, rate = sys.argv[1:6]
seconds, rate = float(seconds), float(rate)
WORKERS = 4
headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
latencies, lock = [], threading.Lock()


def work(number, start):
    commands, reads = http.client.HTTPConnection(control), http.client.HTTPConnection(view)
    commands.connect(), reads.connect()
    gap = WORKERS / rate
    intended = start + number * gap / WORKERS
    while intended < start + seconds:
        time.sleep(max(0.0, intended - time.monotonic()))
        body = json.dumps({"title": "prober", "payload": {"text": "x" * 160}})
        commands.request("POST", "/v1/signals", body, headers)
        answer = commands.getresponse()
        document = answer.read()
        assert answer.status == 201, answer.status
        path = "/v1/signals/" + json.loads(document)["id"]
        while True:
            reads.request("GET", path, headers=headers)
            answer = reads.getresponse()
            answer.read()
            if answer.status == 200:
                break
            assert answer.status == 404, answer.status
        with lock:
            latencies.append((time.monotonic() - intended) * 1000)
        intended += gap


begin = time.monotonic() + 0.2
threads = [threading.Thread(target=work, args=(number, begin)) for number in range(WORKERS)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(json.dumps({"samples": len(latencies), "p50_ms": statistics.median(latencies)}))

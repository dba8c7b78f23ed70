"""Fails unless a fuzzer's report has a response 200 for every operation of an OpenAPI document.

Usage: check_successes.py OPENAPI.json REPORT.har
"""

import json
import re
import sys
from urllib.parse import urlsplit

with open(sys.argv[1]) as file:
    document = json.load(file)
with open(sys.argv[2]) as file:
    entries = json.load(file)["log"]["entries"]

operations = []
for path, methods in document["paths"].items():
    pattern = re.compile(re.sub(r"\\{[^}]*\\}", "[^/]+", re.escape(path)))
    operations += [(method.upper(), path, pattern) for method in methods]

succeeded = set()
for entry in entries:
    request, status = entry["request"], entry["response"]["status"]
    path = urlsplit(request["url"]).path
    for method, template, pattern in operations:
        if status == 200 and method == request["method"] and pattern.fullmatch(path):
            succeeded.add((method, template))

missing = [f"{method} {path}" for method, path, _ in operations if (method, path) not in succeeded]
if missing:
    sys.exit(f"these operations never returned 200: {', '.join(missing)}")
print(f"{len(succeeded)} operations, each returned 200 at least once, in {len(entries)} requests")

"""Checks the server's OpenAPI document with a third-party validator.

Usage: openapi.py URL     for example: openapi.py http://localhost:8081
"""

import json
import sys
from urllib.request import urlopen

from openapi_spec_validator import OpenAPIV31SpecValidator

with urlopen(f"{sys.argv[1]}/openapi.json") as response:
    document = json.load(response)
OpenAPIV31SpecValidator(document).validate()
assert document["openapi"].startswith("3.1"), document["openapi"]
for path, operations in document["paths"].items():
    for method, operation in operations.items():
        assert operation["summary"] and operation["responses"], (method, path)
print(f"OpenAPI {document['openapi']}: {len(document['paths'])} paths, valid")

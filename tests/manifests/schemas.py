"""Strict checks of Kubernetes manifests: an unknown field, a missing field, and a value of the wrong type are errors."""

import json
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import fastjsonschema

# The newest release of Kubernetes that the package kubernetes-validate knows.
KUBERNETES = "v1.37.0-local-strict"
# Only the package's files are used. To import it would need packages that this test does not.
PACKAGE = Path(find_spec("kubernetes_validate").submodule_search_locations[0])
BUILT_IN = PACKAGE / "kubernetes-json-schema" / KUBERNETES
HERE = Path(__file__).parent


class Refused(Exception):
    """The API server would refuse the manifest, or drop a part of it."""


@cache
def definitions():
    return json.loads((BUILT_IN / "_definitions.json").read_text())["$defs"]


@cache
def built_in(definition):
    """The check of a built-in type, such as io.k8s.api.batch.v1.JobSpec."""
    return fastjsonschema.compile({"$defs": definitions(), "allOf": [{"$ref": f"#/$defs/{definition}"}]})


@cache
def kinds():
    """The type of each built-in kind, by its API version and kind."""
    found = {}
    for name, schema in definitions().items():
        for kind in schema.get("x-kubernetes-group-version-kind", ()):
            version = "/".join(filter(None, (kind["group"], kind["version"])))
            found[version, kind["kind"]] = name
    return found


def strict(schema):
    """Returns the schema of a CustomResourceDefinition as JSON schema that refuses unknown fields."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    made = {}
    for key, value in schema.items():
        # The names below `properties` are fields, not keywords.
        if key == "properties":
            made[key] = {name: strict(child) for name, child in value.items()}
        elif not key.startswith("x-kubernetes-"):
            made[key] = strict(value)
    open_object = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
    if "properties" in schema and not open_object:
        made["additionalProperties"] = False
    return made


@cache
def custom(version, kind):
    """The check of a kind that a project other than Kubernetes defines."""
    try:
        document = json.loads((HERE / f"{kind}.json").read_text())
    except FileNotFoundError:
        raise Refused(f"no schema of {kind} in {version}: see tests/manifests/vendor.py") from None
    if document["apiVersion"] != version:
        raise Refused(f"{kind}: {version} is not {document['apiVersion']}")
    return fastjsonschema.compile(strict(document["schema"]))


def apply(check, value, where):
    try:
        check(value)
    except fastjsonschema.JsonSchemaException as error:
        raise Refused(f"{where}: {error.message}") from None


def check(manifest):
    """Raises `Refused` if the manifest does not have the form of its kind."""
    version, kind = manifest["apiVersion"], manifest["kind"]
    where = f"{kind} {manifest['metadata']['name']}"
    if (version, kind) in kinds():
        apply(built_in(kinds()[version, kind]), manifest, where)
        return
    apply(custom(version, kind), manifest, where)
    # The schema of a custom kind says of `metadata` only that it is an object.
    apply(built_in("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"), manifest["metadata"], where)

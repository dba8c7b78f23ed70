"""Makes the schemas in this directory from the projects' own CustomResourceDefinitions.

Usage: target/tools/bin/python tests/manifests/vendor.py PROJECT RELEASE CRD.yaml KIND

PROJECT is the repository, such as argoproj/argo-rollouts. Run it for each kind when a newer release is to be supported.

The schemas are trimmed: without descriptions, and without properties that no manifest here uses. A trimmed property is refused
like an unknown one, so trimming can only make the test stricter.
"""

import json
import sys
from pathlib import Path

from ruamel.yaml import YAML

# Properties of pods, of Argo's metrics, and of Flagger's meshes.
TRIMMED = {
    "affinity", "ephemeralContainers", "lifecycle", "topologySpreadConstraints", "grpc", "tcpSocket", "dnsConfig", "hostAliases",
    "awsElasticBlockStore", "azureDisk", "azureFile", "cephfs", "cinder", "csi", "downwardAPI", "ephemeral", "fc", "flexVolume",
    "flocker", "gcePersistentDisk", "gitRepo", "glusterfs", "iscsi", "nfs", "persistentVolumeClaim",
    "photonPersistentDisk", "portworxVolume", "projected", "quobyte", "rbd", "scaleIO", "storageos", "vsphereVolume",
    "windowsOptions", "seLinuxOptions", "resourceClaims", "volumeDevices", "workloadRef",
    "cloudWatch", "datadog", "graphite", "influxdb", "kayenta", "newRelic", "plugin", "prometheus", "skywalking", "wavefront",
    "web", "canary", "corsPolicy", "trafficPolicy", "headers", "match", "rewrite", "gatewayRefs", "mirror",
    "sessionAffinity", "trafficRouting",
}  # fmt: skip


def trim(schema):
    """Returns the schema without descriptions and trimmed properties."""
    if isinstance(schema, list):
        return [trim(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {}
    for key, value in schema.items():
        if key == "properties":
            kept[key] = {name: trim(child) for name, child in value.items() if name not in TRIMMED}
        elif key not in ("description", "default", "format") or isinstance(value, dict):
            kept[key] = trim(value)
    return kept


def main():
    project, release, path, kind = sys.argv[1:]
    for crd in YAML(typ="safe", pure=True).load_all(Path(path)):
        if crd["spec"]["names"]["kind"] != kind:
            continue
        for version in crd["spec"]["versions"]:
            # The controllers write it.
            version["schema"]["openAPIV3Schema"]["properties"].pop("status", None)
            document = {
                "source": f"https://github.com/{project}, {release}, trimmed by vendor.py",
                # Both projects have this license.
                "license": "Apache-2.0, see models/licenses/Apache-2.0.txt",
                "apiVersion": f"{crd['spec']['group']}/{version['name']}",
                "kind": kind,
                "schema": trim(version["schema"]["openAPIV3Schema"]),
            }
            text = json.dumps(document, indent=1)
            Path(__file__).with_name(f"{kind}.json").write_text(text + "\n")


if __name__ == "__main__":
    main()

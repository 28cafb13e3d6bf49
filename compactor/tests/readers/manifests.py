"""Kubernetes' objects as JSON, each looked at by the schemas of the oldest and the newest version that there are for.

usage: manifests.py OLDEST MANIFESTS
"""

import json
import sys

import kubernetes_validate as kubernetes
import yaml

# what the Prometheus operator adds to Kubernetes
FOREIGN = {"PodMonitor"}

oldest, manifests = sys.argv[1:]
with open(manifests) as file:
    objects = list(yaml.safe_load_all(file))
for object in objects:
    if object["kind"] in FOREIGN:
        continue
    for version in (oldest, kubernetes.latest_version()):
        try:
            # strict: what it does not know is a mistake
            taken = kubernetes.validate(object, version, strict=True)
        except kubernetes.ValidationError as error:
            where = "/".join(map(str, error.path))
            sys.exit(f"{object['kind']} {object['metadata']['name']}, Kubernetes {version}: {where}: {error.message}")
        assert version.startswith(taken), f"no schemas of {version}, but of {taken}"
print(json.dumps(objects))

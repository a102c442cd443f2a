#!/usr/bin/env python3
"""Validates the Kubernetes manifests under examples/ against the schemas of their operators, as a server does that refuses unknown fields.

    scripts/check_manifests.py CRD.yaml .. [--manifests FILE ..]

CRD.yaml are files with CustomResourceDefinitions, which are not in this repository. Of Kubeflow's mpi-operator:
`deploy/v2beta1/mpi-operator.yaml`; of KServe: `config/crd/full/serving.kserve.io_servingruntimes.yaml` and
`config/crd/full/serving.kserve.io_inferenceservices.yaml`, of the release that the cluster runs. Without --manifests, all of
examples/kubeflow and examples/kserve are checked.

Checked are types, required fields, enumerations, patterns and unknown fields. The script checks itself too: a manifest with an unknown field, in any
of its objects, or with an object where a number belongs, must be refused. Rules in the language CEL and what an operator checks beyond its schema
are not checked. Needs the packages pyyaml and jsonschema.
"""
import argparse, copy, pathlib, sys

import jsonschema, yaml

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDERS = ["examples/kubeflow", "examples/kserve"]


def documents(path):
    with open(path, encoding="utf-8") as file:
        return [document for document in yaml.safe_load_all(file) if document]


def strict(schema):
    """A schema of Kubernetes as one of JSON Schema that takes no unknown field."""
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"anyOf": [{"type": "integer"}, {"type": "string", **{k: schema[k] for k in ["pattern"] if k in schema}}]}
    left_out = ("nullable", "default", "description", "format")
    made = {key: value for key, value in schema.items() if not key.startswith("x-kubernetes-") and key not in left_out}
    if "properties" in made:
        made["properties"] = {name: strict(part) for name, part in made["properties"].items()}
    for key in ("items", "additionalProperties", "not"):
        if key in made:
            made[key] = strict(made[key])
    for key in ("allOf", "anyOf", "oneOf"):
        if key in made:
            made[key] = [strict_part(part) for part in made[key]]
    open_ended = schema.get("x-kubernetes-preserve-unknown-fields") or schema.get("x-kubernetes-embedded-resource")
    if "properties" in made and "additionalProperties" not in made and not open_ended:
        made["additionalProperties"] = False
    if schema.get("nullable"):
        made = {"anyOf": [{"type": "null"}, made]}
    return made


def strict_part(schema):
    """A branch of a junctor only restricts what the schema around it describes."""
    return {key: value for key, value in schema.items() if not key.startswith("x-kubernetes-")}


def schemas(paths):
    """The schemas of the resources, by (apiVersion, kind)."""
    found = {}
    for path in paths:
        for crd in documents(path):
            if crd.get("kind") != "CustomResourceDefinition":
                continue
            spec = crd["spec"]
            for version in spec["versions"]:
                if version["served"]:
                    schema = strict(version["schema"]["openAPIV3Schema"])
                    # What every resource has; the schema of a CRD says no more of it than that it is an object.
                    schema["properties"]["metadata"] = {"type": "object", "required": ["name"]}
                    found[f"{spec['group']}/{version['name']}", spec["names"]["kind"]] = schema
    return found


def errors(schema, document):
    found = jsonschema.Draft7Validator(schema).iter_errors(document)
    return [f"{'/'.join(map(str, error.absolute_path)) or '.'}: {error.message[:200]}" for error in found]


def places(document, path=()):
    """The paths of all objects and of all whole numbers of a document."""
    if isinstance(document, dict):
        yield path, True
        for key, value in document.items():
            yield from places(value, (*path, key))
    elif isinstance(document, list):
        for index, value in enumerate(document):
            yield from places(value, (*path, index))
    elif isinstance(document, int) and not isinstance(document, bool):
        yield path, False


def at(document, path):
    for key in path:
        document = document[key]
    return document


# Objects whose keys are free, and the metadata, of which the schema says nothing.
FREE = {"metadata", "labels", "annotations", "limits", "requests", "nodeSelector", "matchLabels", "mpiReplicaSpecs"}


def on_purpose(schema, document):
    """Faults that are put into a document on purpose: where, and whether they are found."""
    for path, is_object in places(document):
        if FREE & set(path[-1:]) or path[:1] == ("metadata",):
            continue
        broken = copy.deepcopy(document)
        if is_object:
            at(broken, path)["noSuchField"] = "x"
        elif {"limits", "requests"} & set(path) or isinstance(at(broken, path[:-1]), list):
            continue
        else:
            at(broken, path[:-1])[path[-1]] = {"not": "a number"}
        yield "/".join(map(str, path)), bool(errors(schema, broken))


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("crds", nargs="+", metavar="CRD.yaml")
    arguments.add_argument("--manifests", nargs="+", type=pathlib.Path)
    args = arguments.parse_args()
    known = schemas(args.crds)
    files = args.manifests or sorted(path for folder in FOLDERS for path in (ROOT / folder).glob("*.yaml"))
    bad = not files
    for path in files:
        for document in documents(path):
            kind = document.get("apiVersion"), document.get("kind")
            name = f"{path.name}: {kind[0]} {kind[1]}"
            if kind not in known:
                print(f"{name}: none of the CRDs describes it")
                bad = True
                continue
            found = errors(known[kind], document)
            faults = list(on_purpose(known[kind], document))
            found += [f"{place}: a fault put there on purpose is not found" for place, noticed in faults if not noticed]
            bad |= bool(found)
            print(f"{name}: {'refused' if found else 'valid'}; {sum(noticed for _, noticed in faults)} of {len(faults)} faults on purpose are refused")
            print("".join(f"  {line}\n" for line in found), end="")
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())

"""Schemas of the kinds that operators add to Kubernetes, with unknown fields refused.

Those of the Prometheus operator and of KEDA are the published ones, out of the PyPI packages
cloudcoil.models.prometheus_operator and cloudcoil.models.keda. No package ships those of the Gateway API and of its
inference extension: below are schemas of the fields that our manifests use, after the APIs' public reference pages
(gateway.networking.k8s.io/v1 and inference.networking.k8s.io/v1). They refuse every other field, known or not.
"""
import re

PACKAGES = ["cloudcoil.models.prometheus_operator==0.80.1.0", "cloudcoil.models.keda==2.16.1.0"]


def fields(required, **properties):
    """An object with these fields and no others; "name metadata" are the required ones."""
    return {"type": "object", "properties": properties, "required": required.split(), "additionalProperties": False}


def listed(items, least=1):
    return {"type": "array", "items": items, "minItems": least}


NAME = {"type": "string", "minLength": 1, "maxLength": 253}
PORT = {"type": "integer", "minimum": 1, "maximum": 65535}
LABELS = {"type": "object", "additionalProperties": {"type": "string", "maxLength": 63}}
METADATA = fields("name", name=NAME, namespace=NAME, labels=LABELS, annotations={
    "type": "object", "additionalProperties": {"type": "string"}})
# GEP-2257: up to four pairs of one to five digits and a unit.
DURATION = {"type": "string", "pattern": "^([0-9]{1,5}(h|m|s|ms)){1,4}$"}


def document(api_version, kind, spec):
    return fields("apiVersion kind metadata spec", apiVersion={"const": api_version}, kind={"const": kind},
                  metadata=METADATA, spec=spec)


INFERENCE_POOL = document("inference.networking.k8s.io/v1", "InferencePool", fields(
    "selector targetPorts endpointPickerRef",
    selector=fields("matchLabels", matchLabels={**LABELS, "minProperties": 1}),
    targetPorts={**listed(fields("number", number=PORT)), "maxItems": 8},
    endpointPickerRef=fields("name port", group={"type": "string"}, kind={"type": "string"}, name=NAME,
                             port=fields("number", number=PORT), failureMode={"enum": ["FailOpen", "FailClose"]})))

HTTP_ROUTE = document("gateway.networking.k8s.io/v1", "HTTPRoute", fields(
    "parentRefs rules",
    parentRefs=listed(fields("name", group={"type": "string"}, kind={"type": "string"}, namespace=NAME, name=NAME,
                             sectionName=NAME, port=PORT)),
    hostnames=listed(NAME),
    rules=listed(fields(
        "backendRefs", name=NAME,
        matches=listed(fields("path", path=fields(
            "type value", type={"enum": ["Exact", "PathPrefix", "RegularExpression"]},
            value={"type": "string", "maxLength": 1024}))),
        backendRefs=listed(fields("name", group={"type": "string"}, kind={"type": "string"}, namespace=NAME, name=NAME,
                                  port=PORT, weight={"type": "integer", "minimum": 0, "maximum": 1000000})),
        timeouts=fields("", request=DURATION, backendRequest=DURATION)))))


def strict(schema):
    """A copy of a JSON schema in which objects with named fields take no others."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    copy = {key: strict(value) for key, value in schema.items()}
    if isinstance(schema.get("pattern"), str):  # Go lets flags stand anywhere, Python at the beginning alone
        copy["pattern"] = re.sub(r"^\^\(\?i\)", "(?i)^", schema["pattern"])
    if isinstance(schema.get("properties"), dict) and "additionalProperties" not in schema:
        copy["additionalProperties"] = False
    return copy


def published(model):
    return strict(model.model_json_schema(by_alias=True))


def load():
    """Kind → JSON schema."""
    from cloudcoil.models.keda.v1alpha1 import ScaledObject
    from cloudcoil.models.prometheus_operator.v1 import PodMonitor, PrometheusRule
    return {"PodMonitor": published(PodMonitor), "PrometheusRule": published(PrometheusRule),
            "ScaledObject": published(ScaledObject), "InferencePool": INFERENCE_POOL, "HTTPRoute": HTTP_ROUTE}

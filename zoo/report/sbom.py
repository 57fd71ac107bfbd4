"""What an exported model is made of, as a bill of materials in the CycloneDX format."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zoo import __version__
from zoo.artifacts.manifest import ModelManifest
from zoo.artifacts.runs import all_known
from zoo.errors import MissingExtraError

if TYPE_CHECKING:
    from cyclonedx.model.component import Component
    from cyclonedx.model.license import DisjunctiveLicense

_NOT_OURS = ("zoo",)
"""Of a manifest's versions, the names that belong to another project on the package index."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceWeights:
    """Pretrained weights that a model began from."""

    name: str
    """`<plugin>/<name>@<tag>`."""
    license: str | None
    sha256: str | None


def source_weights(manifest: ModelManifest) -> list[SourceWeights]:
    """The pretrained weights of a model and its heads, or of each member of a cascade; none of one from scratch."""
    # Backbones that were trained as one have one digest and the licences of all.
    members = _member_runs(manifest) or [
        {
            "backbone": answer.backbone,
            "weights": answer.weights,
            "weights_license": answer.weights_license,
            "weights_sha256": answer.source_weights_sha256,
        }
        for answer in manifest.answers
    ]
    found = [
        SourceWeights(
            name=f"{member['backbone']}@{member['weights']}",
            license=member["weights_license"],
            sha256=member["weights_sha256"],
        )
        for member in members
        if member["weights"] != "none"
    ]
    return list(dict.fromkeys(found))


def weights_license(manifest: ModelManifest) -> str | None:
    """The licences of all pretrained weights of a model that are known, those of its heads too."""
    return all_known([answer.weights_license for answer in manifest.answers])


def _member_runs(manifest: ModelManifest) -> Sequence[Mapping[str, Any]]:
    """The members of a cascade of runs; none of one model, also of several backbones that were trained as one."""
    members = manifest.cascade["members"] if manifest.cascade else ()
    return [member for member in members if "weights_sha256" in member]


def spdx_id(license_: str) -> str | None:
    """The identifier of a licence in the SPDX list, spelt as there; None where it is not in it."""
    _require_cyclonedx()
    from cyclonedx.spdx import fixup_id

    return fixup_id(license_)


def bill_of_materials(manifest: ModelManifest, *, file: str, sha256: str, card: str, marker: str) -> str:
    """The CycloneDX 1.6 JSON of a model file with that digest: its weights, their licences, the libraries it took.

    `card` is the name of its model card, `marker` what tells whose the bill is.
    Raises MissingExtraError without the extra `card`.
    """
    _require_cyclonedx()
    from cyclonedx.model import ExternalReference, ExternalReferenceType, Property, XsUri
    from cyclonedx.model.bom import Bom, BomMetaData
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.model.tool import ToolRepository
    from cyclonedx.output import make_outputter
    from cyclonedx.schema import OutputFormat, SchemaVersion

    facts = {
        "task": manifest.task,
        "precision": manifest.precision,
        "backbone": manifest.backbone,
        "strategy": manifest.strategy,
        "data fingerprint": manifest.data_fingerprint,
        "run": manifest.run_sha256,
    }
    model = _model(file, sha256, weights_license(manifest))
    model.external_references.add(ExternalReference(type=ExternalReferenceType.MODEL_CARD, url=XsUri(card)))
    model.properties.update(Property(name=f"zoo:{key}", value=value) for key, value in facts.items() if value)
    # Of a cascade the manifest holds a digest of digests, which is that of no file.
    trained = None if _member_runs(manifest) else manifest.run_weights_sha256
    parts = [
        _model("trained weights", trained, manifest.weights_license),
        *(
            _model(f"trained weights of {head.name}", head.run_weights_sha256, head.weights_license)
            for head in manifest.heads
        ),
        *(_model(source.name, source.sha256, source.license) for source in source_weights(manifest)),
        *(_library(package, version) for package, version in manifest.versions.items()),
    ]
    bom = Bom(
        components=parts,
        metadata=BomMetaData(
            component=model,
            tools=ToolRepository(
                components=[Component(type=ComponentType.APPLICATION, name="zoo", version=__version__)]
            ),
            properties=[Property(name="zoo:generator", value=marker)],
        ),
    )
    bom.register_dependency(model, parts)
    return make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string(indent=2) + "\n"


def _model(name: str, sha256: str | None, license_: str | None) -> Component:
    from cyclonedx.model import HashAlgorithm, HashType
    from cyclonedx.model.component import Component, ComponentType

    return Component(
        type=ComponentType.MACHINE_LEARNING_MODEL,
        name=name,
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=sha256)] if sha256 else [],
        licenses=list(_licenses(license_)),
    )


def _library(name: str, version: str) -> Component:
    from cyclonedx.model.component import Component, ComponentType
    from packageurl import PackageURL

    return Component(
        type=ComponentType.LIBRARY,
        name=name,
        version=version,
        purl=None if name in _NOT_OURS else PackageURL("pypi", name=name, version=version),
    )


def _licenses(text: str | None) -> Iterator[DisjunctiveLicense]:
    from cyclonedx.model.license import DisjunctiveLicense

    for name in text.split(" and ") if text else ():  # as `zoo.artifacts.runs.all_known` joins them
        known = spdx_id(name)
        yield DisjunctiveLicense(id=known) if known else DisjunctiveLicense(name=name)


def _require_cyclonedx() -> None:
    try:
        import cyclonedx  # noqa: F401
    except ModuleNotFoundError:
        raise MissingExtraError(
            "cyclonedx-python-lib is not installed: cards need it; pip install 'zoo[card]'"
        ) from None

"""The compiled program: integer network, mapping, the full profile and where it all comes from, in one .spk file.

A .spk is a safetensors file: every array is a tensor, everything else one JSON entry with a sha256 over both.  Saving
is deterministic; loading checks the bytes, the structure and the references, and never executes anything.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from spikformer_deploy.base.errors import InputError, MappingError, ProgramError
from spikformer_deploy.base.files import check_file, write_whole
from spikformer_deploy.base.flat import built, checksum, flat
from spikformer_deploy.base.formats import ENTRY
from spikformer_deploy.base.json_text import parsed, sealed
from spikformer_deploy.base.notebook import as_html, as_text
from spikformer_deploy.base.plain import require, table
from spikformer_deploy.chips import profile as hardware
from spikformer_deploy.chips.profile import Profile
from spikformer_deploy.data.images import Preprocess
from spikformer_deploy.data.labels import check_names, class_names
from spikformer_deploy.mapping.map import verify_mapping
from spikformer_deploy.network.law import check_network
from spikformer_deploy.network.mapping import Mapping
from spikformer_deploy.network.network import Network
from spikformer_deploy.network.neurons import Source
from spikformer_deploy.pipeline.origin import check_images, check_origin

FORMAT = 2
LARGEST_FILE = 2**32
"""No program of a known board comes near; a larger file is refused before it is read."""


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """A network compiled for a target.

    labels      class names, each once; may be empty
    provenance  name -> plain value: source file and its sha256, settings, calibration, versions
    """

    network: Network
    mapping: Mapping
    profile: Profile
    preprocess: Preprocess
    labels: tuple[str, ...]
    provenance: dict[str, Any]

    def __post_init__(self) -> None:
        check_names("class names", self.labels)

    def __repr__(self) -> str:
        return as_text("Program", self._facts())

    def _repr_html_(self) -> str:
        return as_html("Program", self._facts())

    def _facts(self) -> dict[str, str]:
        """What it shows of itself, in words."""
        network, mapping = self.network, self.mapping
        expected = self.provenance.get("mapping", {}).get("expected", {})
        shape = "x".join(map(str, network.input.shape))
        inputs = f"{self.frames} frames" if self.frames else f"one image for {network.time_steps} steps"
        facts = {
            "model": f"sha256 {self.provenance.get('model_sha256', 'unknown')[:16]}",
            "input": f"{shape}, {inputs}",
            "classes": f"{network.output.size}",
            "layers": f"{len(network.populations)} of {sum(p.size for p in network):,} neurons",
            "weights": _bits(network),
            "target": self.profile.name,
            "cores": f"{mapping.cores_used} on {mapping.chips} chip" + "s" * (mapping.chips != 1),
        }
        if "step_us" in expected:
            facts["step"] = f"{expected['step_us']:.3g} us expected from calibration"
        return facts

    @property
    def frames(self) -> int:
        """How many frames an input has, one a time step; 0: it is one image."""
        source = self.network.input.neuron
        return self.network.time_steps if isinstance(source, Source) and source.per_step else 0

    def save(self, path: str | Path) -> None:
        """Write the program, whole or not at all.  Same program, same bytes."""
        write_whole(Path(path), to_bytes(self))

    def digest(self) -> str:
        """sha256 of the file that save would write."""
        return hashlib.sha256(to_bytes(self)).hexdigest()

    @staticmethod
    def load(path: str | Path) -> Program:
        """Read a program.

        Raises InputError for what is no readable file, ProgramError for one that is damaged, foreign or of another
        version.
        """
        path = Path(path)
        check_file(path, "Compile a program first.")
        try:
            size = path.stat().st_size
            if size > LARGEST_FILE:
                raise ProgramError(str(path), f"{size:,} bytes; no program is larger than {LARGEST_FILE:,}")
            content = path.read_bytes()
        except OSError as error:
            raise InputError(str(path), f"it cannot be read: {error.strerror}", "Compile a program first.") from None
        return from_bytes(content, str(path))


def _bits(network: Network) -> str:
    """Weight bits, in words: of all layers, or of those with the fewest and the most."""
    bits = {network.bits_of(projection) for projection in network.projections}
    return f"{min(bits)} to {max(bits)} bits" if len(bits) > 1 else f"{network.weight_bits} bits"


def to_bytes(program: Program) -> bytes:
    """The content of the .spk file."""
    tensors: dict[str, NDArray[Any]] = {}
    structure = {
        "format": FORMAT,
        "network": flat(program.network, "network", tensors),
        "mapping": flat(program.mapping, "mapping", tensors),
        "profile": hardware.to_dict(program.profile),
        "preprocess": flat(program.preprocess, "preprocess", tensors),
        "labels": list(program.labels),
        "provenance": program.provenance,
    }
    structure["sha256"] = checksum(structure, tensors)
    text = sealed(structure)
    return save_tensors(tensors, {ENTRY: text})


def from_bytes(content: bytes, place: str) -> Program:
    """The program in the content of a .spk file; `place` names it in errors.

    A valid checksum says that nothing was damaged, not that it makes sense: every field is held against its law.
    """
    try:
        structure, tensors = _parsed(content, place)
    except (SafetensorError, ValueError, KeyError) as error:
        raise ProgramError(place, f"it is no readable program: {error}", "Compile it again.") from None
    if structure.get("format") != FORMAT:
        problem = f"it has format {structure.get('format')}, and this version reads {FORMAT}"
        raise ProgramError(place, problem, "Update, or compile it again.")
    stated = structure.pop("sha256", None)
    if stated != checksum(structure, tensors):
        raise ProgramError(place, "its content does not match its checksum: it is damaged", "Copy or compile it again.")
    try:
        program = _program(structure, tensors)
    except (KeyError, TypeError, ValueError, InputError) as error:
        raise ProgramError(place, f"its structure is not that of a program: {error}", "Compile it again.") from None
    if to_bytes(program) != content:
        raise ProgramError(place, "its bytes are not those of a saved program: it is damaged", "Compile it again.")
    try:
        check_program(program)
    except (ValueError, MappingError) as error:
        raise ProgramError(place, f"it contradicts itself: {error}", "Compile it again.") from None
    return program


def check_program(program: Program) -> None:
    """Raise ValueError or MappingError, naming the place, where a program does not mean what it says."""
    network = program.network
    check_network(network)
    if network.state_bits > program.profile.limits.state_bits:
        problem = f"{network.state_bits} bits of state, and target '{program.profile.name}' has"
        raise ValueError(f"network: {problem} {program.profile.limits.state_bits}")
    verify_mapping(program.mapping, network, program.profile)
    check_images(program.preprocess, network)
    check_origin(program.provenance)


def _parsed(content: bytes, place: str) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    size = int.from_bytes(content[:8], "little")
    metadata = table("its header", parsed(content[8 : 8 + size])).get("__metadata__", {})
    if ENTRY not in metadata:
        raise ProgramError(
            place, "it is a safetensors file of something else", "Give a program of `spikdeploy compile`."
        )
    structure = table("its entry", parsed(metadata[ENTRY]))
    if structure.get("kind") == "checkpoint":
        raise ProgramError(place, "it is a model, not a program", "Compile it first: spikdeploy compile.")
    return structure, load_tensors(content)


def _program(structure: dict[str, Any], tensors: dict[str, NDArray[Any]]) -> Program:
    for array in tensors.values():
        array.setflags(write=False)
    network = built(Network, structure["network"], tensors, "network")
    # the last one says how many classes there are
    require(bool(network.populations), "network.populations: there are none")
    return Program(
        network=network,
        mapping=built(Mapping, structure["mapping"], tensors, "mapping"),
        profile=hardware.from_dict(structure["profile"]),
        preprocess=built(Preprocess, structure["preprocess"], tensors, "preprocess"),
        labels=class_names(structure["labels"], network.output.size),
        provenance=table("provenance", structure["provenance"]),
    )

"""Random projections that keep inner products: gradients of any length in, `dim` numbers out.

A projection is fed one piece of the gradient at a time, so that the whole gradient of a batch need not exist at
once. The pieces' random numbers depend on the seed and the piece's name alone: vectors of different batches,
shards and timesteps can be compared.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import torch


class Projection(Protocol):
    """The projection of one batch's gradients."""

    def add(self, name: str, piece: torch.Tensor) -> None:
        """Take in a named piece of the gradients: (b, size of the piece) float32."""
        ...

    def vectors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(b, dim) projections and (b,) L2 norms of the gradients before projection."""
        ...


class Projector(ABC):
    """Projects the gradients of a batch to `dim` numbers."""

    dim: int

    @abstractmethod
    def batch(self, rows: int, device: torch.device) -> Projection:
        """Begin with the gradients of `rows` samples."""

    def project(self, pieces: Iterable[tuple[str, torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Project gradients of which all the pieces are there. See `Projection`."""
        held = list(pieces)
        projection = self.batch(len(held[0][1]), held[0][1].device)
        for name, piece in held:
            projection.add(name, piece)
        return projection.vectors()


class CountSketch(Projector):
    """Every coordinate is added with a random sign to one random entry of the sketch.

    Unbiased for inner products, with variance ≤ (‖x‖²‖y‖² + ⟨x, y⟩²) / dim, in time linear in the
    gradient's length. Source: Charikar, Chen, Farach-Colton 2002 (https://doi.org/10.1007/3-540-45465-9_59);
    Weinberger et al. 2009, https://arxiv.org/abs/0902.2206, Lemma 2.
    """

    def __init__(self, dim: int, seed: int) -> None:
        self.dim = dim
        self.seed = seed
        self._slots: dict[tuple[str, ...], torch.Tensor] = {}

    def batch(self, rows: int, device: torch.device) -> Projection:
        return _Sketch(self, rows, device)

    def slots(self, names: tuple[str, ...], sizes: Sequence[int], device: torch.device) -> torch.Tensor:
        """(sum of sizes,) int64: the entry of every coordinate of some pieces; dim further on, that with sign −1."""
        if names not in self._slots:
            drawn = [self._drawn(name, size) for name, size in zip(names, sizes, strict=True)]
            self._slots[names] = torch.cat(drawn).to(device)
        return self._slots[names]

    def _drawn(self, name: str, size: int) -> torch.Tensor:
        digest = hashlib.sha256(f"{self.seed}/{name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
        return torch.randint(2 * self.dim, (size,), generator=generator)


TOGETHER = 1 << 14
"""Coordinates that are sketched in one call, where pieces are small: less than that costs as much."""


class _Sketch:
    def __init__(self, projector: CountSketch, rows: int, device: torch.device) -> None:
        self.projector = projector
        # Coordinates of either sign are summed apart: one addition each, and the signs cost nothing.
        self.sums = torch.zeros(rows, 2 * projector.dim, device=device)
        self.square = torch.zeros(rows, device=device)
        self._waiting: dict[str, torch.Tensor] = {}

    def add(self, name: str, piece: torch.Tensor) -> None:
        self._waiting[name] = piece
        if sum(each.shape[1] for each in self._waiting.values()) >= TOGETHER:
            self._sketch_waiting()

    def vectors(self) -> tuple[torch.Tensor, torch.Tensor]:
        if self._waiting:
            self._sketch_waiting()
        plus, minus = self.sums.chunk(2, dim=1)
        return plus - minus, self.square.sqrt()

    def _sketch_waiting(self) -> None:
        pieces = list(self._waiting.values())
        piece = torch.cat(pieces, dim=1) if len(pieces) > 1 else pieces[0]
        names = tuple(self._waiting)
        slots = self.projector.slots(names, [each.shape[1] for each in pieces], piece.device)
        self.sums.scatter_add_(1, slots.expand(len(piece), -1), piece)
        self.square += torch.linalg.vector_norm(piece, dim=1).square()
        self._waiting.clear()


class Trak(Projector):
    """TRAK's dense Rademacher projection, as the released Adapt-∞ uses it.

    Scaled by 1/√dim, so that inner products are unbiased. On a GPU where `fast_jl` is installed it is that.
    Source: Park et al. 2023, https://arxiv.org/abs/2303.14186, §3; package `traker`.
    """

    def __init__(self, dim: int, seed: int) -> None:
        self.dim = dim
        self.seed = seed
        self._projectors: dict[int, Any] = {}

    def batch(self, rows: int, device: torch.device) -> Projection:
        return _Whole(self)

    def of_size(self, size: int, device: torch.device) -> Any:
        """TRAK's own projector of gradients of `size` numbers."""
        if size not in self._projectors:
            # TRAK seeds a 32-bit generator.
            self._projectors[size] = _trak_projector(size, self.dim, self.seed % (1 << 31), device)
        return self._projectors[size]


class _Whole:
    """Holds the pieces until all are there: a dense projection has one matrix for the gradient as a whole."""

    def __init__(self, projector: Trak) -> None:
        self.projector = projector
        self.pieces: dict[str, torch.Tensor] = {}

    def add(self, name: str, piece: torch.Tensor) -> None:
        self.pieces[name] = piece

    def vectors(self) -> tuple[torch.Tensor, torch.Tensor]:
        gradient = torch.cat([self.pieces[name] for name in sorted(self.pieces)], dim=1)
        trak = self.projector.of_size(gradient.shape[1], gradient.device)
        return trak.project(gradient, model_id=0) / self.projector.dim**0.5, gradient.norm(dim=1)


REMEMBERED_BYTES = 1 << 30
"""Most memory that the signs of a TRAK projection may take; larger ones are drawn anew for every batch."""


def _trak_projector(size: int, dim: int, seed: int, device: torch.device) -> Any:
    from importlib.util import find_spec

    from trak.projectors import BasicProjector, CudaProjector, ProjectionType

    class Remembering(BasicProjector):  # type: ignore[misc]
        """Draws each block of the matrix once: drawing takes nearly all of TRAK's time."""

        def generate_sketch_matrix(self, generator_state: torch.Tensor) -> None:
            blocks = self.__dict__.setdefault("blocks", {})
            key = generator_state.numpy().tobytes()
            if key in blocks:
                self.proj_matrix.copy_(blocks[key])
                return
            super().generate_sketch_matrix(generator_state)
            if size * dim <= REMEMBERED_BYTES:
                blocks[key] = self.proj_matrix.to(torch.int8)

    kind = {"grad_dim": size, "proj_dim": dim, "seed": seed, "proj_type": ProjectionType.rademacher}
    if device.type == "cuda" and find_spec("fast_jl"):
        return CudaProjector(**kind, device=device, max_batch_size=16)
    return Remembering(**kind, device=device, dtype=torch.float32)


class NormsOnly(Projector):
    """No projection: for recipes that want the gradient's norm and no vector."""

    dim = 0

    def batch(self, rows: int, device: torch.device) -> Projection:
        return _Norms(rows, device)


class _Norms:
    def __init__(self, rows: int, device: torch.device) -> None:
        self.square = torch.zeros(rows, device=device)

    def add(self, name: str, piece: torch.Tensor) -> None:
        self.square += torch.linalg.vector_norm(piece, dim=1).square()

    def vectors(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.square.new_zeros(len(self.square), 0), self.square.sqrt()


PROJECTORS: dict[str, type[CountSketch] | type[Trak]] = {"sketch": CountSketch, "trak": Trak}

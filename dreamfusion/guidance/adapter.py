"""A trainable low-rank adapter (LoRA, Hu et al. 2022) of a prior's frozen network, through peft.

The network is shared by the runs of a process; the adapter's parameters belong to the distillation of one run.
"""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dreamfusion.ops.constants import constant
from dreamfusion.ops.cuda_graph import CudaGraph, replayable
from dreamfusion.types import Branch

NAME = "distillation"  # of the adapter in the network's layers


class Adapter(nn.Module):
    """The adapter's parameters; `enable` adds them to the network's layers or leaves them out."""

    def __init__(self, network: Any, rank: int, layers: Sequence[str], camera_at: str | None) -> None:
        """Add an adapter, not enabled, whose output is zero at first.

        Args:
            network: its parameters need no gradient.
            rank: of the matrices.
            layers: ends of the names of the linear and convolutional layers that get an adapter.
            camera_at: the network's embedding of the time, to whose output an embedding of the camera matrix is
                added (Wang et al. 2023, ProlificDreamer); None: the network is conditioned on the camera itself.

        Raises:
            ValueError: the network has no such layers, `rank` is below 1, or peft is not installed.
        """
        from diffusers.models.embeddings import TimestepEmbedding

        try:
            from peft import LoraConfig, inject_adapter_in_model
        except ImportError as error:
            raise ValueError("distillation=vsd needs peft; type pip install 'dreamfusion[vsd]'") from error
        super().__init__()
        if rank < 1:
            raise ValueError(f"distillation.rank is {rank}; it must be 1 or more")
        settings = LoraConfig(r=rank, lora_alpha=rank, target_modules=list(layers))
        inject_adapter_in_model(settings, network, adapter_name=NAME)
        self._network = (network,)  # a tuple: not part of this module
        self._places: list[tuple[Any, str, Any]] = [
            (parent, name, layer)
            for parent in network.modules()
            for name, layer in parent.named_children()
            if hasattr(layer, "enable_adapters")
        ]
        self.lora = nn.ParameterList(p for name, p in network.named_parameters() if "lora_" in name).float()
        self.camera: Any = None
        self._matrix: Tensor | None = None
        self._hook: Any = None
        if camera_at is not None:
            time = network.get_submodule(camera_at)
            self.camera = TimestepEmbedding(16, time.linear_2.out_features)
            nn.init.zeros_(self.camera.linear_2.weight)
            nn.init.zeros_(self.camera.linear_2.bias)
            self._hook = time.register_forward_hook(self._add_camera)
        self._largest: Tensor | None  # entry of the gradient that came to the network's output
        for parameter in self.parameters():
            parameter.register_hook(self._shrunk)
        self.enabled = True
        self.enable(False)

    def enable(self, enabled: bool, camera_to_world: Tensor | None = None) -> None:
        """Add the adapter to the following predictions, for cameras (B, 3, 4) if known, or leave the adapter out."""
        self._matrix, self._largest = camera_to_world if enabled else None, None
        if enabled != self.enabled:
            for _, _, layer in self._places:
                layer.enable_adapters(enabled)
            # peft freezes what it disables; a distributed run sums the gradients of what is free at its beginning.
            self.lora.requires_grad_(True)
            self.enabled = enabled

    def with_large_gradient(self, prediction: Tensor) -> Tensor:
        """The prediction, whose gradient passes the network with a largest entry of 1; that of a mean over all pixels
        underflows in float16. The adapter's own gradient is as large as without. Once in a backward pass.
        """
        prediction.register_hook(self._grown)
        return prediction

    def _grown(self, gradient: Tensor) -> Tensor:
        self._largest = gradient.abs().amax().clamp(min=torch.finfo(gradient.dtype).tiny)
        return gradient / self._largest

    def _shrunk(self, gradient: Tensor) -> Tensor:
        """As large as without `_grown`. A NaN, which a view without a loss leaves where the network overflows (0 times
        infinity), becomes zero; infinities stay, for a scaler of the loss.
        """
        gradient = gradient if self._largest is None else gradient * self._largest
        return torch.where(gradient.isnan(), 0.0, gradient)

    def remove(self) -> None:
        """Give the network its own layers back."""
        for parent, name, layer in self._places:
            setattr(parent, name, layer.get_base_layer())
        del self._network[0].peft_config  # of peft, which warns of it at the next adapter
        if self._hook is not None:
            self._hook.remove()

    def _add_camera(self, module: nn.Module, arguments: tuple[Tensor, ...], embedding: Tensor) -> Tensor:
        if self._matrix is None and not (self.enabled and torch.is_grad_enabled()):
            return embedding
        if self._matrix is None:  # a distributed run needs a gradient of all parameters in all steps
            return embedding + 0 * self.camera(self.camera.linear_1.weight.new_zeros(1, 16)).to(embedding.dtype)
        last = constant((0.0, 0.0, 0.0, 1.0), self._matrix.device, self._matrix.dtype).expand(len(self._matrix), 1, 4)
        code = torch.cat([self._matrix, last], dim=1).flatten(1)
        return embedding + self.camera(code).to(embedding.dtype)


class AdaptablePrior:
    """Base of priors over a U-Net: `Adaptable` over the `_denoise` and `_network` of the subclass."""

    adapted_layers: ClassVar[Sequence[str]]  # ends of names, see `Adapter`
    adapter_learning_rate = 1e-4  # threestudio prolificdreamer
    sees_camera: ClassVar[bool]  # the network is conditioned on the camera without an adapter
    time_embedding: ClassVar[str] = "time_embedding"  # module of the network, see `Adapter`
    cuda_graph = False  # on CUDA, replay predictions without an adapter as one CUDA graph
    _network: Any
    _adapter: Adapter | None = None
    _graph: CudaGraph | None = None  # set to None when anything changes that predictions read

    @abstractmethod
    def _denoise(self, noisy: Tensor, timestep: Tensor, branches: Sequence[Branch]) -> tuple[Tensor, ...]:
        """`Prior.denoise` with gradient."""

    @torch.no_grad()
    def denoise(self, noisy: Tensor, timestep: Tensor, branches: Sequence[Branch]) -> tuple[Tensor, ...]:
        """See `Prior.denoise`."""
        if self._adapter is not None:
            self._adapter.enable(False)
        elif self.cuda_graph and replayable(noisy) and self._reads_nothing_back(branches):
            self._graph = self._graph or CudaGraph(self._denoise, self._read_beside)
            size = noisy.shape[-2:]  # predictions do not depend on that of the views, but a graph would
            own = tuple(replace(b, cameras=b.cameras and b.cameras.resized(*size)) for b in branches)
            return self._graph(noisy, timestep, own)
        return self._denoise(noisy, timestep, branches)

    def _reads_nothing_back(self, branches: Sequence[Branch]) -> bool:
        """Whether a prediction of these branches can be recorded: no value of a tensor decides what is computed."""
        return True

    def _read_beside(self) -> object:
        """What the last prediction has read and later ones may replace, see `CudaGraph`."""
        return None

    @contextmanager
    def _adapter_as_it_is(self, device: torch.device) -> Iterator[None]:
        """Move the adapter to the device, but let the block not round it with the network."""
        own = [] if self._adapter is None else list(self._adapter.parameters())
        values = [parameter.data for parameter in own]
        yield
        for parameter, value in zip(own, values, strict=True):
            parameter.data = value.to(device)

    def adapt(self, rank: int) -> Adapter:
        """See `Adaptable`."""
        self.remove_adapter()
        camera_at = None if self.sees_camera else self.time_embedding
        self._adapter = Adapter(self._network, rank, self.adapted_layers, camera_at)
        return self._adapter

    def remove_adapter(self) -> None:
        """Give the network its own layers back, if it has an adapter."""
        if self._adapter is not None:
            self._adapter.remove()
            self._adapter = None

    def denoise_adapted(self, noisy: Tensor, timestep: Tensor, branch: Branch) -> Tensor:
        """See `Adaptable`; the adapter is conditioned on the camera, even if `denoise` ignores it."""
        assert self._adapter is not None
        known = None if branch.unconditional else branch.cameras
        self._adapter.enable(True, None if known is None else known.camera_to_world)
        prediction = self._denoise(noisy, timestep, [branch])[0]
        if self._network.dtype == torch.float16 and prediction.requires_grad:
            return self._adapter.with_large_gradient(prediction)
        return prediction

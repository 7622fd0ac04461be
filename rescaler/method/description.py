"""What shrinking makes of a network, layer by layer: kernels, feature maps, multiplications."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn
from torch.nn.modules.conv import _ConvNd

from rescaler.method import layertable
from rescaler.method.cost import multiplications
from rescaler.method.kernels import KERNEL_TABLE
from rescaler.method.layers import Layer, Margins, margins
from rescaler.method.layertable import DescribedLayer, Kind, Sides, quantity
from rescaler.method.shrinking import Shrunk, shrink
from rescaler.method.trace import Call, outline, trace
from rescaler.text import TextTable


@dataclass(frozen=True)
class Description:
    """A target network beside its pre-train network; prints as a table."""

    network: str
    target_px: int
    pretrain_px: int
    layers: tuple[DescribedLayer, ...]
    target_parameters: int
    pretrain_parameters: int
    notes: tuple[str, ...]
    """What was left alone, and why."""

    @property
    def target_macs(self) -> int:
        """Multiplications of one image's forward pass through the target network."""
        return sum(layer.target_macs for layer in self.layers)

    @property
    def pretrain_macs(self) -> int:
        """Multiplications of one image's forward pass through the pre-train network."""
        return sum(layer.pretrain_macs for layer in self.layers)

    @property
    def ratio(self) -> float:
        """How many times faster the pre-train network is, if multiplications alone take time."""
        return self.target_macs / self.pretrain_macs

    @property
    def bounds_macs(self) -> tuple[float, float]:
        """Eq. 4's bounds of ``pretrain_macs``, summed; it says nothing of kernels that are kept: those as they are."""
        both = [
            layer.bounds_macs if layer.scale > 1 else (layer.pretrain_macs, layer.pretrain_macs)
            for layer in self.layers
        ]
        low, high = zip(*both, strict=True)
        return sum(low), sum(high)

    def __str__(self) -> str:
        return str(self.table())

    def table(self, *, every: bool = False) -> TextTable:
        """A row for each layer; layers that are alike share one unless ``every``."""
        groups = [[layer] for layer in self.layers] if every else layertable.alike(self.layers)
        macs = layertable.change(self.target_macs, self.pretrain_macs)
        rows = [*map(layertable.row, groups), ["total", "", "", "", "", macs, f"{self.ratio:.2f}", "", "", ""]]
        return TextTable(self._heading(), layertable.COLUMNS, rows, self._notes(), layertable.WORDS)

    def _heading(self) -> str:
        return (
            f"{self.network}: target {self.target_px}x{self.target_px}, {quantity(self.target_macs)} multiplications, "
            f"{quantity(self.target_parameters)} parameters; pre-train {self.pretrain_px}x{self.pretrain_px}, "
            f"{quantity(self.pretrain_macs)}, {quantity(self.pretrain_parameters)}: {self.ratio:.2f} times fewer"
        )

    def _notes(self) -> list[str]:
        low, high = self.bounds_macs
        notes = [
            f"Multiplications of one image, forward (Eq. 3). Eq. 4: smaller kernels save between s² and s⁴, so "
            f"{quantity(low)} to {quantity(high)} in all; * is outside: its map does not shrink as its kernel does."
        ]
        if any(left != right or top != bottom for left, right, top, bottom in layertable.paddings(self.layers)):
            notes.append(
                "Padding 0,1: none on the left and at the top, 1 px on the right and at the bottom; -1: cropped."
            )
        return [*notes, *self.notes]


def describe(
    network: nn.Module,
    image_px: int,
    *,
    table: Mapping[int, int] = KERNEL_TABLE,
    pretrain_px: int | None = None,
    padding: Mapping[str, int] | None = None,
    channels: int | None = None,
    input_only: bool = False,
) -> Description:
    """Tell what :func:`rescaler.shrink` makes of a network, and what that saves; nothing is computed or changed.

    Auxiliary classifiers, which are called in training alone, count.

    Args:
        network: the target network.
        image_px: side of its images.
        table: as for :func:`rescaler.shrink`, like all that follow.
        pretrain_px: side of the pre-train images.
        padding: padding of single pre-train convolutions by name.
        channels: of the images.
        input_only: make only the images smaller.

    Raises:
        InputError: the network cannot be shrunk this way.
    """
    target = outline(network) if isinstance(network, nn.Module) else network  # which shrink refuses
    shrunk = shrink(
        target,
        image_px,
        table=table,
        pretrain_px=pretrain_px,
        padding=padding,
        channels=channels,
        input_only=input_only,
    )
    channels = channels or next(module for module in target.modules() if isinstance(module, nn.Conv2d)).in_channels
    return compare(network, shrunk, image_px, channels=channels)


def compare(network: nn.Module, shrunk: Shrunk, image_px: int, *, channels: int) -> Description:
    """Describe a network beside a pre-train network that was made of it.

    Args:
        network: the target network.
        shrunk: what :func:`rescaler.shrink` made of it.
        image_px: side of the target's images.
        channels: of the images.
    """
    target, pretrain = network, shrunk.network
    target_calls = trace(outline(target), channels, image_px, argument="image_px").calls
    pretrain_calls = trace(outline(pretrain), channels, shrunk.image_px, argument="pretrain_px").calls
    changed = {layer.name: layer for layer in shrunk.layers}
    layers = tuple(
        _describe_layer(
            name,
            target.get_submodule(name),
            pretrain.get_submodule(name),
            call,
            pretrain_calls[name],
            changed.get(name),
        )
        for name, call in target_calls.items()
        if hasattr(target.get_submodule(name), "weight")  # pooling multiplies nothing
    )
    return Description(
        network=type(network).__name__,
        target_px=image_px,
        pretrain_px=shrunk.image_px,
        layers=layers,
        target_parameters=sum(value.numel() for value in target.parameters()),
        pretrain_parameters=sum(value.numel() for value in pretrain.parameters()),
        notes=shrunk.notes,
    )


def _describe_layer(
    name: str, target: nn.Module, pretrain: nn.Module, target_call: Call, pretrain_call: Call, changed: Layer | None
) -> DescribedLayer:
    target_padding: Margins = (0, 0, 0, 0)
    pretrain_padding = target_padding
    if changed is not None and changed.kind == "convolution":
        assert isinstance(target, nn.Conv2d)
        target_padding, pretrain_padding = margins(target), changed.pretrain_padding
    return DescribedLayer(
        name=name,
        kind=_kind(target, changed),
        target_kernel=changed.target_kernel if changed else _kernel(target),
        pretrain_kernel=changed.pretrain_kernel if changed else _kernel(target),
        target_padding=target_padding,
        pretrain_padding=pretrain_padding,
        target_output=_map(target, target_call),
        pretrain_output=_map(pretrain, pretrain_call),
        target_macs=multiplications(target, target_call),
        pretrain_macs=multiplications(pretrain, pretrain_call),
    )


def _kernel(layer: nn.Module) -> Sides:
    return layer.kernel_size if isinstance(layer, _ConvNd) else (1, 1)


def _map(layer: nn.Module, call: Call) -> Sides:
    """Size of the feature map that a layer gives; a fully-connected one has its channels last."""
    return (call.output[:-1] or (1, 1)) if isinstance(layer, nn.Linear) else call.output[1:]


def _kind(target: nn.Module, changed: Layer | None) -> Kind:
    if changed is not None and changed.kind == "interface":
        return "interface"
    if not isinstance(target, _ConvNd):
        return "linear"
    if target.transposed:
        return "transposed"
    if target.groups == 1:
        return "convolution"
    return "depthwise" if target.groups == target.in_channels else "grouped"

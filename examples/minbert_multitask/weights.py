"""Pretrained weights in the Hugging Face form: a folder with config.json, a vocabulary, model.safetensors."""

import hashlib
import json
import re
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from importlib import import_module, metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .files import read_json, write_atomically

if TYPE_CHECKING:
    from .bert import BertModel
    from .tokenizer import Tokenizer

_WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
_TOKENIZER_FILES = ("vocab.txt", "tokenizer.json", "tokenizer_config.json")


def resolve(source: str | Path) -> Path:
    """Finds the folder that a name stands for.

    Args:
        source: A folder; an installed package with such a folder somewhere inside, which is not imported;
            or a name on the Hugging Face hub, from which the folder is then fetched and kept.

    Raises:
        ValueError: If there is nothing of that name, or a package holds several such folders.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", str(source), re.ASCII) or str(source).startswith("."):
        raise ValueError(
            f"weights {str(source)!r} is no folder; give one with config.json, vocab.txt or tokenizer.json,"
            " model.safetensors"
        )
    return _in_package(str(source)) or _from_hub(str(source))


def _in_package(name: str) -> Path | None:
    """Returns the folder of weights inside an installed distribution, if it holds one."""
    try:
        distribution = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return None
    configs = [
        Path(str(distribution.locate_file(file)))
        for file in distribution.files or ()
        if file.name == "config.json"
    ]
    folders = [
        path.parent for path in configs if any((path.parent / file).is_file() for file in _WEIGHT_FILES)
    ]
    if len(folders) > 1:
        raise ValueError(
            f"package {name} holds several weights; give one of the folders {', '.join(map(str, folders))}"
        )
    return folders[0] if folders else None


def _from_hub(name: str) -> Path:
    """Fetches the files that are needed from the hub; its own cache keeps them."""
    nowhere = f"weights {name!r} is neither a folder nor an installed package that holds a model, and"
    try:
        download = import_module("huggingface_hub").snapshot_download
    except ImportError as error:
        raise ValueError(
            f"{nowhere} the hub cannot be asked without huggingface_hub; pip install 'minbert-multitask[hub]'"
        ) from error
    for weight_file in _WEIGHT_FILES:
        try:
            patterns = ["config.json", *_TOKENIZER_FILES, weight_file]
            folder = Path(download(name, allow_patterns=patterns))
        except Exception as error:  # whatever the hub's client, its cache or the network raise
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise ValueError(f"{nowhere} could not be fetched from the hub: {reason}") from error
        if (folder / weight_file).is_file():
            return folder
    raise ValueError(
        f"weights {name!r} on the hub hold neither {' nor '.join(_WEIGHT_FILES)}; choose other weights"
    )


def fingerprint(folder: Path) -> str:
    """Returns a short hash of a folder's files, by which other weights of its name are told.

    Raises:
        OSError: If a file cannot be read.
    """
    digest = hashlib.sha256()
    for name in ("config.json", *_TOKENIZER_FILES, *_WEIGHT_FILES):
        if (path := folder / name).is_file():
            digest.update(f"{name} {path.stat().st_size}\n".encode())
            with path.open("rb") as file:
                while piece := file.read(1 << 20):
                    digest.update(piece)
    return digest.hexdigest()[:16]


def read_config(path: Path) -> dict[str, Any]:
    """Reads one of a folder's JSON files.

    Raises:
        ValueError: If it is missing or no JSON object.
    """
    try:
        return read_json(path, remedy="fetch it again")
    except FileNotFoundError as error:
        raise ValueError(f"{path} is missing; give --weights, a folder of the Hugging Face form") from error


def load_state(folder: Path, shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """Reads the parameters of an encoder from a folder; what else the file holds, such as heads, is left.

    Models for masked language modelling, token classification or question answering are saved without a
    pooler: it is zero here.

    Args:
        folder: A folder with ``model.safetensors`` or ``pytorch_model.bin``.
        shapes: The parameters' names and the shapes they must have.

    Returns:
        For each name a tensor of its own, in fp32 on the CPU.

    Raises:
        ValueError: If there is no such file, it is damaged, or lacks a parameter, other than the whole
            pooler's, or has it in another shape.
    """
    path = next((folder / name for name in _WEIGHT_FILES if (folder / name).is_file()), None)
    if path is None:
        if parts := sorted(folder.glob("*.index.json")):
            raise ValueError(
                f"{parts[0]} lists weights in several files; save them again as one, model.safetensors"
            )
        raise ValueError(f"{folder} holds neither {' nor '.join(_WEIGHT_FILES)}; fetch the weights again")
    found = _read_safetensors(path, shapes) if path.suffix == ".safetensors" else _read_pickle(path, shapes)
    missing = [name for name in shapes if name not in found]
    if missing and missing == [name for name in shapes if name.startswith("pooler.")]:
        found |= {name: torch.zeros(shapes[name], device="cpu") for name in missing}
        warnings.warn(f"{path} has no pooler; its output is 0, and no head here reads it", stacklevel=2)
    elif missing:
        more = f" and {len(missing) - 1} more" if missing[1:] else ""
        raise ValueError(
            f"{path} lacks the parameter {missing[0]}{more}; these weights do not fit config.json"
        )
    for name, shape in shapes.items():
        if found[name].shape != shape:
            raise ValueError(
                f"{path} has {name} of shape {tuple(found[name].shape)}, config.json asks for {tuple(shape)}"
            )
        if not found[name].is_floating_point():
            raise ValueError(f"{path} has {name} in {found[name].dtype}; choose weights in floating point")
    return {name: found[name].to(torch.float32, copy=True).contiguous() for name in shapes}


def _name(key: str) -> str:
    """Returns the parameter of a checkpoint's key, which may have a prefix or layer norm's old names."""
    key = key.removeprefix("bert.")
    return key.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


def _read_safetensors(path: Path, wanted: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {_name(key): file.get_tensor(key) for key in file.keys() if _name(key) in wanted}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or truncated ({error}); fetch it again") from error


def _read_pickle(path: Path, wanted: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes make the unpickler raise anything
        raise ValueError(
            f"{path} is damaged, truncated or holds more than tensors; fetch it again"
        ) from error
    if not isinstance(state, dict):
        raise ValueError(f"{path} must hold a dict of tensors, got {type(state).__name__}; fetch it again")
    return {
        _name(str(key)): value
        for key, value in state.items()
        if isinstance(value, Tensor) and _name(str(key)) in wanted
    }


def save_pretrained(model: "BertModel", tokenizer: "Tokenizer", folder: Path) -> None:
    """Writes a folder of the Hugging Face form, which ``transformers`` loads too; the weights come last.

    Args:
        model: The encoder.
        tokenizer: Its tokenizer.
        folder: Where to write; made where it is missing.

    Raises:
        OSError: If the disk is full or read-only.
    """
    fixed = {"architectures": ["BertModel"], "model_type": "bert", "hidden_act": "gelu"}
    write_atomically(folder / "config.json", json.dumps(fixed | asdict(model.config), indent=2) + "\n")
    tokenizer.save(folder)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    write_atomically(folder / "model.safetensors", safetensors.torch.save(state, metadata={"format": "pt"}))

"""Models and their start frames on disk: `<assets>/<model>/starts/*.png`."""

from __future__ import annotations

from pathlib import Path


def find_model(name: str, assets: Path) -> Path:
    """The folder of a shipped model, or any folder.

    Raises:
        ValueError: with the names that exist, if there is no such model.
    """
    if name in shipped_models(assets):
        return assets / name
    if not name or not Path(name).is_dir():
        known = ", ".join(shipped_models(assets)) or "none yet"
        raise ValueError(f"unknown model {name!r}: neither a folder nor shipped (shipped: {known})")
    return Path(name).resolve()


def shipped_models(assets: Path) -> list[str]:
    return sorted(path.name for path in assets.glob("*") if path.is_dir())


def start_files(model: Path) -> dict[str, Path]:
    """By name, in the order of the digit keys."""
    return {path.stem: path for path in sorted((model / "starts").glob("*.png"))}


def describe(assets: Path) -> str:
    """One line per shipped model."""
    lines = []
    for name in shipped_models(assets):
        starts = ", ".join(start_files(assets / name)) or "none, the model invents the first frame"
        lines.append(f"{name}: starts: {starts}")
    return "\n".join(lines) or "no models are shipped in assets/"

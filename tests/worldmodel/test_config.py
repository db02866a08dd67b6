"""The loader is strict: each mistake is refused with the file, the key path and a way out."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from distill.pipeline_steps import PipelineConfig
from distill.render import RenderConfig, Walks
from distill.stages import ModelConfig, StageConfig, load_stage
from distill.table import TableConfig
from distill.trajectories import TrajectoriesConfig
from engine.settings import PlayConfig
from worldmodel import config
from worldmodel.checkpoint import PlayableConfig
from worldmodel.models import WanModelConfig

CONFIGS = Path(__file__).parents[2] / "configs"


@dataclass(frozen=True, kw_only=True)
class Square:
    kind: Literal["square"]
    side: float


@dataclass(frozen=True, kw_only=True)
class Circle:
    kind: Literal["circle"]
    radius: float

    def __post_init__(self) -> None:
        if self.radius < 0:
            raise ValueError(f"radius must not be negative, got {self.radius}")


@dataclass(frozen=True, kw_only=True)
class Page:
    rate: float
    count: int = 1
    name: str = "page"
    folder: Path = Path("out")
    wide: bool = False
    unit: Literal["cm", "inch"] = "cm"
    limit: float | None = None
    shape: Square | Circle | None = None
    size: tuple[int, int] = (3, 4)
    words: tuple[str, ...] = ()
    places: dict[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Book:
    pages: tuple[Page, ...]


def load(folder: Path, text: str, *overrides: str, cls: Any = Page) -> Any:
    path = folder / "page.yaml"
    path.write_text(text, encoding="utf-8")
    return config.load(path, cls, overrides)


def test_every_kind_of_field_arrives_in_its_type(tmp_path: Path) -> None:
    text = """
    rate: 1
    folder: there
    unit: inch
    limit: 2
    shape: {kind: circle, radius: 0.5}
    size: [5, 6]
    words: [a, b, c]
    places: {home: [1, 2.5]}
    """
    page = load(tmp_path, text)
    assert page == Page(
        rate=1.0,
        folder=Path("there"),
        unit="inch",
        limit=2.0,
        shape=Circle(kind="circle", radius=0.5),
        size=(5, 6),
        words=("a", "b", "c"),
        places={"home": (1.0, 2.5)},
    )
    assert type(page.rate) is type(page.limit) is float


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rate: 1.0\nconut: 3", "conut: unknown key; did you mean 'count'?"),
        ("rate: 1.0\nzzz: 3", "zzz: unknown key; known keys: rate, count, "),
        ("count: 3", "rate: missing key"),
        ("", "rate: missing key"),
        ("rate: 1e-4", "rate: expected float, got '1e-4' (YAML reads 1e-4 as text: write 1.0e-4)"),
        ("rate: true", "rate: expected float, got True"),
        ("rate: null", "rate: expected float, got None"),
        ("rate: 1.0\ncount: 2.0", "count: expected int, got 2.0"),
        ("rate: 1.0\ncount: yes", "count: expected int, got True"),
        ("rate: 1.0\nname: 7", "name: expected str, got 7"),
        ("rate: 1.0\nwide: 1", "wide: expected bool, got 1"),
        ("rate: 1.0\nunit: mm", "unit: expected one of cm, inch, got 'mm'"),
        ("rate: 1.0\nsize: [1, 2, 3]", "size: expected a list of 2 values, got [1, 2, 3]"),
        ("rate: 1.0\nsize: 3", "size: expected a list, got 3"),
        ("rate: 1.0\nsize: [1, a]", "size[1]: expected int, got 'a'"),
        ("rate: 1.0\nplaces: {home: [1]}", "places.home: expected a list of 2 values, got [1]"),
        ("rate: 1.0\nplaces: {1: [1, 2]}", "places: expected keys that are text, got 1"),
        ("rate: 1.0\nshape: {side: 1.0}", "shape.kind: expected one of square, circle, got None"),
        ("rate: 1.0\nshape: {kind: [1]}", "shape.kind: expected one of square, circle, got [1]"),
        ("rate: 1.0\nshape: square", "shape: expected keys with a `kind`, got 'square'"),
        ("rate: 1.0\nshape: {kind: square}", "shape.side: missing key"),
        (
            "rate: 1.0\nshape: {kind: square, radius: 1.0}",
            "shape.radius: unknown key; known keys: kind, side",
        ),
        (
            "rate: 1.0\nshape: {kind: circle, radius: -1.0}",
            "shape: radius must not be negative, got -1.0",
        ),
        ("- 1", "expected a mapping of keys, got list"),
        ("extends: [a]", "extends: expected the name of a file, got ['a']"),
    ],
)
def test_a_mistake_is_named_with_file_and_key_path(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        load(tmp_path, text)
    assert str(caught.value).startswith(f"{tmp_path / 'page.yaml'}: {message}")


def test_the_key_path_counts_the_items_of_a_list(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"page\.yaml: pages\[1\]\.shape\.side: expected float"):
        text = "pages: [{rate: 1.0}, {rate: 1.0, shape: {kind: square, side: a}}]"
        load(tmp_path, text, cls=Book)


@pytest.mark.parametrize("text", ["rate: [1", "rate: 1.0\nrate: 2.0", "rate: @"])
def test_broken_yaml_and_doubled_keys_are_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError, match=r"page\.yaml: not valid YAML: .*line"):
        load(tmp_path, text)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.yaml: no such config file"):
        config.load(tmp_path / "none.yaml", Page)
    with pytest.raises(FileNotFoundError, match=r"none\.yaml: .* \(extended by .*page\.yaml\)"):
        load(tmp_path, "extends: none.yaml")


class TestExtends:
    def test_values_win_and_mappings_merge(self, tmp_path: Path) -> None:
        (tmp_path / "base").mkdir()
        base = "rate: 1.0\ncount: 5\nwords: [a, b]\nshape: {kind: square, side: 1.0}"
        (tmp_path / "base" / "page.yaml").write_text(base, encoding="utf-8")
        page = load(tmp_path, "extends: base/page.yaml\nwords: [c]\nshape: {side: 2.0}")
        square = Square(kind="square", side=2.0)
        assert page == Page(rate=1.0, count=5, words=("c",), shape=square)

    def test_another_kind_takes_nothing_from_the_old_one(self, tmp_path: Path) -> None:
        base = "rate: 1.0\nshape: {kind: square, side: 1.0}"
        (tmp_path / "base.yaml").write_text(base, encoding="utf-8")
        page = load(tmp_path, "extends: base.yaml\nshape: {kind: circle, radius: 2.0}")
        assert page.shape == Circle(kind="circle", radius=2.0)

    def test_a_file_that_extends_itself_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "base.yaml").write_text("extends: page.yaml", encoding="utf-8")
        with pytest.raises(ValueError, match="extends itself"):
            load(tmp_path, "extends: base.yaml")


class TestOverrides:
    def test_they_reach_any_depth_and_win(self, tmp_path: Path) -> None:
        text = "rate: 1.0\nshape: {kind: square, side: 1.0}"
        page = load(tmp_path, text, "shape.side=3", "limit=1.0e-4", "size=[7, 8]", "name=a=b")
        assert page == Page(
            rate=1.0,
            limit=1.0e-4,
            size=(7, 8),
            name="a=b",
            shape=Square(kind="square", side=3.0),
        )

    def test_a_value_can_be_taken_away(self, tmp_path: Path) -> None:
        assert load(tmp_path, "rate: 1.0\nlimit: 2.0", "limit=null").limit is None

    @pytest.mark.parametrize(
        ("override", "message"),
        [
            ("rate", "override 'rate': expected key.path=value"),
            ("=1", "override '=1': expected key.path=value"),
            ("a..b=1", "override 'a..b=1': expected key.path=value"),
            ("rate=[1", "override 'rate=[1': the value is not valid YAML"),
            ("rate=1e-4", "page.yaml: rate: expected float, got '1e-4' (YAML reads 1e-4 as text"),
            ("rate.x=1", "page.yaml: rate: expected float, got {'x': 1}"),
            ("shape.sid=1", "page.yaml: shape.sid: unknown key; did you mean 'side'?"),
        ],
    )
    def test_mistakes_are_named(self, tmp_path: Path, override: str, message: str) -> None:
        with pytest.raises(ValueError) as caught:
            load(tmp_path, "rate: 1.0\nshape: {kind: square, side: 1.0}", override)
        assert message in str(caught.value)


def test_to_plain_is_the_inverse_of_build_by_way_of_json() -> None:
    page = Page(rate=0.5, shape=Square(kind="square", side=1.0), places={"home": (1.0, 2.0)})
    plain = json.loads(json.dumps(config.to_plain(page)))
    assert config.build(plain, Page, where="memory") == page


OWNERS = {
    "model": ModelConfig,
    "model/wan": WanModelConfig,
    "model/wan2.1": WanModelConfig,
    "stage": StageConfig,
    "data": RenderConfig,
    "play": PlayConfig,
    "export": PlayableConfig,
    "pipeline": PipelineConfig,
    "table": TableConfig,
    "trajectories": TrajectoriesConfig,
}
MODELS = sorted((CONFIGS.parent / "assets").glob("*/model.yaml"))
TABLES = {"data/walks.yaml": Walks, "data/starts.yaml": Walks}
NAMES = sorted(path.relative_to(CONFIGS).as_posix() for path in CONFIGS.rglob("*.yaml"))


@pytest.mark.parametrize("name", NAMES)
def test_every_shipped_config_loads_into_its_dataclass(name: str) -> None:
    cls: type[Any] = (
        TABLES.get(name) or OWNERS.get(name.partition("-")[0]) or OWNERS[name.partition("/")[0]]
    )
    assert isinstance(config.load(CONFIGS / name, cls), cls)


@pytest.mark.parametrize("path", MODELS, ids=str)
def test_every_shipped_model_says_how_it_is_played(path: Path) -> None:
    playable = config.load(path, PlayableConfig)
    assert playable.name == path.parent.name
    weights = {file.name for file in path.parent.glob("*.safetensors")}
    assert playable.sha256.keys() == weights


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("stage/")])
def test_every_stage_names_a_model_that_loads(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(CONFIGS.parent)
    stage, model = load_stage(Path("configs") / name, [])
    assert stage.model.is_file()
    decoder = model.decoder if isinstance(model, WanModelConfig) else model.autoencoder
    assert model.transformer.latent_channels == decoder.latent_channels
    assert model.transformer.grid == decoder.grid

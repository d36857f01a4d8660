"""The HTML report of a run: complete, safe and small; its script agrees with the engine."""

import hashlib
import json
import re
from base64 import b64encode
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from made_models import kan
from processes import node

from kanrun.engine.equations import Field, OutputForm, Windows
from kanrun.engine.layers.edges import BASES
from kanrun.engine.networks import MLP
from kanrun.engine.networks.classical import ACTIVATIONS, Polynomial
from kanrun.errors import UsageError
from kanrun.model.model import Model
from kanrun.model.trained import to_checkpoint
from kanrun.points import Scaling
from kanrun.runs import Claim, Manifest, Point, Row, Run, RunFolder, RunLabels, Status, Table
from kanrun.study.evaluation import Slider
from kanrun.study.page import write_report
from kanrun.study.page.interactive import interactive_data, model_values

HOSTILE = "</script><img src=x onerror=alert(1)><!--"


class Elements(HTMLParser):
    """Parser that collects the elements of a page, their attributes, and its scripts."""

    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.scripts = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        if self.cdata_elem == "script":
            self.scripts.append((self.tags[-1][1], data))

    def values(self, *names):
        """Return the values of attributes with these names."""
        return [str(found[name]) for _, found in self.tags for name in names if name in found]


def random_numbers(seed):
    return {"dtype": torch.float64, "generator": torch.Generator().manual_seed(seed)}


def trained(shape=(2, 3, 1), products=(), **spec):
    """Return a network with uneven knots, a pruned edge and all kinds of weights."""
    numbers = random_numbers(3)
    network = kan(shape, products=products, **({"base": "silu"} | spec))
    points = torch.rand(200, shape[0], **numbers) ** 2 * 2.4 - 0.9
    network = network.regrid(
        points, intervals=6, grid_eps=0.3, margin=0.05, inputs="within"
    ).network
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, **numbers))
    return network


def part_of_a_solution(network, end, form=OutputForm()):  # noqa: B008
    """Return a network on -1 to 1.5 and on the times `end - 1` to `end`."""
    box = torch.tensor([[-1.0, 1.5], [end - 1, end]], dtype=torch.float64)
    return Field(network, form, box, torch.tensor([0.7], dtype=torch.float64))


def model_of(network, *inputs, output="y", scaling=None):
    domain = np.array([[-1.0, 1.5]] * len(inputs))
    scalings = Scaling.identity(len(inputs)), scaling or Scaling.identity(1)
    return Model(network, inputs, (output,), domain, *scalings, None)


def recorded(outputs, manifest, *parts, **end):
    """Return a run of one training with these tables and checkpoints."""
    folder = RunFolder.create(outputs, manifest)
    for part in parts:
        if isinstance(part, tuple):
            folder.checkpoint(to_checkpoint(*part))
        else:
            folder.rows(part, {"seed": 0})
    folder.finish(Status.COMPLETED, **end)
    return Run(folder.path, f"{manifest.command}/{folder.path.name}")


def make_run(outputs, text="plain"):
    """Return a run of `kanrun fit` with `text` wherever a run has text of its own."""
    record = Manifest(
        "fit",
        argv=("kanrun", "fit", f"target={text}"),
        points=(Point(0, (f"a={text}",)),),
        bases=({"seed": 0, "model": {"name": text}},),
        notes=(text,),
    )
    model = model_of(trained(), "length", text)
    stages = (f"{text} 0", f"{text} 1"), (model, model), np.zeros((30, 2)), np.ones((30, 1))
    x = np.linspace(-1, 1, 20)
    points = {"input:length": x, f"input:{text}": x, "truth:y": x, "prediction:y": x}
    run = recorded(
        outputs,
        record,
        (f"model-seed0-{text}", model),
        ("grids-seed0-stages", Slider(f"grids of {text}", text, *stages)),
        Table("predictions", {"split": np.full(20, "test"), **points}),
        Row("summary", {"target": text, "test_rmse": 0.25}),
        claims=(Claim(text, 0.1, text, True),),
        metrics={"test_rmse": 0.25},
    )
    (run.path / "figures").mkdir()
    (run.path / "figures" / "loss.svg").write_text(
        f"<svg xmlns='http://www.w3.org/2000/svg'><dc:description>Loss &lt;b&gt;</dc:description>"
        f"{text}</svg>"
    )
    RunLabels((), text).store(run.path)
    return run


def page_of(tmp_path, *runs):
    write_report(runs, tmp_path / "report.html")
    return (tmp_path / "report.html").read_text()


def test_a_page_holds_its_runs_and_needs_nothing_else(tmp_path):
    text = page_of(tmp_path, make_run(tmp_path), make_run(tmp_path))
    page = Elements(text)
    assert len(text) < 5e6
    assert not {"link", "iframe", "object", "embed", "base"} & {tag for tag, _ in page.tags}
    sources = page.values("src", "href", "action")
    assert sources
    assert all(source.startswith("data:image/") for source in sources)
    for part in (
        "<figcaption>Loss &lt;b&gt; <code>loss</code></figcaption>",
        "model.name",
        "kanrun runs rerun fit/v0001",
        "Results",
    ):
        assert part in text
    data = [json.loads(body) for attributes, body in page.scripts if "type" in attributes]
    assert [one["kind"] for one in data] == ["network", "network"]
    assert [stage["label"] for stage in data[0]["stages"]] == ["plain 0", "plain 1"]
    assert len(data[0]["points"]["x"]) == 30
    assert page.values("data-source") == ["living-0", "living-1"]

    # the policy allows the two scripts of the page alone
    (policy,) = [str(a["content"]) for _, a in page.tags if "http-equiv" in a]
    code = [body for attributes, body in page.scripts if "type" not in attributes]
    hashes = [b64encode(hashlib.sha256(body.encode()).digest()).decode() for body in code]
    assert re.findall(r"'sha256-([^']+)'", policy) == hashes
    assert len(hashes) == 2
    assert "default-src 'none'" in policy
    assert "unsafe-inline" not in policy.partition("script-src")[2]


def test_a_hostile_run_folder_injects_nothing(tmp_path):
    honest, hostile = (
        Elements(page_of(tmp_path, make_run(tmp_path, text))).tags for text in ("plain", HOSTILE)
    )
    assert [tag for tag, _ in hostile] == [tag for tag, _ in honest]
    assert not [a for _, a in hostile if any(key.startswith("on") for key in a)]


def test_damaged_runs_are_shown_as_what_is_left_of_them(tmp_path):
    run = make_run(tmp_path)
    for path in run.path.rglob("grids*.safetensors"):
        path.unlink()
    (single,) = interactive_data(run)
    assert len(single["points"]["x"]) == 20
    for path in run.path.rglob("*.safetensors"):
        path.write_bytes(b"damaged")
    (run.path / "records.jsonl").write_text("{\n")
    assert "Status: COMPLETED" in page_of(tmp_path, run)
    (run.path / "run.json").write_text("{")
    assert "Status: UNREADABLE" in page_of(tmp_path, Run(run.path, run.name))
    with pytest.raises(UsageError, match="cannot write"):
        write_report([run], tmp_path / "no" / "where.html")


def test_page_moves_effects_of_a_table_if_its_network_is_too_large(tmp_path, monkeypatch):
    monkeypatch.setattr("kanrun.study.page.interactive.NUMBERS", 10)
    effects = {
        "input": ["size", "size", "town", "town"],
        "level": ["", "", "Bonn", "Ulm"],
        "output": ["y"] * 4,
        "x": [0.0, 1.0, 0.0, 2.0],
        "value": [1.0, 2.0, 3.0, 4.0],
        "lower": [0.0, 1.0, 2.0, 3.0],
        "upper": [2.0, 3.0, 4.0, 5.0],
        "is_date": [False] * 4,
    }
    run = recorded(
        tmp_path,
        Manifest("fit"),
        ("table-2-3-1-seed0", model_of(trained(), "a", "b")),
        Row("summary", {"cv_rmse": 0.5}),
        Table("importance", {"input": ["town", "size"]}),
        Table("effects", effects),
    )
    (living,) = interactive_data(run)
    assert living["title"] == "How y depends on each input, the others at their means"
    town, size = living["inputs"]
    assert (town["name"], town["labels"], town["value"]) == ("town", ["Bonn", "Ulm"], [3, 4])
    assert (size["labels"], size["x"], size["upper"]) == (None, [0, 1], [2, 3])


def test_page_has_a_slider_over_time_windows(tmp_path):
    windows = Windows([part_of_a_solution(trained(), end) for end in (1.0, 2.0)])
    points = {"x": [0.0] * 5, "t": [0.0, 0.5, 1.0, 1.5, 2.0], "u_true": [1.0] * 5}
    model = "model-seed0", model_of(windows, "x", "t", output="u")
    run = recorded(tmp_path, Manifest("solve"), model, Table("solution", points))
    (living,) = interactive_data(run)
    assert living["slider"] == "window"
    times = {stage["label"]: [x[1] for x in stage["points"]["x"]] for stage in living["stages"]}
    assert times == {"t from 0 to 1": [0, 0.5, 1], "t from 1 to 2": [1.5, 2]}


def test_a_network_that_the_page_cannot_evaluate_is_named(tmp_path):
    curve = Polynomial(3, 1, torch.tensor([[-1.0, 1.0]], dtype=torch.float64))
    run = recorded(tmp_path, Manifest("fit"), ("model-seed0", model_of(curve, "x")))
    said = "The page cannot evaluate a model of kind polynomial; its figures show it."
    assert said in page_of(tmp_path, run)


def test_curves_are_held_by_their_control_points(tmp_path):
    tables = {
        "de_casteljau": {"level": [0, 0, 1], "x": [0, 1, 0.5], "y": [0, 2, 1]},
        "bspline_control": {"x": np.arange(5.0), "y": np.arange(5.0) ** 2},
        "bspline_knots": {"knot": [0.0, 0.5, 1.0], "multiplicity": [4, 1, 4]},
    }
    run = recorded(tmp_path, Manifest("curves"), *(Table(*one) for one in tables.items()))
    bezier, spline = interactive_data(run)
    assert (bezier["control"], bezier["knots"]) == ([[0, 0], [1, 2]], None)
    assert (spline["degree"], spline["knots"]) == (3, [0, 0, 0, 0, 0.5, 1, 1, 1, 1])


SPECS = [
    *({"degree": 2, "base": base} for base in BASES),
    *({"degree": degree} for degree in (0, 1, 3, 5)),
    *(
        {"extrapolation": how, "edge_scaling": scale}
        for how in ("linear", "constant", "zero", "base")
        for scale in ("separate", "single")
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize("products", [(), (1,)])
def test_the_script_computes_what_the_engine_computes(products, tmp_path):
    """For KANs, MLPs, and a solution that is the sum of three products."""
    x = torch.rand(40, 2, **random_numbers(0)) * 4 - 2
    networks = [
        *(trained(products=products, **spec) for spec in SPECS),
        part_of_a_solution(trained((2, 3, 6)), 4.0, OutputForm(1, 3, 2)),
        *(MLP((2, 4, 1), name, **random_numbers(1)) for name in ACTIVATIONS),
    ]
    scaling = Scaling(np.ones(1), np.full(1, 2.0))
    models = [model_values(model_of(one, "a", "b", scaling=scaling)) for one in networks]
    (tmp_path / "cases.json").write_text(json.dumps({"models": models, "x": x.tolist()}))
    outputs = node(
        """(kan => (({models, x}) => models.map(model =>
            x.map(point => kan.predict(kan.prepared(model), point))))(require('./cases.json')))
        (require('./network.js'))""",
        tmp_path,
        "network.js",
    )
    for network, found in zip(networks, outputs, strict=True):
        wanted = network(x).detach() * 2 + 1
        np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-9, err_msg=str(network))

"""The HTML report is complete, safe and static; the script of the lesson agrees with the engine."""

import json
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from made_models import kan
from processes import node
from run_files import change_record

from kanrun.engine.layers.edges import BASES
from kanrun.errors import UsageError
from kanrun.model.model import Model
from kanrun.model.trained import to_checkpoint
from kanrun.points import Scaling
from kanrun.runs import Claim, Manifest, Point, Row, Run, RunFolder, Status
from kanrun.study.page import network_values, write_report

HOSTILE = "</script><img src=x onerror=alert(1)><!--"


class Elements(HTMLParser):
    """Parser that collects the elements of a page and their attributes."""

    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

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


def model_of(network, *inputs, output="y", scaling=None):
    domain = np.array([[-1.0, 1.5]] * len(inputs))
    scalings = Scaling.identity(len(inputs)), scaling or Scaling.identity(1)
    return Model(network, inputs, (output,), domain, *scalings, None)


def make_run(outputs, text="plain"):
    """Return a run of `kanrun fit` with `text` wherever a run has text of its own."""
    record = Manifest(
        "fit",
        argv=("kanrun", "fit", f"target={text}"),
        points=(Point(0, (f"a={text}",)),),
        bases=({"seed": 0, "model": {"name": text}},),
        notes=(text,),
    )
    folder = RunFolder.create(outputs, record)
    folder.checkpoint(to_checkpoint(f"model-seed0-{text}", model_of(trained(), "length", text)))
    folder.rows(Row("summary", {"target": text, "test_rmse": 0.25}), {"seed": 0})
    claims = (Claim(text, 0.1, text, True),)
    folder.finish(Status.COMPLETED, claims=claims, metrics={"test_rmse": 0.25})
    run = Run(folder.path, f"fit/{folder.path.name}")
    (run.path / "figures").mkdir()
    (run.path / "figures" / "loss.svg").write_text(
        f"<svg xmlns='http://www.w3.org/2000/svg'><dc:description>Loss &lt;b&gt;</dc:description>"
        f"{text}</svg>"
    )
    change_record(run.path, note=text)
    return run


def page_of(tmp_path, *runs):
    write_report(runs, tmp_path / "report.html")
    return (tmp_path / "report.html").read_text()


def test_a_page_holds_its_runs_and_needs_nothing_else(tmp_path):
    text = page_of(tmp_path, make_run(tmp_path), make_run(tmp_path))
    page = Elements(text)
    assert len(text) < 5e6
    active = {"script", "link", "iframe", "object", "embed", "base", "button", "input"}
    assert not active & {tag for tag, _ in page.tags}
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
    (policy,) = [str(a["content"]) for _, a in page.tags if "http-equiv" in a]
    assert "default-src 'none'" in policy
    assert policy.endswith("script-src 'none'")


def test_a_hostile_run_folder_injects_nothing(tmp_path):
    honest, hostile = (
        Elements(page_of(tmp_path, make_run(tmp_path, text))).tags for text in ("plain", HOSTILE)
    )
    assert [tag for tag, _ in hostile] == [tag for tag, _ in honest]
    assert not [a for _, a in hostile if any(key.startswith("on") for key in a)]


def test_damaged_runs_are_shown_as_what_is_left_of_them(tmp_path):
    run = make_run(tmp_path)
    for path in run.path.rglob("*.safetensors"):
        path.write_bytes(b"damaged")
    (run.path / "records.jsonl").write_text("{\n")
    assert "Status: COMPLETED" in page_of(tmp_path, run)
    (run.path / "run.json").write_text("{")
    assert "Status: UNREADABLE" in page_of(tmp_path, Run(run.path, run.name))
    with pytest.raises(UsageError, match="cannot write"):
        write_report([run], tmp_path / "no" / "where.html")


SPECS = [
    *({"degree": 2, "base": base} for base in BASES),
    *({"degree": degree} for degree in (0, 1, 3, 5)),
    *({"extrapolation": how} for how in ("linear", "constant", "zero", "base")),
]


@pytest.mark.slow
@pytest.mark.parametrize("products", [(), (1,)])
def test_the_script_computes_what_the_engine_computes(products, tmp_path):
    x = torch.rand(40, 2, **random_numbers(0)) * 4 - 2
    networks = [trained(products=products, **spec) for spec in SPECS]
    scaling = Scaling(np.ones(1), np.full(1, 2.0))
    models = [network_values(model_of(one, "a", "b", scaling=scaling)) for one in networks]
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

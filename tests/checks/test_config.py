"""What may be configured, and what is said of what may not."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from pathlib import Path

import jsonschema
import pytest

from foretrace.checks.baseline import read, write
from foretrace.checks.codes import CODES
from foretrace.checks.config import SHARED, TARGET, TOP, Target, find, load
from foretrace.checks.quantity import FACTS, Allowance, allowance, quantity
from foretrace.graph import ForetraceError, Source

SCHEMA = json.loads((Path(__file__).parents[2] / "checks" / "config.schema.json").read_text())
WHOLE = """\
on = "h100-sxm5-80gb"
baseline = "costs.toml"
cache = "build/traces"
plugins = ["rules"]
autocast = "bfloat16"
ignore = ["T002"]
allow = { time = "+5 %" }

[assume]
nonzero = 0.25
"moe.py:71" = 100

[targets.small]
step = "train.py:small"
args = { batch = 8, tied = true }
budget = { peak = "24 GiB", time = "250 ms", max-batch = 16 }
allow = { peak = "+100 MiB", max-batch = "-1" }
vary = "batch"
input = ["x: int64[batch]", "y: int64[batch]"]
ignore = "C001"
assume = { nonzero = 0.5 }

[targets.plain]
step = "package.module:make"
autocast = "none"
on = "a100-sxm4-80gb"
device = "cpu"
optimizer = "sgd"
warmup = 0
strict = true
"""


def configured(folder: Path, text: str, name: str = "foretrace.toml"):
    (folder / name).write_text(text)
    return load(None, folder)


def test_a_whole_configuration(tmp_path: Path) -> None:
    config = configured(tmp_path, WHOLE)
    assert (config.root, config.file, config.baseline, config.cache) == (
        tmp_path,
        "foretrace.toml",
        "costs.toml",
        "build/traces",
    )
    assert (config.plugins, config.assume) == (("rules",), {"nonzero": 0.25, "moe.py:71": 100})
    default = {"peak": Allowance(), "reserved": Allowance(), "saved": Allowance(), "kept": Allowance()}
    default |= {"flops": Allowance(), "time": Allowance(percent=5.0), "max-batch": Allowance()}
    assert config.targets["small"] == Target(
        name="small",
        step="train.py:small",
        args={"batch": 8, "tied": True},
        tracing={
            "assume": {"nonzero": 0.5, "moe.py:71": 100},
            "autocast": "bfloat16",
            "inputs": "x: int64[batch]; y: int64[batch]",
        },
        on="h100-sxm5-80gb",
        budget={"peak": 24 * 2**30, "time": 250_000_000, "max-batch": 16},
        allow=default | {"peak": Allowance(100 * 2**20), "max-batch": Allowance(1)},
        vary="batch",
        ignore=frozenset({"T002", "C001"}),
        place=Source("foretrace.toml", WHOLE.splitlines().index("args = { batch = 8, tied = true }") + 1, ""),
    )
    assert config.targets["plain"].tracing == {
        "assume": {"nonzero": 0.25, "moe.py:71": 100},
        "device": "cpu",
        "optimizer": "sgd",
        "strict": True,
        "warmup": 0,
    }


def test_the_same_in_pyproject(tmp_path: Path) -> None:
    text = 'name = "x"\n[tool.foretrace.targets.small]\nstep = "train.py:small"\n'
    assert list(configured(tmp_path, text, "pyproject.toml").targets) == ["small"]


def test_the_nearest_one_counts(tmp_path: Path) -> None:
    inside = tmp_path / "one" / "two"
    inside.mkdir(parents=True)
    (tmp_path / "pyproject.toml").write_text("[tool.foretrace]\n")
    (tmp_path / "one" / "pyproject.toml").write_text("[tool.ruff]\n")
    assert find(inside) == tmp_path / "pyproject.toml"
    (tmp_path / "one" / "foretrace.toml").write_text("")
    assert find(inside) == tmp_path / "one" / "foretrace.toml"


def test_somebody_elses_broken_file_is_none_of_ours(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.ruff\n")
    assert find(tmp_path) is None


BAD = {
    'targets = { small = { step = "a.py:b", bugdet = {} } }': (
        "foretrace.toml:1: unknown key 'bugdet' in [targets.small]",
        "Did you mean 'budget'?",
    ),
    '[targets.small]\nstep = "a.py:b"\n[targets.small.budget]\npaek = "1 GiB"': (
        "foretrace.toml:4: unknown key 'paek' in [targets.small] budget",
        "Did you mean 'peak'?",
    ),
    'onn = "a100-sxm4-80gb"': ("foretrace.toml:1: unknown key 'onn' in [tool.foretrace]", "Did you mean 'on'?"),
    "[targets.small\n": ("foretrace.toml is no TOML", "[targets.small"),
    "[targets.small]": ("foretrace.toml:1: [targets.small] names no step", 'step = "train.py:make_step"'),
    '# peak\n[targets.small]\nstep = "a.py:b"\nbudget = { peak = "24 GHz" }': (
        "foretrace.toml:4: '24 GHz' is no limit for peak",
        'peak = "24 GiB"',
    ),
    '[targets.small]\nstep = "a.py:b"\nallow = { time = "-2%" }': (
        "foretrace.toml:3: '-2%' is no allowance for time",
        'time = "+2 %"',
    ),
    '[targets.small]\nstep = "a.py:b"\nbudget = { max-batch = 16 }': (
        "foretrace.toml:3: [targets.small] has a budget for max-batch and does not say what to vary",
        'vary = "batch"',
    ),
    "targets = 3": ("foretrace.toml:1: targets must be a table, not 3", "A working sample"),
    '[targets.small]\nstep = "a.py:b"\nautocast = "bfloat61"': (
        "foretrace.toml:3: autocast is 'bfloat61'",
        "Did you mean 'bfloat16'?",
    ),
    'ignore = ["M02"]': ("foretrace.toml:1: ignore has 'M02', which is no finding's code", "Did you mean 'M002'?"),
    '[targets."a::b"]\nstep = "a.py:b"': ("'::' is kept for tests", "another name"),
    "warmup = true": ("warmup must be a whole number, not True", "sample"),
}


@pytest.mark.parametrize("text", BAD)
def test_a_mistake_is_said_with_its_line_and_a_mend(text: str, tmp_path: Path) -> None:
    message, mend = BAD[text]
    with pytest.raises(ForetraceError) as caught:
        configured(tmp_path, text)
    assert message in caught.value.message
    assert mend in caught.value.message + caught.value.mend


@pytest.mark.parametrize("text", [*BAD, WHOLE])
def test_the_schema_for_editors_says_the_same(text: str) -> None:
    """What it can know: it sees no units, and no line of two keys."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    valid = jsonschema.Draft202012Validator(SCHEMA).is_valid(document)
    beyond = ("GHz", "-2%", "max-batch = 16 }\n", "a::b")
    assert valid == (text == WHOLE or any(part in f"{text}\n" for part in beyond))


def test_the_schema_has_the_keys_that_are_read() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert set(SCHEMA["properties"]) == set(TOP)
    assert set(SCHEMA["$defs"]["target"]["properties"]) == set(TARGET)
    assert set(SHARED) == set(TOP) & set(TARGET)
    assert set(SCHEMA["$defs"]["allow"]["properties"]) == set(FACTS) - {"parameters"}
    assert set(SCHEMA["$defs"]["budget"]["properties"]) == set(FACTS) - {"parameters", "kept"}
    assert SCHEMA["properties"]["ignore"]["oneOf"][0]["enum"] == list(CODES)


@pytest.mark.parametrize(
    ("fact", "text", "units"),
    [
        ("peak", "1 KiB", 1024),
        ("peak", "1.5 kB", 1500),
        ("peak", "1_000", 1000),
        ("peak", 7, 7),
        ("peak", "0.1 GiB", 2**30 // 10),
        ("time", "1.5us", 1500),
        ("time", "2 s", 2 * 10**9),
        ("flops", "11.2 TFLOP", 11_200_000_000_000),
        ("max-batch", "16", 16),
    ],
)
def test_quantities(fact: str, text: object, units: int) -> None:
    assert quantity(fact, text) == units


@pytest.mark.parametrize("text", ["", "GiB", "-1 GiB", "+1 GiB", "1 ms", True, 1.5, None, [], "1 GiB more"])
def test_what_is_no_quantity(text: object) -> None:
    with pytest.raises(ForetraceError, match="is no limit for peak"):
        quantity("peak", text)


@pytest.mark.parametrize(
    ("fact", "text", "expected"),
    [
        ("peak", "+0", Allowance()),
        ("peak", 0, Allowance()),
        ("peak", "+1.5%", Allowance(percent=1.5)),
        ("peak", "1 MiB", Allowance(2**20)),
        ("max-batch", "-2", Allowance(2)),
        ("max-batch", -2, Allowance(2)),
        ("max-batch", "-10 %", Allowance(percent=10)),
    ],
)
def test_allowances(fact: str, text: object, expected: Allowance) -> None:
    assert allowance(fact, text) == expected


@pytest.mark.parametrize(("fact", "text"), [("peak", "-1"), ("max-batch", "+1"), ("peak", "2 apples"), ("peak", None)])
def test_what_is_no_allowance(fact: str, text: object) -> None:
    with pytest.raises(ForetraceError, match=f"is no allowance for {fact}"):
        allowance(fact, text)


# --- what other commands make of it ---

DATA = """\
import torch

class Picky(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(512, 512)

    def forward(self, x):
        y = self.layer(x)
        return y[(y > 0).nonzero()[:, 0]].sum()

def make(rows=16):
    return Picky(), (torch.randn(rows, 512),), lambda loss: loss
"""


@pytest.fixture
def picky(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project that says how many of its rows count."""
    (tmp_path / "data.py").write_text(DATA)
    (tmp_path / "foretrace.toml").write_text(
        '[assume]\nnonzero = 0.25\n[targets.picky]\nstep = "data.py:make"\nargs = { rows = 32 }\ndevice = "cpu"\n'
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def assumed(printed: str) -> list[int]:
    return [one["bytes"] for one in json.loads(printed)["coverage"]["assumptions"]]


def test_run_knows_what_the_project_assumes(picky: Path, run) -> None:
    # A mask of 32 x 512 numbers, and two indices of eight bytes for each that is not zero.
    assert assumed(run("run", "data.py:make", "-p", "rows=32", "--format", "json")[1]) == [32 * 512 // 4 * 16]
    given = run("run", "data.py:make", "-p", "rows=32", "--format", "json", "--assume", "nonzero=0.5")[1]
    assert assumed(given) == [32 * 512 // 2 * 16]


def test_run_knows_the_targets_by_name(picky: Path, run, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = picky / "inside"
    inside.mkdir()
    monkeypatch.chdir(inside)
    report = json.loads(run("run", "picky", "--format", "json")[1])
    assert (report["target"], report["device"], report["memory"]["peak_bytes"]) == (
        "data.py:make",
        "cpu",
        json.loads(run("run", "picky", "-p", "rows=32", "--format", "json")[1])["memory"]["peak_bytes"],
    )
    fewer = json.loads(run("run", "picky", "-p", "rows=8", "--format", "json")[1])
    assert fewer["memory"]["peak_bytes"] < report["memory"]["peak_bytes"]
    assert run("run", "pickles")[0] == 2


def test_the_largest_batch_is_a_fact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run) -> None:
    """Rows of 32 MiB, of which a step holds a known number: how many fit is a matter of division."""
    (tmp_path / "toy.toml").write_text((Path(__file__).parents[1] / "support" / "toy.toml").read_text())
    (tmp_path / "data.py").write_text(
        "import torch\n\ndef make(rows=1):\n"
        "    return torch.nn.Linear(1, 1), (torch.randn(rows, 2**23, 1),), lambda y: y.sum()\n"
    )
    config = 'on = "toy.toml"\n[targets.rows]\nstep = "data.py:make"\nvary = "rows"\nbudget = {{ max-batch = {} }}\n'
    (tmp_path / "foretrace.toml").write_text(config.format(3))
    monkeypatch.chdir(tmp_path)
    assert run("check", "--update", "--jobs", "1")[0] == 0
    known = read(tmp_path / "foretrace-baseline.toml")
    assert known is not None
    largest = known["rows"].facts["max-batch"]
    # 1,050,000,000 bytes less the context and the workspace of cuBLAS. Live at once are the input, the output, and the
    # output of the step before, which its name keeps; some bytes are the layer's.
    room = 1_050_000_000 - 50_000_000 - 8_519_680
    assert largest == room // (3 * 2**25) == 9
    (tmp_path / "foretrace.toml").write_text(config.format(10))
    more = known["rows"].facts | {"max-batch": 10}
    write(tmp_path / "foretrace-baseline.toml", {"rows": dataclasses.replace(known["rows"], facts=more)})
    code, printed = run("check", "--jobs", "1", "--format", "concise")
    assert code == 1
    assert "M004 rows: the largest batch fell from 10 to 9" in printed
    assert "M009 rows: the largest batch is 9, the budget asks for 10" in printed


def test_a_configured_target_is_run_on_its_own_profile_unless_another_is_asked_for(project: Path, run) -> None:
    text = (project / "foretrace.toml").read_text()
    own = 'on = "mine.toml"\n'
    (project / "foretrace.toml").write_text(text.replace("[targets.sparing]\n", f"[targets.sparing]\n{own}"))
    (project / "mine.toml").write_text('name = "mine"\nbase = "h100-sxm5-80gb"\n')
    code, printed = run("run", "sparing", "small", "--format", "json")
    assert code == 0
    assert [report["hardware"] for report in json.loads(printed)] == ["mine", "a100-sxm4-80gb"]
    for asked, name in (((), "mine"), (("--on", "l4"), "l4")):
        code, printed = run("run", "sparing", "--format", "json", *asked)
        assert (code, json.loads(printed)["hardware"]) == (0, name)

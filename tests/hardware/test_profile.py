"""A TOML file becomes a profile, whole and with a source for every number, or one line that says what is wrong."""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path

import pytest

from foretrace.graph.errors import ForetraceError
from foretrace.hardware import Profile, Range, load, names
from foretrace.hardware.profile import FOLDER, KEYS

A100 = "a100-sxm4-80gb"


def edited(tmp_path: Path, old: str, new: str, base: str = A100) -> Path:
    """A copy of a built-in profile with one text replaced."""
    text = (FOLDER / f"{base}.toml").read_text()
    assert old in text
    path = tmp_path / "mine.toml"
    path.write_text(text.replace(old, new, 1))
    return path


def error_of(path: str | Path) -> ForetraceError:
    with pytest.raises(ForetraceError) as caught:
        load(path)
    assert "\n" not in str(caught.value)
    assert caught.value.mend
    return caught.value


def test_the_promised_profiles_are_there() -> None:
    assert {"a100-sxm4-80gb", "a100-sxm4-40gb", "a100-pcie-80gb", "h100-sxm5-80gb"} <= set(names())


@pytest.mark.parametrize("name", names())
def test_every_number_has_a_source(name: str) -> None:
    profile = load(name)
    assert profile.name == name
    numbers = [fact for fact in profile.facts() if fact.unit]
    assert {fact.key.split(".")[0] for fact in numbers} == set(KEYS)
    for fact in numbers:
        assert len(fact.source) > 10, fact
        assert "from_memory" not in fact.source and "/work" not in fact.source, fact


@pytest.mark.parametrize("name", names())
def test_ranges_are_ordered_and_no_efficiency_passes_the_peak(name: str) -> None:
    profile = load(name)
    for efficiency in (
        profile.memory_bandwidth_efficiency,
        profile.vector_efficiency,
        *profile.matmul_efficiency.values(),
    ):
        assert 0 < efficiency.low <= efficiency.typical <= efficiency.high <= 1


def test_an_a100_is_what_its_datasheet_says() -> None:
    profile = load(A100)
    assert profile.tensor_flops_per_second["bfloat16"] == 312e12
    assert profile.vector_flops_per_second["float32"] == 19.5e12
    # 108 multiprocessors x 64 cores x 2 FLOP x clock is the peak of the CUDA cores
    assert profile.sm_count * 64 * 2 * profile.clock_hertz == pytest.approx(19.5e12, rel=0.001)
    assert profile.memory_bandwidth_bytes_per_second == 2.039e12
    assert profile.memory_total_bytes == 84_990_623_744
    assert profile.cublas_workspace_bytes == (4096 * 2 + 16 * 8) * 1024


def test_a_profile_cannot_be_changed() -> None:
    profile = load(A100)
    with pytest.raises(TypeError):
        profile.tensor_flops_per_second["bfloat16"] = 1.0  # type: ignore[index]


def test_an_unknown_name_lists_the_known_ones_and_guesses() -> None:
    error = error_of("a100-sxm-80gb")
    assert "'a100-sxm-80gb'" in error.message
    assert "Did you mean 'a100-sxm4-80gb'?" in error.mend
    assert "h100-sxm5-80gb" in error.mend


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ("H100", "'h100-pcie-80gb' or 'h100-sxm5-80gb'"),
        ("a100_80gb", "'a100-pcie-80gb' or 'a100-sxm4-80gb'"),
        ("V100 PCIe", "'v100-pcie-32gb'"),
        ("rtx4090", "'rtx-4090'"),
    ],
)
def test_a_name_in_part_is_guessed_by_its_words(asked: str, meant: str) -> None:
    assert error_of(asked).mend.startswith(f"Did you mean {meant}? Known: ")


def test_a_file_by_path_and_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(FOLDER / f"{A100}.toml", tmp_path / "mine.toml")
    monkeypatch.chdir(tmp_path)
    assert load("mine.toml") == load("./mine.toml") == load(tmp_path / "mine.toml") == load(A100)
    error = error_of("./other.toml")
    assert "other.toml" in error.message


def test_a_profile_may_start_from_another_one(tmp_path: Path) -> None:
    path = tmp_path / "slow.toml"
    path.write_text(
        'base = "a100-sxm4-80gb"\nname = "slow"\n'
        '[memory_bandwidth_bytes_per_second]\nvalue = 1e12\nsource = "my own measurement"\n'
        '[matmul_efficiency.bfloat16]\nlow = 0.1\ntypical = 0.2\nhigh = 0.3\nsource = "my own measurement"\n'
    )
    profile, base = load(path), load(A100)
    assert (profile.name, profile.memory_bandwidth_bytes_per_second) == ("slow", 1e12)
    assert profile.matmul_efficiency["bfloat16"] == Range(0.1, 0.2, 0.3)
    assert profile.matmul_efficiency["float16"] == base.matmul_efficiency["float16"]
    assert profile.sources["memory_bandwidth_bytes_per_second"] == "my own measurement"
    path.write_text('base = "a1000"\n')
    assert "base is 'a1000'" in error_of(path).message


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("[sm_count]\nvalue = 108", "[sm_count]", "sm_count.value is missing"),
        ("value = 108", "value = -108", "sm_count.value is -108, outside"),
        ("value = 108", "value = 108.5", "sm_count.value is 108.5, not a whole number"),
        ("value = 108", 'value = "108"', "sm_count.value is '108', not a number"),
        ("value = 108", "value = true", "sm_count.value is True, not a number"),
        ("value = 2.039e12", "value = nan", "memory_bandwidth_bytes_per_second.value is nan, not a number"),
        ("value = 2.039e12", "value = 2039", "memory_bandwidth_bytes_per_second.value is 2039, outside"),
        ("value = 2.039e12", "value = 2.039e15", "memory_bandwidth_bytes_per_second.value is 2.039e+15, outside"),
        ("value = 108\nsource", "value = 108\nsauce", "unknown key sm_count.sauce"),
        ("value = 108\nsource =", "value = 108\nlow =", "unknown key sm_count.low"),
        ("typical = 2.6e-06", "typical = 2.6e-05", "kernel_floor_seconds is ["),
        ("[sm_count]", "[sm_counts]", "unknown key sm_counts"),
        ("[tensor_flops_per_second.bfloat16]", "[tensor_flops_per_second.bf16]", "tensor_flops_per_second.bf16"),
        ("[matmul_efficiency.bfloat16]", "[matmul_efficiency.float8_e5m2]", "matmul_efficiency.bfloat16 is missing"),
        ('vendor = "NVIDIA"', "", "vendor is missing"),
        ('vendor = "NVIDIA"', "vendor = 7", "vendor is 7, not text"),
        ('vendor = "NVIDIA"', "vendor = ", "is not TOML"),
        ("value = 84_990_623_744", "value = 94_990_623_744", "memory_total_bytes is more than memory_nominal_bytes"),
    ],
)
def test_a_broken_file_names_itself_and_the_key(tmp_path: Path, old: str, new: str, said: str) -> None:
    path = edited(tmp_path, old, new)
    error = error_of(path)
    assert str(path) in error.message
    assert said in error.message


def without(tmp_path: Path, key: str) -> Path:
    tables = (FOLDER / f"{A100}.toml").read_text().split("\n[")
    path = tmp_path / "mine.toml"
    path.write_text("\n[".join(table for table in tables if not table.startswith((f"{key}]", f"{key}."))))
    return path


@pytest.mark.parametrize("key", [key for key, spec in KEYS.items() if spec.default is None])
def test_no_key_without_a_default_may_be_missing(tmp_path: Path, key: str) -> None:
    assert f"{key} is missing" in error_of(without(tmp_path, key)).message


@pytest.mark.parametrize(("key", "value"), [("l2_bandwidth_bytes_per_second", 0.0), ("host_speed", 1.0)])
def test_what_a_file_need_not_say_has_a_default_that_says_so(tmp_path: Path, key: str, value: float) -> None:
    profile = load(without(tmp_path, key))
    assert getattr(profile, key) == value
    assert profile.sources[key] == KEYS[key].unstated and "not stated" in KEYS[key].unstated


def test_a_number_without_a_source_is_refused(tmp_path: Path) -> None:
    text = (FOLDER / f"{A100}.toml").read_text()
    head, tail = text.split("[sm_count]\nvalue = 108\n")
    path = tmp_path / "mine.toml"
    path.write_text(head + "[sm_count]\nvalue = 108\n" + tail.split("\n", 1)[1])
    assert "sm_count.source is missing" in error_of(path).message


def test_a_table_where_text_belongs_and_a_number_where_a_table_belongs(tmp_path: Path) -> None:
    whole = tomllib.loads((FOLDER / f"{A100}.toml").read_text())
    assert isinstance(whole["sm_count"], dict)
    path = tmp_path / "mine.toml"
    path.write_text('base = "a100-sxm4-80gb"\nsm_count = 108\n')
    assert "sm_count is not a table" in error_of(path).message
    path.write_text('base = "a100-sxm4-80gb"\n[tensor_flops_per_second]\nbfloat16 = 1e14\n')
    assert "tensor_flops_per_second.bfloat16 is not a table" in error_of(path).message


def test_a_folder_is_not_a_profile(tmp_path: Path) -> None:
    assert str(tmp_path) in error_of(tmp_path).message


def test_facts_come_in_the_order_of_the_file() -> None:
    profile: Profile = load("h100-sxm5-80gb")
    keys = [fact.key for fact in profile.facts()]
    assert keys[:2] == ["name", "full_name"]
    assert "tensor_flops_per_second.float8_e4m3fn" in keys
    assert len(keys) == len(set(keys))

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as some

from foretrace.graph import ForetraceError
from foretrace.hardware.alloc_conf import KEYS, AllocConf, parse

MIB = 1 << 20


def test_nothing_means_the_defaults() -> None:
    assert parse("") == AllocConf()
    assert parse(" ") == AllocConf()


def test_every_setting_of_the_device() -> None:
    text = (
        "large_segment_size_mb:32, max_split_size_mb:64,max_non_split_rounding_mb:40,garbage_collection_threshold:0.5,"
        "expandable_segments:True,per_process_memory_fraction:0.75,throw_on_cudamalloc_oom:True,backend:native,"
        "roundup_power2_divisions:8,"
    )
    assert parse(text) == AllocConf(
        large_segment_bytes=32 * MIB,
        max_split_bytes=64 * MIB,
        max_non_split_rounding_bytes=40 * MIB,
        garbage_collection_threshold=0.5,
        expandable_segments=True,
        per_process_memory_fraction=0.75,
        throw_on_cudamalloc_oom=True,
        roundup_power2_divisions=(8,) * 16,
    )


def test_every_setting_of_the_host() -> None:
    text = (
        "release_lock_on_cudamalloc:True,graph_capture_record_stream_reuse:True,pinned_use_cuda_host_register:True,"
        "pinned_use_background_threads:True,pinned_free_catch_all:True,pinned_num_register_threads:8,"
        "pinned_reserve_segment_size_mb:64,pinned_max_round_threshold_mb:4,pinned_max_cached_size_mb:16"
    )
    assert parse(text) == AllocConf(
        release_lock_on_cudamalloc=True,
        graph_capture_record_stream_reuse=True,
        pinned_use_cuda_host_register=True,
        pinned_use_background_threads=True,
        pinned_free_catch_all=True,
        pinned_num_register_threads=8,
        pinned_reserve_segment_size_mb=64,
        pinned_max_round_threshold_mb=4,
        pinned_max_cached_size_mb=16,
    )


def test_large_segments_set_the_rounding_that_the_text_does_not() -> None:
    assert parse("large_segment_size_mb:64").max_non_split_rounding_bytes == 64 * MIB


def test_of_a_setting_given_twice_the_last_counts() -> None:
    assert parse("max_split_size_mb:30,max_split_size_mb:40").max_split_bytes == 40 * MIB


@pytest.mark.parametrize(
    ("text", "divisions"),
    [
        # Sizes of 1, 2, 4 ... MiB; what PyTorch 2.13 answers to roundup_power2_divisions(size) for each.
        ("[256:1,512:2,1024:4,>:8]", (1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 4, 8, 8, 8, 8, 8)),
        ("[64:8,256:4,>:1]", (8, 8, 8, 8, 8, 8, 8, 0, 4, 1, 1, 1, 1, 1, 1, 1)),
        ("[>:4]", (0, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4)),
        ("[131072:4]", (4,) * 16),
        ("[512:4,256:2,>:8]", (4, 4, 4, 4, 4, 4, 4, 4, 2, 8, 8, 8, 8, 8, 8, 8)),
        ("[]", (0,) * 16),
        ("2", (2,) * 16),
    ],
)
def test_divisions(text: str, divisions: tuple[int, ...]) -> None:
    conf = parse(f"roundup_power2_divisions:{text}")
    assert conf.roundup_power2_divisions == divisions
    assert [conf.divisions(MIB << i) for i in range(16)] == list(divisions)
    assert conf.divisions(1) == divisions[0]
    assert conf.divisions(MIB << 20) == divisions[15]


@pytest.mark.parametrize(
    ("text", "message", "mend"),
    [
        ("max_split_size:64", "no setting 'max_split_size'", "Did you mean max_split_size_mb?"),
        ("max_split_size_mb=64", "no setting 'max_split_size_mb=64'", "Did you mean max_split_size_mb?"),
        ("expandable_segment:True", "no setting", "Did you mean expandable_segments?"),
        ("color:red", "no setting 'color'", "Known: large_segment_size_mb, "),
        ("max_split_size_mb", "max_split_size_mb: it has no value", "max_split_size_mb:VALUE"),
        ("max_split_size_mb:19", "19 is too small", "Give 20 or more"),
        ("max_split_size_mb:32,large_segment_size_mb:64", "32 is too small", "Give 64 or more"),
        ("max_split_size_mb:-1", "'-1' is not a whole number", "max_split_size_mb:64"),
        ("max_split_size_mb:21x", "'21x' is not a whole number", "max_split_size_mb:64"),
        ("expandable_segments:true", "'true' is neither True nor False", "expandable_segments:True or"),
        ("garbage_collection_threshold:1", "1 is out of bounds", "above 0 and below 1"),
        ("per_process_memory_fraction:1.5", "1.5 is out of bounds", "from 0 to 1"),
        ("per_process_memory_fraction:half", "'half' is not a number", "0.8"),
        ("backend:cudaMallocAsync", "which is not modelled", "Use native"),
        ("backend:foo", "'foo' is unknown", "Use native"),
        ("roundup_power2_divisions:3", "3 is not a power of 2", "roundup_power2_divisions:4"),
        ("roundup_power2_divisions:[256:3]", "3 divisions", "power of 2, or 0"),
        ("roundup_power2_divisions:[100:1]", "a size of 100 MiB", "powers of 2"),
        ("roundup_power2_divisions:[256:1,512]", "'512' has no divisions", "[256:1,512:2,>:4]"),
        ("roundup_power2_divisions:[256:1", "does not end", "Close it"),
        ("roundup_power2_divisions:[256:1]2", "'2' follows the list", "End it with ]"),
        ("expandable_segments:True,,backend:native", "a comma too many", "key:value,key:value"),
        ("pinned_num_register_threads:3", "3 threads", "up to 128"),
        ("pinned_reserve_segment_size_mb:0", "0 is too small", "1 or more"),
    ],
)
def test_what_is_refused_says_why_and_what_to_write(text: str, message: str, mend: str) -> None:
    with pytest.raises(ForetraceError) as refused:
        parse(text)
    assert message in refused.value.message
    assert mend in refused.value.mend


@pytest.fixture(scope="module")
def pytorch() -> Iterator[None]:
    """Puts PyTorch's own settings back."""
    yield
    torch._C._accelerator_setAllocatorSettings("large_segment_size_mb:20")
    torch._C._accelerator_setAllocatorSettings("")


def pytorch_accepts(text: str) -> bool:
    try:
        torch._C._accelerator_setAllocatorSettings(text)
    except (ValueError, RuntimeError, IndexError):
        return False
    return True


def accepted(text: str) -> bool:
    try:
        parse(text)
    except ForetraceError:
        return False
    return True


wholes = some.one_of(some.integers(0, 200).map(str), some.sampled_from(["64", "128", "a", "True"]))
shares = some.one_of(some.floats(-1, 2).map(str), wholes)
flags = some.sampled_from(["True", "False", "true", "1"])
entries = some.tuples(some.one_of(wholes, some.just(">")), wholes).map(":".join)
lists = some.lists(entries, max_size=4).map(lambda found: f"[{','.join(found)}]")
VALUES = {
    "large_segment_size_mb": wholes,
    "max_split_size_mb": wholes,
    "max_non_split_rounding_mb": wholes,
    "garbage_collection_threshold": shares,
    "roundup_power2_divisions": some.one_of(wholes, lists),
    "expandable_segments": flags,
    "pinned_use_background_threads": flags,
    "pinned_max_round_threshold_mb": wholes,
    "pinned_max_cached_size_mb": wholes,
}
"""The settings that PyTorch's build for CPUs knows, too. It reads a number up to what is no digit."""


@some.composite
def texts(draw: some.DrawFn) -> str:
    keys = draw(some.lists(some.sampled_from(sorted(VALUES)), unique=True, max_size=3))
    return ",".join(f"{key}:{draw(VALUES[key])}" for key in keys)


@given(texts())
@example("garbage_collection_threshold:1e-310")
def test_what_is_accepted_pytorch_accepts_and_the_other_way_round(pytorch: None, text: str) -> None:
    assert set(VALUES) < set(KEYS)
    # The size of large segments lasts from one text to the next in PyTorch.
    whole = text if "large_segment" in text else f"large_segment_size_mb:20,{text}"
    assert accepted(text) == pytorch_accepts(whole)
